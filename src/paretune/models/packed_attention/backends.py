"""The backends by name, and which of them a device can run."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib.util import find_spec
from typing import Literal, Protocol, get_args

import torch
from torch import Tensor
from transformers import PreTrainedModel

from paretune.core.errors import ModelError, suggest
from paretune.models.frozen_linear import slow_bfloat16
from paretune.models.packed_attention import blocks, flex, products, sdpa, varlen
from paretune.models.packed_attention.layout import PackedLayout

Attention = Literal["auto", "blocks", "products", "sdpa", "flex", "varlen"]
"""What may be asked for. ``auto`` is the first backend that the device can run."""


@dataclass(frozen=True)
class Capability:
    """What decides which backends can run.

    Attributes:
        device: Kind of the device.
        dtype: Number format of the model.
        compute: Compute capability of a CUDA device, (0, 0) for others.
        head_dim: Largest width of a head, 0 where it is not known.
        sinks: Whether the softmax has a sink for each head (gpt-oss).
        compiler: Whether Triton is there, which compiles kernels for CUDA.
        lacking: Why torch has no kernel for texts of uneven length; "" where it has.
        slow_bfloat16: Whether it is a CPU that gains nothing by bfloat16 (:func:`paretune.models.frozen_linear.slow_bfloat16`).
    """

    device: str
    dtype: torch.dtype
    compute: tuple[int, int] = (0, 0)
    head_dim: int = 0
    sinks: bool = False
    compiler: bool = True
    lacking: str = ""
    slow_bfloat16: bool = False


class Attend(Protocol):
    """The function of a backend."""

    def __call__(
        self,
        layout: PackedLayout,
        query: Tensor,
        key: Tensor,
        value: Tensor,
        scale: float | None,
        window: int | None,
        sinks: Tensor | None,
    ) -> Tensor:
        """Return the attention ``[1, T, H, d]`` of a packed batch.

        Args:
            layout: The texts of the batch.
            query: Queries ``[1, H, T, d]``.
            key: Keys ``[1, G, T, d]``; H / G heads of queries share each.
            value: Values ``[1, G, T, d]``.
            scale: Factor of the scores; None for ``1 / sqrt(d)``.
            window: Number of keys that a token sees at most, itself included; None for all.
            sinks: A score for each head ``[H]`` that takes part in the softmax and adds nothing to the output.
        """


@dataclass(frozen=True)
class Backend:
    """A way to compute attention.

    Attributes:
        name: Its name in ``attention``.
        what: What it is, in a few words.
        attend: The function, differentiable with respect to queries, keys and values.
        missing: Returns why it cannot run under a capability; "" where it can.
        narrow: Whether a CPU gives it the model's own numbers, where the others get float32.
    """

    name: str
    what: str
    attend: Attend
    missing: Callable[[Capability], str]
    narrow: bool = False


def _products_missing(has: Capability) -> str:
    if has.device != "cpu":
        return f"it is for the CPU, not for {has.device}"
    if has.dtype != torch.bfloat16:
        return f"it computes in bfloat16, and the model is in {str(has.dtype).removeprefix('torch.')}"
    if has.slow_bfloat16:
        return "this processor gains nothing by bfloat16"
    return "it knows no attention sinks" if has.sinks else ""


def _flex_missing(has: Capability) -> str:
    if has.device == "cuda":
        return "" if has.compiler else "Triton, which compiles it, is not installed"
    return f"FlexAttention computes no gradients on {has.device}"


def _varlen_missing(has: Capability) -> str:
    if has.device != "cuda":
        return f"its kernel is for CUDA, not for {has.device}"
    if has.compute < (8, 0):
        return (
            f"its kernel needs compute capability 8.0, and this device has {'.'.join(map(str, has.compute))}"
        )
    if has.dtype not in (torch.bfloat16, torch.float16):
        return f"its kernel is for bfloat16 and float16, not for {str(has.dtype).removeprefix('torch.')}"
    if has.head_dim > 256:
        return f"its kernel is for heads of at most 256 numbers, and this model's have {has.head_dim}"
    if has.sinks:
        return "its kernel knows no attention sinks"
    return has.lacking


BACKENDS = {
    backend.name: backend
    for backend in (
        Backend("blocks", "one call for each text", blocks.attend, lambda has: ""),
        Backend("products", "products in bfloat16", products.attend, _products_missing, narrow=True),
        Backend("varlen", "FlashAttention", varlen.attend, _varlen_missing),
        Backend("flex", "FlexAttention", flex.attend, _flex_missing),
        Backend("sdpa", "one call under a mask", sdpa.attend, lambda has: ""),
    )
}

ORDER = {"cpu": ("products", "blocks"), "cuda": ("varlen", "flex", "sdpa")}
"""What ``auto`` tries, by kind of device, best first."""
OTHERS = ("sdpa",)
"""What it tries on other kinds."""


def choose(asked: str, has: Capability) -> list[Backend]:
    """Return the backends to try, best first: the one that is asked for, or those of ``auto`` that can run.

    Raises:
        ModelError: A name that is not known, or a backend that cannot run here.
    """
    if asked == "auto":
        order = (BACKENDS[name] for name in ORDER.get(has.device, OTHERS))
        return [backend for backend in order if not backend.missing(has)]
    if asked not in BACKENDS:
        raise ModelError(f"attention {asked!r} is not known; {suggest(asked, get_args(Attention))}")
    if reason := BACKENDS[asked].missing(has):
        able = ", ".join(name for name, backend in BACKENDS.items() if not backend.missing(has))
        raise ModelError(
            f"attention {asked!r} cannot run here: {reason}; set attention: auto, or one of {able}"
        )
    return [BACKENDS[asked]]


def capability_of(
    device: torch.device, dtype: torch.dtype, model: PreTrainedModel | None = None
) -> Capability:
    """Return what a device in a number format allows, and the architecture of ``model`` where it is loaded."""
    modules = () if model is None else model.modules()
    parameters = () if model is None else model.named_parameters()
    widths = [module.head_dim for module in modules if isinstance(getattr(module, "head_dim", None), int)]
    return Capability(
        device.type,
        dtype,
        torch.cuda.get_device_capability(device) if device.type == "cuda" else (0, 0),
        max(widths, default=0),
        any(name.endswith(".sinks") for name, _ in parameters),
        find_spec("triton") is not None,
        varlen.missing(),
        device.type == "cpu" and dtype == torch.bfloat16 and slow_bfloat16(),
    )
