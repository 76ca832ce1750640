"""From one number per objective to one: the scalarisations, in one table that training, fronts and choosing read.

Losses ``[..., M]`` are minimised, weights ``[..., M]`` or ``[M]`` lie on the simplex, and the value is ``[...]``, lower is better.
Arrays are numpy's or torch's: :attr:`Terms.xp` is the module that computes, so that a gradient passes through the same lines by
which a front is read. The worst objective, a quantile and a product are forms of the kind that MORLAIF (arXiv 2406.07295) sets
beside the sum; how the weights enter them is ours.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from types import ModuleType
from typing import Any, Literal

from paretune.core.errors import ConfigError

Aggregation = Literal[
    "linear", "tchebycheff", "smooth-tchebycheff", "augmented-tchebycheff", "min", "quantile", "product"
]

LEAST = 1e-2
"""What an objective has above its worst, in units of its loss, below which the logarithm of the product goes on as its tangent: the
product is not defined at 0, and its slope has no bound."""
ROUNDING = 1e-6
"""Sums of weights closer than this are the same."""


@dataclass(frozen=True)
class Shape:
    """Parameters of scalarisations; each form reads its own.

    Attributes:
        mu: Temperature of the smooth Tchebycheff form.
        rho: Weight of the sum in the augmented Tchebycheff form.
        quantile: Share of the weight for which ``quantile`` answers: 0 is the worst objective, 1 the best.
    """

    mu: float = 0.1
    rho: float = 0.05
    quantile: float = 0.25


USUAL = Shape()
"""The parameters at their defaults."""


@dataclass(frozen=True, eq=False)
class Terms:
    """What a scalarisation reads.

    Attributes:
        losses: ``[..., M]``.
        weights: ``[..., M]`` or ``[M]``.
        ideal: Lower bound ``[M]`` of each loss, for the Tchebycheff forms.
        worst: Upper bound ``[M]`` of each loss, for the product; None where there is none.
        xp: The module that computes: numpy or torch.
        shape: Parameters.
    """

    losses: Any
    weights: Any
    ideal: Any
    worst: Any
    xp: ModuleType
    shape: Shape = USUAL

    @property
    def weighted(self) -> Any:
        """``w_i (L_i - z_i)``."""
        return self.weights * (self.losses - self.ideal)

    @property
    def present(self) -> Any:
        """Which objectives have weight; ``[..., M]``."""
        return self.weights + self.xp.zeros_like(self.losses) > 0

    def at(self, values: Any, places: Any) -> Any:
        """Return the entry of ``values [..., M]`` at ``places [...]``."""
        taken = self.xp.take_along_axis if self.xp.__name__ == "numpy" else self.xp.take_along_dim
        return taken(values, places[..., None], -1)[..., 0]


def linear(terms: Terms) -> Any:
    """Return ``sum_i w_i L_i``; an objective of weight 0 takes no part, were its loss infinite."""
    zero = terms.xp.zeros_like(terms.losses)
    return (terms.weights * terms.xp.where(terms.present, terms.losses, zero)).sum(-1)


def tchebycheff(terms: Terms) -> Any:
    """Return ``max_i w_i (L_i - z_i)``; the gradient is that of the first objective that attains it.

    Its minimisers cover every Pareto point, convex front or not, but may be only weakly optimal where a weight is 0.
    """
    return terms.at(terms.weighted, terms.weighted.argmax(-1))


def smooth_tchebycheff(terms: Terms) -> Any:
    """Return ``mu log sum_i exp(w_i (L_i - z_i) / mu)``, between the maximum and the maximum + mu log M."""
    scaled = terms.weighted / terms.shape.mu
    if terms.xp.__name__ == "numpy":
        return terms.shape.mu * terms.xp.logaddexp.reduce(scaled, -1)
    return terms.shape.mu * scaled.logsumexp(-1)


def augmented_tchebycheff(terms: Terms) -> Any:
    """Return ``max_i w_i (L_i - z_i) + rho sum_i w_i (L_i - z_i)``: the sum keeps points that are only weakly optimal out."""
    apart = Terms(terms.losses - terms.ideal, terms.weights, 0.0, None, terms.xp, terms.shape)
    return tchebycheff(terms) + terms.shape.rho * linear(apart)


def worst_objective(terms: Terms) -> Any:
    """Return the largest loss of the objectives that have weight: how much weight does not matter.

    On scores it is the minimum. Losses must be on one scale.
    """
    outside = terms.xp.zeros_like(terms.losses) - float("inf")
    return terms.at(terms.losses, terms.xp.where(terms.present, terms.losses, outside).argmax(-1))


def quantile(terms: Terms) -> Any:
    """Return the loss that the share ``quantile`` of the weight reaches or exceeds: between the worst objective and the best.

    With equal weights it is the lower quantile of the scores, and one half is a median. It is the loss of one objective, whose
    gradient it has. Losses must be on one scale.
    """
    order = terms.xp.argsort(-terms.losses)
    shares = terms.weights + terms.xp.zeros_like(terms.losses)
    if terms.xp.__name__ == "numpy":
        shares = terms.xp.take_along_axis(shares, order, -1)
    else:
        shares = terms.xp.take_along_dim(shares, order, -1)
    reached = shares.cumsum(-1)
    enough = (reached >= terms.shape.quantile * reached[..., -1:] - ROUNDING) & (reached > 0)
    ones = terms.xp.ones_like(terms.losses)
    first = terms.xp.where(enough, ones, 0 * ones).argmax(-1)
    return terms.at(terms.losses, terms.at(order, first))


def product(terms: Terms) -> Any:
    """Return ``- prod_i u_i^w_i`` with ``u_i = worst_i - L_i``: less the weighted geometric mean of what is gained (Nash).

    Below :data:`LEAST` the logarithm of u goes on as its tangent, so that an objective at its worst, or beyond, pulls hardest.

    Raises:
        ConfigError: There is no ``worst``.
    """
    if terms.worst is None:
        raise ConfigError(
            "product: needs worst, an upper bound of every loss, above which nothing is gained; give it, or take another form"
        )
    gained = terms.worst - terms.losses
    xp, safe = terms.xp, terms.xp.where(gained > LEAST, gained, 0 * gained + LEAST)
    logs = xp.log(safe) + (gained - safe) / LEAST
    part = terms.weights + xp.zeros_like(terms.losses)
    return -xp.exp(xp.where(part > 0, part * logs, 0 * logs).sum(-1))


@dataclass(frozen=True)
class Scalarisation:
    """A way from M losses to one.

    Attributes:
        of: The function.
        words: What it minimises, in words, of scores.
        reads: Which bounds of the losses it reads.
    """

    of: Callable[[Terms], Any]
    words: str
    reads: tuple[Literal["ideal", "worst"], ...] = ()


SCALARISATIONS: dict[Aggregation, Scalarisation] = {
    "linear": Scalarisation(linear, "the weighted sum"),
    "tchebycheff": Scalarisation(tchebycheff, "the largest weighted distance to the ideal", ("ideal",)),
    "smooth-tchebycheff": Scalarisation(smooth_tchebycheff, "the same, smoothed by mu", ("ideal",)),
    "augmented-tchebycheff": Scalarisation(
        augmented_tchebycheff, "the same, with rho times the sum", ("ideal",)
    ),
    "min": Scalarisation(worst_objective, "the worst objective of those with weight"),
    "quantile": Scalarisation(quantile, "the objective at a quantile of the weight"),
    "product": Scalarisation(product, "the weighted geometric mean above the worst", ("worst",)),
}
"""The scalarisations by name. A new one is also named in :data:`Aggregation`."""


def aggregate(kind: Aggregation, terms: Terms) -> Any:
    """Return the scalarisation called ``kind`` of M losses, ``[...]``; bounds and parameters of the others are not read."""
    return SCALARISATIONS[kind].of(terms)
