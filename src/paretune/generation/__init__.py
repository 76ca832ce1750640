"""Sampling text: draw, mixing, batch, generate; then whole data sets: resumable, endpoint, http_client, remote, sample."""
