"""Batched decoding of concurrent requests: events, admission, detokenise, engine."""
