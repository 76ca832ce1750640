"""Low-rank updates as GGUF files, which llama.cpp loads beside a base model and adds at a scale of each request.

llama.cpp computes ``W x + sum_i s_i (alpha_i / r_i) B_i A_i x``. Here alpha is r, so a scale is what it says. Rows of q and k of
models of the architecture ``llama`` stand there in another order than in transformers: pairs of a rotation lie side by side.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np

from paretune.core.errors import ModelError
from paretune.core.files import atomic_path

ARCHITECTURES = {
    "llama": "LLAMA",
    "mistral": "LLAMA",
    "qwen2": "QWEN2",
    "qwen3": "QWEN3",
    "phi3": "PHI3",
    "gemma3_text": "GEMMA3",
}
"""Type of a model in transformers -> its architecture in GGUF, where names of matrices and order of rows are known here."""
INSTALL = "pip install 'paretune[gguf]'"

Factors = Mapping[str, tuple[np.ndarray, np.ndarray]]
"""Path of a linear layer -> (B ``[out, r]``, A ``[r, in]``)."""


def check_architecture(config: Any) -> None:
    """Raise a ModelError where LoRAs for a model cannot be written as GGUF, or the package for it is not installed."""
    if config.model_type not in ARCHITECTURES:
        raise ModelError(
            f"a model of the type {config.model_type!r} is not written as GGUF here; known are {', '.join(ARCHITECTURES)}. Export "
            "a LoRA (--format lora) and convert it with llama.cpp's convert_lora_to_gguf.py"
        )
    try:
        import gguf  # noqa: F401
    except ImportError as error:
        raise ModelError(f"writing GGUF needs the package gguf: {INSTALL}") from error


def write_lora(target: Path, factors: Factors, config: Any, name: str) -> None:
    """Write one update as a GGUF LoRA in float32.

    Args:
        target: File to write.
        factors: The update ``B A`` of each linear layer.
        config: Configuration of the base model in transformers.
        name: Name for people.

    Raises:
        ModelError: An architecture that is not known here, a layer that llama.cpp has no name for, or the package is missing.
    """
    check_architecture(config)
    import gguf

    kind = gguf.MODEL_ARCH[ARCHITECTURES[config.model_type]]
    names = gguf.get_tensor_name_map(kind, config.num_hidden_layers)
    rank = next(iter(factors.values()))[1].shape[0]
    with atomic_path(target) as temporary:
        writer = gguf.GGUFWriter(temporary, gguf.MODEL_ARCH_NAMES[kind])
        writer.add_type(gguf.GGUFType.ADAPTER)
        writer.add_string(gguf.Keys.Adapter.TYPE, "lora")
        writer.add_float32(gguf.Keys.Adapter.LORA_ALPHA, float(rank))
        writer.add_name(name)
        for path, (B, A) in factors.items():
            there = names.get_name(f"{path}.weight", try_suffixes=(".weight",))
            if there is None:
                raise ModelError(
                    f"{path}: llama.cpp has no name for this layer of a model of the type {config.model_type!r}"
                )
            heads = rotated_heads(path, config) if kind == gguf.MODEL_ARCH.LLAMA else 0
            rows = paired_rows(B, heads) if heads else B
            writer.add_tensor(f"{there}.lora_a", np.ascontiguousarray(A, dtype=np.float32))
            writer.add_tensor(f"{there}.lora_b", np.ascontiguousarray(rows, dtype=np.float32))
        writer.write_header_to_file()
        writer.write_kv_data_to_file()
        writer.write_tensors_to_file()
        writer.close()


def rotated_heads(path: str, config: Any) -> int:
    """Return the number of heads whose rotated rows a layer writes; 0 for a layer without rotation."""
    layer = path.rpartition(".")[2]
    return {"q_proj": config.num_attention_heads, "k_proj": config.num_key_value_heads}.get(layer, 0)


def paired_rows(matrix: np.ndarray, heads: int) -> np.ndarray:
    """Return the rows of q or k in llama.cpp's order: of each head the first and second half alternate."""
    split = matrix.reshape(heads, 2, len(matrix) // heads // 2, *matrix.shape[1:])
    return split.swapaxes(1, 2).reshape(matrix.shape)
