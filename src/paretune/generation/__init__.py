"""Sampling text.

Reading order: draw, rescoring, mixing, call_grammar, structure, prefill, batch, generate; then whole data sets: resumable,
endpoint, http_client, remote, sample.
"""
