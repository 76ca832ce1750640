"""Sampling text: draw, batch, generate, mixing, endpoint, remote, sample."""
