"""The shape of a transformer, which is all that its cost depends on: from its configuration, or a typical one by its size."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from types import SimpleNamespace
from typing import Any

from paretune.core.errors import ModelError, reason_of, suggest
from paretune.core.files import expanded
from paretune.models.gguf_once import readable_at
from paretune.models.hub_reach import check_hub
from paretune.models.quantised import stored_as

ALL_LINEAR = "all-linear"


@dataclass(frozen=True)
class Shape:
    """A dense decoder-only transformer with gated feed-forward layers (Llama, Mistral, Qwen, ...).

    Attributes:
        name: Name as the user gave it.
        hidden: Width d of the residual stream.
        intermediate: Width of the feed-forward layers.
        layers: Number of layers.
        heads, kv_heads: Numbers of heads of queries, and of keys and values.
        head_dim: Width of a head.
        vocabulary: Number V of rows of the embedding.
        tied: Whether the head is the embedding.
        stored: How its folder holds the matrices of the blocks: ``none`` in a number format, or quantised.
    """

    name: str
    hidden: int
    intermediate: int
    layers: int
    heads: int
    kv_heads: int
    head_dim: int
    vocabulary: int
    tied: bool
    stored: str = "none"

    @property
    def linears(self) -> dict[str, tuple[int, int]]:
        """(in, out) of the linear layers of one block."""
        d, f, q, kv = self.hidden, self.intermediate, self.queries, self.keys
        return {
            "q_proj": (d, q),
            "k_proj": (d, kv),
            "v_proj": (d, kv),
            "o_proj": (q, d),
            "gate_proj": (d, f),
            "up_proj": (d, f),
            "down_proj": (f, d),
        }

    @property
    def queries(self) -> int:
        """Width of all queries together."""
        return self.heads * self.head_dim

    @property
    def keys(self) -> int:
        """Width of all keys together, and of all values."""
        return self.kv_heads * self.head_dim

    @property
    def matrices(self) -> int:
        """Parameters of the linear layers: what every token is multiplied with."""
        return self.layers * sum(inside * out for inside, out in self.linears.values())

    @property
    def parameters(self) -> int:
        """All parameters, embeddings and norms included (biases are left out)."""
        norms = (2 * self.layers + 1) * self.hidden
        return self.matrices + norms + (1 if self.tied else 2) * self.vocabulary * self.hidden

    def targeted(self, targets: Sequence[str]) -> list[tuple[int, int]]:
        """Return (in, out) of the linear layers of one block that ``train.targets`` names, in whatever blocks.

        Raises:
            ModelError: A name that is none of them.
        """
        names = [target.partition("@")[0] for target in targets]
        if ALL_LINEAR in names:
            return list(self.linears.values())
        leaves = [name.rpartition(".")[2] for name in names]
        for leaf in leaves:
            if leaf not in self.linears:
                raise ModelError(
                    f"train.targets: a plan knows no linear layer {leaf!r}; {suggest(leaf, self.linears)}, or {ALL_LINEAR}"
                )
        return [size for name, size in self.linears.items() if name in leaves]


KNOWN: dict[str, Shape] = {
    "smollm2-135m": Shape("smollm2-135m", 576, 1536, 30, 9, 3, 64, 49_152, True),
    "0.5b": Shape("0.5b", 896, 4864, 24, 14, 2, 64, 151_936, True),
    "0.6b": Shape("0.6b", 1024, 3072, 28, 16, 8, 128, 151_936, True),
    "1b": Shape("1b", 2048, 8192, 16, 32, 8, 64, 128_256, True),
    "1.7b": Shape("1.7b", 2048, 6144, 28, 16, 8, 128, 151_936, True),
    "3b": Shape("3b", 3072, 8192, 28, 24, 8, 128, 128_256, True),
    "4b": Shape("4b", 2560, 9728, 36, 32, 8, 128, 151_936, True),
    "7b": Shape("7b", 3584, 18_944, 28, 28, 4, 128, 152_064, False),
    "8b": Shape("8b", 4096, 14_336, 32, 32, 8, 128, 128_256, False),
    "14b": Shape("14b", 5120, 17_408, 40, 40, 8, 128, 151_936, False),
    "32b": Shape("32b", 5120, 25_600, 64, 64, 8, 128, 151_936, False),
    "70b": Shape("70b", 8192, 28_672, 80, 64, 8, 128, 128_256, False),
}
"""Typical shapes by the config.json of models: the embedded one; Qwen2.5-0.5B and -7B; Qwen3-0.6B, -1.7B, -4B, -14B and -32B;
Llama-3.2-1B and -3B, Llama-3.1-8B and -70B."""


def shape_of(name: str) -> Shape:
    """Return the shape of a size that is known, or of a model by its configuration; no parameters are read.

    Args:
        name: A size such as ``8b``, the embedded name, a folder, a ``config.json``, a GGUF file, or a hub name that can be reached.

    Raises:
        ModelError: None of these, or a configuration that is not of a dense decoder.
    """
    if (known := KNOWN.get(name.lower())) is not None:
        return known
    return of_config(name, _read(name))


def of_config(name: str, values: Mapping[str, Any]) -> Shape:
    """Return the shape that a model's configuration (``config.json``) states.

    Raises:
        ModelError: It lacks a size, or is of a mixture of experts.
    """
    experts = next((key for key in values if "expert" in key and isinstance(values[key], int)), None)
    if experts is not None and values[experts] > 1:
        raise ModelError(
            f"{name}: a plan counts dense models, and this one has {experts} = {values[experts]}"
        )
    keys = ("hidden_size", "intermediate_size", "num_hidden_layers", "num_attention_heads", "vocab_size")
    for key in keys:
        if not isinstance(values.get(key), int):
            raise ModelError(
                f"{name}: its configuration states no {key}; a plan knows decoders like Llama, or {known()}"
            )
    hidden, intermediate, layers, heads, vocabulary = (values[key] for key in keys)
    return Shape(
        name,
        hidden,
        intermediate,
        layers,
        heads,
        values.get("num_key_value_heads") or heads,
        values.get("head_dim") or hidden // heads,
        vocabulary,
        bool(values.get("tie_word_embeddings", False)),
        stored_as(SimpleNamespace(**values), name),
    )


def known() -> str:
    """Return the names that need no configuration, for messages."""
    return ", ".join(KNOWN)


def _read(name: str) -> dict[str, Any]:
    from transformers import AutoConfig

    path = expanded(name, "model")
    try:
        if path.exists():
            folder, options = readable_at(path)
            config = AutoConfig.from_pretrained(folder, **options)
        else:
            check_hub(name)
            config = AutoConfig.from_pretrained(name)
        # Of a model that reads pictures too, the decoder of text counts.
        values = dict(config.get_text_config().to_dict())
        stored = getattr(config, "quantization_config", None)
        return values if stored is None else {**values, "quantization_config": stored}
    except Exception as error:  # transformers raises anything for a damaged config
        raise ModelError(
            f"unknown model {name!r}: {reason_of(error)}. Expected one of {known()}, a folder with config.json, a "
            ".gguf file, or a hub name that can be reached from here"
        ) from error
