"""A policy as a service, in reading order.

command, config, address; service, backend, events, sources; local, upstream; bodies, metrics; engine, http, store, studio.
"""
