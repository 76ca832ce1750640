"""What a server must not lose: database, entries, store, tastes, vote_pairs."""
