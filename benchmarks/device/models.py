"""Models of real shapes whose weights are random, made on the device: nothing is downloaded, and nothing is written to the disk."""

from __future__ import annotations

import math
from typing import Any

import torch
from tokenizers import Tokenizer, models
from torch import nn
from transformers import (
    AutoModelForCausalLM,
    LlamaConfig,
    PretrainedConfig,
    PreTrainedModel,
    PreTrainedTokenizerFast,
    Qwen2Config,
    Qwen3Config,
)

from benchmarks.device.rows import NotHereError
from paretune.models.chat_template import PLAIN_TEMPLATE
from paretune.models.language_model import LanguageModel
from paretune.models.packing import prepare
from paretune.planning.shapes import Shape, of_config

SIZES: dict[str, tuple[type[PretrainedConfig], dict[str, Any]]] = {
    "tiny": (
        LlamaConfig,
        {
            "hidden_size": 128,
            "intermediate_size": 256,
            "num_hidden_layers": 2,
            "num_attention_heads": 4,
            "num_key_value_heads": 2,
            "vocab_size": 512,
            "tie_word_embeddings": True,
        },
    ),
    # Qwen2.5-0.5B
    "0.5b": (
        Qwen2Config,
        {
            "hidden_size": 896,
            "intermediate_size": 4864,
            "num_hidden_layers": 24,
            "num_attention_heads": 14,
            "num_key_value_heads": 2,
            "vocab_size": 151_936,
            "tie_word_embeddings": True,
        },
    ),
    # Qwen3-4B
    "4b": (
        Qwen3Config,
        {
            "hidden_size": 2560,
            "intermediate_size": 9728,
            "num_hidden_layers": 36,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "head_dim": 128,
            "vocab_size": 151_936,
            "tie_word_embeddings": True,
        },
    ),
    # Llama-3.1-8B
    "8b": (
        LlamaConfig,
        {
            "hidden_size": 4096,
            "intermediate_size": 14_336,
            "num_hidden_layers": 32,
            "num_attention_heads": 32,
            "num_key_value_heads": 8,
            "vocab_size": 128_256,
            "tie_word_embeddings": False,
        },
    ),
}
"""Name -> class and settings of the configuration."""

POSITIONS = 8192


def config_of(size: str) -> PretrainedConfig:
    """Return the configuration of a size."""
    kind, settings = SIZES[size]
    return kind(**settings, max_position_embeddings=POSITIONS, bos_token_id=0, eos_token_id=1)


def shape_of(size: str) -> Shape:
    """Return the shape of a size, as the plan knows it."""
    return of_config(size, config_of(size).to_dict())


def random_model(size: str, device: torch.device, kind: torch.dtype, nf4: bool = False) -> PreTrainedModel:
    """Return a model with random weights on ``device``; with ``nf4`` its matrices are quantised to 4 bits one after the other.

    Raises:
        NotHereError: bitsandbytes is not installed.
    """
    config = config_of(size)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=kind)
    generator = torch.Generator(device).manual_seed(0)
    head = model.get_output_embeddings()
    for path, module in list(model.named_modules()):
        for name, parameter in list(module.named_parameters(recurse=False)):
            value = _value(parameter, name, generator)
            module.register_parameter(name, nn.Parameter(value, requires_grad=False))
        if nf4 and isinstance(module, nn.Linear) and module is not head:
            parent, _, leaf = path.rpartition(".")
            setattr(model.get_submodule(parent), leaf, _in_4_bits(module, kind))
    model.tie_weights()
    decoder = model.get_decoder()
    with device:
        decoder.rotary_emb = type(decoder.rotary_emb)(config)
    return model.eval()


def _value(parameter: nn.Parameter, name: str, generator: torch.Generator) -> torch.Tensor:
    """Return the values of a parameter: norms are ones, and products keep the size of what goes through them."""
    value = torch.empty(parameter.shape, dtype=parameter.dtype, device=generator.device)
    if value.dim() > 1:
        return value.normal_(std=1 / math.sqrt(value.shape[1]), generator=generator)
    return value.fill_(1.0) if name == "weight" else value.normal_(std=0.1, generator=generator)


def _in_4_bits(linear: nn.Linear, kind: torch.dtype) -> nn.Linear:
    try:
        from bitsandbytes.nn import Linear4bit, Params4bit
    except ImportError as error:
        raise NotHereError(f"bitsandbytes is not installed ({error})") from error
    layer = Linear4bit(
        linear.in_features,
        linear.out_features,
        bias=linear.bias is not None,
        compute_dtype=kind,
        compress_statistics=True,
        quant_type="nf4",
        device="meta",
    )
    weight = Params4bit(linear.weight.data, requires_grad=False, compress_statistics=True, quant_type="nf4")
    layer.weight, layer.bias = weight.to(linear.weight.device), linear.bias
    return layer


def language_model(
    size: str, device: torch.device, kind: torch.dtype, nf4: bool = False, attention: str = "auto"
) -> LanguageModel:
    """Return a random model as the library uses it: prepared for packed batches, with a tokenizer of a few words."""
    model = random_model(size, device, kind, nf4)
    if nf4:
        from paretune.models.quantised import hold

        hold(model)
    prepare(model, attention=attention)
    return LanguageModel(model, tokenizer(), f"random {size}", f"random-{size}-{kind}-{nf4}")


def tokenizer() -> PreTrainedTokenizerFast:
    """Return a tokenizer that is enough for a model that reads token ids."""
    words = {word: number for number, word in enumerate(["<s>", "</s>", "a", "b"])}
    made = PreTrainedTokenizerFast(
        tokenizer_object=Tokenizer(models.WordLevel(words, unk_token="a")),
        bos_token="<s>",
        eos_token="</s>",
        pad_token="</s>",
    )
    made.chat_template = PLAIN_TEMPLATE
    return made
