"""Scores of different scales on one: zero mean and unit spread over the training data."""

from __future__ import annotations

from array import array
from collections.abc import Collection, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from paretune.core.errors import ConfigError, ScoreError
from paretune.data.dataset import ScoredDataset
from paretune.scoring.function_process import LARGEST


@dataclass(frozen=True, eq=False)
class Standardisation:
    """Mean and standard deviation of each objective's raw scores on the reference policy's responses, fixed once.

    Attributes:
        objectives: M names.
        mean: ``[M]`` means.
        std: ``[M]`` positive standard deviations over the given responses, without Bessel's correction; where scores can be
            compared within a prompt only, the deviation within prompts, over the responses beyond the first to each.
    """

    objectives: tuple[str, ...]
    mean: np.ndarray
    std: np.ndarray

    @classmethod
    def of(cls, dataset: ScoredDataset, within: Collection[str] = ()) -> Standardisation:
        """Measure a data set of reference responses, each scored on every objective.

        Args:
            dataset: The responses.
            within: Objectives whose scores can be compared within a prompt only, see
                :func:`paretune.scoring.prompt_means.within_prompts`: offsets of prompts are no spread.

        Raises:
            ScoreError: A score is missing (the row is named), or the scores of an objective are constant (of those ``within``: at
                every prompt).
        """
        kept, owners, responses = array("d"), array("Q"), 0
        for row in dataset.rows:
            scores = dataset.matrix(row)
            missing = np.argwhere(np.isnan(scores))
            if missing.size:
                k, m = missing[0]
                raise ScoreError(
                    f"{row.source or row.key}, response {k}: no score for {dataset.objectives[m]!r}; "
                    "the standardisation needs every reference response scored"
                )
            if np.abs(scores).max(initial=0.0) > LARGEST:
                raise ScoreError(
                    f"{row.source or row.key}: a score of {np.abs(scores).max():g}; expected at most {LARGEST:g}, as the squares "
                    "of larger ones cannot be summed"
                )
            kept.frombytes(scores.tobytes())
            owners.extend([int(row.key, 16)] * len(scores))
            responses += len(scores)
        if not responses:
            raise ScoreError(
                "standardisation: the data set has no responses; sample the reference policy first"
            )
        stacked = np.asarray(kept).reshape(responses, len(dataset.objectives))
        mean, std = stacked.mean(axis=0), stacked.std(axis=0)
        inside = [m for m, name in enumerate(dataset.objectives) if name in within]
        if inside:
            std[inside] = _within(stacked[:, inside], np.asarray(owners))
        for m, name in enumerate(dataset.objectives):
            if std[m] <= 1e-12 * np.abs(stacked[:, m]).max():
                same = (
                    "no two reference responses to a prompt differ in score"
                    if m in inside
                    else f"all {len(stacked)} reference responses score {mean[m]:g}"
                )
                raise ScoreError(
                    f"objective {name!r}: {same}; a constant score cannot be standardised: check the scorer, or sample more varied "
                    "responses"
                )
        return cls(dataset.objectives, mean, std)

    def apply(self, scores: np.ndarray) -> np.ndarray:
        """Return (scores - mean) / std for raw scores [..., M]; NaN stays NaN."""
        scores = np.asarray(scores, dtype=np.float64)
        if scores.ndim == 0 or scores.shape[-1] != len(self.objectives):
            raise ScoreError(
                f"scores of shape {scores.shape}: expected [..., {len(self.objectives)}], one per objective"
            )
        return (scores - self.mean) / self.std

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values from which ``from_dict`` restores the numbers exactly."""
        return {"objectives": list(self.objectives), "mean": self.mean.tolist(), "std": self.std.tolist()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Standardisation:
        """Restore from the values of ``to_dict``."""
        try:
            objectives = tuple(str(o) for o in values["objectives"])
            mean, std = (np.array(values[key], dtype=np.float64) for key in ("mean", "std"))
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(
                f"standardisation {dict(values)}: expected objectives, mean and std ({error})"
            ) from error
        if (
            mean.shape != (len(objectives),)
            or std.shape != mean.shape
            or not (np.isfinite(mean).all() and (std > 0).all())
        ):
            raise ConfigError(
                f"standardisation {dict(values)}: expected one finite mean and one positive std per objective"
            )
        return cls(objectives, mean, std)


def _within(scores: np.ndarray, owners: np.ndarray) -> np.ndarray:
    """Return the deviation within prompts of scores ``[n, D]`` of responses to prompts ``owners [n]``; 0 where each has one."""
    _, owner, counts = np.unique(owners, return_inverse=True, return_counts=True)
    sums = np.zeros((len(counts), scores.shape[1]))
    np.add.at(sums, owner, scores)
    left = scores - (sums / counts[:, None])[owner]
    return np.asarray(np.sqrt((left**2).sum(axis=0) / max(1, len(scores) - len(counts))))
