"""Frozen layers: parameters in oneDNN's own layout on the CPU, in which products are faster, and norms with a short backward pass.

A plain product brings the weight into the layout of its kernels every time, or does without. ``benchmarks/models/pieces.py``
measures what prepacking gains, most with the few rows of decoding. It sums the same products in another order.
"""

from __future__ import annotations

import inspect
import time
from abc import abstractmethod
from collections.abc import Callable
from functools import cache
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

LAYOUT_ROWS = 1024
"""Rows for which oneDNN chooses the layout; one chosen for many is as fast for few."""

PREPACKED = (torch.float32, torch.bfloat16)
"""Number formats of products by oneDNN, where the processor has the instructions, see :func:`prepacked_formats`."""

WIDE_ROWS = 16
"""Rows from which a bfloat16 product is formed in float32 where the processor is faster at that; fewer wait for memory."""
MANY_ROWS = 256
"""Rows from which a product takes so long that what it saves to have the weight in another form may be little."""
OFTEN = 8
"""Products of few rows after which a copy is worth making where many rows do without: the rest of a text's batches may be few."""
FASTER = 1.3
"""How many times as long a bfloat16 product has to take as one in float32."""


@cache
def prepacked_formats() -> tuple[torch.dtype, ...]:
    """Return those of :data:`PREPACKED` that oneDNN multiplies on this processor; without AVX-512 it refuses bfloat16."""
    return PREPACKED if torch.ops.mkldnn._is_mkldnn_bf16_supported() else (torch.float32,)


@cache
def wide_vectors() -> bool:
    """Return whether the processor has AVX-512."""
    return torch.backends.cpu.get_cpu_capability() not in ("NO AVX", "DEFAULT", "AVX2")


def layout_gains(kind: torch.dtype) -> bool:
    """Return whether products of many rows in a number format are worth a copy of the weight in oneDNN's own layout.

    In bfloat16 with AVX-512 they are a twentieth faster, since kernels take rows in pairs. In float32 they gain as little as a
    step's time varies. The kind of processor decides, and no measurement, so that a run that goes on computes as it began.
    """
    return kind == torch.bfloat16 and wide_vectors()


@cache
def slow_bfloat16() -> bool:
    """Return whether this processor multiplies many rows faster in float32 than in bfloat16; measured once, in 0.05 s.

    Some have instructions for bfloat16 but no unit of their own for it. Others (with AMX, or AMD's) are twice to five times as fast
    in bfloat16, so the answer does not depend on luck. Those without instructions for it are slow unmeasured.
    """
    if torch.bfloat16 not in prepacked_formats():
        return True
    with torch.inference_mode():
        seconds = {kind: _seconds_of_a_product(kind) for kind in PREPACKED}
    return seconds[torch.bfloat16] > FASTER * seconds[torch.float32]


def _seconds_of_a_product(kind: torch.dtype) -> float:
    x, weight = torch.ones(MANY_ROWS, 576, dtype=kind), torch.ones(1536, 576, dtype=kind)
    packed = torch.ops.mkldnn._reorder_linear_weight(weight, LAYOUT_ROWS)

    def timed() -> float:
        began = time.process_time()
        _onednn(x, packed)
        return time.process_time() - began

    return min(timed() for _ in range(6))


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
    pass. Each takes the weight's memory once more. Where they gain little (:func:`layout_gains`), products of :data:`MANY_ROWS` do
    without, and those of fewer rows until there were :data:`OFTEN`, so that training keeps none and decoding one; oneDNN computes
    the same from either, to the last bit. With AVX-512 the backward pass in float32 never has one: the weight as it is lies as the
    kernels read it. On another device than the CPU, or with ``prepack`` False, products are the plain ones.

    Where the processor is slow at bfloat16 (:func:`slow_bfloat16`), products of many rows are formed in float32 from the same
    numbers, and only their sums are rounded: for :data:`MANY_ROWS` without a copy, as bringing the weight to float32 takes a
    fiftieth of the product; for fewer by a prepacked copy, which takes the weight's memory twice. Where it has no instructions for
    bfloat16, that copy serves the products of few rows too.
    """

    def __init__(self, linear: nn.Linear, prepack: bool = True) -> None:
        super().__init__(linear.in_features, linear.out_features, bias=False, device="meta")
        self.prepack = prepack
        self.weight, self.bias = linear.weight, linear.bias
        self._packed: dict[tuple[bool, torch.dtype], tuple[tuple[int, int], Tensor]] = {}
        self._few = [0, 0]
        self.train(linear.training)

    def forward(self, input: Tensor) -> Tensor:
        """Return ``input W^T + b``; differentiable with respect to ``input [..., in]`` alone."""
        if self.weight.requires_grad:
            return F.linear(input, self.weight, self.bias)
        return super().forward(input)

    def product(self, x: Tensor) -> Tensor:
        """Return ``x W^T + b [..., out]`` without a graph."""
        if self.widens(x):
            return self.wide_product(x.float()).to(x.dtype)
        if not (self.prepack and self._fits(x)):
            return F.linear(x, self.weight, self.bias)
        return _onednn(x, self._layout(False) if self._prepacks(x, False) else self.weight, self.bias)

    def transposed_product(self, y: Tensor) -> Tensor:
        """Return ``y W [..., in]`` without a graph: the gradient of x where ``y`` is that of the output."""
        if self.widens(y):
            return self.wide_transposed_product(y.float()).to(y.dtype)
        if not (self.prepack and self._fits(y)):
            return y @ self.weight
        if self._prepacks(y, True):
            return _onednn(y, self._layout(True))
        # With AVX2 the plain product of many rows is the faster one; of few, oneDNN's has the bits of the copy that may follow.
        plain = _rows(y) >= MANY_ROWS and not wide_vectors()
        return y @ self.weight if plain else _onednn(y, self.weight.t())

    def widens(self, x: Tensor) -> bool:
        """Return whether products with ``x [..., n]`` are formed in float32 although it and the weight are in bfloat16."""
        if (
            x.dtype != torch.bfloat16
            or x.device.type != "cpu"
            or not slow_bfloat16()
            or self.weight.dtype != torch.bfloat16
        ):
            return False
        rows = _rows(x)
        few = WIDE_ROWS if torch.bfloat16 in prepacked_formats() else 1
        return rows >= (few if self.prepack else MANY_ROWS)

    def wide_product(self, x: Tensor) -> Tensor:
        """Return :meth:`product` of a float32 ``x`` in float32."""
        bias = None if self.bias is None else self.bias.float()
        if self._keeps_wide(x):
            return _onednn(x, self._layout(False, torch.float32), bias)
        return F.linear(x, self.weight.float(), bias)

    def wide_transposed_product(self, y: Tensor) -> Tensor:
        """Return :meth:`transposed_product` of a float32 ``y`` in float32."""
        if self._keeps_wide(y):
            return _onednn(y, self._layout(True, torch.float32))
        return y @ self.weight.float()

    def wide_products(self) -> tuple[Callable[[Tensor], Tensor], Callable[[Tensor], Tensor]]:
        """Return both of them for several calls: the weight is brought to float32 once, and held as long as they are."""
        weight, bias = self.weight.float(), None if self.bias is None else self.bias.float()
        return lambda x: F.linear(x, weight, bias), lambda y: y @ weight

    def _keeps_wide(self, x: Tensor) -> bool:
        return self.prepack and _rows(x) < MANY_ROWS

    def dense(self, kind: torch.dtype) -> Tensor:
        """Return the weight ``[out, in]`` in the number format ``kind``."""
        return self.weight.to(kind)

    def __getstate__(self) -> dict[str, Any]:
        """Return the state without prepacked tensors, which a copy makes itself: tensors in oneDNN's layout cannot be copied."""
        return {**vars(self), "_packed": {}}

    def _fits(self, x: Tensor) -> bool:
        fitting = x.dtype == self.weight.dtype in prepacked_formats() and x.numel() > 0
        return self.weight.device.type == "cpu" and fitting

    def _prepacks(self, x: Tensor, transposed: bool) -> bool:
        rows, kind = _rows(x), self.weight.dtype
        if transposed and kind == torch.float32 and wide_vectors():
            return False
        if rows == 1 or layout_gains(kind):
            return True
        self._few[transposed] += rows < MANY_ROWS
        return rows < MANY_ROWS and self._few[transposed] > OFTEN

    def _layout(self, transposed: bool, kind: torch.dtype | None = None) -> Tensor:
        """Return the prepacked weight, or its transpose, by default in its own number format; made anew when it was changed."""
        weight, kind = self.weight, kind or self.weight.dtype
        state = weight.data_ptr(), weight._version
        held = self._packed.get((transposed, kind))
        if held is None or held[0] != state:
            with torch.no_grad():
                plain = weight.detach().t().contiguous() if transposed else weight.detach()
                held = state, torch.ops.mkldnn._reorder_linear_weight(plain.to(kind), LAYOUT_ROWS)
            self._packed[transposed, kind] = held
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
    fitting = x.device.type == "cpu" and x.dtype == weight.dtype in prepacked_formats() and x.numel() > 0
    return _onednn(x, weight) if fitting else F.linear(x, weight)


def _rows(x: Tensor) -> int:
    return x.numel() // max(1, x.shape[-1])


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
