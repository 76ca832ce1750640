"""Fused kernels of liger-kernel on CUDA: norm, rotation of queries and keys, and the gated activation, in one launch each.

They come with the extra ``kernels`` and are compiled by Triton for the device. Each is checked, output and gradients, against what
it replaces; one that computes something else is left out with a warning. On other devices nothing is replaced here. (transformers'
own ``use_kernels`` downloads compiled code from the hub, which this library does not run.)
"""

from __future__ import annotations

import importlib
import logging
import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Any

import torch
from torch import Tensor, nn
from transformers.activations import SiLUActivation

from paretune.models.frozen_linear import FrozenNorm

logger = logging.getLogger(__name__)

TOLERANCE = {torch.float32: 1e-3}
ROUNDED = 3e-2
"""Largest error of a kernel as a share of what it replaces; the second for number formats that round more."""
_GATED = {"gate_proj", "up_proj", "down_proj", "act_fn"}
"""Parts of the feed-forward layer of a Llama."""
_ROTATION = "apply_rotary_pos_emb"
"""Name of the function that rotates queries and keys in the modules of transformers."""

Rotation = Callable[..., tuple[Tensor, Tensor]]


@dataclass(frozen=True)
class Kernels:
    """Three functions, differentiable with respect to all states.

    Attributes:
        norm: ``(x [.., d], weight [d], epsilon)`` -> the root-mean-square norm of a Llama ``[.., d]``.
        gate: ``(a, b)`` -> ``silu(a) * b``.
        rotate: ``(queries [B, H, T, d], keys [B, G, T, d], cos [B, T, d], sin [B, T, d])`` -> both rotated, as a Llama's.
    """

    norm: Callable[[Tensor, Tensor, float], Tensor]
    gate: Callable[[Tensor, Tensor], Tensor]
    rotate: Callable[[Tensor, Tensor, Tensor, Tensor], tuple[Tensor, Tensor]]


def kernels_for(device: torch.device) -> Kernels | None:
    """Return the kernels of a device; None where there are none."""
    if device.type != "cuda" or find_spec("liger_kernel") is None:
        return None
    liger: Any = importlib.import_module("liger_kernel.ops")
    return Kernels(
        # Not in place: the gradient of a norm's output is read by the residual stream too.
        lambda x, weight, epsilon: liger.LigerRMSNormFunction.apply(x, weight, epsilon, 0.0, "llama", False),
        liger.LigerSiLUMulFunction.apply,
        liger.LigerRopeFunction.apply,
    )


class FusedNorm(nn.Module):
    """A Llama's norm, by one kernel."""

    def __init__(self, norm: FrozenNorm, kernels: Kernels) -> None:
        super().__init__()
        self.weight, self.variance_epsilon = norm.weight, norm.variance_epsilon
        self._kernel = kernels.norm
        self.train(norm.training)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Return the normed ``[..., d]``."""
        return self._kernel(hidden_states, self.weight, self.variance_epsilon)


class FusedGate(nn.Module):
    """The feed-forward layer of a Llama, with its activation and product by one kernel; its linear layers keep their names."""

    def __init__(self, layer: nn.Module, kernels: Kernels) -> None:
        super().__init__()
        for name, part in layer.named_children():  # in their order, in which adapters are attached
            self.add_module(name, part)
        self._kernel = kernels.gate
        self.train(layer.training)

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output ``[..., d]``."""
        out: Tensor = self.down_proj(self._kernel(self.gate_proj(x), self.up_proj(x)))
        return out


class FusedRotation:
    """Rotates on an accelerator by one kernel, elsewhere as before; it stands for the function in a module of transformers."""

    def __init__(self, plain: Rotation, kernels: Kernels, device: str) -> None:
        self.plain, self._kernel, self._device = plain, kernels.rotate, device

    def __call__(
        self, q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, *more: Any, **options: Any
    ) -> tuple[Tensor, Tensor]:
        """Return the rotated queries and keys."""
        if (
            more
            or options
            or q.device.type != self._device
            or cos.shape != (q.shape[0], q.shape[2], q.shape[3])
        ):
            return self.plain(q, k, cos, sin, *more, **options)
        # The kernel rotates in place what it is given.
        return self._kernel(q.clone(), k.clone(), cos, sin)


def fuse(model: nn.Module, kernels: Kernels | None, device: torch.device, dtype: torch.dtype) -> list[str]:
    """Let a frozen model use kernels where they compute the same; return the names of what was replaced."""
    if kernels is None:
        return []
    done = []
    for name, replace in (
        ("norm", _fuse_norms),
        ("gated activation", _fuse_gates),
        ("rotation", _fuse_rotation),
    ):
        try:
            if replace(model, kernels, device, dtype):
                done.append(name)
        except Exception as error:  # noqa: BLE001 - Triton has errors of many kinds
            reason = " ".join(str(error).split())[:200] or type(error).__name__
            logger.warning(
                "the fused %s of liger-kernel does not run here (%s); it is left out", name, reason
            )
    return done


def _fuse_norms(model: nn.Module, kernels: Kernels, device: torch.device, dtype: torch.dtype) -> int:
    found = {path: module for path, module in model.named_modules() if type(module) is FrozenNorm}
    fused = {path: FusedNorm(norm, kernels) for path, norm in found.items()}
    if found:
        first = next(iter(found))
        x = torch.randn(1, 5, len(found[first].weight), device=device, dtype=dtype)
        _check_same(fused[first], found[first], [x])
    return _replace_all(model, fused)


def _fuse_gates(model: nn.Module, kernels: Kernels, device: torch.device, dtype: torch.dtype) -> int:
    found = {path: module for path, module in model.named_modules() if _is_gated(module)}
    fused = {path: FusedGate(layer, kernels) for path, layer in found.items()}
    if found:
        first = next(iter(found))
        linear: Any = found[first].get_submodule("gate_proj")
        _check_same(
            fused[first], found[first], [torch.randn(1, 5, linear.in_features, device=device, dtype=dtype)]
        )
    return _replace_all(model, fused)


def _is_gated(module: nn.Module) -> bool:
    parts = dict(module.named_children())
    return set(parts) == _GATED and isinstance(parts["act_fn"], (nn.SiLU, SiLUActivation))


def _fuse_rotation(model: nn.Module, kernels: Kernels, device: torch.device, dtype: torch.dtype) -> int:
    """Replace the function in the modules of transformers that the model's attention is defined in."""
    homes = {sys.modules[type(module).__module__] for module in model.modules()}
    count = 0
    for home in homes:
        plain = vars(home).get(_ROTATION)
        if plain is None:
            continue
        plain = plain.plain if isinstance(plain, FusedRotation) else plain
        fused = FusedRotation(plain, kernels, device.type)
        _check_rotation(fused, device, dtype)
        setattr(home, _ROTATION, fused)
        count += 1
    return count


def _check_rotation(fused: FusedRotation, device: torch.device, dtype: torch.dtype) -> None:
    states = [torch.randn(1, heads, 5, 16, device=device, dtype=dtype) for heads in (4, 2)]
    angles = torch.linspace(0, 3, 40, device=device).view(1, 5, 8).repeat(1, 1, 2)
    cos, sin = angles.cos().to(dtype), angles.sin().to(dtype)

    def joined(rotate: Rotation) -> Callable[..., Tensor]:
        return lambda q, k: torch.cat(rotate(q, k, cos, sin), dim=1)

    _check_same(joined(fused), joined(fused.plain), states)


def _replace_all(model: nn.Module, fused: dict[str, Any]) -> int:
    for path, module in fused.items():
        parent, _, leaf = path.rpartition(".")
        setattr(model.get_submodule(parent), leaf, module)
    return len(fused)


def _check_same(fused: Callable[..., Tensor], plain: Callable[..., Tensor], states: Sequence[Tensor]) -> None:
    """Raise a ValueError where output or gradients of two functions differ by more than rounding."""
    found, expected = (_output_and_gradients(function, states) for function in (fused, plain))
    allowed = TOLERANCE.get(states[0].dtype, ROUNDED)
    for a, b in zip(found, expected, strict=True):
        error = float((a.float() - b.float()).norm() / b.float().norm())
        if not error <= allowed:
            raise ValueError(f"off by {error:.2g} of what it replaces, allowed {allowed:g}")


def _output_and_gradients(function: Callable[..., Tensor], states: Sequence[Tensor]) -> list[Tensor]:
    with torch.enable_grad():
        leaves = [x.clone().requires_grad_() for x in states]
        out = function(*leaves)
        weights = torch.linspace(-1, 1, out.numel(), device=out.device).view(out.shape).to(out.dtype)
        return [out.detach(), *torch.autograd.grad((out * weights).sum(), leaves)]
