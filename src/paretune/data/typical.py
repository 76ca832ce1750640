"""Public data sets that are not on this machine, by their typical sizes: texts of these lengths stand for them in a plan.

Sizes are those of the sets as their cards and papers give them, rounded; nothing is read or downloaded.
"""

from __future__ import annotations

import os
import re
from dataclasses import dataclass
from pathlib import Path

from paretune.data.dataset import ScoredDataset
from paretune.data.known import KNOWN
from paretune.data.rows import Message, Row

FACTORS = (0.2, 0.4, 0.6, 0.9, 1.3, 2.6)
"""Lengths of texts as multiples of their mean, which is that of all six: most are short, and a few are long."""


@dataclass(frozen=True)
class Sizes:
    """What a data set holds, about.

    Attributes:
        rows: Number of prompts of the training split.
        responses: Number of responses to each.
        prompt, response: Mean number of characters.
    """

    rows: int
    responses: int
    prompt: int
    response: int


SIZES = {
    "hh-rlhf": Sizes(160_800, 2, 620, 290),
    "helpsteer2": Sizes(10_160, 2, 710, 1490),
    "pku-saferlhf": Sizes(73_900, 2, 90, 420),
    "ultrafeedback": Sizes(63_970, 4, 640, 1220),
}


def is_here(name: str) -> bool:
    """Return whether a known set was downloaded already, as far as the cache of the ``datasets`` library shows."""
    from huggingface_hub.constants import HF_HOME

    cache = Path(os.environ.get("HF_DATASETS_CACHE") or Path(HF_HOME) / "datasets").expanduser()
    wanted = _letters(KNOWN[name].hub)
    return cache.is_dir() and any(_letters(folder.name) == wanted for folder in cache.iterdir())


def _letters(name: str) -> str:
    """Return a name without what the library writes otherwise in a folder's name."""
    return re.sub(r"[^a-z0-9]", "", name.casefold())


def stand_in(name: str, limit: int = 0) -> ScoredDataset:
    """Return rows of the typical lengths of a known set, at most ``limit`` of them (0 for all), with a score on each objective.

    Lengths go through :data:`FACTORS`, those of a row's responses from different places. The texts mean nothing.
    """
    sizes, objectives = SIZES[name], tuple(KNOWN[name].objectives)
    count = min(sizes.rows, limit) if limit else sizes.rows
    texts = {size: "word " * max(1, round(size / 5)) for size in _lengths(sizes.response)}
    prompts = ["word " * max(1, round(size / 5)) for size in _lengths(sizes.prompt)]
    responses = list(texts.values())
    rows = []
    for number in range(count):
        answers = tuple(
            f"{responses[(number // len(FACTORS) + 2 * k) % len(FACTORS)]}{k}" for k in range(sizes.responses)
        )
        scores = {
            objective: tuple(float((number + k * (place + 1)) % 7 + k / 10) for k in range(sizes.responses))
            for place, objective in enumerate(objectives)
        }
        prompt = (Message("user", f"{prompts[number % len(FACTORS)]}{number}"),)
        rows.append(Row(prompt, answers, scores, {}, (False,) * sizes.responses))
    return ScoredDataset(objectives, tuple(rows))


def _lengths(mean: int) -> list[int]:
    return [round(mean * factor) for factor in FACTORS]
