"""Tensors written into a GGUF file one after the other, each in its number format."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal, get_args

import numpy as np

from paretune.core.errors import ModelError

BaseForm = Literal["copy", "f32", "f16", "bf16", "q8_0"]
BASE_FORMS: tuple[str, ...] = get_args(BaseForm)
_FILE_TYPES = {"f32": "ALL_F32", "f16": "MOSTLY_F16", "bf16": "MOSTLY_BF16", "q8_0": "MOSTLY_Q8_0"}


@dataclass(frozen=True)
class Entry:
    """A tensor of a GGUF file.

    Attributes:
        name: Its name there.
        shape: Its shape in numpy's order.
        load: Returns its numbers in float32.
    """

    name: str
    shape: tuple[int, ...]
    load: Callable[[], np.ndarray]


def write_tensors(writer: Any, entries: Sequence[Entry], form: str) -> None:
    """Write the head of a file, whose other facts the writer has, and then its tensors; one of them is in memory at a time.

    Matrices are in ``form``, or in f16 where their rows cannot be cut into the blocks of ``form``; vectors are in float32.

    Args:
        writer: A ``gguf.GGUFWriter``.
        entries: The tensors.
        form: Number format of the matrices: ``f32``, ``f16``, ``bf16`` or ``q8_0``.

    Raises:
        ModelError: A number is too large for f16.
    """
    import gguf

    writer.add_file_type(gguf.LlamaFileType[_FILE_TYPES[form]])
    if form == "q8_0":
        writer.add_quantization_version(gguf.GGML_QUANT_VERSION)
    kinds = [_kind(entry, form) for entry in entries]
    for entry, kind in zip(entries, kinds, strict=True):
        block, size = gguf.GGML_QUANT_SIZES[kind]
        numbers = int(np.prod(entry.shape))
        writer.add_tensor_info(
            entry.name, list(entry.shape), np.dtype(np.float32), numbers // block * size, raw_dtype=kind
        )
    writer.write_header_to_file()
    writer.write_kv_data_to_file()
    writer.write_ti_data_to_file()
    for entry, kind in zip(entries, kinds, strict=True):
        with np.errstate(over="ignore"):  # it is refused by name
            written = gguf.quantize(entry.load(), kind)
        if kind == gguf.GGMLQuantizationType.F16 and not np.isfinite(written).all():
            raise ModelError(
                f"{entry.name}: has numbers that are too large for f16; give --base-type bf16 or f32"
            )
        writer.write_tensor_data(written)
    writer.close()


def _kind(entry: Entry, form: str) -> Any:
    import gguf

    if len(entry.shape) == 1:
        return gguf.GGMLQuantizationType.F32
    kind = gguf.GGMLQuantizationType[form.upper()]
    whole = entry.shape[-1] % gguf.GGML_QUANT_SIZES[kind][0] == 0
    return kind if whole else gguf.GGMLQuantizationType.F16
