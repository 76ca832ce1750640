"""ParetoHqD (arXiv 2504.16628): rays select the data, method trains on it."""
