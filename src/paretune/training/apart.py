"""Losses of several objectives whose gradients are kept apart over the forwards of a step, and then become one gradient."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor, nn

from paretune.core.errors import ConfigError
from paretune.models.distributed import WorkSplit
from paretune.training.gradients import GradientRule, coefficients, cosines


@dataclass(frozen=True, eq=False)
class Apart:
    """The losses of M objectives in one forward.

    Attributes:
        losses: ``[M]``, mean losses with their graph.
        weights: The preference of the step, the same in all of its forwards; an objective of weight 0 takes no part.
        objectives: M names.
        rule: How their gradients become one.
    """

    losses: Tensor
    weights: tuple[float, ...]
    objectives: tuple[str, ...]
    rule: GradientRule

    @property
    def value(self) -> Tensor:
        """The weighted sum of the losses, without its graph."""
        weights = torch.tensor(self.weights, device=self.losses.device, dtype=self.losses.dtype)
        return (weights * self.losses.detach()).sum()


class KeptApart:
    """The gradient of each objective, added up over the forwards of a step: M copies of the adapter's parameters."""

    def __init__(self, parameters: Sequence[nn.Parameter], share: WorkSplit) -> None:
        if share.team.sharded:
            raise ConfigError(
                "gradients: the gradient of each objective takes a backward pass of its own through one forward, which a model "
                "whose weights are divided among processes does not do; set sharding: none, or gradients: linear"
            )
        self.parameters, self.share = parameters, share
        self.sums: Tensor | None = None
        self.last: Apart | None = None

    def add(self, apart: Apart, forwards: int) -> None:
        """Take the gradient of each objective with weight by a backward pass of its own; the graph is then used up."""
        wanted = [i for i, weight in enumerate(apart.weights) if weight > 0]
        rows = [torch.zeros(0)] * len(apart.weights)
        for i in wanted:
            found = torch.autograd.grad(
                apart.losses[i] / forwards, self.parameters, retain_graph=i != wanted[-1], allow_unused=True
            )
            rows[i] = torch.cat(
                [
                    (torch.zeros_like(p) if g is None else g).flatten().float()
                    for p, g in zip(self.parameters, found, strict=True)
                ]
            )
        made = torch.stack([row if len(row) else torch.zeros_like(rows[wanted[0]]) for row in rows])
        self.sums = made if self.sums is None else self.sums + made
        self.last = apart

    def combine(self, seed: Sequence[int]) -> Mapping[str, float]:
        """Set the gradient of every parameter to the combined one; return the cosines and coefficients as metrics.

        Args:
            seed: What decides a random order.
        """
        if self.sums is None or self.last is None:
            return {}
        apart, sums = self.last, self.share.reduce_sums(self.sums)
        gram = (sums @ sums.T).cpu().double().numpy()
        alpha = coefficients(gram, np.array(apart.weights), apart.rule, list(seed))
        combined = torch.tensor(alpha, dtype=sums.dtype, device=sums.device) @ sums
        at = 0
        for parameter in self.parameters:
            piece = combined[at : at + parameter.numel()].view_as(parameter)
            parameter.grad = piece.to(parameter.dtype)
            at += parameter.numel()
        names = apart.objectives
        record = {f"coefficient/{name}": float(value) for name, value in zip(names, alpha, strict=True)}
        return record | {f"cosine/{names[i]},{names[j]}": value for (i, j), value in cosines(gram).items()}
