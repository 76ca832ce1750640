"""Weights of objectives that follow what the samples of a run show: guarded covariances, and floors.

Both add to the preference w a part that each rollout updates from its own statistics. The state before rollout n is kept beside the
rollouts, so a run that is killed goes on with it.

**Guarded** (covariance targeted weight adaptation, CTWA, arXiv 2602.06869). To first order a step moves objective i by its
covariance with the advantage. With c_i the correlation of the two within groups:

    m_i <- (1 - memory) m_i + memory c_i          log b_i <- log b_i + rate relu(target - m_i)          weight w_i b_i

**Floors** (MOPO, arXiv 2505.10892). Maximise ``E[w.r] - beta KL`` with ``E[r_j] >= f_j``. Its Lagrangian has a multiplier for each
floor, and for given ones the optimum ``pi_ref exp((w + lambda).r / beta)`` (MOPO's Eq. 3, normalised). They climb by dual ascent:

    lambda_j <- relu(lambda_j + rate (f_j - mean of r_j over the rollout))          weight w_j + lambda_j
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from paretune.core.errors import TrainingError
from paretune.core.files import read_json, write_json
from paretune.training.rl.advantages import covariances

LAST = 10
"""Steps whose responses say whether a floor was reached."""


@dataclass(frozen=True)
class Guard:
    """How weights answer to covariances.

    Attributes:
        rate: Rise of a log weight per unit of missing correlation.
        target: Correlation of an objective with the advantage below which its weight rises.
        memory: Share of the newest rollout in the running mean.
    """

    rate: float = 0.05
    target: float = 0.1
    memory: float = 0.1


@dataclass(frozen=True)
class Floors:
    """Smallest mean scores that training is held to.

    Attributes:
        floors: Objective -> smallest mean, in the units of its scores.
        rate: Rise of a multiplier per deviation by which its floor is missed, at each rollout.
    """

    floors: Mapping[str, float] = field(default_factory=dict)
    rate: float = 0.1


@dataclass(frozen=True, eq=False)
class State:
    """What M objectives have beside their weights in the preference.

    Attributes:
        boosts: Factors on the weights, ``[M]``, from 1.
        multipliers: Added to them, ``[M]``, from 0.
        correlation: Running mean of the correlations with the advantage, ``[M]``; NaN before the first rollout.
    """

    boosts: Tensor
    multipliers: Tensor
    correlation: Tensor

    @classmethod
    def start(cls, objectives: int) -> State:
        """Return the state before the first rollout, in which the preference alone counts."""
        nothing = torch.full((objectives,), torch.nan)
        return cls(torch.ones(objectives), torch.zeros(objectives), nothing)

    def weights(self, preferences: Tensor) -> Tensor:
        """Return what a unit of each objective counts at preferences ``[G, M]``."""
        return preferences * self.boosts.to(preferences) + self.multipliers.to(preferences)

    def guarded(self, guard: Guard, rewards: Tensor, advantages: Tensor) -> State:
        """Return the state after a rollout with rewards ``[G, K, M]`` and advantages ``[G, K]``."""
        found = correlations(rewards, advantages).cpu()
        first = bool(self.correlation.isnan().any())
        mean = found if first else (1 - guard.memory) * self.correlation + guard.memory * found
        boosts = self.boosts * (guard.rate * (guard.target - mean).clamp(min=0)).exp()
        return State(boosts, self.multipliers, mean)

    def held(self, rate: float, floors: Tensor, rewards: Tensor) -> State:
        """Return the state after a rollout with standardised rewards ``[G, K, M]``; a floor in ``[M]`` that is NaN is none."""
        missed = floors - rewards.mean((0, 1)).cpu()
        climbed = (self.multipliers + rate * missed).clamp(min=0)
        return State(self.boosts, torch.where(floors.isnan(), self.multipliers, climbed), self.correlation)


def correlations(rewards: Tensor, advantages: Tensor) -> Tensor:
    """Return the correlation ``[M]`` of rewards ``[G, K, M]`` with the advantage ``[G, K]`` within groups; 0 without variance."""
    covariance = covariances(rewards, advantages).sum(0)
    own = (rewards - rewards.mean(1, keepdim=True)).square().mean(1).sum(0)
    theirs = (advantages - advantages.mean(1, keepdim=True)).square().mean(1).sum()
    scale = (own * theirs).sqrt()
    return torch.where(scale > 0, covariance / scale.clamp(min=1e-30), torch.zeros_like(covariance))


class States:
    """The state before each rollout of a run, kept in a file beside the rollouts."""

    def __init__(self, folder: Path, objectives: int) -> None:
        self.file, self.objectives = folder / "weights.json", objectives
        self._known: dict[int, State] = {0: State.start(objectives)}

    def before(self, number: int) -> State:
        """Return the state before rollout ``number``.

        Raises:
            TrainingError: It is not there: the folder is not that of the checkpoint.
        """
        if number not in self._known and self.file.is_file():
            for at, values in read_json(self.file, dict[str, dict[str, Any]]).items():
                self._known[int(at)] = State(**{name: _tensor(column) for name, column in values.items()})
        if number not in self._known:
            raise TrainingError(
                f"{self.file}: the weights before rollout {number + 1} are gone; delete {self.file.parent} and the checkpoint "
                "beside it to start this run again"
            )
        return self._known[number]

    def put(self, number: int, state: State, write: bool) -> None:
        """Note the state before rollout ``number``; on disk too, where this process writes."""
        self._known[number] = state
        if write:
            values = {
                str(at): {name: _values(column) for name, column in vars(known).items()}
                for at, known in self._known.items()
            }
            write_json(self.file, values)


def _values(column: Tensor) -> list[float | None]:
    return [None if value != value else value for value in column.tolist()]


def _tensor(values: Sequence[float | None]) -> Tensor:
    return torch.tensor([torch.nan if value is None else value for value in values])


def floor_facts(
    floors: Mapping[str, float], history: Sequence[Mapping[str, float]], preference: str
) -> dict[str, Any]:
    """Return the facts on floors that are stored with an adapter under ``floors``; none where there are no floors."""
    last = history[-LAST:]
    rows = [
        {
            "preference": preference,
            "objective": name,
            "floor": floor,
            "reached": sum(record[f"reward/{name}"] for record in last) / len(last),
            "multiplier": last[-1][f"multiplier/{name}"],
            "steps": len(last),
        }
        for name, floor in floors.items()
    ]
    return {"floors": rows} if rows else {}


def missed(facts: Mapping[str, Any]) -> list[str]:
    """Return a sentence on each floor of :func:`floor_facts` that the last steps did not reach."""
    return [
        f"the floor of {row['objective']!r} was not reached: a mean of {row['reached']:.3g} over the last {row['steps']} steps, "
        f"below {row['floor']:g}, with a multiplier of {row['multiplier']:.3g}. Train longer, raise floor_rate, lower beta, or "
        "lower the floor"
        for row in facts.get("floors", [])
        if row["reached"] < row["floor"]
    ]
