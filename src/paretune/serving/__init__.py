"""A policy as a service.

Reading order: command, config, address, callers, caller_limits; service, backend, events, sources, run_facts, several, scorers,
auto; local, upstream_form, upstream; lora_cache, vllm_resolver; api_errors, unsupported, body, tools, messages, bodies, metrics;
transcript, rendering, markup; engine, http, store; the files of the page in the browser are in studio.
"""
