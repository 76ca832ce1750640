"""Fields of OpenAI's API that this server does not support, or reads and ignores."""

from __future__ import annotations

from typing import Any

NEUTRAL: dict[str, list[Any]] = {
    "best_of": [1],
    "echo": [False],
    "frequency_penalty": [0],
    "function_call": ["none"],
    "functions": [[]],
    "logit_bias": [{}],
    "logprobs": [False],
    "modalities": [["text"]],
    "presence_penalty": [0],
    "response_format": [{"type": "text"}],
    "service_tier": ["auto", "default"],
    "store": [False],
    "suffix": [""],
    "top_logprobs": [0],
}
"""Fields of OpenAI's API that this server does not support, with the values that are accepted because they change nothing."""

FORMS = {
    "audio",
    "best_of",
    "echo",
    "function_call",
    "functions",
    "logprobs",
    "modalities",
    "response_format",
    "suffix",
    "top_logprobs",
}
"""Unsupported fields that change the form of an answer: they are refused even where a server is lenient."""
UNSUPPORTED = {"prediction", "reasoning_effort", "verbosity", "web_search_options", *NEUTRAL, *FORMS}
HINTS = {"metadata", "prompt_cache_key", "prompt_cache_retention", "safety_identifier", "user"}
"""Fields about the caller that never change the answer; accepted and ignored."""
SILENT = {
    "refusal",
    "annotations",
    "audio",
    "reasoning",
    "reasoning_content",
    "provider_specific_fields",
    "name",
}
"""Fields of messages that servers write, or that change nothing here; accepted and ignored."""
LENIENT = "leave it out, or start the server with --lenient, which ignores it"
