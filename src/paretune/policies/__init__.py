"""From (prompt, preference) to text.

Reading order: gating, one_pass, batch_checks, policy, mixed, prompts, prompted, alike, policy_file, saving, catalogue, export.
"""
