"""A policy as a service.

Reading order: command, config, address; service, backend, events, sources; local, upstream; bodies, metrics; engine, http, store;
the files of the page in the browser are in studio.
"""
