"""Frozen layers: parameters in oneDNN's own layout on the CPU, in which products are faster, and norms with a short backward pass.

A plain product brings the weight into the layout of its kernels every time, or does without. ``benchmarks/pieces.py`` measures
what prepacking gains, most with the few rows of decoding. It sums the same products in another order.
"""

from __future__ import annotations

import inspect
from abc import abstractmethod
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

LAYOUT_ROWS = 1024
"""Rows for which oneDNN chooses the layout; one chosen for many is as fast for few."""

PREPACKED = (torch.float32, torch.bfloat16)


class FrozenLayer(nn.Linear):
    """A linear layer ``x W^T + b`` that is not trained: its products without a graph, and their gradient for x.

    Attributes:
        quantization: How the weight is held: ``none`` in the number format of the model, else in fewer bits.
    """

    quantization = "none"

    def forward(self, input: Tensor) -> Tensor:
        """Return ``input W^T + b``; differentiable with respect to ``input [..., in]`` alone."""
        if torch.is_grad_enabled() and input.requires_grad:
            return _Frozen.apply(input, self)
        return self.product(input)

    @abstractmethod
    def product(self, x: Tensor) -> Tensor:
        """Return ``x W^T + b [..., out]`` without a graph."""

    @abstractmethod
    def transposed_product(self, y: Tensor) -> Tensor:
        """Return ``y W [..., in]`` without a graph: the gradient of x where ``y`` is that of the output."""

    @abstractmethod
    def dense(self, kind: torch.dtype) -> Tensor:
        """Return the weight ``[out, in]`` that products are formed with, in the number format ``kind``."""


class FrozenLinear(FrozenLayer):
    """A linear layer with the weight and bias of another (the same tensors), which are not trained.

    The prepacked copies are made when they are first needed: of the weight in a forward pass, of its transpose in a backward
    pass. Each takes the weight's memory once more. On another device than the CPU, or with ``prepack`` False, products are the
    plain ones.
    """

    def __init__(self, linear: nn.Linear, prepack: bool = True) -> None:
        super().__init__(linear.in_features, linear.out_features, bias=False, device="meta")
        self.prepack = prepack
        self.weight, self.bias = linear.weight, linear.bias
        self._packed: dict[bool, tuple[tuple[int, int], Tensor]] = {}
        self.train(linear.training)

    def forward(self, input: Tensor) -> Tensor:
        """Return ``input W^T + b``; differentiable with respect to ``input [..., in]`` alone."""
        if self.weight.requires_grad:
            return F.linear(input, self.weight, self.bias)
        return super().forward(input)

    def product(self, x: Tensor) -> Tensor:
        """Return ``x W^T + b [..., out]`` without a graph."""
        if self._prepacks(x):
            return _onednn(x, self._layout(False), self.bias)
        return F.linear(x, self.weight, self.bias)

    def transposed_product(self, y: Tensor) -> Tensor:
        """Return ``y W [..., in]`` without a graph: the gradient of x where ``y`` is that of the output."""
        if self._prepacks(y):
            return _onednn(y, self._layout(True))
        return y @ self.weight

    def dense(self, kind: torch.dtype) -> Tensor:
        """Return the weight ``[out, in]`` in the number format ``kind``."""
        return self.weight.to(kind)

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without prepacked tensors, which a copy makes itself: tensors in oneDNN's layout cannot be copied."""
        return {**vars(self), "_packed": {}}

    def _prepacks(self, x: Tensor) -> bool:
        weight = self.weight
        fitting = x.dtype == weight.dtype in PREPACKED and x.numel() > 0
        return self.prepack and weight.device.type == "cpu" and fitting

    def _layout(self, transposed: bool) -> Tensor:
        """Return the prepacked weight, or its transpose; made anew when the weight was changed."""
        weight = self.weight
        state = weight.data_ptr(), weight._version
        held = self._packed.get(transposed)
        if held is None or held[0] != state:
            with torch.no_grad():
                plain = weight.detach().t().contiguous() if transposed else weight.detach()
                held = state, torch.ops.mkldnn._reorder_linear_weight(plain, LAYOUT_ROWS)
            self._packed[transposed] = held
        return held[1]


class FrozenNorm(nn.Module):
    """The root-mean-square norm of a Llama, ``w x / sqrt(mean x^2 + eps)``, with the weight of another, which is not trained.

    Its backward pass is four operations; formed by autograd from the parts of the forward pass it is a dozen.
    """

    def __init__(self, norm: nn.Module) -> None:
        super().__init__()
        self.weight, self.variance_epsilon = norm.weight, norm.variance_epsilon
        self.train(norm.training)

    def forward(self, hidden_states: Tensor) -> Tensor:
        """Return the normed ``[..., d]``."""
        if self.weight.requires_grad or not torch.is_grad_enabled():
            return _normed(hidden_states, self.weight, self.variance_epsilon)[0]
        return _Norm.apply(hidden_states, self.weight, self.variance_epsilon)


def freeze(model: nn.Module, prepack: bool = True) -> None:
    """Replace every plain ``nn.Linear`` of ``model`` in place, its head included, and the norms that are a Llama's."""
    for path, module in list(model.named_modules()):
        parent, _, leaf = path.rpartition(".")
        if type(module) is nn.Linear:
            setattr(model.get_submodule(parent), leaf, FrozenLinear(module, prepack))
        elif _is_llama_norm(module):
            setattr(model.get_submodule(parent), leaf, FrozenNorm(module))


@torch.no_grad()
def _is_llama_norm(module: nn.Module) -> bool:
    """Return whether a module has the parts of a Llama's norm and computes the same: other families have norms of that name."""
    weight = getattr(module, "weight", None)
    if (
        not isinstance(weight, Tensor)
        or not hasattr(module, "variance_epsilon")
        or weight.device.type == "meta"
        or len(inspect.signature(module.forward).parameters) != 1
    ):
        return False
    probe = torch.linspace(-1, 2, weight.numel(), device=weight.device, dtype=weight.dtype).expand(1, 1, -1)
    return torch.equal(module(probe), FrozenNorm(module)(probe))


def product(x: Tensor, weight: Tensor) -> Tensor:
    """Return ``x W^T`` without a graph, for a thin ``weight [n, in]`` that changes: by oneDNN on the CPU."""
    fitting = x.device.type == "cpu" and x.dtype == weight.dtype in PREPACKED and x.numel() > 0
    return _onednn(x, weight) if fitting else F.linear(x, weight)


def _onednn(x: Tensor, weight: Tensor, bias: Tensor | None = None) -> Tensor:
    return torch.ops.mkldnn._linear_pointwise(x, weight, bias, "none", [], "")


class _Frozen(torch.autograd.Function):
    """``x W^T + b``, differentiable with respect to x."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, layer: FrozenLayer) -> Tensor:  # type: ignore[override]
        ctx.layer = layer
        return layer.product(x)

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor, None]:
        return ctx.layer.transposed_product(outputs[0]), None


def _normed(x: Tensor, weight: Tensor, epsilon: float) -> tuple[Tensor, Tensor]:
    wide = x.float()
    inverse = torch.rsqrt(wide.pow(2).mean(-1, keepdim=True) + epsilon)
    return weight * (wide * inverse).to(x.dtype), inverse


class _Norm(torch.autograd.Function):
    """The norm of x ``[.., d]``: ``dx = (w dy - x (w dy . x) / (d s^2)) / s`` with ``s = sqrt(mean x^2 + eps)``."""

    @staticmethod
    def forward(ctx: Any, x: Tensor, weight: Tensor, epsilon: float) -> Tensor:  # type: ignore[override]
        y, inverse = _normed(x, weight, epsilon)
        ctx.save_for_backward(x, weight, inverse)
        return y

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor, None, None]:
        x, weight, inverse = ctx.saved_tensors
        wide = x.float()
        scaled = (outputs[0] * weight).float()
        along = torch.linalg.vecdot(scaled, wide)[..., None] * (inverse**3 / x.shape[-1])
        return scaled.mul_(inverse).addcmul_(wide, along, value=-1).to(x.dtype), None, None
