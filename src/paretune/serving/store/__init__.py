"""Data that a server must not lose: entries, store, database, vote_pairs, tastes."""
