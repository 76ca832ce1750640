"""A tabular world whose front is not convex: what the sum of the losses reaches of it, and what Tchebycheff's maximum does.

    python -m benchmarks.fronts.bent

A policy answers with one of 81 responses y in [-2, 2], with chance proportional to exp(-(y - x)^2 / 0.02); its one parameter x is
trained. Two objectives reward an answer by exp(-|y - 1|) and exp(-|y + 1|), so the Pareto set is x in [-1, 1], and between
its ends both rewards are below the line that joins them: no policy of the family mixes two answers. Losses are 1 less the expected
reward. For each of eleven preferences the loss is minimised by gradient descent from nine starts, and the best end is kept.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from paretune.core.scalarise import USUAL, Aggregation, Shape, Terms, aggregate

RESPONSES = torch.linspace(-2, 2, 81, dtype=torch.float64)
REWARDS = torch.stack([torch.exp(-(RESPONSES - 1).abs()), torch.exp(-(RESPONSES + 1).abs())])
WIDTH = 0.02
STARTS = torch.linspace(-1.6, 1.6, 9, dtype=torch.float64)
STEPS, RATE = 600, 0.02
FORMS: tuple[tuple[Aggregation, Shape], ...] = (
    ("linear", USUAL),
    ("tchebycheff", USUAL),
    ("smooth-tchebycheff", USUAL),
    ("smooth-tchebycheff", Shape(mu=0.01)),
    ("augmented-tchebycheff", USUAL),
    ("augmented-tchebycheff", Shape(rho=0.005)),
)


@dataclass(frozen=True, eq=False)
class Reached:
    """What a form reaches.

    Attributes:
        weights: ``[N]``, the weight of the first objective.
        places: ``[N]``, the parameter that is best at each.
        rewards: ``[N, 2]``.
    """

    weights: np.ndarray
    places: np.ndarray
    rewards: np.ndarray

    @property
    def between(self) -> int:
        """The number of preferences that are answered from between the ends of the front."""
        return int((np.abs(self.places) < 0.95).sum())


def losses(places: Tensor) -> Tensor:
    """Return 1 less the expected rewards ``[..., 2]`` of policies ``[...]``."""
    chances = torch.softmax(-((RESPONSES - places[..., None]) ** 2) / WIDTH, dim=-1)
    return 1 - chances @ REWARDS.T


def reach(form: Aggregation, shape: Shape = USUAL, preferences: int = 11) -> Reached:
    """Return what a form reaches at evenly spaced preferences."""
    weights = torch.linspace(0, 1, preferences, dtype=torch.float64)
    both = torch.stack([weights, 1 - weights], dim=1)[:, None]
    places = STARTS.repeat(preferences, 1).requires_grad_()
    optimiser = torch.optim.Adam([places], lr=RATE)

    def values() -> Tensor:
        terms = Terms(losses(places), both, torch.zeros(2, dtype=torch.float64), None, torch, shape)
        value: Tensor = aggregate(form, terms)
        return value

    for step in range(STEPS):
        optimiser.param_groups[0]["lr"] = RATE * (1 - step / STEPS)
        optimiser.zero_grad()
        values().sum().backward()
        optimiser.step()
    with torch.no_grad():
        best = values().argmin(dim=1, keepdim=True)
        ends = places.gather(1, best)[:, 0]
        return Reached(weights.numpy(), ends.numpy(), (1 - losses(ends)).numpy())


def main() -> None:
    """Print what each form reaches."""
    for form, shape in FORMS:
        found = reach(form, shape)
        places = ", ".join(f"{x:.2f}" for x in found.places)
        read = {"smooth-tchebycheff": f", mu {shape.mu:g}", "augmented-tchebycheff": f", rho {shape.rho:g}"}
        name = f"{form}{read.get(form, '')}"
        print(
            f"{name}: {found.between} of 9 preferences between the ends reach what lies between; x = {places}"
        )


if __name__ == "__main__":
    main()
