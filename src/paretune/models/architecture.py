"""What an architecture does that a packed batch cannot: refused by name, and proven by the model's own forward pass.

A model that only nearly fits is the danger. Its log-probabilities are off by less than bfloat16 rounds, and it trains on wrong
ones. So what is known to be wrong is refused by its name; and what is not known is proven in float32, relative to how far the
log-probabilities of a position spread, with a sliding window so short that the proof's texts are longer.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from transformers import MODEL_FOR_CAUSAL_LM_MAPPING, PreTrainedConfig, PreTrainedModel

from paretune.core.errors import ModelError
from paretune.models.frozen_linear import FrozenLinear

ATTENTIONS = ("full_attention", "sliding_attention")
"""Kinds of layers that packed batches know."""
LAYERS = {
    "conv": "convolution",
    "linear_attention": "recurrence",
    "hybrid": "recurrence",
    "chunked_attention": "attention in chunks",
}
"""Other kinds, in plain words; what is not listed is called by its own name."""
CAPS = ("attn_logit_softcapping", "final_logit_softcapping", "attention_logit_cap", "final_logit_soft_cap")
SCALES = ("logit_scale", "logits_scaling", "lm_head_multiplier", "output_multiplier_scale")
"""Keys of configurations that state a soft cap, and that state a factor of the logits."""
_RECURRENT = re.compile(r"mamba|gateddelta|rwkv|lstm|rglru|recurrent|retention", re.IGNORECASE)
"""Names of modules that carry a state from token to token."""
_STATES = (".A_log", ".time_decay")
"""Names of parameters of such a state."""
_CROSS = re.compile(r"(^|\.)(encoder_attn|crossattention|cross_attn|cross_attention)(\.|$)", re.IGNORECASE)
WINDOW = 3
"""Length of sliding windows while an architecture is proven."""
DEEP = 2
"""Layers that are proven at least in float32."""


def check_decoder(config: PreTrainedConfig, name: str) -> None:
    """Refuse a model for whose configuration transformers has no decoder of text.

    Raises:
        ModelError: It has none, as for some models that read pictures or sound too.
    """
    if type(config) not in MODEL_FOR_CAUSAL_LM_MAPPING:
        raise ModelError(
            f"{name}: transformers has no decoder of text alone for the model type {config.model_type!r}; this architecture is not "
            "supported, give a decoder such as Llama, Qwen3, Mistral, Phi-3 or Gemma 3"
        )


def check_kind(model: PreTrainedModel) -> None:
    """Refuse an architecture that is known to compute something which a packed batch would miss.

    Raises:
        ModelError: The message names all that was found.
    """
    found = list(dict.fromkeys(_foreign(model)))
    if found:
        raise ModelError(
            f"{type(model).__name__} has {' and '.join(found)}, which packed batches cannot compute; this architecture is not "
            "supported, give a decoder such as Llama, Qwen3, Mistral, Phi-3 or Gemma 3"
        )


def _foreign(model: PreTrainedModel) -> Iterator[str]:
    config = model.config.get_text_config()
    if config.is_encoder_decoder or any(_CROSS.search(name) for name, _ in model.named_modules()):
        yield "cross attention"
    for kind in config.__dict__.get("layer_types") or ():
        if kind not in ATTENTIONS:
            yield LAYERS.get(kind, f"layers of the kind {kind}")
    for module in model.modules():
        if isinstance(module, nn.Conv1d) and module.kernel_size != (1,):
            yield "convolution"
        elif _RECURRENT.search(type(module).__name__):
            yield "recurrence"
    if any(name.endswith(_STATES) for name, _ in model.named_parameters()):
        yield "recurrence"
    for key in CAPS:
        if config.__dict__.get(key):
            yield f"soft caps ({key} {config.__dict__[key]:g})"
    for key in SCALES:
        if config.__dict__.get(key) not in (None, 1, 1.0):
            yield f"scaled logits ({key} {config.__dict__[key]:g})"


@dataclass(frozen=True)
class Reading:
    """Log-probabilities of the responses of a few short texts.

    Attributes:
        logps: fp32 ``[S]``, of each token, in the order of the texts.
        spread: Mean standard deviation of a position's log-probabilities over the vocabulary.
    """

    logps: Tensor
    spread: float

    def errors(self, logps: Tensor) -> Tensor:
        """Return the differences to other log-probabilities ``[S]``, as shares of the spread."""
        return (self.logps - logps).abs() / max(self.spread, 1e-6)


@torch.no_grad()
def read_plainly(model: PreTrainedModel, texts: Sequence[tuple[list[int], list[int]]]) -> Reading:
    """Return what a model says of texts (prompt, response), each read by itself with transformers' eager attention."""
    model.set_attn_implementation("eager")
    logps, spreads = [], []
    for prompt, response in texts:
        ids = torch.tensor([prompt + response], device=model.device)
        rows = model(input_ids=ids, use_cache=False).logits[0, len(prompt) - 1 : -1].float().log_softmax(-1)
        logps.append(rows.gather(-1, ids[0, len(prompt) :, None])[:, 0])
        spreads.append(rows.std(-1))
    return Reading(torch.cat(logps), float(torch.cat(spreads).mean()))


@contextmanager
def short_windows(model: PreTrainedModel) -> Iterator[None]:
    """Let every sliding window of a model have :data:`WINDOW` tokens inside this context."""
    holders = [*model.modules(), *_configs(model.config)]
    narrowed = [
        (holder, holder.__dict__["sliding_window"])
        for holder in holders
        if "sliding_window" in holder.__dict__
    ]
    narrowed = [(holder, window) for holder, window in narrowed if isinstance(window, int)]
    try:
        for holder, _ in narrowed:
            holder.sliding_window = WINDOW
        yield
    finally:
        for holder, window in narrowed:
            holder.sliding_window = window


def _configs(config: PreTrainedConfig) -> list[PreTrainedConfig]:
    text = config.get_text_config()
    return [config] if text is config else [config, text]


@contextmanager
def shallow_in_float32(model: PreTrainedModel, rows: int) -> Iterator[None]:
    """Let a model have its first layers alone, one of each kind at least, and compute them in float32 inside this context.

    Its head has the first ``rows`` tokens alone. Embeddings stay as they are, and what they return is widened. Quantised matrices
    stay too: they are dequantised to the number format of what they multiply (:class:`paretune.models.quantised.QuantisedLinear`).
    """
    head = model.get_output_embeddings()
    small = nn.Linear(head.in_features, rows, bias=False, device="meta")
    small.weight = nn.Parameter(head.weight[:rows].float(), requires_grad=False)
    small.bias = None if head.bias is None else nn.Parameter(head.bias[:rows].float(), requires_grad=False)
    with ExitStack() as stack:
        stack.callback(model.set_output_embeddings, head)
        model.set_output_embeddings(FrozenLinear(small, prepack=False))
        for parent, name, layers in _stacks(model):
            stack.callback(setattr, parent, name, layers)
            setattr(parent, name, layers[: _needed(model, len(layers))])
        for module in list(model.modules()):
            if isinstance(module, nn.Embedding):
                stack.callback(module.register_forward_hook(_widened).remove)
            else:
                _widen(module, stack)
        yield


def _widened(module: nn.Module, inputs: object, output: Tensor) -> Tensor:
    return output.float()


def _widen(module: nn.Module, stack: ExitStack) -> None:
    for parameter in module.parameters(recurse=False):
        if parameter.is_floating_point() and parameter.dtype != torch.float32:
            stack.callback(setattr, parameter, "data", parameter.data)
            parameter.data = parameter.data.float()
    for name, buffer in list(module.named_buffers(recurse=False)):
        if buffer.is_floating_point() and buffer.dtype != torch.float32:
            stack.callback(setattr, module, name, buffer)
            setattr(module, name, buffer.float())


def _stacks(model: PreTrainedModel) -> list[tuple[nn.Module, str, nn.ModuleList]]:
    """Return the list of a model's layers, with its parent and the name that it has there; empty where there is none."""
    depth = model.config.get_text_config().num_hidden_layers
    return [
        (parent, name, child)
        for parent in model.get_decoder().modules()
        for name, child in parent.named_children()
        if isinstance(child, nn.ModuleList) and len(child) == depth
    ][:1]


def _needed(model: PreTrainedModel, depth: int) -> int:
    """Return how many of the first layers have every kind of the model among them."""
    kinds = list(model.config.get_text_config().__dict__.get("layer_types") or ())[:depth]
    return min(depth, max([DEEP, *(kinds.index(kind) + 1 for kind in set(kinds))]))
