"""Scalarisations: worked numbers, laws, brute force, and the same values and slopes in numpy and torch."""

from __future__ import annotations

import math
from typing import get_args

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from paretune.core.errors import ConfigError
from paretune.core.scalarise import LEAST, SCALARISATIONS, USUAL, Aggregation, Shape, Terms, aggregate

ALL = get_args(Aggregation)
LOSSES = np.array([0.2, 0.9, 0.5])
WEIGHTS = np.array([0.5, 0.2, 0.3])


def value(
    kind: Aggregation, losses: np.ndarray, weights: np.ndarray, shape: Shape = USUAL, worst: float = 1.0
) -> np.ndarray:
    M = losses.shape[-1]
    return aggregate(kind, Terms(losses, weights, np.zeros(M), np.full(M, worst), np, shape))


def slopes(
    kind: Aggregation, losses: np.ndarray, weights: np.ndarray, shape: Shape = USUAL, worst: float = 1.0
) -> np.ndarray:
    at, M = torch.tensor(losses, requires_grad=True), losses.shape[-1]
    bounds = torch.zeros(M, dtype=torch.float64), torch.full((M,), worst, dtype=torch.float64)
    terms = Terms(at, torch.tensor(weights), *bounds, torch, shape)
    (found,) = torch.autograd.grad(aggregate(kind, terms).sum(), at)
    return found.numpy()


def test_worked_numbers() -> None:
    expected = {
        "linear": 0.5 * 0.2 + 0.2 * 0.9 + 0.3 * 0.5,
        "tchebycheff": 0.18,
        "smooth-tchebycheff": 0.1 * math.log(math.e + math.exp(1.8) + math.exp(1.5)),
        "augmented-tchebycheff": 0.18 + 0.05 * 0.43,
        "min": 0.9,
        "quantile": 0.5,  # of the worst: .9 holds .2 of the weight, .5 brings it to .5
        "product": -(0.8**0.5) * 0.1**0.2 * 0.5**0.3,
    }
    assert set(expected) == set(ALL) == set(SCALARISATIONS)
    for kind, number in expected.items():
        assert float(value(kind, LOSSES, WEIGHTS)) == pytest.approx(number), kind


def test_the_quantile_by_hand_and_by_brute_force() -> None:
    answers = {0.0: 0.9, 0.2: 0.9, 0.21: 0.5, 0.5: 0.5, 0.51: 0.2, 1.0: 0.2}
    for share, number in answers.items():
        assert value("quantile", LOSSES, WEIGHTS, Shape(quantile=share)) == number
    random = np.random.default_rng(0)
    for _ in range(50):
        losses, weights = random.normal(size=5), random.dirichlet(np.ones(5))
        share = float(random.uniform())
        # The largest loss that the share of the weight reaches or exceeds.
        expected = max(x for x in losses if weights[losses >= x].sum() >= share)
        assert value("quantile", losses, weights, Shape(quantile=share)) == expected


def test_equal_weights_give_the_lower_quantile_and_the_median_of_scores() -> None:
    scores = np.array([4.0, 1.0, 3.0, 2.0, 5.0])
    weights = np.full(5, 0.2)
    lower = np.quantile(scores, 0.25, method="inverted_cdf")
    assert -value("quantile", -scores, weights, Shape(quantile=0.25)) == lower == 2.0
    assert -value("quantile", -scores, weights, Shape(quantile=0.5)) == np.median(scores)


@given(
    st.lists(st.floats(-3, 0.95), min_size=4, max_size=4),
    st.lists(st.floats(0.01, 1), min_size=4, max_size=4),
)
def test_laws(losses: list[float], raw: list[float]) -> None:
    L, w = np.array(losses), np.array(raw) / sum(raw)
    turned = np.array([2, 0, 3, 1])
    for kind in ALL:
        whole = float(value(kind, L, w))
        # The order of objectives means nothing, and less loss is never worse.
        assert float(value(kind, L[turned], w[turned])) == pytest.approx(whole, abs=1e-12)
        assert float(value(kind, L - 0.1, w)) <= whole + 1e-12
        for m in range(4):
            one = np.eye(4)[m]
            alone = float(value(kind, L, one, Shape(mu=1e-3)))
            expected = L[m] - 1 if kind == "product" else L[m]
            if "tchebycheff" in kind:  # an objective without weight is at its ideal
                expected = max(L[m], 0) + (0.05 * L[m] if kind.startswith("augmented") else 0)
            assert alone == pytest.approx(expected, abs=2e-3), (kind, m)
    assert value("quantile", L, w, Shape(quantile=0.0)) == value("min", L, w) == L.max()
    assert value("quantile", L, w, Shape(quantile=1.0)) == L.min()
    # Between the worst and the best, as every mean is: the geometric mean is below the arithmetic one.
    assert float(value("product", L, w)) >= float(value("linear", L, w)) - 1 - 1e-9
    # Shifted together: all but the Tchebycheff forms, whose ideal stays, and the product, whose worst does.
    for kind in ("linear", "min", "quantile"):
        assert float(value(kind, L + 2, w)) == pytest.approx(float(value(kind, L, w)) + 2)


@pytest.mark.parametrize("kind", ALL)
def test_numpy_and_torch_agree_in_batches_and_slopes_are_differences(kind: Aggregation) -> None:
    random = np.random.default_rng(1)
    losses, weights = random.uniform(0, 0.9, (6, 3)), random.dirichlet(np.ones(3), 6)
    here = value(kind, losses, weights)
    there = aggregate(
        kind,
        Terms(
            torch.tensor(losses),
            torch.tensor(weights),
            torch.zeros(3, dtype=torch.float64),
            torch.ones(3, dtype=torch.float64),
            torch,
        ),
    )
    assert here.shape == (6,) and np.allclose(here, there.numpy(), atol=1e-12)
    assert np.allclose(here, [value(kind, row, w) for row, w in zip(losses, weights, strict=True)])
    found, step = slopes(kind, losses, weights), 1e-6
    for m in range(3):
        moved = losses + step * np.eye(3)[m]
        assert np.allclose((value(kind, moved, weights) - here) / step, found[:, m], atol=1e-4), kind
    one = aggregate(kind, Terms(losses, weights[0], np.zeros(3), np.ones(3), np))
    assert np.allclose(one, value(kind, losses, np.broadcast_to(weights[0], (6, 3))))


def test_which_objective_is_learned_from() -> None:
    assert slopes("min", LOSSES, WEIGHTS).tolist() == [0, 1, 0]
    assert slopes("min", LOSSES, np.array([0.9, 0.0, 0.1])).tolist() == [0, 0, 1]
    assert slopes("quantile", LOSSES, WEIGHTS).tolist() == [0, 0, 1]
    # Of the product: value * w_i / u_i, the most for what is nearest to its worst.
    whole = -float(value("product", LOSSES, WEIGHTS))
    assert slopes("product", LOSSES, WEIGHTS) == pytest.approx(whole * WEIGHTS / (1 - LOSSES))


def test_the_product_at_its_worst_and_beyond_is_finite_and_pulls_hardest() -> None:
    halves = np.array([0.5, 0.5])
    for bad in (1.0 - LEAST / 2, 1.0, 1.5):
        losses = np.array([0.5, bad])
        found = slopes("product", losses, halves)
        assert np.isfinite(found).all() and (found > 0).all() and found[1] > found[0]
    # The tangent meets the logarithm: value and slope go on without a jump.
    left, right = (np.array([0.5, 1 - LEAST + e]) for e in (-1e-9, 1e-9))
    assert value("product", left, halves) == pytest.approx(value("product", right, halves), abs=1e-7)
    assert slopes("product", left, halves) == pytest.approx(slopes("product", right, halves), rel=1e-4)


def test_objectives_of_no_weight_take_no_part() -> None:
    losses, weights = np.array([0.2, math.inf, 0.4]), np.array([0.5, 0.0, 0.5])
    for kind in ("linear", "min"):
        assert float(value(kind, losses, weights)) == pytest.approx(0.3 if kind == "linear" else 0.4)
    worse = np.array([0.2, 5.0, 0.4])
    assert value("quantile", worse, weights, Shape(quantile=0.0)) == 0.4
    # Where an objective has no loss at all its weight falls away, and the shares are of what is left.
    assert value("quantile", LOSSES, WEIGHTS / 4, Shape(quantile=0.51)) == 0.2
    for kind in ("quantile", "product"):
        assert value(kind, worse, weights) == value(kind, np.array([0.2, -5.0, 0.4]), weights)
        assert slopes(kind, worse, weights)[1] == 0


def test_a_product_without_a_bound_is_refused() -> None:
    with pytest.raises(ConfigError, match="product: needs worst, an upper bound of every loss"):
        aggregate("product", Terms(LOSSES, WEIGHTS, np.zeros(3), None, np))
