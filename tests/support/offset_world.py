"""Scores with an offset for each prompt, as an implicit reward or a Bradley-Terry head has: data whose true quality is known."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from paretune.data.dataset import ScoredDataset
from paretune.data.rows import Message, Prompt, Row
from paretune.scoring.function_scorer import FunctionScorer, from_function

OBJECTIVES = ("helpful", "short")


def quality(response: str) -> float:
    """Return the true quality that stands in a response of :func:`offset_data`."""
    return float(response.split()[0])


def offset_data(
    spread: float, prompts: int = 150, responses: int = 6, seed: int = 0
) -> tuple[ScoredDataset, dict[str, float]]:
    """Return scored responses and the offset of each prompt.

    ``helpful`` is the true quality, of unit spread within and no difference between prompts, plus an offset of the prompt of the
    given spread. ``short`` can be compared across prompts.
    """
    random = np.random.default_rng(seed)
    rows, offsets = [], {}
    for number in range(prompts):
        prompt, offset = f"prompt {number}", float(spread * random.normal())
        true, lengths = random.normal(size=responses), random.normal(size=responses)
        offsets[prompt] = offset
        scores = {"helpful": tuple((true + offset).tolist()), "short": tuple(lengths.tolist())}
        texts = tuple(f"{q!r} {l!r}" for q, l in zip(true.tolist(), lengths.tolist(), strict=True))  # noqa: E741
        rows.append(Row((Message("user", prompt),), texts, scores))
    return ScoredDataset(OBJECTIVES, tuple(rows)), offsets


def offset_scorers(offsets: dict[str, float], across_prompts: bool) -> list[FunctionScorer]:
    """Return the scorers of the data; that of ``helpful`` says ``across_prompts``."""

    def helpful(prompts: Sequence[Prompt], texts: Sequence[str], cut: Sequence[bool]) -> list[float]:
        return [quality(t) + offsets[p[0].content] for p, t in zip(prompts, texts, strict=True)]

    def short(prompts: Sequence[Prompt], texts: Sequence[str], cut: Sequence[bool]) -> list[float]:
        return [float(text.split()[1]) for text in texts]

    return [
        from_function("helpful", "helpful", helpful, across_prompts),
        from_function("short", "short", short),
    ]
