"""TD(lambda) by hand on a chain, against the recursion of generalised advantages, and its fixed point in a tabular world."""

from __future__ import annotations

from itertools import product

import pytest
import torch

from paretune.training.value_losses import explained, lambda_returns, value_loss

VALUES = torch.tensor([[1.0], [2.0], [3.0], [5.0], [7.0]])
REWARDS = torch.tensor([[10.0], [-4.0]])
LENGTHS = torch.tensor([3, 2])


def test_a_chain_by_hand() -> None:
    """Text one has V = 1, 2, 3 and r = 10. Behind its last token G = 10, behind the second the end is next, so G = 10, and behind
    the first G = 0.25 * 2 + 0.75 * 10 = 8. Text two has V = 5, 7 and r = -4: both G are -4."""
    targets = lambda_returns(VALUES, REWARDS, LENGTHS, 0.75)
    assert torch.allclose(targets, torch.tensor([[8.0], [10.0], [10.0], [-4.0], [-4.0]]))


def test_a_longer_chain_by_hand() -> None:
    """V = 1, 2, 3, 4, 5, r = 0, lambda 0.5: G5 = G4 = 0, G3 = 4 / 2 = 2, G2 = 3 / 2 + 2 / 2 = 2.5, G1 = 2 / 2 + 2.5 / 2 = 2.25."""
    values = torch.arange(1.0, 6.0)[:, None]
    targets = lambda_returns(values, torch.zeros(1, 1), torch.tensor([5]), 0.5)
    assert torch.allclose(targets[:, 0], torch.tensor([2.25, 2.5, 2.0, 0.0, 0.0]))


def test_the_ends_of_lambda() -> None:
    outcome = lambda_returns(VALUES, REWARDS, LENGTHS, 1.0)
    assert torch.equal(outcome, REWARDS.repeat_interleave(LENGTHS, 0)), "lambda 1 is the outcome"
    behind = lambda_returns(VALUES, REWARDS, LENGTHS, 0.0)
    assert torch.equal(behind[:, 0], torch.tensor([2.0, 10.0, 10.0, -4.0, -4.0])), (
        "lambda 0 is the value behind"
    )


@pytest.mark.parametrize("lam", [0.0, 0.3, 0.95, 1.0])
def test_it_is_the_recursion_of_generalised_advantages(lam: float) -> None:
    """delta_t = r_t + V_{t+1} - V_t, A_t = delta_t + lambda A_{t+1}, and A + V, as the code of VAS has it: over the states before
    the last token, where the reward comes with the action that ends the text."""
    random = torch.Generator().manual_seed(0)
    lengths = torch.tensor([4, 1, 7, 2])
    values = torch.randn(int(lengths.sum()), 3, generator=random)
    rewards = torch.randn(4, 3, generator=random)
    found = lambda_returns(values, rewards, lengths, lam).split(lengths.tolist())
    for V, r, targets in zip(values.split(lengths.tolist()), rewards, found, strict=True):
        V, advantage = V[:-1], torch.zeros(3)
        for t in reversed(range(len(V))):
            last = t == len(V) - 1
            delta = (r if last else V[t + 1]) - V[t]
            advantage = delta + lam * advantage
            assert torch.allclose(targets[t], advantage + V[t], atol=1e-5)
        assert torch.equal(targets[-1], r)


def test_objectives_and_texts_do_not_mix() -> None:
    random = torch.Generator().manual_seed(1)
    values, rewards = torch.randn(5, 2, generator=random), torch.randn(2, 2, generator=random)
    both = lambda_returns(values, rewards, LENGTHS, 0.6)
    for i in range(2):
        assert torch.equal(both[:, [i]], lambda_returns(values[:, [i]], rewards[:, [i]], LENGTHS, 0.6))
    turned = lambda_returns(torch.cat([values[3:], values[:3]]), rewards.flip(0), LENGTHS.flip(0), 0.6)
    assert torch.equal(torch.cat([turned[2:], turned[:2]]), both)


def test_no_gradient_flows_through_the_targets() -> None:
    values = VALUES.clone().requires_grad_()
    targets = lambda_returns(values, REWARDS, LENGTHS, 0.5)
    assert not targets.requires_grad
    value_loss(values, targets).sum().backward()
    assert torch.allclose(values.grad, VALUES - targets), (
        "half the squared error has the error as its gradient"
    )


def test_the_loss_and_the_share_that_is_explained_by_hand() -> None:
    assert value_loss(torch.tensor([[1.0, 2.0]]), torch.tensor([[3.0, 1.0]])).tolist() == [2.5]
    outcomes = torch.tensor([[0.0, 1.0], [2.0, 1.0]])
    shares = explained(torch.tensor([[0.5, 9.0], [1.5, 9.0]]), outcomes)
    assert float(shares[0]) == 0.75 and bool(shares[1].isnan()), (
        "errors of 0.5 and a deviation of 1; nothing to explain"
    )


@pytest.mark.parametrize("lam", [0.0, 0.5, 1.0])
def test_the_fixed_point_in_a_tabular_world_is_the_value_of_the_policy(lam: float) -> None:
    """Three tokens, three steps, a table of next-token probabilities and random outcomes: enumerated, so expectations are exact.

    A state's new value is the mean of its targets over all texts through it, weighted by their probability.
    """
    random = torch.Generator().manual_seed(2)
    tokens, length = 3, 3
    chance = (
        torch.rand(tokens + 1, tokens, generator=random).double().softmax(-1)
    )  # by the last token; row 3 at the start
    texts = list(product(range(tokens), repeat=length))
    outcomes = torch.randn(len(texts), 2, generator=random).double()
    weight = torch.tensor(
        [float(torch.stack([chance[a, b] for a, b in zip((3, *text), text)]).prod()) for text in texts]  # noqa: B905
    ).double()
    states = [[text[: t + 1] for t in range(length)] for text in texts]
    exact = {
        state: sum(w * r for w, r, row in zip(weight, outcomes, states, strict=True) if state in row)
        / sum(w for w, row in zip(weight, states, strict=True) if state in row)
        for row in states
        for state in row
    }
    table = {state: torch.zeros(2).double() for state in exact}
    lengths = torch.full((len(texts),), length)
    for _ in range(40):
        values = torch.stack([table[state] for row in states for state in row])
        targets = lambda_returns(values, outcomes, lengths, lam).view(len(texts), length, 2)
        for state in table:
            seen = [(n, row.index(state)) for n, row in enumerate(states) if state in row]
            mass = torch.stack([weight[n] for n, _ in seen])
            table[state] = (mass[:, None] * torch.stack([targets[n, t] for n, t in seen])).sum(0) / mass.sum()
    for state, value in exact.items():
        assert torch.allclose(table[state], value, atol=1e-9)
