"""From prompt and preference to text: gating, one_pass, policy, mixed, prompts, prompted, alike, saving, export, catalogue."""
