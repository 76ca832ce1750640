"""From the gradients of M objectives to one step: rules that see their inner products and the preference alone.

With g_i the gradient of objective i's loss and G their Gram matrix ``[M, M]``, a rule returns coefficients alpha, and the step goes
along ``sum_i alpha_i g_i``. G is all that a rule needs, so the M x M problems are solved exactly, in float64, whatever the model's
size. Every rule is unchanged by a factor on all gradients, follows a permutation of the objectives, and gives alpha = w where only
one objective takes part: one with weight and a gradient that is not 0.
"""

from __future__ import annotations

from dataclasses import dataclass
from itertools import combinations
from typing import Annotated, Any, Literal

import numpy as np
from annotated_types import Ge, Lt
from scipy.optimize import brentq, nnls

from paretune.core.errors import ConfigError
from paretune.core.preference import Preference

Rule = Literal["linear", "observed", "raco", "cagrad", "mgda", "pcgrad", "upgrad", "aligned-mtl"]

Correction = Annotated[float, Ge(0), Lt(1)]
"""The largest correction of ``raco`` and ``cagrad``, as a share of the length of the weighted gradient."""

NOTHING = 1e-9
"""Length below which a mixture of gradients has no direction, where the longest gradient has length 1."""


@dataclass(frozen=True)
class GradientRule:
    """How the gradients of several objectives become one.

    Attributes:
        rule: Name of the rule, see :func:`coefficients`.
        correction: c of ``raco`` and ``cagrad``, from 0 to below 1.
    """

    rule: Rule = "linear"
    correction: float = 0.4

    @property
    def apart(self) -> bool:
        """Whether the gradient of each objective is needed by itself: a backward pass for each."""
        return self.rule != "linear"

    def check(self) -> None:
        """Check that what the rule needs is installed.

        Raises:
            ConfigError: It is not.
        """
        if self.rule == "aligned-mtl":
            _aligned_mtl()


def coefficients(gram: np.ndarray, weights: np.ndarray, rule: GradientRule, seed: Any = 0) -> np.ndarray:
    """Return alpha ``[M]``, at least 0 but for ``aligned-mtl``; the step goes along ``sum_i alpha_i g_i``.

    ===============  ==============================================================================================
    ``observed``     ``w``: linear scalarisation, whose gradients are measured
    ``raco``         CAGrad around ``g0 = sum w_i g_i``, lambda_i cut to w_i (arXiv 2602.02495, Sec. 3.2)
    ``cagrad``       the same without the cut (arXiv 2110.14048, Algorithm 1, with w in place of equal weights)
    ``mgda``         the shortest mixture, in which objective i falls at a rate of at least w_i (Desideri 2012)
    ``pcgrad``       each g_i less its part against every other one, in random order (arXiv 2001.06782, Algorithm 1)
    ``upgrad``       each w_i g_i projected to where no objective rises (arXiv 2406.16232)
    ``aligned-mtl``  gradients turned orthogonal and of one length (arXiv 2305.19000), by torchjd
    ===============  ==============================================================================================

    Args:
        gram: ``[M, M]``, the inner products of the gradients.
        weights: ``[M]``, the preference; at least 0.
        rule: The rule.
        seed: What decides the order of ``pcgrad``.
    """
    gram, weights = np.asarray(gram, dtype=np.float64), np.asarray(weights, dtype=np.float64)
    taking_part = np.flatnonzero((weights > 0) & (gram.diagonal() > 0))
    alpha = np.where(weights > 0, weights, 0.0)
    if len(taking_part) < 2 or rule.rule in ("linear", "observed"):
        return alpha
    part = gram[np.ix_(taking_part, taking_part)]
    part, w = part / part.diagonal().max(), weights[taking_part]
    if rule.rule in ("raco", "cagrad"):
        found = _conflict_averse(_factor(part), w, rule.correction, cut=rule.rule == "raco")
    elif rule.rule == "mgda":
        found = float(w @ w) * _shortest(_factor(part), w)
    elif rule.rule == "upgrad":
        found = _projected(_factor(part), w)
    elif rule.rule == "pcgrad":
        found = _without_conflicts(part, w, np.random.default_rng(seed))
    else:
        found = _aligned(part, w)
    alpha[taking_part] = found
    return alpha


def backward_passes(preference: Preference, rule: GradientRule) -> int:
    """Return how many backward passes follow a forward: one, or one for each objective with weight where gradients are apart."""
    return sum(weight > 0 for weight in preference.weights) if rule.apart else 1


def cosines(gram: np.ndarray) -> dict[tuple[int, int], float]:
    """Return the cosine of each pair i < j of gradients that are not 0."""
    lengths = np.sqrt(np.asarray(gram, dtype=np.float64).diagonal())
    return {
        (i, j): float(np.clip(gram[i][j] / (lengths[i] * lengths[j]), -1, 1))
        for i, j in combinations(range(len(lengths)), 2)
        if lengths[i] > 0 and lengths[j] > 0
    }


def _factor(gram: np.ndarray) -> np.ndarray:
    """Return A with ``A^T A = gram``: gradients of the same inner products in M dimensions, one in each column."""
    values, vectors = np.linalg.eigh(gram)
    return np.sqrt(np.maximum(values, 0.0))[:, None] * vectors.T


def _shortest(A: np.ndarray, b: np.ndarray) -> np.ndarray:
    """Return the x >= 0 with b.x = 1 of the smallest ``|A x|``, exactly.

    ``|A x|^2 + (b.x - 1)^2`` over x >= 0 is least at a multiple of it: with x = s y and b.y = 1 it is s^2 |A y|^2 + (s - 1)^2.
    """
    x, _ = nnls(np.vstack([A, b]), np.append(np.zeros(len(A)), 1.0))
    return np.asarray(x / (b @ x))


def _conflict_averse(A: np.ndarray, w: np.ndarray, c: float, cut: bool) -> np.ndarray:
    """Return ``w + c |g0| lambda / |g_lambda|``; a lambda that is cut to w is not made to sum to 1 again."""
    g0 = A @ w
    reach = c * float(np.linalg.norm(g0))
    if reach <= NOTHING * c:  # no direction of the weighted loss, or no correction
        return w
    mixture = _most_opposed(A, g0, reach)
    mixture = np.minimum(mixture, w) if cut else mixture
    length = float(np.linalg.norm(A @ mixture))
    return w if length <= NOTHING else w + reach / length * mixture


def _most_opposed(A: np.ndarray, g0: np.ndarray, reach: float) -> np.ndarray:
    """Return the lambda on the simplex that minimises ``<g_lambda, g0> + reach |g_lambda|``.

    As ``|g| = min_r (|g|^2 / r + r) / 2``, lambda is for some r the shortest mixture of ``g_i + (r / reach) g0``, and that r is
    ``|g_lambda|``, the root of a monotone function.
    """
    ones = np.ones(A.shape[1])

    def mixture(r: float) -> np.ndarray:
        return _shortest(A + (r / reach) * g0[:, None], ones)

    def excess(r: float) -> float:
        return r - float(np.linalg.norm(A @ mixture(r)))

    longest = float(np.linalg.norm(A, axis=0).max()) * (1 + NOTHING)
    if excess(NOTHING) >= 0:
        return mixture(NOTHING)
    return mixture(brentq(excess, NOTHING, longest, xtol=1e-15, rtol=1e-14))


def _projected(A: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Return the sum of the projections of all w_i g_i to the cone of directions along which no objective rises."""
    alpha = w.copy()
    for i, weight in enumerate(w):
        added, _ = nnls(A, -weight * A[:, i])
        alpha += added
    return alpha


def _without_conflicts(gram: np.ndarray, w: np.ndarray, random: np.random.Generator) -> np.ndarray:
    """Return the weighted sum of gradients, each less its projections on those that oppose what is left of it."""
    alpha = np.zeros(len(w))
    for i in range(len(w)):
        mine = np.eye(len(w))[i]
        for j in random.permutation(len(w)):
            against = float(gram[j] @ mine)
            if j != i and against < 0:
                mine[j] -= against / gram[j, j]
        alpha += w[i] * mine
    return alpha


def _aligned(gram: np.ndarray, w: np.ndarray) -> np.ndarray:
    """Return torchjd's Aligned-MTL at the preference w."""
    import torch

    weighting = _aligned_mtl()(pref_vector=torch.from_numpy(w))
    return np.asarray(weighting(torch.from_numpy(gram)).numpy())


def _aligned_mtl() -> Any:
    try:
        from torchjd.aggregation import AlignedMTLWeighting
    except ImportError as error:
        raise ConfigError(
            "gradients: aligned-mtl is computed by torchjd, which is not installed; run `pip install 'paretune[gradients]'`, or "
            "choose raco, cagrad, mgda, pcgrad or upgrad, which need nothing more"
        ) from error
    return AlignedMTLWeighting
