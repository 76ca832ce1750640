"""Thought that a model writes before its answer, between markers of its own: found in a text, and taken out of it."""

from __future__ import annotations

import re

MARKERS: tuple[tuple[str, str], ...] = (
    ("<think>", "</think>"),  # DeepSeek-R1, Qwen3, GLM-4.5, SmolLM3, Nemotron 3, MiniMax-M2
    ("[THINK]", "[/THINK]"),  # Magistral
    ("<seed:think>", "</seed:think>"),  # Seed-OSS
    ("◁think▷", "◁/think▷"),  # Kimi
    ("<|START_THINKING|>", "<|END_THINKING|>"),  # Command A Reasoning
    ("<|channel>thought", "<channel|>"),  # Gemma 4
    # gpt-oss writes in channels, of which the last is the answer.
    ("<|channel|>analysis<|message|>", "<|end|><|start|>assistant<|channel|>final<|message|>"),
)
"""Beginning and end of thought in the texts of current models, as the reasoning parsers of vLLM and SGLang read them."""

_BLOCKS = tuple(
    re.compile(f"{re.escape(begin)}.*?({re.escape(end)}|\\Z)", re.DOTALL) for begin, end in MARKERS
)


def without_thought(text: str) -> str:
    """Return an answer without the thought before it and in it; text without markers as it is.

    Thought without an end, which the token limit cut, goes to the end of the text. Thought without a beginning, where the prompt
    began it, goes from the start of the text.
    """
    if not has_thought(text):
        return text
    for block, (begin, end) in zip(_BLOCKS, MARKERS, strict=True):
        first, last = text.find(begin), text.find(end)
        if last >= 0 and (first < 0 or last < first):
            text = text[last + len(end) :]
        text = block.sub("", text)
    return text.strip()


def has_thought(text: str) -> bool:
    """Return whether a text holds a marker of thought."""
    return any(begin in text or end in text for begin, end in MARKERS)


def is_unfinished(text: str) -> bool:
    """Return whether a text ends within its thought, so that there is no answer."""
    return any(text.rfind(begin) > text.rfind(end) for begin, end in MARKERS if begin in text)
