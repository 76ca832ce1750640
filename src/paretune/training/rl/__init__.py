"""On-policy training: advantages, rewards, goal, learner, rollouts, task, anchors."""
