"""The web: server, app (with /health and /metrics), logs, guard, connections, json_body; generation, logprobs.

Routes are in openai, front, answers, profiles, ranking, render, scores, votes, conversations, audit and studio.
"""
