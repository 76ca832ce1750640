"""Prompts that are too long, cut at their beginning: what was said last is what a response replies to."""

from __future__ import annotations

import re

from paretune.data.rows import Message, Prompt
from paretune.models.language_model import LanguageModel


def cut_at_start(lm: LanguageModel, prompt: Prompt, room: int) -> Prompt | None:
    """Return the end of a prompt that has at most ``room`` tokens in the chat template; None where no end of it has.

    Whole turns go first, the oldest ones, and what is left begins with a user's turn. A system message stays. Where the last turn
    alone is too long, words at its beginning go.
    """
    lead, turns = (prompt[:1], prompt[1:]) if prompt[0].role == "system" else ((), prompt)
    starts = [n for n in range(1, len(turns)) if turns[n].role == "user"]
    for start in starts:
        shorter = (*lead, *turns[start:])
        if len(lm.encode_prompt(shorter)) <= room:
            return shorter
    last = turns[starts[-1] :] if starts else turns
    return _cut_words(lm, lead, last, room) if last else None


def _cut_words(lm: LanguageModel, lead: Prompt, turns: Prompt, room: int) -> Prompt | None:
    """Return ``lead`` and ``turns`` with as many words of the first turn, from its end on, as fit."""
    text = turns[0].content
    words = [match.start() for match in re.finditer(r"\S+", text)]

    def kept(first: int) -> Prompt:
        return (*lead, Message(turns[0].role, text[words[first] :]), *turns[1:])

    low, high = 1, len(words)  # the first word that is kept; fewer words have fewer tokens
    while low < high:
        middle = (low + high) // 2
        if len(lm.encode_prompt(kept(middle))) <= room:
            high = middle
        else:
            low = middle + 1
    return kept(low) if low < len(words) and len(lm.encode_prompt(kept(low))) <= room else None
