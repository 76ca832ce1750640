"""How a policy is judged: evaluate, judge, token_kl, remote."""
