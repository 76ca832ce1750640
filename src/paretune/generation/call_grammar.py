"""The grammar of an answer that calls functions: in the form of the chat template, with arguments that fit their schemas."""

from __future__ import annotations

import json
import re
from collections.abc import Mapping
from typing import Any

from paretune.core.errors import ConfigError
from paretune.core.tools import Tools
from paretune.models.language_model import LanguageModel


def call_grammar(tools: Tools, lm: LanguageModel, schema: str | None, layout: Mapping[str, Any]) -> str:
    """Return a grammar in llguidance's form of Lark.

    Args:
        tools: The functions.
        lm: The model, whose template writes calls.
        schema: JSON schema, as text, of an answer that calls none; None for any text.
        layout: How JSON is written.

    Raises:
        ModelError: The chat template has no tools.
        ConfigError: Its calls are not JSON, so that they cannot be forced.
    """
    form = lm.call_form
    if not form.is_json:
        raise ConfigError(
            f"the chat template of {lm.name} does not write the arguments of calls as JSON, so that a call cannot be forced; leave "
            "strict out, and set tool_choice to 'auto'"
        )
    special = {
        token.content: number for number, token in lm.tokenizer.added_tokens_decoder.items() if token.special
    }

    def literal(text: str) -> str:
        """Return text as terms of the grammar; special tokens stand for themselves."""
        if not special:
            return json.dumps(text) if text else ""
        parts = re.split(f"({'|'.join(map(re.escape, sorted(special, key=len, reverse=True)))})", text)
        return " ".join(
            f"<[{special[part]}]>" if part in special else json.dumps(part) for part in parts if part
        )

    several = tools.parallel and form.between is not None
    more = f" ({literal(form.between or '')} call)*" if several else ""
    mark = _mark(form.opening, special)
    lines = [f"behind: {literal(form.opening.removeprefix(mark))} call{more} {literal(form.closing)}"]
    for number, (name, parameters) in enumerate(tools.parameters.items()):
        lines.append(f"call_{number}: {literal(name + form.middle)} arguments_{number}")
        lines.append(f"arguments_{number}: %json {json.dumps({**parameters, 'x-guidance': dict(layout)})}")
    lines.append("call: " + " | ".join(f"call_{number}" for number in range(len(tools.allowed))))
    if tools.must:
        start = [f"start: {literal(mark)} behind"]
    elif schema is not None:
        stated = {**json.loads(schema), "x-guidance": dict(layout)}
        start = [f"start: {literal(mark)} behind | answer", f"answer: %json {json.dumps(stated)}"]
    elif mark in special:  # text holds no special token
        start = [f"start: FREE | FREE {literal(mark)} behind", r"FREE: /(.|\n)*/"]
    elif mark:  # the shortest text with the mark goes over into a call
        start = ["start: FREE | begun behind", f"begun[lazy]: FREE {literal(mark)}", r"FREE: /(.|\n)*/"]
    else:
        start = ["start: FREE | behind", r"FREE: /([^{\[](.|\n)*)?/"]
    return "\n".join(["%llguidance {}", *start, *lines])


def _mark(opening: str, special: Mapping[str, int]) -> str:
    """Return the text with which calls begin, and no other answer; empty where they are bare JSON."""
    for text in special:
        if opening.startswith(text):
            return text
    return re.split(r"\s*[\[{]\s*[\[{\"]", opening)[0]
