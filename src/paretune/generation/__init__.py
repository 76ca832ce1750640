"""Sampling text.

Reading order: draw, rescoring, mixing, structure, batch, generate; then whole data sets: resumable, endpoint,
http_client, remote, sample.
"""
