"""From prompt and preference to text: prompts, policy, catalogue, export."""
