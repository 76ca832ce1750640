"""Rewards-in-Context (arXiv 2402.10207): method; responses with their scores; goal_answers of the online stage."""
