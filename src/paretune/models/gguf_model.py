"""A base model in memory as a GGUF file for llama.cpp: its settings, tokenizer, chat template and parameters.

The numbers are those that a policy is trained on and measured with: a model that is held in bfloat16 or quantised is written so.
What llama.cpp would compute otherwise is refused by name. Where it does so only in long texts, the file states fewer positions.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers.modeling_rope_utils import ROPE_INIT_FUNCTIONS

from paretune.core.errors import ModelError
from paretune.models.gguf_file import BaseForm, Entry, write_tensors
from paretune.models.gguf_lora import ARCHITECTURES, check_architecture, paired_rows, rotated_heads
from paretune.models.gguf_vocabulary import Vocabulary, vocabulary_of
from paretune.models.language_model import LanguageModel
from paretune.models.quantised import QuantisedLinear

ACTIVATIONS = {"GEMMA3": "gelu_pytorch_tanh"}
"""Activation of an architecture in llama.cpp, where it is not SiLU."""
BIASED = {
    "LLAMA": ("q_proj", "k_proj", "v_proj", "o_proj", "gate_proj", "up_proj", "down_proj"),
    "QWEN2": ("q_proj", "k_proj", "v_proj"),
}
"""Layers that may have a bias in llama.cpp."""
WINDOWED = 6
"""Every sixth layer of Gemma 3 sees all of a text in llama.cpp."""
LARGEST_GEMMA = 62
"""Layers of the one Gemma 3 whose attention is scaled otherwise."""
_FORMS: Mapping[torch.dtype, BaseForm] = {torch.float32: "f32", torch.float16: "f16", torch.bfloat16: "bf16"}


@dataclass(frozen=True)
class ModelFile:
    """A base model that can be written.

    Attributes:
        form: Number format of its matrices.
        vocabulary: Its tokenizer.
        positions: How long a text may be in llama.cpp.
        notes: What a user has to know.
    """

    lm: LanguageModel
    form: BaseForm
    vocabulary: Vocabulary
    positions: int
    notes: tuple[str, ...]

    @classmethod
    def of(cls, lm: LanguageModel, form: BaseForm) -> ModelFile:
        """Return how a model is written, or say why it cannot be; nothing is written yet.

        Args:
            lm: The model, which was not loaded from a GGUF file.
            form: Number format of its matrices; ``copy`` is the one in which it is held.

        Raises:
            ModelError: llama.cpp would compute or read something else than the model does, or is not known to do the same.
        """
        config = lm.model.config
        check_architecture(config)
        _check_settings(config, lm.name)
        vocabulary = vocabulary_of(lm)
        positions, why = _positions(config)
        notes = [*vocabulary.notes]
        if positions < int(config.max_position_embeddings):
            notes.append(
                f"the file states {positions} positions, as llama.cpp knows no {why}: longer texts are read otherwise"
            )
        return cls(
            lm, _FORMS[lm.model.dtype] if form == "copy" else form, vocabulary, positions, tuple(notes)
        )

    def write(self, target: Path) -> None:
        """Write the file; one matrix at a time is in memory twice.

        Raises:
            ModelError: A parameter has no name in llama.cpp, or is too large for f16.
        """
        import gguf

        config = self.lm.model.config
        kind = gguf.MODEL_ARCH[ARCHITECTURES[config.model_type]]
        entries = [*_rope_entries(config), *_entries(self.lm, kind)]
        writer = gguf.GGUFWriter(target, gguf.MODEL_ARCH_NAMES[kind])
        writer.add_type(gguf.GGUFType.MODEL)
        _add_settings(writer, config, self.positions)
        writer.add_vocab_size(len(self.vocabulary.tokens))
        self.vocabulary.add_to(writer)
        write_tensors(writer, entries, self.form)


def _check_settings(config: Any, name: str) -> None:
    """Raise a ModelError for a setting with which llama.cpp computes something else."""
    kind = ARCHITECTURES[config.model_type]
    rope, head = _rope(config), _head(config)
    wanted = ACTIVATIONS.get(kind, "silu")
    activation = config.to_dict().get("hidden_activation") or config.hidden_act
    found = []
    if activation != wanted:
        found.append(f"activation {activation} (it has {wanted})")
    if rope["rope_type"] not in _KNOWN_ROPE[kind]:
        found.append(f"positions of the type {rope['rope_type']}")
    if any(key in rope for key in ("mscale", "mscale_all_dim")) or not rope.get("truncate", True):
        found.append("positions of the type yarn with mscale, mscale_all_dim or truncate")
    if kind != "PHI3" and _share(config) != 1:
        found.append(f"positions on {_share(config):g} of each head")
    if kind == "PHI3" and head * config.num_attention_heads != config.hidden_size:
        found.append(
            f"heads of {head} numbers, {config.num_attention_heads} of which are not as long as a state"
        )
    if kind == "GEMMA3":
        found += _of_gemma(config)
    if found:
        raise ModelError(
            f"{name}: llama.cpp's {kind.lower()} has no {', no '.join(found)}; the base model is not written as GGUF, leave "
            "--with-base out"
        )


def _of_gemma(config: Any) -> Iterator[str]:
    """Yield settings of Gemma 3 that llama.cpp does not have."""
    scale = config.query_pre_attn_scalar
    largest = config.num_hidden_layers == LARGEST_GEMMA
    if scale != (config.hidden_size // config.num_attention_heads if largest else _head(config)):
        yield f"query_pre_attn_scalar {scale}"
    for number, layer in enumerate(config.layer_types, 1):
        if (layer == "full_attention") != (number % WINDOWED == 0):
            yield f"{layer} in layer {number}"
            break
    local = config.rope_parameters["sliding_attention"]
    if local["rope_type"] != "default":
        yield f"positions of the type {local['rope_type']} in a window"
    for cap in ("attn_logit_softcapping", "final_logit_softcapping"):
        if config.to_dict().get(cap):
            yield cap
    if config.to_dict().get("use_bidirectional_attention"):
        yield "use_bidirectional_attention"


_ALWAYS = ("default", "linear", "dynamic")
_KNOWN_ROPE = {
    "LLAMA": (*_ALWAYS, "yarn", "llama3"),
    "QWEN2": (*_ALWAYS, "yarn"),
    "QWEN3": (*_ALWAYS, "yarn"),
    "PHI3": (*_ALWAYS, "longrope"),
    "GEMMA3": ("default", "linear"),
}


def _rope(config: Any) -> Mapping[str, Any]:
    """Return the settings of positions, of the layers that see all of a text."""
    found: Mapping[str, Any] = config.rope_parameters
    return found.get("full_attention", found)


def _head(config: Any) -> int:
    """Return the numbers of a head."""
    return int(config.to_dict().get("head_dim") or config.hidden_size // config.num_attention_heads)


def _original(config: Any) -> int:
    """Return the positions that a model had before they were scaled."""
    facts = config.to_dict()
    return int(
        _rope(config).get("original_max_position_embeddings") or facts["original_max_position_embeddings"]
    )


def _share(config: Any) -> float:
    """Return the share of a head that positions turn."""
    return float(
        _rope(config).get("partial_rotary_factor") or config.to_dict().get("partial_rotary_factor") or 1.0
    )


def _positions(config: Any) -> tuple[int, str]:
    """Return how long a text may be for llama.cpp to compute the same, and what it lacks for longer ones."""
    most, rope = int(config.max_position_embeddings), _rope(config)
    limits = [(most, "")]
    if rope["rope_type"] == "longrope":
        limits.append(
            (
                _original(config),
                "change of the positions with the length of a text",
            )
        )
    facts = config.to_dict()
    kinds = facts.get("layer_types") or ["sliding_attention"]
    window = facts.get("sliding_window")
    if config.model_type != "gemma3_text" and window and "sliding_attention" in kinds:
        limits.append((int(window), f"sliding window in {ARCHITECTURES[config.model_type].lower()}"))
    return min(limits)


def _add_settings(writer: Any, config: Any, positions: int) -> None:
    """Add the model's settings to a file."""
    import gguf

    rope, head = _rope(config), _head(config)
    writer.add_context_length(positions)
    writer.add_embedding_length(config.hidden_size)
    writer.add_block_count(config.num_hidden_layers)
    writer.add_feed_forward_length(config.intermediate_size)
    writer.add_head_count(config.num_attention_heads)
    writer.add_head_count_kv(config.num_key_value_heads)
    writer.add_key_length(head)
    writer.add_value_length(head)
    writer.add_layer_norm_rms_eps(config.rms_norm_eps)
    writer.add_rope_dimension_count(int(head * _share(config)))
    writer.add_rope_freq_base(float(rope["rope_theta"]))
    if config.model_type == "gemma3_text":
        writer.add_sliding_window(int(config.sliding_window))
        writer.add_rope_freq_base_swa(float(config.rope_parameters["sliding_attention"]["rope_theta"]))
    kind = rope["rope_type"]
    if kind == "linear":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        writer.add_rope_scaling_factor(float(rope["factor"]))
    elif kind == "yarn":
        factor = float(rope["factor"])
        writer.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        writer.add_rope_scaling_factor(factor)
        writer.add_rope_scaling_orig_ctx_len(_original(config))
        writer.add_rope_scaling_yarn_beta_fast(float(rope.get("beta_fast") or 32))
        writer.add_rope_scaling_yarn_beta_slow(float(rope.get("beta_slow") or 1))
        if rope.get("attention_factor"):  # llama.cpp multiplies the usual one by it
            writer.add_rope_scaling_attn_factors(
                float(rope["attention_factor"]) / (1 + 0.1 * math.log(factor))
            )
    elif kind == "longrope":
        writer.add_rope_scaling_type(gguf.RopeScalingType.LONGROPE)
        writer.add_rope_scaling_orig_ctx_len(_original(config))
        writer.add_rope_scaling_attn_factors(
            float(ROPE_INIT_FUNCTIONS["longrope"](config, torch.device("cpu"), seq_len=1)[1])
        )


def _rope_entries(config: Any) -> Iterator[Entry]:
    """Yield the factors by which llama.cpp divides the frequencies of positions."""
    rope = _rope(config)
    if rope["rope_type"] == "llama3":
        scaled = ROPE_INIT_FUNCTIONS["llama3"](config, torch.device("cpu"))[0].double()
        steps = torch.arange(0, _head(config), 2, dtype=torch.float64) / _head(config)
        yield _vector("rope_freqs.weight", float(rope["rope_theta"]) ** -steps / scaled)
    if rope["rope_type"] == "longrope":
        for kind in ("long", "short"):
            yield _vector(f"rope_factors_{kind}.weight", torch.tensor(rope[f"{kind}_factor"]))


def _vector(name: str, values: Tensor) -> Entry:
    return Entry(name, tuple(values.shape), values.float().numpy)


def _entries(lm: LanguageModel, kind: Any) -> Iterator[Entry]:
    """Yield the parameters of a model, each once.

    Raises:
        ModelError: llama.cpp has no name for one.
    """
    import gguf

    config = lm.model.config
    architecture = ARCHITECTURES[config.model_type]
    names = gguf.get_tensor_name_map(kind, config.num_hidden_layers)
    shift = 1.0 if architecture == "GEMMA3" else 0.0
    seen: set[int] = set()
    for path, module in lm.model.named_modules():
        for leaf, parameter in module.named_parameters(recurse=False):
            if id(parameter) in seen:
                continue
            seen.add(id(parameter))
            full, layer = f"{path}.{leaf}", path.rpartition(".")[2]
            there = names.get_name(full, try_suffixes=(".weight", ".bias"))
            if there is None or (leaf == "bias" and layer not in BIASED.get(architecture, ())):
                raise ModelError(
                    f"{lm.name}: llama.cpp's {architecture.lower()} has no {full}; the base model is not written as GGUF, leave "
                    "--with-base out"
                )
            heads = rotated_heads(path, config) if architecture == "LLAMA" else 0
            shape = (
                (module.out_features, module.in_features)
                if _is_packed(module, leaf)
                else tuple(parameter.shape)
            )
            added = shift if full.endswith("norm.weight") else 0.0
            yield Entry(there, shape, partial(_numbers, _reader(module, leaf, lm.model.dtype), heads, added))


def _is_packed(module: nn.Module, leaf: str) -> bool:
    return isinstance(module, QuantisedLinear) and leaf == "weight"


def _reader(module: nn.Module, leaf: str, dtype: torch.dtype) -> Callable[[], Tensor]:
    """Return what reads a parameter of a module, dequantised."""
    if isinstance(module, QuantisedLinear) and leaf == "weight":
        return partial(module.dense, dtype)
    return partial(getattr, module, leaf)


def _numbers(read: Callable[[], Tensor], heads: int, added: float) -> np.ndarray:
    """Return a parameter in float32 as llama.cpp has it: rows of rotated heads in pairs, Gemma's norms with their one added."""
    values: np.ndarray = read().detach().float().cpu().numpy()
    if heads:
        values = paired_rows(values, heads)
    return values + np.float32(added) if added else values
