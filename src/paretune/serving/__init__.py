"""A policy as a service.

Reading order: command, config, address, callers; service, backend, events, sources, run_facts, scorers;
local, upstream; bodies, metrics; engine, http, store; the files of the page in the browser are in studio.
"""
