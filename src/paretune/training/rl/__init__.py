"""On-policy training: advantages, rewards, goal, rollouts, task, anchors."""
