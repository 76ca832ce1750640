"""The answers that a run measured, with their own scores, as it keeps them beside its data."""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paretune.core.errors import DataError
from paretune.data.readers import read_records
from paretune.data.rows import Prompt, prompt_from


@dataclass(frozen=True)
class MeasuredAnswer:
    """One measured answer.

    Attributes:
        prompt: What was asked.
        key: The key of the prompt, as in the run's scores.
        sample: Which of several answers to the prompt it is.
        text: The answer.
        truncated: Whether the token limit cut it.
        scores: Objective -> its own score, higher is better; None where a scorer gave none.
    """

    prompt: Prompt
    key: str
    sample: int
    text: str
    truncated: bool
    scores: Mapping[str, float | None]


def measured_answers(
    file: str | Path, policy: str
) -> list[tuple[dict[str, float], tuple[MeasuredAnswer, ...]]]:
    """Return a policy's measured preferences (objective -> weight) with the answers there, in the order of a run's file.

    Raises:
        DataError: The file is missing, damaged, or holds something else; the message names the line.
    """
    found: dict[tuple[tuple[str, float], ...], list[MeasuredAnswer]] = {}
    for where, record in read_records(file):
        try:
            if record["policy"] != policy:
                continue
            weights = tuple((str(name), float(weight)) for name, weight in record["preference"].items())
            answer = MeasuredAnswer(
                prompt_from(record["prompt"], "prompt", where),
                str(record["prompt_id"]),
                int(record["sample"]),
                str(record["answer"]),
                bool(record["truncated"]),
                {str(name): _score(score) for name, score in record["scores"].items()},
            )
        except (KeyError, TypeError, AttributeError, ValueError) as error:
            raise DataError(
                f"{where}: {error!r:.80}; expected a measured answer of a run, with policy, preference, prompt, prompt_id, sample, "
                "answer, truncated and scores; run paretune run again to write the file anew"
            ) from error
        found.setdefault(weights, []).append(answer)
    return [(dict(weights), tuple(answers)) for weights, answers in found.items()]


def _score(value: Any) -> float | None:
    return float(value) if isinstance(value, int | float) and math.isfinite(value) else None
