"""On-policy training: advantages, weighing, rewards, goal, rollouts, served, estimators, task, anchors."""
