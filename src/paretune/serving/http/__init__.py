"""The web: server, app (with /health and /metrics), logs, guard, connections; routes in openai, front, scores, profiles, votes,
audit, studio.
"""
