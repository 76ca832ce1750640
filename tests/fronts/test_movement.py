"""Movement along and across the wanted direction: worked numbers, and intervals that cover."""

import math

import numpy as np
import pytest

from paretune.core.errors import ParetuneError
from paretune.fronts.movement import end_to_end, movements, wanted_direction


def test_movement_by_hand():
    # Every prompt moves alike: 2 on a, -1 on b, 6 words, with deviations 2, 2 and 12: movement (1, -0.5, 0.5).
    base = np.random.default_rng(0).normal(size=(400, 3))
    scores = base + np.array([[[2.0, -1.0, 6.0]], [[2.0, -1.0, 6.0]]])
    found = movements(
        scores, base, np.array([2.0, 2.0, 12.0]), wanted_direction(np.array([[1, 0], [0.5, 0.5]]), 3)
    )
    np.testing.assert_allclose(found.moved, [[1, -0.5, 0.5]] * 2)
    # Towards a: 1 along, sqrt(0.25 + 0.25) across. Towards both: 0.5 / sqrt 2 along, and of 1.5 squared 0.125 is along.
    assert [each.value for each in found.along] == pytest.approx([1, 0.5 / math.sqrt(2)])
    assert [each.value for each in found.across] == pytest.approx(
        [math.sqrt(0.5), math.sqrt(1.5 - 0.125)], abs=1e-3
    )
    for each in (*found.along, *found.across):
        assert each.low < each.value < each.high, "agreement of all prompts is no certainty"


def test_intervals_of_movements_cover():
    true, directions = (
        np.array([[1, -0.5, 0.25], [0, 0, 0]]),
        wanted_direction(np.array([[1, 0], [0.3, 0.7]]), 3),
    )
    along = (true * directions).sum(axis=1)
    across = np.linalg.norm(true - along[:, None] * directions, axis=1)
    random, worlds = np.random.default_rng(0), 150
    covered = np.zeros(3)
    for _ in range(worlds):
        base = random.normal(size=(40, 3))
        found = movements(
            base + true[:, None] + random.normal(size=(2, 40, 3)), base, np.ones(3), directions, 500
        )
        covered[0] += ((found.low <= true) & (true <= found.high)).all()
        covered[1] += np.mean([i.low <= a <= i.high for i, a in zip(found.along, along, strict=True)])
        covered[2] += np.mean([i.low <= a <= i.high for i, a in zip(found.across, across, strict=True)])
    assert (covered / worlds >= 0.92).all(), covered / worlds


def test_noise_is_taken_off_the_length_across():
    random = np.random.default_rng(1)
    base, directions = random.normal(size=(30, 3)), wanted_direction(np.eye(2), 3)
    sizes = []
    for _ in range(60):
        found = movements(base + random.normal(size=(2, 30, 3)), base, np.ones(3), directions, 200)
        raw = np.linalg.norm(
            found.moved - np.einsum("na,na->n", found.moved, directions)[:, None] * directions, axis=1
        )
        sizes.append([raw.mean(), np.mean([each.value for each in found.across])])
    measured, corrected = np.mean(sizes, axis=0)
    assert corrected < 0.6 * measured


def test_one_prompt_has_no_bounds_and_a_constant_no_unit():
    found = movements(np.ones((1, 1, 2)), np.zeros((1, 2)), np.ones(2), np.eye(2)[:1])
    assert found.moved.tolist() == [[1, 1]] and np.isnan(found.low).all()
    assert found.along[0].value == found.across[0].value == 1
    assert math.isnan(found.along[0].low) and math.isnan(found.across[0].high)
    with pytest.raises(ParetuneError, match="do not vary"):
        movements(np.ones((1, 3, 2)), np.zeros((3, 2)), np.array([1.0, 0.0]), np.eye(2)[:1])


def test_the_ends_of_a_dial_by_hand():
    # Every prompt: concise 3 higher at its largest weight, warm 1 lower at its own; points of equal weight count by their mean.
    base = np.random.default_rng(0).normal(size=(1, 50, 2))
    dial = np.array([[0.0, 1.0], [0.5, 0.5], [1.0, 0.0]])
    moved = base + np.array([[[0.0, -1.0]], [[7.0, 7.0]], [[3.0, 0.0]]])
    twice = np.array([[0.0, 1.0], [1.0, 0.0], [1.0, 0.0]])
    both = base + np.array([[[0.0, 2.0]], [[1.0, 0.0]], [[3.0, 1.0]]])
    found = end_to_end([dial, twice], [moved, both], np.array([2.0, 0.5]))
    assert [[each.value for each in row] for row in found] == [
        pytest.approx([1.5, -2.0]),
        pytest.approx([1.0, 3.0]),
    ]
    for each in (figure for row in found for figure in row):
        assert each.low < each.value < each.high, "agreement of all prompts is no certainty"
    assert end_to_end([], [], np.ones(2)) == []
    alone = end_to_end([dial], [moved[:, :1]], np.ones(2))[0]
    assert alone[0].value == 3.0 and math.isnan(alone[0].low) and math.isnan(alone[0].high)


def test_bounds_at_the_ends_hold_for_all_policies_and_objectives_at_once():
    true = np.array([[1.0, 0.0], [0.0, -0.5], [0.0, 0.0]])
    dial, random, worlds, held = np.eye(2)[::-1], np.random.default_rng(3), 150, 0
    for _ in range(worlds):
        base = random.normal(size=(40, 2))
        scores = [np.stack([base, base]) + random.normal(size=(2, 40, 2)) for _ in true]
        for each, (concise, warm) in zip(scores, true, strict=True):
            each[1, :, 0] += concise  # dial[1] has all weight on the first objective
            each[0, :, 1] += warm
        found = end_to_end([dial] * 3, scores, np.ones(2), 500)
        held += all(
            figure.low <= value <= figure.high
            for row, values in zip(found, true, strict=True)
            for figure, value in zip(row, values, strict=True)
        )
    assert held / worlds >= 0.92
