"""Batched decoding of concurrent jobs: engine, admission, request, detokenise, stream, kept_texts, stats."""
