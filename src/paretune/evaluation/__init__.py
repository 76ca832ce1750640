"""How a policy is measured: judged, evaluate, judge, from_scores, token_kl, remote, ranked_policies, scorer_check, rescored."""
