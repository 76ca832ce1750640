"""How a policy is judged: evaluate, token_kl, remote."""
