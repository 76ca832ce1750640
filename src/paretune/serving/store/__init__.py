"""Data that a server must not lose: entries, tables, store, database, vote_pairs, person_votes, tastes."""
