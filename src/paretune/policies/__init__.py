"""From (prompt, preference) to text: gating, one_pass, policy, mixed, prompts, prompted, policy_file, saving, catalogue, export."""
