"""Losses of ranked lists: worked numbers, the released formula, DPO as the case of two, and the ranking that draws explain."""

from __future__ import annotations

import itertools
import math

import pytest
import torch
from torch import Tensor

from paretune.training.list_losses import alignment_loss, best_of, plackett_luce_loss
from paretune.training.losses import pair_loss


def order(*ranks: float) -> Tensor:
    """Return the relation ``[1, 1, K, K]`` of ranks, lower is better."""
    values = torch.tensor(ranks)
    return (values[:, None] < values[None])[None, None]


def full(scores: Tensor) -> Tensor:
    return torch.ones(scores.shape, dtype=torch.bool)


def released(S: Tensor) -> float:
    """KnowPAT's loss of a list that stands in its order, term by term, divided by n - 1 (the released code: by 3)."""
    n, total = len(S), 0.0
    for i in range(n - 1):
        term = math.log(1 + math.exp(-S[i]))
        term += sum(math.log(1 + math.exp(S[j])) for j in range(i + 1, n)) / (n - i - 1)
        total += term * float((S[i] - S.min()) / (S.max() - S.min()))
    return total / (n - 1)


def test_worked_alignment() -> None:
    """S = 0, -1: v = 1, log 2 + log(1 + 1/e). In the wrong order v of the better one is 0."""
    right = torch.tensor([[0.0, -1.0]])
    assert float(alignment_loss(right, order(1, 2), full(right))) == pytest.approx(
        math.log(2) + math.log1p(math.exp(-1))
    )
    wrong = right.flip(1)
    assert float(alignment_loss(wrong, order(1, 2), full(wrong))) == 0
    flat = alignment_loss(wrong, order(1, 2), full(wrong), adaptive=False)
    assert float(flat) == pytest.approx(math.log1p(math.exp(1)) + math.log(2))


@pytest.mark.parametrize("n", [2, 4, 6])
def test_the_released_alignment(n: int) -> None:
    S = -torch.rand(n, generator=torch.Generator().manual_seed(n), dtype=torch.float64) * 3
    assert float(alignment_loss(S[None], order(*range(n)), full(S[None]))) == pytest.approx(released(S))


def test_weights_carry_no_gradient() -> None:
    scores = torch.tensor([[-0.5, -1.0, -2.0]], dtype=torch.float64, requires_grad=True)
    alignment_loss(scores, order(1, 2, 3), full(scores)).sum().backward()
    v = (1.5 / 1.5, 1 / 1.5)
    s = torch.sigmoid(torch.tensor([-0.5, -1.0, -2.0], dtype=torch.float64))
    expected = [
        v[0] * (s[0] - 1) / 2,
        (v[0] * s[1] / 2 + v[1] * (s[1] - 1)) / 2,
        (v[0] * s[2] / 2 + v[1] * s[2]) / 2,
    ]
    assert scores.grad is not None and scores.grad[0].tolist() == pytest.approx([float(x) for x in expected])


def test_two_responses_are_dpo() -> None:
    gaps = torch.randn(5, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    scores = torch.stack([0.1 * gaps, torch.zeros(5, dtype=torch.float64)], dim=1)
    better = order(1, 2).expand(5, 1, 2, 2)
    torch.testing.assert_close(plackett_luce_loss(scores, better)[:, 0], pair_loss(gaps, 0.1))


def test_plackett_luce_is_a_distribution_over_orders() -> None:
    scores = torch.tensor([[0.3, -1.0, 2.0, 0.5]], dtype=torch.float64)
    total = 0.0
    for permutation in itertools.permutations(range(4)):
        ranks = [permutation.index(k) for k in range(4)]
        total += math.exp(-float(plackett_luce_loss(scores, order(*ranks))))
    assert total == pytest.approx(1)
    shares = scores.exp()[0]
    by_hand = (
        shares[2]
        / shares.sum()
        * shares[0]
        / (shares.sum() - shares[2])
        * shares[3]
        / (shares[3] + shares[1])
    )
    assert math.exp(-float(plackett_luce_loss(scores, order(2, 4, 1, 3)))) == pytest.approx(float(by_hand))


def test_the_likelihood_finds_the_strengths_that_made_the_lists() -> None:
    """On exact expectations over all orders of five responses the minimum is at the true scores, up to a constant."""
    true = torch.tensor([1.0, 0.2, -0.4, -1.5, 0.7], dtype=torch.float64)
    orders = [order(*(p.index(k) for k in range(5))) for p in map(list, itertools.permutations(range(5)))]
    better = torch.cat(orders)
    chance = (-plackett_luce_loss(true.expand(len(better), -1), better)[:, 0]).exp()
    found = torch.zeros(5, dtype=torch.float64, requires_grad=True)
    optimizer = torch.optim.LBFGS(
        [found], max_iter=500, tolerance_grad=1e-14, tolerance_change=1e-18, line_search_fn="strong_wolfe"
    )

    def closure() -> Tensor:
        optimizer.zero_grad()
        value = (chance * plackett_luce_loss(found.expand(len(better), -1), better)[:, 0]).sum()
        value.backward()
        return value

    for _ in range(5):
        optimizer.step(closure)
    torch.testing.assert_close(found.detach() - found.detach().mean(), true - true.mean(), rtol=0, atol=1e-6)


def both(scores: Tensor, better: Tensor, mask: Tensor) -> Tensor:
    return torch.cat([alignment_loss(scores, better, mask), plackett_luce_loss(scores, better)], dim=1)


def test_laws_of_both_losses() -> None:
    """A permutation of the responses, padding, and an objective without an opinion."""
    scores = torch.tensor([[-0.4, -1.1, -0.2]], dtype=torch.float64)
    better, moved = order(1, 2, 3), [2, 0, 1]
    expected = both(scores, better, full(scores))
    torch.testing.assert_close(
        both(scores[:, moved], better[:, :, moved][:, :, :, moved], full(scores)), expected
    )
    longer = torch.cat([scores, torch.full((1, 2), 7.0, dtype=torch.float64)], dim=1)
    padded = torch.zeros(1, 1, 5, 5, dtype=torch.bool)
    padded[:, :, :3, :3] = better
    torch.testing.assert_close(both(longer, padded, torch.tensor([[True] * 3 + [False] * 2])), expected)
    silent = torch.zeros(1, 1, 3, 3, dtype=torch.bool)
    assert both(scores, silent, full(scores)).abs().sum() == 0


def test_ties_are_not_contrasted() -> None:
    scores = torch.tensor([[0.0, 1.0, 2.0]], dtype=torch.float64)
    tied = plackett_luce_loss(scores, order(1, 1, 2))
    assert float(tied) == pytest.approx(math.log1p(math.exp(2)) + math.log1p(math.exp(1)))


def test_the_best_response() -> None:
    assert best_of(order(2, 1, 3)).tolist() == [[[0, 1, 0]]]
    assert best_of(order(1, 1, 2)).tolist() == [[[1, 0, 0]]], "of equal ones the first"
    circle = torch.tensor([[[[0, 1, 0, 1], [0, 0, 1, 0], [1, 0, 0, 0], [0, 0, 0, 0]]]]).bool()
    assert best_of(circle).tolist() == [[[1, 0, 0, 0]]], "none is unbeaten: the one with most wins"
