"""The web: server, app (with /health and /metrics), guard, connections; routes in openai, front, profiles, votes, audit, studio."""
