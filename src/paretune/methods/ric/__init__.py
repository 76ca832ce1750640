"""Rewards-in-Context (arXiv 2402.10207): method, and the answers of its online stage in goal_answers."""
