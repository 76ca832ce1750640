"""Soups between anchors against the nearest anchor: whose answers stand in, and who is judged."""

from types import SimpleNamespace

import numpy as np
import pytest

from benchmarks.fronts.between import compared, snapped
from paretune.core.errors import ParetuneError
from paretune.core.preference import Preference
from paretune.fronts.record import MeasuredPolicy
from paretune.fronts.score_table import PolicyScores
from support.records import point, policy

WEIGHTS = (0.0, 0.3, 0.5, 0.7, 1.0)
SOUPS = (0.3, 0.7)


@pytest.fixture
def world() -> tuple[MeasuredPolicy, PolicyScores]:
    """A policy with anchors at 0, 1/2 and 1, measured between them too, on 40 prompts."""
    preferences = tuple(Preference.of({"concise": w, "warm": 1 - w}, ("concise", "warm")) for w in WEIGHTS)
    points = [
        point(p.as_dict(), (0.0, 0.0), interpolated=w in SOUPS)
        for p, w in zip(preferences, WEIGHTS, strict=True)
    ]
    scores = np.random.default_rng(0).normal(size=(len(WEIGHTS), 40, 1, 2))
    prompts = tuple(f"p{n}" for n in range(40))
    measured = MeasuredPolicy.model_validate(policy("modpo", points))
    return measured, PolicyScores("modpo", ("concise", "warm"), preferences, prompts, scores)


def test_the_nearest_anchor_stands_in_for_a_soup(world) -> None:
    measured, scores = world
    stood_in = snapped(measured, scores).scores
    for n, anchor in enumerate([0, 2, 2, 2, 4]):  # 0.3 and 0.7 are nearer to 1/2 than to an end
        assert np.array_equal(stood_in[n], scores.front.scores[anchor])


@pytest.fixture
def run_of(monkeypatch: pytest.MonkeyPatch):
    """Return a function that lets a policy and its scores be read from every folder."""

    def of(scores: PolicyScores, *policies: MeasuredPolicy) -> None:
        record = SimpleNamespace(policies=policies, objectives=scores.objectives)
        table = SimpleNamespace(policies=lambda: {"modpo": scores})
        monkeypatch.setattr("benchmarks.fronts.between.FrontRecord.read", lambda path: record)
        monkeypatch.setattr("benchmarks.fronts.between.read_scores", lambda path: table)

    return of


def unmeasured(measured: MeasuredPolicy) -> MeasuredPolicy:
    """Return a policy like ``measured`` that is a soup at every preference, as a Bone Soup is."""
    soups = tuple(p.model_copy(update={"interpolated": True}) for p in measured.points)
    return measured.model_copy(update={"name": "bone-soup", "points": soups})


def test_a_run_without_soups_between_anchors_is_refused(tmp_path, world, run_of) -> None:
    measured, scores = world
    plain = measured.model_copy(
        update={"points": tuple(p.model_copy(update={"interpolated": False}) for p in measured.points)}
    )
    run_of(scores, plain, unmeasured(measured))
    with pytest.raises(ParetuneError, match="no policy answers between anchors"):
        compared(tmp_path)


def test_better_soups_are_called_better(tmp_path, world, run_of) -> None:
    measured, scores = world
    scores.scores[[WEIGHTS.index(w) for w in SOUPS]] += 3
    run_of(scores, measured, unmeasured(measured))
    [found], left_out = compared(tmp_path)
    assert left_out == ["bone-soup"]
    assert found.verdict == "modpo above" and found.second == "modpo at the nearest"
