"""Data that a server must not lose: entries, tables, store, conversations, access, database, vote_pairs, person_votes, tastes,
auto_votes."""
