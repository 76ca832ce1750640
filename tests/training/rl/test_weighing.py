"""Weights that follow the samples: worked numbers, the dual optimum of floors in a table, and what is kept on disk."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scipy.optimize import minimize
from torch import Tensor

from paretune.choosing.dual import dual
from paretune.core.errors import TrainingError
from paretune.training.rl.weighing import Guard, State, States, correlations, floor_facts, missed


def test_a_log_weight_rises_by_what_is_missing() -> None:
    """r1 is the advantage, r2 its opposite: correlations 1 and -1; the second weight grows by exp(rate (target + 1))."""
    advantages = torch.tensor([[1.0, -1.0, 0.0]])
    rewards = torch.stack([advantages, -advantages], -1)
    assert correlations(rewards, advantages).tolist() == pytest.approx([1.0, -1.0])
    state = State.start(2).guarded(Guard(rate=0.5, target=0.1, memory=0.25), rewards, advantages)
    assert state.weights(torch.tensor([[0.4, 0.6]]))[0].tolist() == pytest.approx([0.4, 0.6 * np.exp(0.55)])
    # The next rollout agrees: the running mean is .75 (-1) + .25 (1) = -.5, so the weight still rises.
    again = state.guarded(
        Guard(rate=0.5, target=0.1, memory=0.25), torch.stack([advantages] * 2, -1), advantages
    )
    assert again.correlation.tolist() == pytest.approx([1.0, -0.5])
    assert float(again.boosts[1]) == pytest.approx(np.exp(0.55 + 0.3))


def test_what_has_no_variance_is_left_alone() -> None:
    flat = torch.zeros(2, 3, 2)
    state = State.start(2).guarded(Guard(rate=1.0, target=0.0), flat, torch.zeros(2, 3))
    assert state.boosts.tolist() == [1.0, 1.0]


def test_a_multiplier_climbs_while_its_floor_is_missed_and_falls_to_zero() -> None:
    floors = torch.tensor([float("nan"), 0.5])
    state = State.start(2).held(0.1, floors, torch.zeros(1, 2, 2))
    assert state.multipliers.tolist() == pytest.approx([0.0, 0.05])
    above = state.held(0.1, floors, torch.full((1, 2, 2), 2.0))
    assert above.multipliers.tolist() == [0.0, 0.0]
    assert state.weights(torch.tensor([[1.0, 0.0]]))[0].tolist() == pytest.approx([1.0, 0.05])


def climbed(
    rewards: Tensor, w: Tensor, floors: Tensor, beta: float, steps: int = 4000
) -> tuple[Tensor, Tensor]:
    """Return multipliers and means of dual ascent with the optimum of each multiplier in closed form; ``rewards`` ``[K, M]``."""
    state = State.start(len(w))
    for _ in range(steps):
        policy = (rewards @ state.weights(w[None])[0] / beta).softmax(0)
        expected = policy @ rewards
        state = state.held(0.05, floors, expected[None, None])
    return state.multipliers, expected


def test_ascent_ends_at_the_multipliers_of_the_dual() -> None:
    """With no weight on anything but the floors this is the programme of ``paretune choose``'s floors, on the same samples."""
    torch.manual_seed(0)
    rewards, beta = torch.randn(12, 2), 0.5
    floors = rewards.mean(0) + torch.tensor([0.4, 0.3])
    multipliers, means = climbed(rewards, torch.zeros(2), floors, beta)
    found = dual(
        rewards[None].double().numpy(), ("a", "b"), dict(zip("ab", floors.tolist(), strict=True)), beta
    )
    assert found.reachable and list(found.means.values()) == pytest.approx(means.tolist(), abs=1e-3)
    spread = rewards.double().numpy().std(0)
    wanted = found.preference.array() * found.strength / spread if found.preference else np.zeros(2)
    assert multipliers.tolist() == pytest.approx(wanted.tolist(), abs=2e-2)


def test_ascent_ends_at_the_constrained_optimum() -> None:
    """MOPO: maximise E[r_1] - beta KL with E[r_2] >= f, against SLSQP over distributions."""
    torch.manual_seed(1)
    rewards, beta, w = torch.randn(6, 2), 0.7, torch.tensor([1.0, 0.0])
    free = (rewards @ w / beta).softmax(0) @ rewards
    floors = torch.tensor([float("nan"), float(free[1]) + 0.5])
    multipliers, means = climbed(rewards, w, floors, beta)
    r = rewards.double().numpy()

    def cost(p: np.ndarray) -> float:
        return float(-(p @ r[:, 0]) + beta * (p * np.log(np.maximum(p, 1e-12) * len(p))).sum())

    constraints = [
        {"type": "eq", "fun": lambda p: p.sum() - 1},
        {"type": "ineq", "fun": lambda p: p @ r[:, 1] - float(floors[1])},
    ]
    best = minimize(
        cost, np.full(6, 1 / 6), bounds=[(1e-9, 1)] * 6, constraints=constraints, method="SLSQP"
    ).x
    assert means.tolist() == pytest.approx((best @ r).tolist(), abs=5e-3)
    assert float(multipliers[1]) > 0 == float(multipliers[0])
    easy = torch.tensor([float("nan"), float(free[1]) - 0.5])
    multipliers, means = climbed(rewards, w, easy, beta)
    assert not multipliers.any() and means.tolist() == pytest.approx(free.tolist(), abs=1e-5)


def test_states_are_read_again_and_a_lost_one_is_named(tmp_path: Path) -> None:
    states = States(tmp_path, 2)
    made = states.before(0).held(0.1, torch.tensor([1.0, float("nan")]), torch.zeros(1, 2, 2))
    states.put(1, made, write=True)
    again = States(tmp_path, 2).before(1)
    assert torch.equal(again.multipliers, made.multipliers) and bool(again.correlation.isnan().all())
    with pytest.raises(TrainingError, match=r"weights.json: the weights before rollout 6 are gone"):
        States(tmp_path, 2).before(5)


def test_floors_are_reported_with_the_mean_of_the_last_steps() -> None:
    history = [{"reward/safe": float(n), "multiplier/safe": 0.1 * n} for n in range(20)]
    (row,) = floor_facts({"safe": 15.0}, history, "a=1,safe=0")["floors"]
    assert row == {
        "preference": "a=1,safe=0",
        "objective": "safe",
        "floor": 15.0,
        "reached": 14.5,
        "multiplier": pytest.approx(1.9),
        "steps": 10,
    }
    assert floor_facts({}, history, "") == {} and missed({}) == []
    assert "the floor of 'safe' was not reached: a mean of 14.5" in missed({"floors": [row]})[0]
