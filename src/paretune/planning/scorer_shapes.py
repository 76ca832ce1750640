"""The shape of a scorer's model for a plan, which fetches nothing: by its files where it is on this machine, else by its name."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import prod
from pathlib import Path

from paretune.core.errors import ModelError, reason_of
from paretune.core.files import expanded
from paretune.core.tensor_file import TensorEntry, tensor_entries
from paretune.models.quantised import stored_as
from paretune.planning.shapes import KNOWN, Shape

ENCODER = Shape("encoder", 384, 1024, 6, 12, 12, 32, 30_522, True)
"""The sentence encoder under Bradley-Terry heads, all-MiniLM-L6-v2: its two plain feed-forward matrices count as three narrower."""
UNITS = {"b": 1e9, "m": 1e6}
STATED = re.compile(r"(?<![a-z0-9.])(\d+(?:\.\d+)?)([bm])(?![a-z0-9])")
"""A number of parameters as names of models have it, such as 8B, 0.6b or 135m."""
BACKBONES = {
    "gpt2-medium": 355e6,
    "gpt2-large": 774e6,
    "gpt2-xl": 1558e6,
    "gpt2": 124e6,
    "deberta-v3-xsmall": 71e6,
    "deberta-v3-small": 142e6,
    "deberta-v3-base": 184e6,
    "deberta-v3-large": 435e6,
    "distilroberta-base": 82e6,
    "distilbert-base": 67e6,
    "roberta-base": 125e6,
    "roberta-large": 355e6,
    "longformer-base": 149e6,
    "longformer-large": 435e6,
}
"""Parameters of models whose names state none, by their pages on the hub."""
FORMATS = {"F32": "float32"}
"""Number format of a file -> that in which a plan counts it; all others are half as large."""


@dataclass(frozen=True)
class Found:
    """What is known of a scorer's model.

    Attributes:
        shape: Its shape; with the number of parameters that its files hold, where these are there.
        dtype: Number format of its files, None where they are not there.
        note: What was assumed, for people; empty where nothing was.
    """

    shape: Shape
    dtype: str | None
    note: str


def find(name: str, like: Shape) -> Found:
    """Return what is known of a model; nothing is fetched.

    Args:
        name: Folder, hub name, or a size such as ``8b``.
        like: Shape that is taken where neither files nor name say anything.

    Raises:
        ModelError: Its folder is damaged.
    """
    if name.lower() in KNOWN:
        return Found(KNOWN[name.lower()], None, "")
    folder = _folder(name)
    if folder is not None:
        return _of_folder(folder, name)
    parameters, by = _stated(name)
    if not parameters:
        return Found(
            replace(like, name=name),
            None,
            f"{name} is not on this machine, and its name states no size: it is taken to be as large as {like.name}",
        )
    return Found(
        _with_parameters(_nearest(parameters), parameters, name),
        None,
        f"{name} is not on this machine: by its name it has {parameters / 1e9:.3g} billion parameters{by}",
    )


def _folder(name: str) -> Path | None:
    """Return the folder of a model that is on this machine: one by its path, or in the hub's cache."""
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    folder = expanded(name, "model")
    if folder.is_dir():
        return folder
    try:
        cached = try_to_load_from_cache(name, "config.json")
    except HFValidationError:
        return None
    return Path(cached).parent if isinstance(cached, str) else None


def _of_folder(folder: Path, name: str) -> Found:
    from transformers import AutoConfig

    try:
        config = AutoConfig.from_pretrained(str(folder), trust_remote_code=False)
        text = config.get_text_config()
        hidden, heads = int(text.hidden_size), int(text.num_attention_heads)
        layers, vocabulary = int(text.num_hidden_layers), int(text.vocab_size)
        inner = int(getattr(text, "intermediate_size", None) or 4 * hidden)
    except Exception as error:  # transformers raises anything for a damaged config
        raise ModelError(
            f"{folder}: a plan cannot read its config.json ({reason_of(error)}); copy or download the model again"
        ) from error
    entries: dict[str, TensorEntry] = {}
    for file in sorted(folder.glob("*.safetensors")):
        entries |= tensor_entries(file)
    stored = stored_as(config, str(folder))
    kv = getattr(text, "num_key_value_heads", None) or heads
    width = getattr(text, "head_dim", None) or hidden // heads
    shape = Shape(name, hidden, inner, layers, heads, kv, width, vocabulary, True, stored)
    if not entries or stored != "none":  # numbers of packed matrices are no parameters
        return Found(
            shape, None, "" if entries else f"{folder} holds no weights yet: its config tells its size"
        )
    return Found(
        _with_parameters(shape, sum(prod(entry.shape) for entry in entries.values()), name),
        _format(entries),
        "",
    )


def _format(entries: Mapping[str, TensorEntry]) -> str:
    largest = max(entries.values(), key=lambda entry: prod(entry.shape))
    return FORMATS.get(largest.form, "bfloat16")


def _stated(name: str) -> tuple[float, str]:
    """Return the parameters that a name states, or those of a model that it names, and how this is known; 0 for neither."""
    text = name.rpartition("/")[2].lower()
    found = STATED.findall(re.sub(r"[-_ ]", " ", text))
    if found:
        number, unit = found[-1]
        return float(number) * UNITS[unit], ""
    for backbone, parameters in sorted(BACKBONES.items(), key=lambda one: -len(one[0])):
        if backbone in text:
            return parameters, f", those of {backbone}"
    return 0.0, ""


def _nearest(parameters: float) -> Shape:
    return min(
        KNOWN.values(), key=lambda shape: max(shape.parameters / parameters, parameters / shape.parameters)
    )


def _with_parameters(shape: Shape, parameters: float, name: str) -> Shape:
    """Return a shape whose feed-forward layers are as wide as so many parameters make them; the head is the embedding."""
    narrow = replace(shape, name=name, intermediate=1, tied=True)
    each = 3 * shape.hidden * shape.layers
    return replace(narrow, intermediate=max(1, round((parameters - narrow.parameters) / each) + 1))
