"""Panacea's gate map, ``g(w) = [sigma, s w]``: the preference as part of a low-rank update's singular values.

Zhong et al. 2024 (arXiv 2402.02030): ``W(w) = W0 + U diag(sigma_1..sigma_k, s w_1..s w_m) V`` for each adapted matrix.
On the simplex ``W(w) = sum_i w_i W(e_i)`` is affine in w, so sigma and s fold into U exactly, and a trained Panacea is an
adapter of 1 + m blocks: a shared one that is always on, and one per objective that is weighted by the preference.

Beyond the paper the gates may bend: ``g(w) = [sigma, s w] + H phi(w)`` with h learned features ``phi(w) = tanh(A w + a)``
that all matrices share and a learned H a matrix. H = 0 is Panacea; a soup is k = 0 with s = 1. Each feature folds into a
block of its own.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Literal

import torch
from torch import Tensor, nn

from paretune.core.errors import ConfigError, ModelError
from paretune.models.adapter import Adapter

Init = Literal["zero-singular", "zero-left", "small", "lora"]


class SingularGates:
    """The learnable sigma and s of every adapted matrix.

    Attributes:
        rank: k, singular values that do not depend on the preference; 0 is allowed.
        objectives: m.
        groups: q, directions for each objective; the paper has 1. Columns stand objective by objective.
        sigma: module path -> ``[k]``.
        scale: module path -> s, ``[1]``, or ``[m]`` when every objective has its own.
        features: A ``[h, m]`` and a ``[h]`` of the features; None is the paper's form.
        heads: module path -> H ``[k + q m, h]`` where there are features.
    """

    def __init__(
        self,
        sigma: Mapping[str, nn.Parameter],
        scale: Mapping[str, nn.Parameter],
        objectives: int,
        groups: int,
        features: tuple[nn.Parameter, nn.Parameter] | None = None,
        heads: Mapping[str, nn.Parameter] | None = None,
    ) -> None:
        self.sigma, self.scale = dict(sigma), dict(scale)
        self.features, self.heads = features, dict(heads or {})
        self.objectives, self.groups = objectives, groups
        self.rank = next(iter(self.sigma.values())).shape[0]

    @property
    def blocks(self) -> tuple[tuple[int, float], ...]:
        """(rank, 1) of the shared block, unless k is 0, and of each objective's."""
        shared = ((self.rank, 1.0),) if self.rank else ()
        return (*shared, *((self.groups, 1.0),) * self.objectives)

    def to(self, device: torch.device) -> SingularGates:
        """Return these gates on ``device``, where they are trained."""

        def moved(parameters: Mapping[str, nn.Parameter]) -> dict[str, nn.Parameter]:
            return {path: nn.Parameter(each.detach().to(device)) for path, each in parameters.items()}

        bend = self.features and tuple(moved(dict(zip("Aa", self.features, strict=True))).values())
        scale, heads = moved(self.scale), moved(self.heads)
        return SingularGates(moved(self.sigma), scale, self.objectives, self.groups, bend, heads)  # type: ignore[arg-type]

    def named_parameters(self) -> dict[str, nn.Parameter]:
        """Return ``path.sigma`` (where k > 0), ``path.scale`` and ``path.head`` of every module, in a fixed order."""
        named = {}
        if self.features is not None:
            named["features.weight"], named["features.bias"] = self.features
        for path in self.scale:
            if self.rank:
                named[f"{path}.sigma"] = self.sigma[path]
            named[f"{path}.scale"] = self.scale[path]
            if self.features is not None:
                named[f"{path}.head"] = self.heads[path]
        return named

    def at(self, weights: Tensor) -> dict[str, Tensor]:
        """Return for each module the gates ``[B, k + q m]`` at preferences ``[B, m]``.

        Gradients flow to sigma, s, A, a and H, never to the weights.
        """
        gates = self._straight(weights)
        if self.features is None:
            return gates
        weight, bias = self.features
        phi = features(weights.detach().float().to(weight.device), weight, bias)
        return {path: gate + phi @ self.heads[path].T for path, gate in gates.items()}

    def _straight(self, weights: Tensor) -> dict[str, Tensor]:
        """Return the part of the gates that is affine in the preference: all of them in the paper's form."""
        if weights.dim() != 2 or weights.shape[1] != self.objectives:
            raise ModelError(f"weights of shape {list(weights.shape)}; expected [B, {self.objectives}]")
        weights = weights.detach().float()
        gates = {}
        for path, scale in self.scale.items():
            steered = (weights.to(scale.device) * scale).repeat_interleave(self.groups, dim=1)
            gates[path] = torch.cat([self.sigma[path].expand(len(weights), -1), steered], dim=1)
        return gates

    def fold(self, adapter: Adapter) -> Adapter:
        """Return ``adapter`` with sigma, s and H multiplied into U, so that its gates are ``[1.., w_1.., .., w_m..]``.

        Each feature adds a block of k + q m columns with the gate phi_f(w); ``info["features"]`` holds A and a.
        """
        straight = self._straight(torch.ones(1, self.objectives))
        factors, blocks, info = {}, self.blocks, dict(adapter.info)
        for path, (U, V) in adapter.factors.items():
            columns = [straight[path].detach().cpu()[0]]
            if self.features is not None:
                columns += self.heads[path].detach().cpu().T
            factors[path] = (torch.cat([U * column for column in columns], dim=1), V.repeat(len(columns), 1))
        if self.features is not None:
            weight, bias = (parameter.detach().cpu() for parameter in self.features)
            info["features"] = {"weight": weight.tolist(), "bias": bias.tolist()}
            blocks += ((self.rank + self.groups * self.objectives, 1.0),) * len(bias)
        return Adapter(factors, 1.0, adapter.base, info, blocks)

    def steerability(self) -> dict[str, float | None]:
        """Return ``||s w|| / ||sigma||`` at the uniform preference for each module; None where nothing is shared (sigma 0).

        Near 0 the singular values that follow the preference are lost beside those that do not: not steerable.
        """
        values: dict[str, float | None] = {}
        with torch.no_grad():
            for path, scale in self.scale.items():
                singular = scale.expand(self.objectives) / self.objectives
                steered, shared = (
                    float(singular.norm()) * math.sqrt(self.groups),
                    float(self.sigma[path].norm()),
                )
                values[path] = steered / shared if shared else (None if steered else 0.0)
        return values


def initial(
    shapes: Mapping[str, tuple[int, int]],
    rank: int,
    objectives: int,
    *,
    groups: int = 1,
    own_scales: bool = False,
    hidden: int = 0,
    init: Init = "zero-singular",
    seed: int = 0,
) -> tuple[Adapter, SingularGates]:
    """Return the start of training: factors of rank k + q m for every matrix, and its gates.

    ======================  ================  ======================  =============  =============  ============
    init                    U                 V                       sigma          s              W(w) at start
    ======================  ================  ======================  =============  =============  ============
    zero-singular (default) N(0, 0.02^2)      N(0, 0.02^2)            0              0              W0 exactly
    zero-left               0                 Kaiming-uniform, a=√5   N(0, 0.02^2)   N(0, 0.5^2)    W0 exactly
    small                   N(0, 0.02^2)      N(0, 0.02^2)            N(0, 0.1^2)    N(0, 0.1^2)    near W0
    lora (ours)             0                 Kaiming-uniform, a=√5   1              1              W0 exactly
    ======================  ================  ======================  =============  =============  ============

    The paper's own start is not known to us; the default is that of AdaLoRA, of which the paper's layer takes its form.
    ``lora`` starts every direction as a LoRA's: with rank 0 and q groups it is one LoRA of rank q per objective, and a soup
    of them at every preference, trained together.

    Args:
        shapes: module path -> (out, in).
        rank: k >= 0; 8 in the one published configuration.
        objectives: m >= 2.
        groups: q >= 1, directions for each objective.
        own_scales: Whether there is one s per objective instead of one per matrix.
        hidden: h >= 0, learned features of the preference: A is N(0, 1), a and every H start at 0.
        init: Start of the factors, see above.
        seed: Seed of the start; its values do not depend on the device.

    Raises:
        ConfigError: A number out of range.
    """
    if objectives < 2:
        raise ConfigError(f"Panacea steers between at least 2 objectives, got {objectives}")
    if rank < 0 or groups < 1 or hidden < 0:
        raise ConfigError(
            f"expected rank >= 0, groups >= 1 and hidden >= 0, got {rank}, {groups} and {hidden}"
        )
    generator = torch.Generator().manual_seed(seed)

    def normal(*shape: int, std: float) -> Tensor:
        return torch.randn(*shape, generator=generator) * std

    total, scales = rank + groups * objectives, objectives if own_scales else 1
    factors, sigma, scale = {}, {}, {}
    for path, (outputs, inputs) in shapes.items():
        if init in ("zero-left", "lora"):
            U, V = torch.zeros(outputs, total), torch.empty(total, inputs)
            nn.init.kaiming_uniform_(V, a=math.sqrt(5), generator=generator)
            values, steer = torch.ones(rank), torch.ones(scales)
            if init == "zero-left":
                values, steer = normal(rank, std=0.02), normal(scales, std=0.5)
        else:
            U, V = normal(outputs, total, std=0.02), normal(total, inputs, std=0.02)
            small = 0.1 if init == "small" else 0.0
            values, steer = normal(rank, std=small), normal(scales, std=small)
        factors[path] = (U, V)
        sigma[path], scale[path] = nn.Parameter(values), nn.Parameter(steer)
    bend, heads = None, {}
    if hidden:
        bend = nn.Parameter(normal(hidden, objectives, std=1.0)), nn.Parameter(torch.zeros(hidden))
        heads = {path: nn.Parameter(torch.zeros(total, hidden)) for path in shapes}
    gates = SingularGates(sigma, scale, objectives, groups, bend, heads)
    return Adapter(factors, blocks=gates.blocks), gates


def features(weights: Tensor, weight: Tensor, bias: Tensor) -> Tensor:
    """Return ``tanh(A w + a)`` ``[B, h]`` of preferences ``[B, m]`` for A ``[h, m]`` and a ``[h]``."""
    return torch.tanh(weights @ weight.T + bias)


def orthogonality(factors: Mapping[str, tuple[Tensor, Tensor]]) -> Tensor:
    """Return ``sum ||U^T U - I||_F^2 + ||V V^T - I||_F^2`` over modules, AdaLoRA's penalty (an option, not the paper's)."""
    terms = []
    for U, V in factors.values():
        identity = torch.eye(V.shape[0], device=V.device)
        terms += [(U.T @ U - identity).square().sum(), (V @ V.T - identity).square().sum()]
    return torch.stack(terms).sum()
