"""Base models whose frozen matrices are held in 4 or 8 bits, as for QLoRA (Dettmers et al. 2023, arXiv 2305.14314).

bitsandbytes quantises the matrices when a model is loaded, and dequantises one while a product needs it; products are those of
the model's own number format. So training, sampling and scoring compute with the same numbers, whatever their batches are.
"""

from __future__ import annotations

import importlib.util
import logging
from collections.abc import Iterator
from contextlib import contextmanager
from copy import copy
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
import torch.nn.functional as F  # noqa: N812
from safetensors import safe_open
from torch import Tensor, nn
from transformers import BitsAndBytesConfig, PreTrainedModel

from paretune.core.errors import ModelError, suggest
from paretune.models.frozen_linear import FrozenLayer, FrozenLinear
from paretune.models.tensors import check_finite

Quantization: TypeAlias = Literal["auto", "none", "nf4", "int8"]
"""How the frozen matrices are held: as the model's folder holds them, in the number format of the model, or in 4 or 8 bits."""

logger = logging.getLogger(__name__)

CHOICES = ("auto", "none", "nf4", "int8")
PACKAGE = "bitsandbytes"
INSTALL = "pip install 'paretune[quantization]'"
FUSED_ROWS = 8
"""Rows up to which an accelerator multiplies with 4-bit weights as they are, without dequantising a whole matrix: decoding."""


def check_quantization(given: str) -> None:
    """Raise a ModelError for a quantisation that is not known."""
    if given not in CHOICES:
        raise ModelError(f"quantization {given!r} is not known; {suggest(given, CHOICES)}")


def stored_as(config: Any, name: str) -> str:
    """Return how a model's folder holds its matrices by its ``config.json``: ``none``, ``nf4``, ``fp4`` or ``int8``.

    Raises:
        ModelError: Quantised by another method than those of bitsandbytes.
    """
    values = getattr(config, "quantization_config", None)
    if values is None:
        return "none"
    values = values if isinstance(values, dict) else values.to_dict()
    method = str(values.get("quant_method") or "")
    if method != PACKAGE:
        raise ModelError(refusal(name, method or "quantization_config in config.json"))
    if values.get("load_in_8bit") or values.get("_load_in_8bit"):
        return "int8"
    return str(values.get("bnb_4bit_quant_type") or "fp4")


def refusal(name: str, how: str) -> str:
    """Return the message on a checkpoint that is quantised in a way that cannot be trained on."""
    return (
        f"{name}: the checkpoint is quantised ({how}), and adapters are trained on models in float32, float16 or bfloat16, or on "
        f"folders that {PACKAGE} saved in nf4 or int8; give the same model in one of these, and quantization: nf4 to hold it in "
        "4 bits"
    )


def chosen(asked: str, stored: str, name: str) -> str:
    """Return how the matrices are held where ``asked`` is wanted of a folder that holds them as ``stored``.

    Raises:
        ModelError: The folder is quantised, and in another way; or the package for it is not installed.
    """
    check_quantization(asked)
    held = stored if asked == "auto" else asked
    if stored not in ("none", held):
        raise ModelError(
            f"quantization: {asked}: {name} is saved in {stored} and cannot become {asked}; give the same model unquantised, or "
            "leave quantization out"
        )
    if held != "none":
        _require(name, held)
    return held


def _require(name: str, held: str) -> None:
    """Import bitsandbytes, or raise a ModelError where it is not installed or does not work."""
    if importlib.util.find_spec(PACKAGE) is None:
        raise ModelError(
            f"{name} in {held}: this needs one more package, {PACKAGE}: {INSTALL}; or give the model unquantised with "
            "quantization: none"
        )
    theirs = logging.getLogger(PACKAGE)
    level = theirs.level
    theirs.setLevel(logging.ERROR)  # at import it warns of fused kernels, which are not used here
    try:
        import bitsandbytes  # noqa: F401
    except Exception as error:
        raise ModelError(
            f"{name} in {held}: {PACKAGE} is installed and cannot be used here ({' '.join(str(error).split()):.200}); install "
            f"another version ({INSTALL}), or give the model unquantised with quantization: none"
        ) from error
    finally:
        theirs.setLevel(level)


def loading_options(
    config: Any, held: str, stored: str, kind: torch.dtype, device: torch.device
) -> dict[str, Any]:
    """Return the options with which transformers loads a model held as ``held``; none where that is ``none``.

    4 bits are NF4 with quantised scales, as in QLoRA: 4.13 bits a number. Quantised matrices cannot be moved by transformers, so
    the model is loaded to ``device``.
    """
    if held == "none":
        return {}
    placed: dict[str, Any] = {"device_map": {"": str(device)}}
    if stored != "none":
        values = config.quantization_config
        if isinstance(values, dict):  # the folder may name a number format that this device lacks
            values["bnb_4bit_compute_dtype"] = str(kind).removeprefix("torch.")
        return placed
    if held == "int8":
        return placed | {"quantization_config": BitsAndBytesConfig(load_in_8bit=True)}
    return placed | {
        "quantization_config": BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=kind,
        )
    }


def check_files_finite(folder: Path, name: str) -> None:
    """Raise a ModelError where a number in the files of a model is NaN or infinite; quantised, it would be one like others."""
    for file in sorted(folder.glob("*.safetensors")):
        with safe_open(file, framework="pt") as tensors:
            for key in tensors.keys():  # noqa: SIM118 - it is no mapping
                tensor = tensors.get_tensor(key)
                if tensor.is_floating_point():
                    check_finite({key: tensor}, name)


class QuantisedLinear(FrozenLayer):
    """A frozen linear layer ``y = x W^T + b`` whose weight is held by bitsandbytes in 4 or 8 bits.

    Attributes:
        quantization: How the weight is held: ``nf4``, ``fp4`` or ``int8``.
    """

    def __init__(self, linear: nn.Linear) -> None:
        super().__init__(linear.in_features, linear.out_features, bias=False, device="meta")
        self.weight, self.bias = linear.weight, linear.bias
        state = getattr(linear.weight, "quant_state", None)
        self.quantization = "int8" if state is None else str(state.quant_type)
        self._state, self._scales = state, getattr(linear.weight, "SCB", None)
        # On the CPU bitsandbytes reads the scales of blocks by rows, which is wrong where blocks go over the ends of rows: there
        # the weight is dequantised as one long row.
        self._even = state is None or self.in_features % state.blocksize == 0
        self.train(linear.training)

    def product(self, x: Tensor) -> Tensor:
        """Return ``x W^T + b [..., out]`` without a graph."""
        bias = None if self.bias is None else self.bias.to(x.dtype)
        few = x.device.type != "cpu" and x.numel() <= FUSED_ROWS * x.shape[-1]
        # In float32, in which a model is proven, few rows are to be what many are.
        if few and x.dtype != torch.float32 and self._even and self._state is not None:
            from bitsandbytes import matmul_4bit

            return matmul_4bit(x, self.weight, bias=bias, quant_state=self._state)
        return F.linear(x, self.dense(x.dtype), bias)

    def transposed_product(self, y: Tensor) -> Tensor:
        """Return ``y W [..., in]`` without a graph: the gradient of x where ``y`` is that of the output."""
        return y @ self.dense(y.dtype)

    @torch.no_grad()
    def dense(self, kind: torch.dtype) -> Tensor:
        """Return the weight ``[out, in]`` that products are formed with, dequantised, in the number format ``kind``."""
        from bitsandbytes import functional

        if self._state is not None:
            state = copy(self._state)
            shape = tuple(state.shape)
            state.shape = torch.Size(shape if self._even else (1, shape[0] * shape[1]))
            return functional.dequantize_4bit(self.weight.data, state).to(kind).view(shape)
        return functional.int8_vectorwise_dequant(self.weight.data, self._scales).to(kind)


def hold(model: PreTrainedModel) -> None:
    """Replace the layers of bitsandbytes in ``model`` by :class:`QuantisedLinear`, and a quantised head by its dequantised self."""
    head = model.get_output_embeddings()
    for path, module in list(model.named_modules()):
        if type(module).__module__.partition(".")[0] == PACKAGE and isinstance(module, nn.Linear):
            held: nn.Linear = QuantisedLinear(module)
            if module is head:
                held = dense_linear(held, model.dtype)
            _replace(model, path, held)


def say_share(model: PreTrainedModel, name: str) -> None:
    """Warn where less than half of what the blocks hold is quantised: some architectures keep matrices that are no linear layers.

    Raises:
        ModelError: No layer is.
    """
    layers = [module for module in model.modules() if isinstance(module, QuantisedLinear)]
    ends = {model.get_input_embeddings(), model.get_output_embeddings()}
    outside = {id(parameter) for end in ends if end is not None for parameter in end.parameters()}
    held = {id(layer.weight) for layer in layers}
    plain = sum(p.numel() for p in model.parameters() if id(p) not in held | outside)
    few = sum(layer.in_features * layer.out_features for layer in layers)
    if not layers:
        raise ModelError(
            f"{name}: has no linear layer that {PACKAGE} quantises; set quantization: none, or give a model such as Llama or Qwen"
        )
    if few < plain:
        logger.warning(
            "%s: %.0f %% of the numbers in its blocks are quantised; the others are no linear layers that %s knows, and take as "
            "much memory as without",
            name,
            100 * few / (few + plain),
            PACKAGE,
        )


def dense_linear(layer: FrozenLayer, kind: torch.dtype) -> nn.Linear:
    """Return a plain layer with the dequantised weight of ``layer`` in the number format ``kind``."""
    plain = nn.Linear(layer.in_features, layer.out_features, bias=False, device="meta")
    plain.weight = nn.Parameter(layer.dense(kind), requires_grad=False)
    plain.bias = layer.bias
    plain.train(layer.training)
    return plain


def is_quantised(model: nn.Module) -> bool:
    """Return whether some matrix of ``model`` is held in fewer bits than its number format has."""
    return any(isinstance(module, QuantisedLinear) for module in model.modules())


@contextmanager
def dequantised(model: PreTrainedModel) -> Iterator[None]:
    """Hold all matrices of ``model`` in its number format inside the context, as a plain model that can be saved.

    Costs the memory of the whole model in that format.
    """
    layers = {path: module for path, module in model.named_modules() if isinstance(module, QuantisedLinear)}
    quantiser, config = getattr(model, "hf_quantizer", None), model.config
    settings = getattr(config, "quantization_config", None)
    try:
        for path, layer in layers.items():
            _replace(model, path, FrozenLinear(dense_linear(layer, model.dtype), prepack=False))
        model.hf_quantizer = None
        if settings is not None:
            del config.quantization_config
        yield
    finally:
        for path, layer in layers.items():
            _replace(model, path, layer)
        model.hf_quantizer = quantiser
        if settings is not None:
            config.quantization_config = settings


def _replace(model: nn.Module, path: str, module: nn.Module) -> None:
    parent, _, leaf = path.rpartition(".")
    setattr(model.get_submodule(parent), leaf, module)
