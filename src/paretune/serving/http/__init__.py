"""The web: app, guard, connections, openai, votes, studio."""
