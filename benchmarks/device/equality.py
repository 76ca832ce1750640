"""Whether packed batches compute what padded ones compute with eager attention: log-probabilities, and gradients of an adapter."""

from __future__ import annotations

import copy
from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from transformers import PreTrainedModel

from benchmarks.device.models import random_model
from benchmarks.device.rows import Figures, NotHereError, freed
from paretune.core.errors import ModelError
from paretune.models.packing import TokenGroup, pack, packed_logps, prepare
from paretune.models.steering import Steering

EXACT = 1e-4
"""Largest relative difference in float32."""
LOOSER = 1.5
"""How many times as far from float32 as padded eager attention in bfloat16 a packed batch in bfloat16 may be."""
RANK = 4


class UnequalError(Exception):
    """Two ways that have to compute the same do not."""


@dataclass(frozen=True)
class Reading:
    """What one way computed: log-probabilities ``[R]`` of responses, and all gradients of the adapter in one row."""

    logps: Tensor
    gradients: Tensor

    def error(self, other: Reading) -> tuple[float, float]:
        """Return how far this is from another, relative to it: log-probabilities, gradients."""
        return _relative(self.logps, other.logps), _relative(self.gradients, other.gradients)


def groups_of(lengths: Sequence[tuple[int, tuple[int, ...]]], vocabulary: int) -> list[TokenGroup]:
    """Return prompts with their responses, of these lengths, of random tokens."""
    generator = torch.Generator().manual_seed(1)

    def draw(length: int) -> list[int]:
        return torch.randint(2, vocabulary, (length,), generator=generator).tolist()

    return [(draw(prompt), [draw(response) for response in responses]) for prompt, responses in lengths]


def equality(
    size: str, lengths: Sequence[tuple[int, tuple[int, ...]]], device: torch.device, attention: str
) -> Figures:
    """Compare packed batches under a backend of attention with padded eager ones, in float32 and in bfloat16.

    All have the weights of the bfloat16 model; the one in float32 with eager attention is right.

    Raises:
        UnequalError: Packed ones are further off than rounding explains.
        NotHereError: The backend cannot run here in any of the two formats.
    """
    rounded = random_model(size, device, torch.bfloat16)
    exact = copy.deepcopy(rounded).float()
    groups = groups_of(lengths, exact.config.vocab_size)
    right = padded(exact, groups)
    figures: dict[str, float | str] = {}
    missing: list[str] = []
    wrong: list[str] = []
    for model, name, bound in ((exact, "float32", None), (rounded, "bfloat16", padded(rounded, groups))):
        try:
            prepare(model, attention=attention)
        except ModelError as error:
            missing.append(f"{name}: {' '.join(str(error).split())[:200]}")
            continue
        finally:
            freed(device)
        errors = packed(model, groups).error(right)
        allowed = (
            (EXACT, EXACT) if bound is None else tuple(LOOSER * each + 1e-3 for each in bound.error(right))
        )
        for what, off, most in zip(("log-probabilities", "gradients"), errors, allowed, strict=True):
            figures[f"{name}, {what}, relative difference from padded eager float32"] = off
            if not off <= most:
                wrong.append(f"{name}, {what}: {off:.3g}, allowed {most:.3g}")
    if wrong:
        raise UnequalError("; ".join(wrong))
    if not figures:
        raise NotHereError("; ".join(missing))
    return {**figures, **({"not in": "; ".join(missing)} if missing else {})}


def packed(model: PreTrainedModel, groups: Sequence[TokenGroup]) -> Reading:
    """Return what a prepared model computes on the packed groups."""
    batch = pack(groups, model.device)
    return _read(model, lambda: packed_logps(model, batch))


def padded(model: PreTrainedModel, groups: Sequence[TokenGroup]) -> Reading:
    """Return what a model computes with eager attention on the padded texts, one row each."""
    model.set_attn_implementation("eager")
    return _read(model, lambda: padded_logps(model, groups))


def padded_logps(model: PreTrainedModel, groups: Sequence[TokenGroup]) -> Tensor:
    """Return the log-probabilities ``[R]`` of all responses, read one row each behind their prompts, padded on the left."""
    rows = [(prompt, response) for prompt, responses in groups for response in responses]
    width = max(len(prompt) + len(response) for prompt, response in rows)
    longest = max(len(response) for _, response in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask, scored = torch.zeros_like(ids), torch.zeros(len(rows), longest)
    for number, (prompt, response) in enumerate(rows):
        text = [*prompt, *response]
        ids[number, width - len(text) :] = torch.tensor(text)
        mask[number, width - len(text) :] = 1
        scored[number, longest - len(response) :] = 1
    ids, mask, scored = (tensor.to(model.device) for tensor in (ids, mask, scored))
    positions = (mask.cumsum(1) - 1).clamp(min=0)
    logits = model(
        input_ids=ids,
        attention_mask=mask,
        position_ids=positions,
        use_cache=False,
        logits_to_keep=longest + 1,
    ).logits
    logps = logits[:, :-1].float().log_softmax(-1).gather(-1, ids[:, -longest:, None])[..., 0]
    return (logps * scored).sum(1)


def _read(model: PreTrainedModel, logps_of: object) -> Reading:
    steering = Steering.attach(model, ["q_proj", "v_proj", "down_proj"], RANK)
    generator = torch.Generator().manual_seed(2)
    try:
        for layer in steering.layers.values():
            layer.U.data.copy_(torch.randn(layer.U.shape, generator=generator) * 0.02)
        with steering.at(torch.full((RANK,), 2.0)):
            logps = logps_of()  # type: ignore[operator]
            weights = torch.linspace(-1, 1, len(logps), device=logps.device)
            (logps * weights).sum().backward()
        gradients = [layer.U.grad for layer in steering.layers.values()]
        gradients += [layer.V.grad for layer in steering.layers.values()]
        flat = torch.cat([gradient.float().flatten().cpu() for gradient in gradients if gradient is not None])
        return Reading(logps.detach().float().cpu(), flat)
    finally:
        steering.detach()


def _relative(found: Tensor, right: Tensor) -> float:
    return float((found - right).norm() / right.norm())
