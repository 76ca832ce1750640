"""Batched decoding of concurrent jobs: engine, admission, request, detokenise, stream, stats."""
