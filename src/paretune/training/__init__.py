"""How one adapter learns.

Reading order: losses, scalarise, token_tables, short_pairs, checkpoint, loop, preference_pairs, demonstrations; conditioning,
learner, conditioned; rl (on-policy training); stages, trackers, lab, hybrid, remote_stages.
"""
