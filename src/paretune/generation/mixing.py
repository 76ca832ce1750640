"""Combining next-token distributions: multi-objective decoding (MOD).

Shi et al. 2024 (arXiv 2406.18853). Policies pi_i that are each optimal for r_i under one divergence from pi_ref give the
optimum for sum_i w_i r_i without training: ``f'(pi_w / pi_ref) = sum_i w_i f'(pi_i / pi_ref) - c``, where the dual constant c
makes pi_w sum to 1. For the reverse KL that is the geometric mixture prod_i pi_i^{w_i}, and c is the log of its normaliser.
The paper's rule for other divergences drops c; here it is solved for.

A mixture may reach beyond the policies that it mixes: coefficients above 1 on them and below 0 on the reference move away from
the reference, as linear alignment does (:func:`contrast`). Its tokens are then chosen inside a :class:`Nucleus`.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, field
from math import log
from typing import Annotated, Literal

import torch
import torch.nn.functional as F  # noqa: N812
from annotated_types import Ge, Gt, Le
from torch import Tensor

from paretune.core.bounds import check_bounds
from paretune.core.errors import ConfigError, ModelError
from paretune.generation.rescoring import Rescoring
from paretune.models.devices import double

Divergence = Literal["reverse-kl", "forward-kl", "alpha", "jensen-shannon"]
DIVERGENCES: tuple[Divergence, ...] = ("reverse-kl", "forward-kl", "alpha", "jensen-shannon")

MOST_CANDIDATES = 1024
"""Largest number of candidates: all of them are decoded together, each with a cache of its own."""

BISECTIONS = 60
"""Halvings of the bracket of c, which is at most 1 / alpha wide."""


@dataclass(frozen=True)
class Mixing:
    """The rule by which policies are mixed.

    Attributes:
        divergence: Divergence that the policies were trained under.
        alpha: Parameter of the alpha divergence, 0 < alpha < 1.
        candidates: Number of responses sampled for each one that is returned, see :func:`resample`; 1 does not resample.
    """

    divergence: Divergence = "reverse-kl"
    alpha: float = 0.5
    candidates: Annotated[int, Ge(1), Le(MOST_CANDIDATES)] = 1

    def __post_init__(self) -> None:
        check_bounds(self)
        if self.divergence not in DIVERGENCES:
            raise ConfigError(f"divergence {self.divergence!r}; expected one of: {', '.join(DIVERGENCES)}")
        if not 0 < self.alpha < 1:
            raise ConfigError(f"alpha of the divergence must be above 0 and below 1, got {self.alpha}")
        if self.candidates > 1 and self.divergence != "reverse-kl":
            raise ConfigError(
                f"candidates are resampled by the normalisers of the reverse KL; with {self.divergence} leave candidates at 1"
            )


@dataclass(frozen=True)
class Nucleus:
    """The tokens that a mixture chooses among: the smallest set of likeliest ones whose probability reaches ``top_p``.

    Likely is what the weighted geometric mean of the policies finds likely, without the reference (for one policy alone, that
    policy): beyond it, the difference of two small probabilities says nothing. Linear alignment's code has top-p 0.8.

    Attributes:
        top_p: Probability of the set, above 0; 1 is the whole vocabulary.
        temperature: Temperature of the distribution whose set it is.
    """

    top_p: Annotated[float, Gt(0), Le(1)] = 0.8
    temperature: Annotated[float, Gt(0)] = 0.5

    def __post_init__(self) -> None:
        check_bounds(self)


@dataclass(frozen=True, eq=False)
class Mixture:
    """The mixtures of B rows from copies of each row under different gates.

    Attributes:
        coefficients: ``[B, 1 + M]`` fp64; column 0 belongs to the reference model, the others to the M policies. Under the
            reverse KL they are exponents; under another divergence column 0 is not used.
        rule: The rule of mixing.
        nucleus: The tokens that are chosen among; None for all.
        rescoring: Value heads that re-score the tokens of the reference model. The other coefficients are then the strengths of M
            values, and no copy but the reference is run.
    """

    coefficients: Tensor
    rule: Mixing = field(default_factory=Mixing)
    nucleus: Nucleus | None = None
    rescoring: Rescoring | None = None

    def __post_init__(self) -> None:
        if self.coefficients.ndim != 2 or not bool(self.coefficients.isfinite().all()):
            raise ModelError("the coefficients of a mixture must be finite numbers [B, 1 + M]")

    @property
    def copies(self) -> Tensor:
        """The copies of each row that have to be run, bool ``[B, 1 + M]``: none with coefficient 0.

        A row that is one policy alone is that policy under every divergence. Otherwise all but the reverse KL need the
        reference.
        """
        needed = self.coefficients != 0
        if self.rescoring is not None:
            return needed & (torch.arange(needed.shape[1]) == 0)
        if self.rule.divergence != "reverse-kl":
            needed[:, 0] = ~((self.coefficients == 1) & (needed[:, 1:].sum(1, keepdim=True) == 1))[:, 1:].any(
                1
            )
        return needed

    def __getitem__(self, rows: Tensor | list[int]) -> Mixture:
        """Return the mixture of some rows."""
        return Mixture(self.coefficients[rows], self.rule, self.nucleus, self.rescoring)


def exponents(weights: Tensor, ratios: Tensor | None = None) -> Tensor:
    """Return the coefficients ``[B, 1 + M]`` fp64 of preferences ``[B, M]`` under the reverse KL.

    ``ratios [M]`` are beta_i / beta, where policy i was trained with beta_i and the mixture is to be optimal for beta. The
    reference gets the rest to 1, which is exactly 0 on the simplex with equal betas.
    """
    scaled = weights.double() * (torch.ones(weights.shape[1]) if ratios is None else ratios).double()
    rest = 1 - scaled.sum(1, keepdim=True)
    rest = torch.where(rest.abs() < 1e-6, torch.zeros_like(rest), rest)
    return torch.cat([rest, scaled], dim=1)


def contrast(weights: Tensor, strength: float) -> Tensor:
    """Return the coefficients ``[B, 1 + M]`` fp64 of linear alignment (arXiv 2401.11458) at preferences ``[B, M]``.

    ``l = l_0 + (1 + k) sum_i w_i (l_i - l_0)`` with l_0 the logits without a principle, l_i those with principle i, and k the
    ``strength``. With all weight on one principle it is the released ``(1 + k) l_with - k l_without``.
    """
    return exponents(weights, torch.full((weights.shape[1],), 1 + strength, dtype=torch.float64))


def combine(logps: Tensor, coefficients: Tensor) -> tuple[Tensor, Tensor]:
    """Return the normalised geometric mixture ``[B, V]`` of log-probabilities ``[B, C, V]``, and log Z ``[B]``.

    ``log Z = log sum_v prod_c pi_c(v)^{coefficient_c}`` is at most 0 where the coefficients ``[B, C]`` are on the simplex
    (Hoelder), and 0 only where all policies agree, so -log Z measures their conflict at this token. Sampling token by token
    differs from the optimum over whole responses exactly by the product of the Z.
    """
    mixed = weighted(logps, coefficients.to(logps)).sum(1)
    log_z = mixed.logsumexp(-1)
    return mixed - log_z[:, None], log_z


def weighted(values: Tensor, coefficients: Tensor) -> Tensor:
    """Return ``coefficients [B, C]`` times ``values [B, C, V]``; a coefficient of 0 gives 0 even for infinite values."""
    factors = coefficients[:, :, None]
    return torch.where(factors == 0, torch.zeros_like(values), factors * values)


def combine_general(
    logps: Tensor, coefficients: Tensor, reference: Tensor, divergence: Divergence, alpha: float = 0.5
) -> tuple[Tensor, Tensor]:
    """Return the optimum ``[B, V]`` (log-probabilities) under another divergence than the reverse KL, and c ``[B]``.

    ``pi_w = pi_ref (f')^{-1}(sum_i w_i f'(pi_i / pi_ref) - c)``; c is found by bisection in fp64 between the value at which
    the likeliest token would have infinite mass and the one at which no token gains any. A token that the reference never
    emits has probability 0 under every divergence here, since pi_w is a multiple of pi_ref.

    Args:
        logps: Log-probabilities ``[B, M, V]`` of the policies.
        coefficients: Weights ``[B, M]`` of the objectives.
        reference: Log-probabilities ``[B, V]`` of the reference.
        divergence: The divergence from the reference, see :func:`slope`.
        alpha: Parameter of the alpha divergence.
    """
    kind, place, reference = logps.dtype, logps.device, double(reference)
    possible = reference > -torch.inf
    log_inverse, top = _inverse(divergence, alpha)
    difference = torch.where(possible[:, None], double(logps) - reference[:, None], -torch.inf)
    total = weighted(slope(difference, divergence, alpha), coefficients.to(difference)).sum(1)
    largest = total.max(-1, keepdim=True).values
    low, high = largest - top, largest - slope(torch.zeros_like(largest), divergence, alpha)
    for _ in range(BISECTIONS):
        middle = (low + high) / 2
        mass = (reference + log_inverse(total - middle)).logsumexp(-1, keepdim=True)
        low, high = torch.where(mass > 0, middle, low), torch.where(mass > 0, high, middle)
    mixed = reference + log_inverse(total - high)
    return mixed.log_softmax(-1).to(place, kind), high[:, 0].to(place, kind)


def slope(log_ratio: Tensor, divergence: Divergence, alpha: float = 0.5) -> Tensor:
    """Return f'(t) at the log-ratios ``d = log t``, elementwise.

    ``reverse-kl``: d. ``forward-kl``: -1/t. ``alpha``: (1 - t^-alpha) / alpha. ``jensen-shannon``: log(2t / (1 + t)).
    """
    if divergence == "reverse-kl":
        return log_ratio
    if divergence == "forward-kl":
        return -torch.exp(-log_ratio)
    if divergence == "alpha":
        return -torch.expm1(-alpha * log_ratio) / alpha
    return log(2.0) + log_ratio - F.softplus(log_ratio)


def _inverse(name: Divergence, alpha: float) -> tuple[Callable[[Tensor], Tensor], float]:
    """Return log (f')^{-1}(u) of u, and the least upper bound of u, at which the inverse is infinite."""
    if name == "forward-kl":
        return lambda u: -torch.log(-u), 0.0
    if name == "alpha":
        return lambda u: -torch.log1p(-alpha * u) / alpha, 1 / alpha
    return lambda u: u - torch.log(2 - u.exp()), log(2.0)


def mix(logits: Tensor, owners: Tensor, kinds: Tensor, mixture: Mixture) -> tuple[Tensor, Tensor]:
    """Return for each row the logits ``[B, V]`` of its mixture and the log of its step normaliser ``[B]``; values are not in them.

    A row of a single copy of coefficient 1 keeps that copy's logits bit for bit, and its normaliser is 0. Tokens outside a nucleus
    have logit -inf; the normaliser is then that of the mean whose nucleus it is, so that it still measures a conflict.

    Args:
        logits: Logits ``[n, V]`` fp32 of all copies, those of a row side by side.
        owners: Row of each copy, int64 ``[n]``, on the CPU.
        kinds: Column of each copy in ``mixture.coefficients``, int64 ``[n]``, on the CPU.
        mixture: The mixture of the B rows, on the CPU.
    """
    B = len(mixture.coefficients)
    counts = torch.bincount(owners, minlength=B)
    first = counts.cumsum(0) - counts
    exponent = mixture.coefficients[owners, kinds]
    alone = (counts == 1) & (exponent[first] == 1) & (mixture.nucleus is None)
    device = logits.device
    mixed, normaliser = logits[first.to(device)], torch.zeros(B, device=device)
    for count in counts[~alone].unique().tolist():
        rows = ((counts == count) & ~alone).nonzero()[:, 0]
        index = first[rows, None] + torch.arange(count)
        logps = logits[index.to(device)].log_softmax(-1)
        places = rows.to(device)
        if mixture.nucleus is not None:
            mixed[places], normaliser[places] = _inside(
                logps, exponent[index], kinds[index] > 0, mixture.nucleus
            )
        elif mixture.rule.divergence == "reverse-kl":
            mixed[places], normaliser[places] = combine(logps, exponent[index])
        else:
            mixed[places], normaliser[places] = combine_general(
                logps[:, 1:], exponent[index[:, 1:]], logps[:, 0], mixture.rule.divergence, mixture.rule.alpha
            )
    return mixed, normaliser


def _inside(logps: Tensor, exponent: Tensor, policies: Tensor, nucleus: Nucleus) -> tuple[Tensor, Tensor]:
    """Return the mixture ``[B, V]`` of ``logps [B, C, V]`` inside the nucleus of its policies, and their log Z ``[B]``.

    ``exponent [B, C]``; ``policies`` bool ``[B, C]`` tells the policies from the reference; both on the CPU.
    """
    weights = torch.where(policies, exponent, torch.zeros_like(exponent))
    mean, log_z = combine(logps, weights / weights.sum(-1, keepdim=True))
    mixed, _ = combine(logps, exponent)
    return mixed.masked_fill(~likeliest(mean / nucleus.temperature, nucleus.top_p), -torch.inf), log_z


def likeliest(logits: Tensor, top_p: float) -> Tensor:
    """Return bool ``[B, V]``: the smallest set of likeliest tokens whose probability reaches ``top_p``; never empty."""
    probabilities, tokens = logits.softmax(-1).sort(-1, descending=True)
    before = probabilities.cumsum(-1) - probabilities
    return torch.zeros_like(before, dtype=torch.bool).scatter(-1, tokens, before < top_p)


def resample(log_weights: Tensor, uniforms: Tensor) -> Tensor:
    """Return for each row ``[B]`` the number of the candidate to keep, drawn with probability proportional to exp(log_weights).

    With ``log_weights [B, n]`` the sums of log Z_t over each candidate's tokens, the kept one tends to the optimum over whole
    responses as n grows (importance resampling). ``uniforms [B]`` in [0, 1) are the random numbers.
    """
    cumulative = log_weights.double().softmax(-1).cumsum(-1)
    level = uniforms.double()[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, level, right=True)[:, 0].clamp(max=log_weights.shape[1] - 1)
