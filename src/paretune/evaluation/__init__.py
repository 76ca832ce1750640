"""How a policy is measured: evaluate, judge, token_kl, remote."""
