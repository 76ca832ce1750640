"""One gated low-rank layer, ``y = W0 x + U (g * (V x))``, and the state that its gate is read from."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from typing import Any, TypeGuard

import torch
import torch.nn.functional as F  # noqa: N812
from torch import Tensor, nn

from paretune.core.errors import ModelError
from paretune.models.frozen_linear import FrozenLayer, FrozenLinear, product

_NO_STATE = (
    "the model has gated layers, but no preference is set. Run forward and backward inside "
    "`with steering.at(gates):` or `with steering.off():`; with gradient checkpointing the context must last "
    "until backward has ended"
)
_OTHER_STATE = (
    "gradient checkpointing ran the forward again under other gates than the first time, so gradients "
    "would be wrong. Call backward inside the same `steering.at(...)` as forward, or turn checkpointing on "
    "with steering.enable_checkpointing(), which remembers the gates"
)

FEW = 64
"""Rows up to which an update is computed in the fp32 of U and V: converting these to bfloat16 would take longer."""


@dataclass(frozen=True, eq=False)
class Gate:
    """Gates ready for a layer: ``values [R]``, ``[B, R]`` or ``[T, R]``, cut to the columns ``span``."""

    values: Tensor
    span: slice | None
    rows: int | None = None
    tokens: int | None = None

    def for_input(self, x: Tensor) -> Tensor:
        """Return the gates in a shape that broadcasts against ``V x``; refuse those that do not fit ``x``."""
        if self.tokens is not None:
            if x.shape[-2] != self.tokens or (x.dim() > 2 and x.shape[:-2].numel() != 1):
                raise ModelError(
                    f"index for {self.tokens} tokens, but the layer's input is {list(x.shape)}; "
                    "a packed batch is one row [1, T] with one index for each of its T tokens"
                )
            return self.values
        if self.rows is not None:
            if x.dim() < 3:
                raise ModelError(
                    f"gates for {self.rows} rows, but the layer's input {list(x.shape)} has no row "
                    "dimension (packed or flattened tokens); give one gate [R] for all, or index [T] with "
                    "the "
                    "row of each token"
                )
            if x.shape[0] != self.rows:
                raise ModelError(
                    f"gates for {self.rows} rows, but the batch has {x.shape[0]}; give one row of gates for "
                    "each row of the batch (repeat_interleave them where sampling or beams expand the rows)"
                )
            return self.values.view(self.rows, *[1] * (x.dim() - 2), -1)
        return self.values


@dataclass(frozen=True, eq=False)
class Setting:
    """What all layers do during one context: each its gate, or the base model alone (``gates`` None)."""

    gates: Mapping[str, Gate] | None


class State:
    """The setting in force, shared by all layers of one Steering."""

    def __init__(self) -> None:
        self.current: Setting | None = None
        self.merged = False
        self._recorded: Setting | None = None

    def read(self, training: bool) -> Setting:
        """Return the setting in force; raise when there is none, or another one at recomputation."""
        if self.current is None:
            raise ModelError(_NO_STATE)
        in_backward = torch._C._current_graph_task_id() != -1  # so this is a checkpoint's recomputation
        if torch.is_grad_enabled() and in_backward:
            if self._recorded is not None and self._recorded is not self.current:
                raise ModelError(_OTHER_STATE)
        elif torch.is_grad_enabled():
            self._recorded = self.current
        elif training:
            self._recorded = None  # a reentrant checkpoint may be at work: its forward looks like no_grad
        return self.current

    @contextmanager
    def entered(self, setting: Setting | None, recomputing: bool = False) -> Iterator[None]:
        """Put ``setting`` in force; afterwards the outer one is back."""
        outer, recorded = self.current, self._recorded
        self.current = setting
        if recomputing:
            self._recorded = setting
        try:
            yield
        finally:
            self.current = outer
            if recomputing:
                self._recorded = recorded


class Recomputation(AbstractContextManager[None]):
    """The context of a checkpoint's recomputation: the setting of its first run; may be entered again.

    (Several backward passes through one retained graph run a segment again each time.)
    """

    def __init__(self, state: State) -> None:
        self._state = state
        self._setting = state.current
        self._stack = ExitStack()

    def __enter__(self) -> None:
        self._stack.enter_context(self._state.entered(self._setting, recomputing=True))

    def __exit__(self, *exception: object) -> None:
        self._stack.close()


class GatedLinear(nn.Module):
    """One linear layer with its low-rank update; its gate is read from shared state."""

    def __init__(
        self, base: nn.Linear, U: Tensor, V: Tensor, path: str, state: State, trainable: bool
    ) -> None:
        super().__init__()
        self.base = base
        self.U = nn.Parameter(U.to(base.weight.device), requires_grad=trainable)
        self.V = nn.Parameter(V.to(base.weight.device), requires_grad=trainable)
        self.path = path
        self._state = state
        self._joined: tuple[object, Tensor] | None = None
        self.train(base.training)

    @property
    def weight(self) -> Tensor:
        """The base layer's weight ``[out, in]``: some models look at its dtype."""
        return self.base.weight

    @property
    def bias(self) -> Tensor | None:
        """The base layer's bias ``[out]``."""
        return self.base.bias

    def forward(self, x: Tensor) -> Tensor:
        """Return ``W0 x + b + U (g * (V x))`` in the dtype of ``x [..., in]``; U and V stay fp32."""
        gates = self._state.read(self.training).gates
        if gates is None:
            return self.base(x)
        gate = gates[self.path]
        U, V = (self.U, self.V) if gate.span is None else (self.U[:, gate.span], self.V[gate.span])
        g = gate.for_input(x)
        if isinstance(self.base, FrozenLayer):
            if torch.is_grad_enabled():
                return _Gated.apply(x, U, V, g, self.base)
            if x.numel() <= FEW * x.shape[-1] and not _widens(self.base, x):
                z = F.linear(x.float(), V) * g
                return self.base(x).add_(F.linear(z, U))
            return _gated(x, U, V, g, self.base)[0]
        z = (F.linear(x, V.to(x.dtype)) * g).to(x.dtype)
        if type(self.base) is nn.Linear:
            return _add(self.base(x), z, U)
        # What another layer returns may be a view that autograd lets nobody write into, or a tensor that it keeps.
        return self.base(x) + F.linear(z, U.to(z.dtype))

    def joined(self, layers: Sequence[nn.Module], span: slice | None) -> Tensor:
        """Return the factors V of layers that share an input, this the first, as one ``[n R, in]``; kept until one changes."""
        factors = [layer.V if span is None else layer.V[span] for layer in layers]  # type: ignore[union-attr, index]
        if len(factors) == 1:
            return factors[0]
        state = span, [V._version for V in factors], [V.data_ptr() for V in factors]
        if self._joined is None or self._joined[0] != state:
            self._joined = state, torch.cat([V.detach() for V in factors])
        return self._joined[1]

    def merged(self, gate: Tensor) -> nn.Linear:
        """Return a plain layer of weight ``W0 + U diag(g) V``, summed in fp32, in the base's dtype."""
        base = self.base
        if type(base) not in (nn.Linear, FrozenLinear) or not base.weight.is_floating_point():
            raise ModelError(
                f"{self.path}: cannot merge into {type(base).__name__} with {base.weight.dtype} weights; load the base model with "
                "quantization: none, or dequantise it"
            )
        with torch.no_grad():
            update = (self.U * gate.to(self.U.device)) @ self.V
            weight = (base.weight.to(update.dtype) + update).to(base.weight.dtype)
        plain = nn.Linear(base.in_features, base.out_features, bias=False, device="meta")
        plain.weight = nn.Parameter(weight, requires_grad=False)
        plain.bias = base.bias
        plain.train(base.training)
        return FrozenLinear(plain, base.prepack) if isinstance(base, FrozenLinear) else plain


def outputs_of(x: Tensor, *layers: nn.Module) -> list[Tensor]:
    """Return what layers with the same input ``[B, in]`` return for a token of each row, without a graph; nobody else holds it.

    Where they are adapted and rows are few, one thin product serves the adapters of all.
    """
    first = layers[0]
    if not isinstance(first, GatedLinear) or len(x) > FEW:
        return _one_by_one(x, layers)
    gates = first._state.read(first.training).gates
    if gates is None:
        return _one_by_one(x, layers)
    gate, kind = gates[first.path], x.dtype
    found, factors = [], []
    for layer in layers:
        if not isinstance(layer, GatedLinear) or gates.get(layer.path) is not gate:
            return _one_by_one(x, layers)
        base = layer.base
        if not isinstance(base, FrozenLayer) or _widens(base, x):
            return _one_by_one(x, layers)
        found.append(base.product(x))
        factors.append(layer.U if gate.span is None else layer.U[:, gate.span])
    thin = torch.mm(x if kind == torch.float32 else x.float(), first.joined(layers, gate.span).t())
    gates_here = gate.for_input(x[:, None]).squeeze(-2) if gate.rows is not None else gate.values
    if len(layers) == 1:
        found[0].add_(torch.mm(thin.mul_(gates_here), factors[0].t()))
        return found
    each = thin.view(len(x), len(layers), -1).mul_(gates_here.unsqueeze(-2)).unbind(1)
    for y, z, U in zip(found, each, factors, strict=True):
        y.add_(torch.mm(z, U.t()))
    return found


def _one_by_one(x: Tensor, layers: Sequence[nn.Module]) -> list[Tensor]:
    """Return the outputs of layers that are asked as the model asks them: with rows of one token."""
    return [layer(x[:, None]).squeeze(1) for layer in layers]


def _add(y: Tensor, z: Tensor, U: Tensor) -> Tensor:
    """Add ``z U^T`` to ``y`` in place: nobody else holds it, and a linear layer's backward does not read its output."""
    y.view(-1, y.shape[-1]).addmm_(z.flatten(0, -2).to(y.dtype), U.t().to(y.dtype))
    return y


def _widens(base: FrozenLayer, x: Tensor) -> TypeGuard[FrozenLinear]:
    """Return whether the layer forms its products with ``x`` in float32; the thin ones are then formed so too."""
    return isinstance(base, FrozenLinear) and base.widens(x)


def _gated(x: Tensor, U: Tensor, V: Tensor, g: Tensor, base: FrozenLayer) -> tuple[Tensor, Tensor, Tensor]:
    """Return the layer's output, ``x V^T``, and this gated."""
    if _widens(base, x):
        wide = x.float()
        inner = product(wide, V)
        z = inner * g
        return _add(base.wide_product(wide), z, U).to(x.dtype), inner, z
    inner = product(x, V.to(x.dtype))
    z = (inner * g).to(x.dtype)  # the product in fp32: 0.3 is not a bf16 number
    return _add(base.product(x), z, U), inner, z


def _outer(thin: Tensor, wide: Tensor) -> Tensor:
    """Return the sum over tokens of ``thin [.., R]`` times ``wide [.., n]``: ``[R, n]``."""
    return product(thin.flatten(0, -2).t().contiguous(), wide.flatten(0, -2).t())


class _Gated(torch.autograd.Function):
    """``x W0^T + b + (g * (x V^T)) U^T`` as one node of the graph.

    Formed by autograd from its parts, the two gradients with respect to x would each be a tensor of their own, then summed; here
    the smaller product is added to the larger in place.
    """

    @staticmethod
    def forward(ctx: Any, x: Tensor, U: Tensor, V: Tensor, g: Tensor, base: FrozenLayer) -> Tensor:  # type: ignore[override]
        y, inner, z = _gated(x, U, V, g, base)
        ctx.base = base
        ctx.save_for_backward(x, U, V, g, inner if g.requires_grad else None, z)
        return y

    @staticmethod
    def backward(ctx: Any, *outputs: Tensor) -> tuple[Tensor | None, ...]:
        x, U, V, g, inner, z = ctx.saved_tensors
        need_x, need_U, need_V, need_g, _ = ctx.needs_input_grad
        dy, kind, transposed = outputs[0], x.dtype, ctx.base.transposed_product
        if _widens(ctx.base, dy):
            x, dy, transposed = x.float() if need_V else x, dy.float(), ctx.base.wide_transposed_product
        dU = _outer(z, dy).t().to(U.dtype) if need_U else None
        dz = product(dy, U.t().to(dy.dtype))
        dg = (dz * inner.to(g.dtype)).sum_to_size(g.shape) if need_g else None
        d_inner = (dz * g).to(dy.dtype)
        dV = _outer(d_inner, x).to(V.dtype) if need_V else None
        dx = _add(transposed(dy), d_inner, V.t()).to(kind) if need_x else None
        return dx, dU, dV, dg, None
