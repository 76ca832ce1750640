"""How one adapter learns: losses, scalarise, token_tables, loop, preference_pairs, demonstrations, conditioned, stages, lab."""
