"""A policy as a service: backend, local, upstream, service, bodies, metrics; then engine, store, http and studio."""
