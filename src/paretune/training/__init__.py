"""How one adapter learns.

Reading order: losses, scalarise, token_tables, prompt_cuts, short_pairs, checkpoint, gradients, apart, loop, conflicts, batches,
smoothing, preference_pairs, soft_labels, demonstrations; conditioning, learner, conditioned; rl (on-policy training); stages,
trackers, kept_logps, lab, hybrid, list_losses, lists, references, votes, served_loras, remote_stages; value_losses, value_samples,
values (heads on frozen states); reward_models, reward_fit.
"""
