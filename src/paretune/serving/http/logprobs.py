"""Log-probabilities of tokens in the two forms of OpenAI's API."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any


def told_logprobs(entries: Sequence[Mapping[str, Any]], chat: bool, offset: int = 0) -> dict[str, Any]:
    """Return ``logprobs`` of a choice.

    Args:
        entries: For each token what ``logprobs.content`` of a chat has.
        chat: Whether in the form of chats; otherwise in that of text completions.
        offset: Characters of the tokens before, for text completions.
    """
    if chat:
        return {"content": list(entries), "refusal": None}
    tokens = [entry["token"] for entry in entries]
    starts = []
    for token in tokens:
        starts.append(offset)
        offset += len(token)
    return {
        "tokens": tokens,
        "token_logprobs": [entry["logprob"] for entry in entries],
        "top_logprobs": [
            {each["token"]: each["logprob"] for each in entry["top_logprobs"]} for entry in entries
        ],
        "text_offset": starts,
    }
