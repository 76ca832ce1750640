"""The web: server, app, guard, connections; routes in openai, front, profiles, votes, audit, studio."""
