"""Floors met by reweighting existing samples with the least divergence from the model that drew them.

A policy trained with preference w at strength 1 is close to ``q(y|x) ~ pi(y|x) exp(w.r(x, y) / beta)`` with standardised scores r.
On K samples of pi for each prompt, q is a softmax over the K. So floors on the mean scores are a convex programme in q, whose
dual has one multiplier per objective. The multipliers divided by their sum are a preference; their sum is the strength that is
needed, in units of the policies' own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
from scipy.optimize import minimize
from scipy.special import logsumexp, softmax

from paretune.choosing.floors import check_floors
from paretune.core.errors import ParetuneError
from paretune.core.preference import Preference
from paretune.fronts.surface import as_preference

LIMIT = 1e3
"""The bound on the sum of the multipliers, in units of beta per deviation; there the softmax chooses one sample."""
SHORT = 1e-6
"""A floor counts as met when it is missed by at most so many deviations."""


@dataclass(frozen=True)
class Dual:
    """Floors met by reweighted samples with the least divergence, or the nearest floors that can be.

    Attributes:
        preference: The multipliers on standardised scores, divided by their sum; None where no steering is needed.
        strength: The sum of the multipliers. 1 is as far from the sampled model as a policy trained with this beta goes;
            infinite where the floors cannot be reached.
        divergence: KL of the reweighted samples from the even ones in nats per prompt, at most log K.
        means: Objective -> mean score under the reweighting.
        floors: Objective -> minimum score, as requested.
        reachable: Whether the means meet the floors.
        nearest_floors: The floors, each lowered by the same share of its deviation until they can be reached.
    """

    preference: Preference | None
    strength: float
    divergence: float
    means: dict[str, float]
    floors: dict[str, float]
    reachable: bool
    nearest_floors: dict[str, float]

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            **vars(self),
            "preference": None if self.preference is None else self.preference.as_dict(),
            "strength": self.strength if math.isfinite(self.strength) else None,
        }


def dual(
    scores: np.ndarray, objectives: Sequence[str], floors: Mapping[str, float], beta: float = 1.0
) -> Dual:
    """Return the multipliers >= 0 with which reweighted samples meet the floors at the least divergence.

    It maximises ``lambda.b - beta mean_p log mean_k exp(lambda.r[p, k] / beta)`` by sequential quadratic programming.
    The multipliers are bounded, so it always ends. Where the bound is met, the floors cannot be reached, and the scores that the
    samples then have are the nearest ones: the bounded programme minimises the largest shortfall.

    Args:
        scores: Scores ``[P, K, M]`` of K samples of one model for each of P prompts, higher is better.
        objectives: M names.
        floors: Objective -> minimum mean score over the prompts.
        beta: The policies' beta on standardised scores.

    Raises:
        ParetuneError: Shapes do not fit, a score is not finite, or a floor or beta is no number.
    """
    asked = check_floors(floors, objectives)
    samples = np.array(scores, dtype=np.float64)
    names = Preference.uniform(objectives).objectives
    if samples.ndim != 3 or samples.shape[2] != len(names) or samples.size == 0:
        raise ParetuneError(f"scores of shape {samples.shape}; expected [P, K, {len(names)}], none empty")
    if not np.isfinite(samples).all():
        p, k, m = np.argwhere(~np.isfinite(samples))[0].tolist()
        raise ParetuneError(
            f"sample {k} of prompt {p} has the score {samples[p, k, m]} on {names[m]!r}; score every sample"
        )
    if not (math.isfinite(beta) and beta > 0):
        raise ParetuneError(f"beta {beta!r}; expected a number above 0")
    at = [m for m, name in enumerate(names) if name in asked]
    unit = samples.std(axis=(0, 1))
    unit = np.where(unit > 1e-12 * np.abs(samples).max(axis=(0, 1)), unit, 0.0)
    deviation = np.where(unit > 0, unit, 1.0)
    gaps = ((samples - np.array([asked.get(name, 0.0) for name in names])) / deviation)[..., at]
    # A floor below every sample binds nothing, and its multiplier is undetermined where all samples are alike.
    binding = gaps.min(axis=(0, 1)) < 0
    multipliers = np.zeros(len(at))
    if (gaps.mean(axis=(0, 1))[binding] < 0).any():
        multipliers[binding] = _least(gaps[..., binding])
    chosen = softmax(gaps @ multipliers, axis=1)
    reached = np.einsum("pk,pkf->f", chosen, gaps) / len(gaps)
    shortfall = max(0.0, -float(reached.min()))
    reachable = shortfall <= SHORT
    # Rounding leaves a small multiplier on a floor that has room to spare.
    multipliers = np.where(multipliers > 1e-7 * max(1.0, multipliers.max()), multipliers, 0.0)
    total = float(multipliers.sum())
    weights = np.zeros(len(names))
    weights[at] = multipliers / total if total > 0 else 0.0
    means = np.einsum("pk,pkm->m", chosen, samples) / len(samples)
    divergence = float((chosen * np.log(np.maximum(chosen, 1e-300) * chosen.shape[1])).sum(axis=1).mean())
    lowered = 0.0 if reachable else shortfall
    return Dual(
        preference=as_preference(weights, names) if total > 0 else None,
        strength=total * beta if reachable else math.inf,
        divergence=max(0.0, divergence),
        means=dict(zip(names, means.tolist(), strict=True)),
        floors=asked,
        reachable=reachable,
        nearest_floors={names[m]: asked[names[m]] - lowered * float(deviation[m]) for m in at},
    )


def _least(gaps: np.ndarray) -> np.ndarray:
    """Return the multipliers ``[F]`` >= 0 of sum at most `LIMIT` for samples ``[P, K, F]`` and floors at 0 (beta is 1)."""
    F = gaps.shape[2]
    within = {"type": "ineq", "fun": lambda point: LIMIT - point.sum(), "jac": lambda _: -np.ones(F)}
    found = minimize(
        lambda point: _partition(gaps, point),
        np.full(F, 0.1),
        jac=True,
        method="SLSQP",
        bounds=[(0, None)] * F,
        constraints=[within],
        options={"ftol": 1e-15, "maxiter": 1000},
    )
    return np.asarray(found.x)


def _partition(gaps: np.ndarray, point: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the mean over prompts of log mean exp, and its gradient ``[F]``."""
    scaled = gaps @ point
    value = logsumexp(scaled, axis=1).mean() - math.log(gaps.shape[1])
    return float(value), np.einsum("pk,pkf->f", softmax(scaled, axis=1), gaps) / len(gaps)
