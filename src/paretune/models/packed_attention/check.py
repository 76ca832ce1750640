"""A backend against another one in float32, on the queries, keys and values that a layer of the model has: output and gradients."""

from __future__ import annotations

import torch
from torch import Tensor

from paretune.models.packed_attention.backends import BACKENDS, Backend
from paretune.models.packed_attention.layout import PackedLayout

TOLERANCE = {torch.float32: 1e-3}
ROUNDED = 5e-2
"""Largest error of a backend; the second for number formats that round more."""


def backend_error(
    backend: Backend,
    layout: PackedLayout,
    states: tuple[Tensor, Tensor, Tensor],
    scale: float | None,
    window: int | None,
    sinks: Tensor | None,
) -> float:
    """Return the largest error of a backend's output and gradients, as a share of its allowed one.

    An error is the norm of the difference to the reference as a share of the reference's norm.

    Args:
        backend: Backend that is checked.
        layout: The texts of the batch.
        states: Queries ``[1, H, T, d]``, keys and values ``[1, G, T, d]``.
        scale, window, sinks: As for the backend.
    """
    reference = BACKENDS["sdpa" if backend.name == "blocks" else "blocks"]
    found = _output_and_gradients(backend, layout, states, scale, window, sinks)
    wide = tuple(x.float() for x in states)
    expected = _output_and_gradients(reference, layout, wide, scale, window, sinks)
    whole = max(float(b.norm()) for b in expected[1:])
    norms = [float(expected[0].norm()), *[max(float(b.norm()), 1e-2 * whole) for b in expected[1:]]]
    errors = [
        float((a.float() - b).norm()) / max(norm, 1e-12)
        for a, b, norm in zip(found, expected, norms, strict=True)
    ]
    return max(errors) / TOLERANCE.get(states[0].dtype, ROUNDED)


def _output_and_gradients(
    backend: Backend,
    layout: PackedLayout,
    states: tuple[Tensor, ...],
    scale: float | None,
    window: int | None,
    sinks: Tensor | None,
) -> list[Tensor]:
    with torch.enable_grad():
        query, key, value = (x.detach().clone().requires_grad_() for x in states)
        out = backend.attend(layout, query, key, value, scale, window, sinks)
        weights = torch.linspace(-1, 1, out.numel(), device=out.device).view(out.shape).to(out.dtype)
        return [out.detach(), *torch.autograd.grad((out * weights).sum(), (query, key, value))]
