"""Fields of OpenAI's API that this server does not support, or reads and ignores."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any


@dataclass(frozen=True)
class Refused:
    """A field that this server does not support.

    Attributes:
        why: The reason, or what to send instead.
        neutral: Values that are accepted, because they change nothing.
        is_form: Whether it changes the form of an answer; then even a lenient server refuses it.
    """

    why: str
    neutral: tuple[Any, ...] = ()
    is_form: bool = False

    def told(self, field: str) -> str:
        """Return the message for a client, without what to do."""
        return f"'{field}' is not supported by this server: {self.why}"


_SAMPLING = "answers are sampled by temperature and top_p alone"
_CHAT = "it is for chat completions"

REFUSED: dict[str, Refused] = {
    "audio": Refused("answers are text", is_form=True),
    "best_of": Refused("n asks for several answers, and all are returned", (1,), True),
    "echo": Refused("an answer does not repeat its prompt", (False,), True),
    "frequency_penalty": Refused(_SAMPLING, (0,)),
    "function_call": Refused("OpenAI's API has replaced it; send tool_choice", ("none",), True),
    "functions": Refused("OpenAI's API has replaced it; send tools", ([],), True),
    "logit_bias": Refused(_SAMPLING, ({},)),
    "modalities": Refused("answers are text", (["text"],), True),
    "moderation": Refused("nothing is moderated here"),
    "parallel_tool_calls": Refused(_CHAT, (True, False)),
    "presence_penalty": Refused(_SAMPLING, (0,)),
    "reasoning_effort": Refused("whether a model thinks is settled by chat_template in the run's config"),
    "response_format": Refused(_CHAT, ({"type": "text"},), True),
    "service_tier": Refused("all requests are served alike", ("auto", "default")),
    "store": Refused("completions are not stored", (False,)),
    "suffix": Refused("text is continued, not filled in", ("",), True),
    "tool_choice": Refused(_CHAT, ("none", "auto"), True),
    "tools": Refused(_CHAT, ([],), True),
    "top_logprobs": Refused(_CHAT, (0,), True),
    "verbosity": Refused("the preference steers how long answers are, where an objective measures it"),
    "web_search_options": Refused("nothing is searched"),
}
"""Fields that this server does not support; some are supported at one of its two routes, which then reads them itself."""

HINTS = {
    "metadata",
    "prediction",
    "prompt_cache_key",
    "prompt_cache_options",
    "prompt_cache_retention",
    "safety_identifier",
    "user",
}
"""Fields about the caller, or about speed, that never change the answer; accepted, ignored and said to be."""
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
