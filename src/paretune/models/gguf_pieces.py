"""SentencePiece's kind of tokenizer in llama.cpp: pieces of characters are merged by scores, and unknown characters are bytes.

tokenizers merges by a list of pairs. llama.cpp merges any two pieces that make a token, that of the highest score first. Both do
the same where the list has all pairs of each token, and those of one token behind those of another. Only the pairs of runs of one
character, such as spaces, are mixed in the lists of Llama 2 and Gemma; runs are merged both ways, and compared.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from itertools import pairwise
from typing import Any

from paretune.models.gguf_splits import unknown

SPACE = "▁"
UNMERGED = -1e6
"""Score of a token that no merge makes; it is never compared."""


def scores_of(
    vocabulary: Mapping[str, int], merges: Sequence[tuple[str, str]], name: str
) -> dict[str, float]:
    """Return the score of each token that merges make: minus the place of its merges in the list.

    Args:
        vocabulary: Token -> number.
        merges: Pairs of pieces, the first to be merged first.
        name: Name of the model, for messages.

    Raises:
        ModelError: llama.cpp would merge in another order, or merge what the tokenizer does not.
    """
    scores: dict[str, float] = {}
    block: set[str] = set()  # tokens among whose pairs others of the block may stand
    for left, right in merges:
        token = left + right
        if token in scores and token not in block:
            raise unknown(name, f"merges {token!r} in two places of its list")
        scores.setdefault(token, -float(len(scores)))
        block = block | {token} if _is_run(token) and all(map(_is_run, block)) else {token}
    pairs = set(merges)
    for token in vocabulary:
        for cut in range(1, len(token)):
            pair = token[:cut], token[cut:]
            if pair[0] in vocabulary and pair[1] in vocabulary and pair not in pairs:
                raise unknown(
                    name,
                    f"knows {token!r} and its parts {pair[0]!r} and {pair[1]!r}, and does not merge them",
                )
    return scores


def _is_run(token: str) -> bool:
    return token.count(token[0]) == len(token)


def runs_of(scores: Mapping[str, float]) -> Iterator[str]:
    """Yield runs of each character that has tokens of its own, longer than those are."""
    longest: dict[str, int] = {}
    for token in filter(_is_run, scores):
        longest[token[0]] = max(longest.get(token[0], 0), len(token))
    for character, most in longest.items():
        yield from (character * length for length in range(2, 2 * most + 2))


def merged_by_scores(text: str, scores: Mapping[str, float]) -> list[str]:
    """Return the pieces of a text as llama.cpp merges them: of all pairs that make a token that of the highest score, the first."""
    pieces = list(text)
    while True:
        made = [
            (scores.get(left + right, -math.inf), -at) for at, (left, right) in enumerate(pairwise(pieces))
        ]
        score, place = max(made, default=(-math.inf, 0))
        if score == -math.inf:
            return pieces
        pieces[-place : 2 - place] = ["".join(pieces[-place : 2 - place])]


def is_byte(token: str) -> bool:
    """Return whether a token stands for a byte, such as ``<0x0A>``."""
    return re.fullmatch(r"<0x[0-9A-F]{2}>", token) is not None


def space_schemes(
    normalizer: Mapping[str, Any] | None, steps: Mapping[str, Any] | None, name: str
) -> tuple[bool, ...]:
    """Return whether llama.cpp is to write a space before texts behind a special token; both where it depends on the prompt.

    Args:
        normalizer: ``normalizer`` of the tokenizer's JSON.
        steps: ``pre_tokenizer`` of the tokenizer's JSON.
        name: Name of the model, for messages.

    Raises:
        ModelError: Texts are changed or split in a way that llama.cpp does not know.
    """
    changes = (
        []
        if normalizer is None
        else normalizer["normalizers"]
        if normalizer["type"] == "Sequence"
        else [normalizer]
    )
    prepends = False
    for change in changes:
        if change == {"type": "Prepend", "prepend": SPACE}:
            prepends = True
        elif change != {"type": "Replace", "pattern": {"String": " "}, "content": SPACE}:
            raise unknown(name, f"changes texts by a step {change['type']} ({change!s:.200})")
    replaces = any(change["type"] == "Replace" for change in changes)
    if steps is None and replaces:
        return (prepends,)
    kind = None if steps is None else steps["type"]
    if kind == "Split" and replaces and steps is not None and steps["pattern"] == {"String": " "}:
        return (prepends,)  # there are no spaces left to split at
    if (
        kind == "Metaspace"
        and steps is not None
        and not changes
        and steps["replacement"] == SPACE
        and not steps["split"]
    ):
        return {"always": (True,), "never": (False,), "first": (False, True)}[str(steps["prepend_scheme"])]
    raise unknown(name, f"splits texts by {kind} ({steps!s:.200})")


def as_llama_cpp(
    text: str,
    special: Mapping[str, int],
    stripping: frozenset[str],
    merged: Callable[[str], list[int]],
    prefix: bool,
) -> list[int]:
    """Return the tokens that llama.cpp reads from a text.

    Args:
        text: The text.
        special: Tokens that are read wherever they stand, and their numbers.
        stripping: Those that take the white space behind them along.
        merged: Returns the tokens of a text without special ones, whose spaces are written as ``▁``.
        prefix: Whether a text behind a special token begins with a space.
    """
    ids: list[int] = []
    behind = True
    parts = (
        re.split("(" + "|".join(map(re.escape, sorted(special, key=len, reverse=True))) + ")", text)
        if special
        else [text]
    )
    strip = False
    for part in parts:
        if part in special:
            ids.append(special[part])
            behind, strip = True, part in stripping
            continue
        rest = part.lstrip() if strip else part
        if rest:
            ids += merged((" " * (prefix and behind) + rest).replace(" ", SPACE))
            behind = False
    return ids
