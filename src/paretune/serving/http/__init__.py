"""The web: server, app (with /health and /metrics), logs, guard, connections.

Routes are in openai, front, profiles, ranking, scores, votes, audit and studio.
"""
