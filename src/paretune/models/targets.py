"""Which linear layers of a model are adapted."""

from __future__ import annotations

import re
import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

from torch import nn

from paretune.core.errors import ModelError
from paretune.models.gated_linear import GatedLinear

if TYPE_CHECKING:
    from transformers import PreTrainedModel


def linear_layers(model: PreTrainedModel) -> dict[str, nn.Linear]:
    """Return path -> nn.Linear, without the output embeddings (often tied to the input's), and without towers for pictures."""
    modules = dict(model.named_modules())
    if any(isinstance(module, GatedLinear) for module in modules.values()):
        raise ModelError(
            "the model has gated layers already: something else works with it, such as a training in another thread. Use one "
            "thread at a time; or detach what is attached, or stack the adapters and attach once"
        )
    head = model.get_output_embeddings()
    composite = model.config.get_text_config() is not model.config
    inside = set(model.get_decoder().modules() if composite else modules.values())
    return {
        path: module
        for path, module in modules.items()
        if isinstance(module, nn.Linear)
        and module in inside
        and module is not head
        and path.rpartition(".")[2] != "lm_head"
    }


def target_shapes(model: PreTrainedModel, targets: Sequence[str]) -> dict[str, tuple[int, int]]:
    """Return module path -> (out, in) of the linear layers that ``targets`` name, as in :meth:`Steering.attach`."""
    linears = targeted(linear_layers(model), targets)
    return {path: (linear.out_features, linear.in_features) for path, linear in linears.items()}


def targeted(linears: Mapping[str, nn.Linear], targets: Sequence[str]) -> dict[str, nn.Linear]:
    """Return the layers that ``targets`` name, in the model's order.

    Raises:
        ModelError: A target that names none, or blocks that cannot be read.
    """
    targets = [targets] if isinstance(targets, str) else list(targets)
    chosen = set()
    for target in targets:
        name, _, span = target.partition("@")
        matches = {path for path in linears if name == "all-linear" or f".{path}".endswith(f".{name}")}
        if not matches:
            raise ModelError(f"no linear layer is called {name!r}; {layer_names(linears)}")
        if span:
            blocks = _blocks(target, span)
            matches = {path for path in matches if block_of(path) in blocks}
            if not matches:
                last = max(map(block_of, linears))
                raise ModelError(f"{target!r} names no layer of this model, whose blocks are 0 to {last}")
        chosen |= matches
    if not chosen:
        raise ModelError(f"no target modules given; {layer_names(linears)}, or 'all-linear'")
    return {path: linear for path, linear in linears.items() if path in chosen}


def block_of(path: str) -> int:
    """Return the number of the block that a module stands in, -1 outside of all."""
    number = re.search(r"\.(\d+)\.", path)
    return int(number[1]) if number else -1


def _blocks(target: str, span: str) -> range:
    """Return the blocks of a target such as ``q_proj@15-`` or ``q_proj@0-14``."""
    ends = re.fullmatch(r"(\d+)-(\d*)", span)
    if ends is None:
        raise ModelError(
            f"target {target!r}: blocks are given as FIRST- or FIRST-LAST, such as all-linear@15-"
        )
    return range(int(ends[1]), int(ends[2]) + 1 if ends[2] else sys.maxsize)


def layer_names(linears: Mapping[str, nn.Linear]) -> str:
    """Return the names of the linear layers, for messages."""
    names = sorted({path.rpartition(".")[2] for path in linears})
    return f"the model's linear layers are called {', '.join(names) if names else '(none are nn.Linear)'}"
