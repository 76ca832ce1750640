"""SIPO (arXiv 2502.14354): method, rounds, revise, improve."""
