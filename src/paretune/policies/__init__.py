"""From (prompt, preference) to text.

Reading order: gating, one_pass, batch_checks, policy, mixed, prompts, prompted, principles, principled, valued, alike,
policy_file, shared, base_model, saving, catalogue, rounding, export, folding, gguf_export.
"""
