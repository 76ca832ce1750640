"""On-policy training: advantages, rewards, goal, rollouts, served, estimators, task, anchors."""
