"""On-policy training: advantages, rewards, goal, rollouts, served, task, anchors."""
