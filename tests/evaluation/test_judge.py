"""The mixture of corners as it is recorded, for any number of objectives."""

from __future__ import annotations

import numpy as np
import pytest

from paretune.core.preference import Preference
from paretune.evaluation.judge import MIXTURES, judge
from paretune.evaluation.judged import Evaluation, Judged


@pytest.mark.parametrize(("M", "count"), [(2, 21), (3, 45), (5, 495), (6, 462), (10, 220)])
def test_the_recorded_mixture_holds_the_corners_in_few_points(M: int, count: int) -> None:
    objectives = tuple(f"o{n:02}" for n in range(M))
    ends = [Preference.one_hot(objective, objectives) for objective in objectives]
    scores = np.random.default_rng(0).normal(size=(M, 4, 1, M))
    corners = Evaluation(
        "corners", objectives, ends, ends, tuple("abcd"), list(map(Judged.of_scores, scores))
    )
    points = np.array(judge({}, None, corners, np.full(M, -9.0)).recorded_mixture().points)
    assert len(points) == count <= MIXTURES
    for mean in scores.mean(axis=(1, 2)):
        assert np.abs(points - mean).max(axis=1).min() < 1e-12
