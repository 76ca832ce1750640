"""From (prompt, preference) to text.

Reading order: gating, one_pass, policy, mixed, prompts, prompted, alike, policy_file, saving, catalogue, export.
"""
