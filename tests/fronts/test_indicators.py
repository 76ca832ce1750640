import doctest
import itertools
import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra import numpy as hnp

import paretune.fronts.indicators
from oracles import fronts as oracle
from paretune.core.errors import ParetuneError
from paretune.core.preference import sample_simplex, simplex_grid
from paretune.fronts.indicators import (
    MOST_OBJECTIVES,
    controllability,
    has_knee,
    hypervolume,
    igd_plus,
    inner_product,
    knee,
    layers,
    mixture_hypervolume,
    non_dominated,
    spacing,
    sparsity,
)

law = settings(deadline=None, max_examples=40)
# Few different values make ties and duplicates common.
COARSE = hnp.arrays(
    np.float64, st.tuples(st.integers(1, 8), st.integers(1, 4)), elements=st.integers(-2, 3).map(float)
)
FINE = hnp.arrays(
    np.float64,
    st.tuples(st.integers(1, 8), st.integers(2, 4)),
    elements=st.integers(-100, 300).map(lambda n: n / 100),
)


def plain_dominates(a, b):
    return all(x >= y for x, y in zip(a, b, strict=True)) and any(x > y for x, y in zip(a, b, strict=True))


def plain_ranks(values):
    return [sum(v < value for v in values) + (values.count(value) + 1) / 2 for value in values]


def inclusion_exclusion(points, reference):
    """The volume of a union of boxes from their intersections; exponential in the number of points."""
    sides = np.maximum(points - reference, 0)
    total = 0.0
    for size in range(1, len(sides) + 1):
        for chosen in itertools.combinations(sides, size):
            total += (-1) ** (size + 1) * np.prod(np.min(chosen, axis=0))
    return total


def test_docstring_examples_are_the_worked_numbers():
    result = doctest.testmod(paretune.fronts.indicators)
    assert result.attempted >= 9
    assert result.failed == 0


@law
@given(COARSE, st.randoms(use_true_random=False))
def test_layers_equal_the_plain_definition_in_any_order(points, random):
    before = points.copy()
    expected = oracle.layers(points)
    np.testing.assert_array_equal(layers(points), expected)
    np.testing.assert_array_equal(non_dominated(points), expected == 0)
    np.testing.assert_array_equal(points, before)
    order = random.sample(range(len(points)), len(points))
    np.testing.assert_array_equal(layers(points[order]), expected[order])


@law
@given(FINE)
def test_hypervolume_equals_inclusion_exclusion(points):
    reference = np.full(points.shape[1], -0.25)
    before = points.copy()
    np.testing.assert_allclose(
        hypervolume(points, reference), inclusion_exclusion(points, reference), rtol=1e-9, atol=1e-9
    )
    np.testing.assert_array_equal(points, before)


@law
@given(FINE, st.integers(0, 2**32 - 1), st.floats(0.1, 10), st.randoms(use_true_random=False))
def test_hypervolume_laws(points, seed, scale, random):
    N, M = points.shape
    reference = np.zeros(M)
    volume = hypervolume(points, reference)
    added = np.random.default_rng(seed).uniform(-1, 3, size=(1, M))
    assert hypervolume(np.concatenate([points, added]), reference) >= volume - 1e-9
    assert hypervolume(points + 0.1, reference) >= volume
    objectives, order = random.sample(range(M), M), random.sample(range(N), N)
    assert hypervolume(points[order][:, objectives], reference) == pytest.approx(volume, abs=1e-9)
    stretch = np.ones(M)
    stretch[0] = scale
    assert hypervolume(points * stretch, reference) == pytest.approx(volume * scale, abs=1e-9)
    assert hypervolume(points + 5, reference + 5) == pytest.approx(volume, abs=1e-9)
    front = non_dominated(points)
    assert hypervolume(points[front], reference) == pytest.approx(volume, abs=1e-9)


def test_hypervolume_agrees_with_monte_carlo():
    random = np.random.default_rng(1)
    points = random.uniform(size=(12, 3))
    inside = random.uniform(size=(100_000, 3))
    share = np.any(np.all(points[:, None] >= inside[None], axis=2), axis=0).mean()
    assert hypervolume(points, np.zeros(3)) == pytest.approx(share, abs=5 * math.sqrt(0.25 / 100_000))


def test_points_at_or_below_the_reference_add_nothing():
    reference = np.array([1.0, 1.0])
    assert hypervolume(np.array([[1.0, 9.0], [9.0, 1.0], [0.0, 99.0], [-5.0, -5.0]]), reference) == 0.0
    assert hypervolume(np.array([[2.0, 3.0], [1.0, 9.0], [99.0, 0.0]]), reference) == 2.0


def test_mixtures_reach_the_hull_of_two_points_as_the_grid_narrows():
    ends = np.array([[0.0, 1.0], [1.0, 0.0]])
    volumes = [mixture_hypervolume(ends, np.zeros(2), divisions) for divisions in (1, 10, 50, 1000)]
    # A staircase of D steps under the line x + y = 1 misses D triangles of area 1 / (2 D^2).
    np.testing.assert_allclose(volumes, [0.5 - 0.5 / D for D in (1, 10, 50, 1000)], atol=1e-12)


@law
@given(hnp.arrays(np.float64, (3, 3), elements=st.floats(0, 1)))
def test_mixing_never_loses_hypervolume(points):
    reference = np.full(3, -0.1)
    assert mixture_hypervolume(points, reference, 6) >= hypervolume(points, reference) - 1e-12


@law
@given(FINE, st.integers(0, 2**32 - 1))
def test_the_distance_to_a_target_equals_its_definition(points, seed):
    target = np.random.default_rng(seed).normal(1.0, 1.0, size=(5, points.shape[1]))
    shortfall = target[:, None] - points[None]
    plus = np.linalg.norm(np.maximum(shortfall, 0), axis=2).min(axis=1).mean()
    assert igd_plus(points, target) == pytest.approx(plus, abs=1e-12)
    assert igd_plus(points, points) == 0
    assert igd_plus(points + 0.5, target) <= igd_plus(points, target)


def test_inner_product_rewards_following_the_preference():
    grid = simplex_grid(2, 10)
    assert inner_product(grid, grid) > inner_product(grid, grid[::-1])
    points = np.random.default_rng(0).normal(size=(11, 2))
    assert inner_product(grid, 3 * points) == pytest.approx(3 * inner_product(grid, points))


@law
@given(FINE.filter(lambda points: len(points) > 1), st.randoms(use_true_random=False), st.floats(0.1, 10))
def test_sparsity_and_spacing_laws(points, random, scale):
    order = random.sample(range(len(points)), len(points))
    assert sparsity(points[order]) == pytest.approx(sparsity(points), abs=1e-12)
    assert spacing(points[order]) == pytest.approx(spacing(points), abs=1e-12)
    assert sparsity(points * scale + 1) == pytest.approx(sparsity(points) * scale**2, abs=1e-9)
    assert spacing(points * scale + 1) == pytest.approx(spacing(points) * scale, abs=1e-9)


def test_evenness_of_special_fronts():
    even = np.stack([np.linspace(0, 1, 11), np.linspace(1, 0, 11)], axis=1)
    assert spacing(even) == pytest.approx(0, abs=1e-12)
    assert sparsity(even) == pytest.approx(2 * 0.1**2)
    assert sparsity(np.ones((4, 2))) == spacing(np.ones((4, 2))) == 0
    assert math.isnan(sparsity(np.ones((1, 2)))) and math.isnan(spacing(np.ones((1, 2))))


def test_knee_is_the_bulge_and_never_a_dominated_point():
    turn = np.linspace(0, math.pi / 2, 21)
    circle = np.stack([np.sin(turn), np.cos(turn)], axis=1)
    assert knee(circle) == 10
    assert knee(circle * [1000, 0.001] + [5, -7]) == 10
    assert knee(np.concatenate([circle, [[0.69, 0.69]]])) == 10
    points = np.array([[0, 10], [1, 9], [8, 8.0], [9, 1], [10, 0]])
    assert knee(points) == 2
    assert knee(points[:, ::-1]) == 2


def test_knee_ties_go_to_the_most_balanced_point_then_to_the_first():
    line = np.stack([np.linspace(0, 1, 11), np.linspace(1, 0, 11)], axis=1)
    assert knee(line) == 5
    assert knee(np.array([[0.0, 1.0], [0.2, 0.2], [1.0, 0.0]])) == 0
    assert knee(np.array([[2.0, 3.0], [2.0, 3.0], [1.0, 1.0]])) == 0
    assert knee(np.array([[7.0, 1.0]])) == 0


def test_knee_of_three_objectives():
    points = np.concatenate([np.eye(3), [[0.5, 0.5, 0.4], [0.3, 0.3, 0.3]]])
    assert knee(points) == 3


def test_a_straight_or_inward_front_has_no_knee():
    line = np.stack([np.linspace(0, 1, 11), np.linspace(1, 0, 11)], axis=1)
    bent = line + 0.02 * np.sin(math.pi * line[:, :1])
    inward = line - 0.2 * np.sin(math.pi * line[:, :1])
    assert not any(map(has_knee, (line, bent, inward, np.eye(3), np.ones((3, 2)), np.ones((1, 1)))))
    outward = line + 0.1 * np.sin(math.pi * line[:, :1])
    assert has_knee(outward) and has_knee(outward * [1000, 0.001] - 7)


@law
@given(hnp.arrays(np.float64, (7, 3), elements=st.integers(0, 4).map(float)), st.integers(0, 2**32 - 1))
def test_controllability_is_the_correlation_of_mean_ranks(points, seed):
    weights = sample_simplex(7, 3, 1.0, seed).round(1)
    found = controllability(weights, points)
    for m in range(3):
        if np.ptp(points[:, m]) == 0 or np.ptp(weights[:, m]) == 0:
            assert math.isnan(found[m])
        else:
            ranks = [plain_ranks(column[:, m].tolist()) for column in (weights, points)]
            assert found[m] == pytest.approx(np.corrcoef(ranks)[0, 1], abs=1e-12)


@pytest.mark.parametrize("indicator", [controllability, inner_product])
def test_many_fronts_at_once_are_each_as_alone(indicator):
    weights = sample_simplex(7, 3, 1.0, 1).round(1)
    fronts = np.random.default_rng(2).normal(size=(20, 7, 3)).round(1)
    fronts[3, :, 1] = 0.5
    alone = np.array([indicator(weights, points) for points in fronts])
    np.testing.assert_array_equal(indicator(weights, fronts), alone)


def test_controllability_by_hand():
    # Ranks of the scores 1, 1, 4, 3, 5 are 1.5, 1.5, 4, 3, 5, of the weights 1 to 5: the products of their
    # deviations sum to 8.5, the squares to 10 and 9.5, and 8.5 / sqrt(95) = 0.8720816, as scipy finds.
    weights = np.array([0.0, 0.1, 0.2, 0.4, 0.9])
    scores = np.array([1.0, 1.0, 4.0, 3.0, 5.0])
    found = controllability(np.stack([weights, 1 - weights], axis=1), np.stack([scores, np.ones(5)], axis=1))
    assert found[0] == pytest.approx(0.8720816, abs=1e-7)
    assert math.isnan(found[1])


def test_controllability_of_perfect_reversed_and_absent_control():
    grid = simplex_grid(2, 4)
    np.testing.assert_allclose(controllability(grid, grid**3), [1, 1])
    np.testing.assert_allclose(controllability(grid, -grid), [-1, -1])
    assert np.isnan(controllability(grid, np.ones_like(grid))).all()
    assert np.isnan(controllability(grid[:1], grid[:1])).all()


SQUARE = np.ones((2, 2))


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda bad: hypervolume(bad, np.zeros(2)), "points: number 1 has nan in column 0"),
        (non_dominated, "number 1 has nan"),
        (layers, "number 1 has nan"),
        (sparsity, "number 1 has nan"),
        (spacing, "number 1 has nan"),
        (knee, "number 1 has nan"),
        (lambda bad: igd_plus(SQUARE, bad), "target: number 1 has nan"),
        (lambda bad: inner_product(bad, SQUARE), "preferences: number 1 has nan"),
        (lambda bad: controllability(SQUARE, bad), "points: number 1 has nan"),
    ],
)
def test_nan_is_refused_and_located(call, expected):
    with pytest.raises(ParetuneError, match=expected):
        call(np.array([[1.0, 2.0], [math.nan, 1.0]]))


@pytest.mark.parametrize(
    ("call", "expected"),
    [
        (lambda: hypervolume(SQUARE, np.zeros(3)), r"reference point \[0.0, 0.0, 0.0\] for 2 objectives"),
        (lambda: hypervolume(SQUARE, 0.0), "reference point 0.0 for 2 objectives"),
        (lambda: hypervolume(SQUARE, np.array([0.0, math.nan])), "reference point"),
        (lambda: hypervolume(np.ones(2), np.zeros(2)), r"points of shape \(2,\)"),
        (lambda: non_dominated(np.ones((0, 2))), r"points of shape \(0, 2\)"),
        (lambda: igd_plus(SQUARE, np.ones((2, 3))), "over 2 and over 3 objectives"),
        (lambda: inner_product(np.ones((3, 2)), SQUARE), "give each point its own"),
        (lambda: controllability(np.ones((3, 2)), SQUARE), "give each point its own"),
    ],
)
def test_shapes_that_do_not_fit_are_refused(call, expected):
    with pytest.raises(ParetuneError, match=expected):
        call()


def test_a_hypervolume_of_more_objectives_than_can_be_computed_is_refused():
    points = np.eye(MOST_OBJECTIVES + 1)
    assert hypervolume(points[:1, :-1] + 1, np.zeros(MOST_OBJECTIVES)) == pytest.approx(2.0)
    with pytest.raises(ParetuneError, match="over 32 objectives; expected at most 31"):
        hypervolume(points, np.zeros(MOST_OBJECTIVES + 1))
