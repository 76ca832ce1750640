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


def test_the_ends_of_each_dial_are_compared_on_the_answers() -> None:
    objectives, random = ("concise", "warm"), np.random.default_rng(0)
    dial = [Preference.of({"concise": w, "warm": 1 - w}) for w in (0.0, 0.5, 1.0)]
    prompts = tuple(map(str, range(80)))
    before = random.normal(size=(80, 1, 2))

    def measured(name: str, step: float, points: int = 3) -> Evaluation:
        scores = [
            before + step * np.array([n, 2 - n]) + 0.3 * random.normal(size=(80, 1, 2)) for n in range(points)
        ]
        return Evaluation(
            name, objectives, dial[:points], dial[:points], prompts, list(map(Judged.of_scores, scores))
        )

    base = Evaluation("base", objectives, dial[1:2], dial[1:2], prompts, [Judged.of_scores(before)])
    every = {"turns": measured("turns", 1.0), "stays": measured("stays", 0.0), "one": measured("one", 1.0, 1)}
    found = judge(every, base, None, np.full(2, -9.0), 200)
    ends = {name: found.recorded_policy(name, False).ends for name in every}
    assert ends["one"] == {}
    for objective in objectives:
        assert ends["turns"][objective].low > 1.5 and ends["turns"][objective].value == pytest.approx(
            2, abs=0.2
        )
        assert ends["stays"][objective].low < 0 < ends["stays"][objective].high
    without = judge(every, None, None, np.full(2, -9.0), 200).recorded_policy("turns", False)
    assert 0 < without.ends["warm"].value < ends["turns"]["warm"].value, (
        "in deviations of all answers, which vary more"
    )
