"""The web: server, app (with /health and /metrics), logs, guard, connections; generation, logprobs.

Routes are in openai, front, profiles, ranking, scores, votes, audit and studio.
"""
