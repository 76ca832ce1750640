"""Trained parameters read from safetensors files, checked before anything computes with them."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor

from paretune.core.errors import ModelError
from paretune.core.tensor_file import tensor_formats

FLOATS = ("F16", "BF16", "F32")
"""Number formats in which tools save low-rank updates."""


def read_tensors(file: Path, formats: Sequence[str]) -> dict[str, Tensor]:
    """Return the tensors of a safetensors file, all in one of ``formats`` and finite.

    Raises:
        ModelError: The file cannot be used: it is missing, unreadable, cut or damaged, or holds numbers of another format, NaN
            or infinite ones. The message names file, tensor and cure.
    """
    found = tensor_formats(file)
    for name, kind in found.items():
        if kind not in formats:
            raise ModelError(
                f"{file}: {name} is in the number format {kind}, expected {' or '.join(formats)}; save it again in float32"
            )
    try:
        tensors: dict[str, Tensor] = load_file(file)
    except (SafetensorError, OSError) as error:
        raise ModelError(f"{file}: is damaged ({error}); copy or save it again") from error
    check_finite(tensors, str(file))
    return tensors


def check_finite(tensors: Mapping[str, Tensor], where: str) -> None:
    """Raise a ModelError where a number is NaN or infinite, with the name of its tensor.

    One pass without a copy: the least and the largest number of a tensor with a NaN are NaN.
    """
    for name, tensor in tensors.items():
        if tensor.numel() and not bool(torch.stack(tensor.aminmax()).isfinite().all()):
            raise ModelError(
                f"{where}: {name} holds numbers that are NaN or infinite; train it again, or copy it again from where it came"
            )
