"""The judged answers of policies, point by point: what measuring gives and judging takes. Nothing here needs a model."""

from __future__ import annotations

from collections.abc import Collection, Iterable
from dataclasses import dataclass, replace
from typing import Any

import numpy as np
from typing_extensions import NotRequired, TypedDict

from paretune.core.meter import Counts, Spent, spent_of, summed
from paretune.core.preference import Preference
from paretune.fronts.front import Front

RESAMPLES = 2000
"""The default number of resamples of the prompts, for intervals."""

Table = list[list[float]]


class Share(Spent):
    """What a point spent, and the stage that measured it: policies that compute the same at a preference share its point."""

    stage: str


class StoredPoint(TypedDict):
    """What a run keeps of a point in ``fronts/``, see :class:`Judged`; ``together`` names the files of its batch."""

    scores: list[list[list[float | None]]]
    logps: Table
    base_logps: Table
    lengths: list[list[int]]
    truncated: list[list[bool]]
    collapsed: list[list[bool]]
    conflict: NotRequired[Table]
    responses: list[list[str]]
    seconds: float
    together: NotRequired[list[str]]
    spent: NotRequired[Share | None]


@dataclass(frozen=True, eq=False)
class Judged:
    """The answers of a policy at one preference, S to each of P prompts, and how they were judged.

    Attributes:
        scores: Raw scores ``[P, S, M]``, higher is better; NaN where a scorer that leaves such answers out gave none.
        logps, base_logps: Log-probabilities ``[P, S]`` of the answers under the policy and the base model, in nats.
        lengths: Lengths ``[P, S]`` in tokens, the end of turn included.
        truncated: Whether the token limit cut the answer ``[P, S]``.
        collapsed: Whether it degenerated ``[P, S]``, see :func:`paretune.scoring.repetition.is_collapsed`.
        conflict: How far mixed policies disagree ``[P, S]``: the mean of -log Z over tokens, in nats; 0 where none are mixed.
        responses: The texts ``[P][S]``; empty where they are not known.
        seconds: This point's share of the time taken to sample and score.
        spent: Its share of what else that took; None where it is not known.
    """

    scores: np.ndarray
    logps: np.ndarray
    base_logps: np.ndarray
    lengths: np.ndarray
    truncated: np.ndarray
    collapsed: np.ndarray
    conflict: np.ndarray
    responses: list[list[str]]
    seconds: float
    spent: Share | None = None

    @classmethod
    def of_scores(cls, scores: np.ndarray) -> Judged:
        """Return answers of which only the scores ``[P, S, M]`` are known: no text, no length, all else NaN."""
        unknown = np.full(scores.shape[:2], np.nan)
        none = np.zeros(unknown.shape, dtype=int)
        return cls(scores, unknown, unknown, none, unknown, unknown, unknown, [], np.nan)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values, which a run keeps in ``fronts/``."""
        values = {
            key: value.tolist() if isinstance(value, np.ndarray) else value
            for key, value in vars(self).items()
        }
        known = self.scores.astype(object)
        known[np.isnan(self.scores)] = None
        return values | {"scores": known.tolist()}

    def at(self, places: np.ndarray) -> Judged:
        """Return the answers to some of the prompts, by their numbers."""
        parts = {
            key: value[places] if isinstance(value, np.ndarray) else value
            for key, value in vars(self).items()
        }
        return Judged(**parts | {"responses": [self.responses[p] for p in places] if self.responses else []})

    def check(self, shape: tuple[int, int, int]) -> None:
        """Raise a ValueError unless these are S answers to each of P prompts on M objectives, for ``shape`` P, S, M."""
        table = shape[:2]
        for name in ("logps", "base_logps", "lengths", "truncated", "collapsed", "conflict"):
            if (found := getattr(self, name).shape) != table:
                raise ValueError(f"{name}: {list(found)}, expected {list(table)}")
        if self.scores.shape != shape:
            raise ValueError(f"scores: {list(self.scores.shape)}, expected {list(shape)}")
        if [len(row) for row in self.responses] != [table[1]] * table[0]:
            raise ValueError(f"responses: expected {table[1]} to each of {table[0]} prompts")

    @classmethod
    def from_dict(cls, value: StoredPoint) -> Judged:
        """Read what :meth:`to_dict` returned.

        Raises:
            ValueError: A list of lists of different lengths.
        """
        return cls(
            scores=np.array(value["scores"], dtype=np.float64),
            logps=np.array(value["logps"]),
            base_logps=np.array(value["base_logps"]),
            lengths=np.array(value["lengths"]),
            truncated=np.array(value["truncated"]),
            collapsed=np.array(value["collapsed"]),
            conflict=np.array(value.get("conflict", np.zeros_like(value["lengths"]))),
            responses=value["responses"],
            seconds=value["seconds"],
            spent=value.get("spent"),
        )


@dataclass(frozen=True, eq=False)
class Evaluation:
    """One policy at N preferences on P held-out prompts.

    Attributes:
        name: The policy's name.
        objectives: M names.
        preferences: N preferences asked for.
        used: N preferences really served (anchors snap).
        prompts: P ids.
        points: N judgements, one per preference.
        interpolated: N times whether a soup of anchors answered of which none was trained for the preference; empty for none.
    """

    name: str
    objectives: tuple[str, ...]
    preferences: list[Preference]
    used: list[Preference]
    prompts: tuple[str, ...]
    points: list[Judged]
    interpolated: tuple[bool, ...] = ()

    @property
    def front(self) -> Front:
        """The mean scores ``[N, P, M]`` over the samples of each prompt."""
        weights = np.stack([preference.over(self.objectives).array() for preference in self.preferences])
        return Front(
            self.name,
            self.objectives,
            weights,
            np.stack([point.scores.mean(1) for point in self.points]),
            self.prompts,
            any(preference.extrapolated for preference in self.preferences),
        )


def scored_prompts(evaluations: Iterable[Evaluation]) -> np.ndarray:
    """Return the numbers of the prompts all of whose answers have all scores, in every evaluation of the same prompts."""
    missing = [np.isnan(point.scores).any((1, 2)) for each in evaluations for point in each.points]
    return np.flatnonzero(~np.any(missing, axis=0))


def at_prompts(evaluation: Evaluation, places: np.ndarray) -> Evaluation:
    """Return an evaluation on some of its prompts, by their numbers."""
    return replace(
        evaluation,
        prompts=tuple(evaluation.prompts[p] for p in places),
        points=[point.at(places) for point in evaluation.points],
    )


def spent_by(name: str, points: Collection[Judged]) -> tuple[float, Spent | None]:
    """Return the seconds and what else stage ``name`` spent on points when it measured them; None where that is not known."""
    if any(point.spent is None for point in points):
        return sum(point.seconds for point in points), None
    own = [point for point in points if point.spent is not None and point.spent["stage"] == name]
    if not own:
        return 0.0, spent_of(Counts())
    return sum(point.seconds for point in own), summed(point.spent for point in own)
