"""A scorer made of a function: what every kind of scorer returns, with its values checked and its options read.

A scorer that fails raises ScoreError; it never returns a stand-in value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass

import numpy as np

from paretune.core.errors import ConfigError, ScoreError, suggest
from paretune.data.rows import Prompt
from paretune.scoring.function_process import LARGEST

ScoreFunction = Callable[[Sequence[Prompt], Sequence[str], Sequence[bool]], "Sequence[float] | np.ndarray"]


class RowScoreError(ScoreError):
    """A ScoreError about one row; ``row`` counts from 0 within the call that failed."""

    def __init__(self, row: int, reason: str) -> None:
        super().__init__(f"row {row}: {reason}")
        self.row = row
        self.reason = reason


@dataclass(frozen=True, slots=True)
class FunctionScorer:
    """A scorer made of a function, whose values are checked.

    Attributes:
        objective: Name of the objective.
        fingerprint: Identity of the function; cached scores are found by it.
        function: Function from prompts, responses and truncation marks to ``[n]`` numbers, higher is better.
        across_prompts: Whether scores of responses to different prompts can be compared.
        head: Folder of the fitted head that it scores with; empty where it has none.
        thinking: Whether the thought before an answer is scored too.
    """

    objective: str
    fingerprint: str
    function: ScoreFunction
    across_prompts: bool = True
    head: str = ""
    thinking: bool = False

    def __call__(
        self, prompts: Sequence[Prompt], responses: Sequence[str], truncated: Sequence[bool]
    ) -> np.ndarray:
        """Return ``[n]`` finite float64, higher is better, or raise a ScoreError."""
        return checked(self.function(prompts, responses, truncated), len(responses), self.objective)


def checked(values: Sequence[float] | np.ndarray, count: int, objective: str) -> np.ndarray:
    """Return a scorer's values as ``[count]`` finite float64.

    Raises:
        RowScoreError: A value is not finite, or too large to compute with; names the row.
        ScoreError: The values are not numbers, or not one per response.
    """
    try:
        given = np.asarray(values)
        if (
            given.dtype.kind not in "iuf"
        ):  # numbers as text, true and false, None, whole numbers beyond 64 bits
            for row, value in enumerate(given.tolist() if given.ndim == 1 else ()):
                _check_number(row, value, objective)
        scores = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError, OverflowError) as error:
        if isinstance(error, ScoreError):
            raise
        raise ScoreError(
            f"objective {objective!r}: the scorer returned something that is not numbers ({error})"
        ) from error
    if scores.shape != (count,):
        raise ScoreError(
            f"objective {objective!r}: the scorer returned shape {scores.shape} for {count} responses, "
            f"expected ({count},): one number per response"
        )
    bad = np.flatnonzero(~(np.abs(scores) <= LARGEST))
    if bad.size:
        wanted = (
            f"a finite number of at most {LARGEST:g}" if np.isfinite(scores[bad[0]]) else "a finite number"
        )
        raise RowScoreError(
            int(bad[0]),
            f"objective {objective!r}: the scorer returned {scores[bad[0]]}, expected {wanted}",
        )
    return scores


def _check_number(row: int, value: object, objective: str) -> None:
    if isinstance(value, bool) or not isinstance(value, (int, float)) or abs(value) > LARGEST:
        raise RowScoreError(
            row,
            f"objective {objective!r}: the scorer returned {value!r:.60}, expected a number (not text, true or false)",
        )


def from_function(
    objective: str, fingerprint: str, function: ScoreFunction, across_prompts: bool = True, head: str = ""
) -> FunctionScorer:
    """Return a scorer that calls ``function(prompts, responses, truncated) -> [n]``.

    ``fingerprint`` must change whenever the function would score differently, as cached scores are found by it. Set
    ``across_prompts`` to False where only scores of responses to one prompt can be compared. ``head`` is a fitted head's folder.

    Raises:
        ConfigError: The name of the objective is empty.
    """
    if not objective:
        raise ConfigError("a scorer needs the name of its objective; got an empty one")
    return FunctionScorer(objective, fingerprint, function, across_prompts, head)


def choice(name: str, given: object, options: Iterable[str]) -> str:
    """Return ``given`` if it is one of ``options``; otherwise raise a ConfigError with the nearest one."""
    options = tuple(options)
    if not isinstance(given, str) or given not in options:
        raise ConfigError(f"{name}: {given!r}: {suggest(str(given), options)}")
    return given


def sign_of(direction: str) -> int:
    """Return +1 for direction "higher", -1 for "lower"; anything else is a ConfigError."""
    return 1 if choice("direction", direction, ("higher", "lower")) == "higher" else -1
