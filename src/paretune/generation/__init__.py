"""Sampling text.

Reading order: draw, rescoring, mixing, batch, generate; then whole data sets: resumable, endpoint,
http_client, remote, sample.
"""
