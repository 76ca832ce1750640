"""A scorer made of a function: what every kind of scorer returns, with its values checked and its options read.

A scorer that fails raises ScoreError; it never returns a stand-in value.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any, Literal, get_args, get_origin, get_type_hints

import numpy as np

from paretune.core.errors import ConfigError, ScoreError, suggest
from paretune.data.rows import Prompt
from paretune.scoring.function_process import LARGEST
from paretune.scoring.ranking import Sort
from paretune.scoring.usage import FREE, Prices, Usage

ScoreFunction = Callable[[Sequence[Prompt], Sequence[str], Sequence[bool]], "Sequence[float] | np.ndarray"]

CompareFunction = Callable[
    [Sequence[Prompt], Sequence[tuple[str, str]], Sequence[tuple[bool, bool]]], "Sequence[float]"
]
"""From prompts, pairs of responses and their truncation marks to preferences ``[n]``: 1 for the first response, -1 for the second,
0 for a tie, NaN where there is no verdict."""


class RowScoreError(ScoreError):
    """A ScoreError about one row; ``row`` counts from 0 within the call that failed."""

    def __init__(self, row: int, reason: str) -> None:
        super().__init__(f"row {row}: {reason}")
        self.row = row
        self.reason = reason


class UnscoredError(ScoreError):
    """A ScoreError about some rows of a call, whose other rows have scores.

    Attributes:
        scores: ``[n]`` float64, NaN where there is none.
        reasons: Row within the call -> why it has none.
        cure: What to do about them.
        final: Whether further calls would fail too, such as without a server.
    """

    def __init__(
        self, scores: np.ndarray, reasons: Mapping[int, str], cure: str, final: bool = False
    ) -> None:
        row = min(reasons, default=0)
        super().__init__(f"row {row}: {reasons.get(row, '')}")
        self.scores, self.reasons, self.cure, self.final = scores, dict(reasons), cure, final


@dataclass(frozen=True)
class Comparing:
    """How a scorer compares pairs of responses to one prompt.

    Attributes:
        function: The comparison, in both orders.
        pairs: Largest number of pairs of each prompt's responses that are compared.
        fingerprint: Identity of all that decides a verdict.
        sort: How each prompt's responses are ranked in place of comparing ``pairs`` of them; None ranks none.
        why: Returns why a verdict could last not be read; empty where all could.
    """

    function: CompareFunction
    pairs: int
    fingerprint: str
    sort: Sort | None = None
    why: Callable[[], str] = field(default=str, compare=False)


@dataclass(frozen=True, slots=True)
class FunctionScorer:
    """A scorer made of a function, whose values are checked.

    Attributes:
        objective: Name of the objective.
        fingerprint: Identity of the function; cached scores are found by it.
        function: Function from prompts, responses and truncation marks to ``[n]`` numbers, higher is better.
        across_prompts: Whether scores of responses to different prompts can be compared.
        head: Folder of the fitted head or reward model that it scores with; empty where it has none.
        part: Name of the reward model's objective, where it is another than the scorer's own.
        judge: Name of the judge or the server that it asks; empty where it asks none.
        usage: What it asked, counted.
        prices: What its tokens cost.
        comparing: How it compares pairs, where training data are to be compared rather than scored.
        leaves_out: Whether a row without a score is left out, rather than an error.
        release: Gives back the memory of its model; the next call loads it again.
        thinking: Whether the thought before an answer is scored too.
    """

    objective: str
    fingerprint: str
    function: ScoreFunction
    across_prompts: bool = True
    head: str = ""
    part: str = ""
    judge: str = ""
    usage: Usage = field(default_factory=Usage, compare=False)
    prices: Prices = FREE
    comparing: Comparing | None = None
    leaves_out: bool = False
    release: Callable[[], None] = field(default=lambda: None, compare=False)
    thinking: bool = False

    def __call__(
        self, prompts: Sequence[Prompt], responses: Sequence[str], truncated: Sequence[bool]
    ) -> np.ndarray:
        """Return ``[n]`` finite float64, higher is better, or raise a ScoreError; an UnscoredError has the scores of other rows."""
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


def check_choices(settings: Any) -> None:
    """Check the texts, choices and flags of a scorer's settings by the types of the class; numbers have their own check.

    Raises:
        ConfigError: A value of another type, or none of the choices; the message begins with its name.
    """
    for name, kind in get_type_hints(type(settings)).items():
        value = getattr(settings, name)
        if get_origin(kind) is Literal:
            choice(name, value, get_args(kind))
        elif kind in (str, bool) and not isinstance(value, kind):
            expected = "text" if kind is str else "true or false"
            raise ConfigError(f"{name}: {value!r:.60}: expected {expected}")
