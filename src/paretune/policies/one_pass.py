"""Text and log-probabilities where one forward of a row gives its next token: the gates of the row decide which update it sees."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor

from paretune.core.meter import count_read
from paretune.core.sampling import Sampling
from paretune.generation.generate import Response, attached, generate, response_logps
from paretune.models.adapter import Adapter, stack
from paretune.models.exclusive import exclusive
from paretune.models.language_model import LanguageModel
from paretune.models.packing import TokenGroup

ActiveAdapter = tuple[str, list[float]]
"""The fingerprint of an adapter and its gates ``[r]``, of which at least one is not 0."""


def draw(
    lm: LanguageModel,
    adapters: Sequence[Adapter],
    gates: Tensor | None,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    seeds: Sequence[int],
    title: str,
) -> list[Response]:
    """Sample one response per row.

    Args:
        lm: The base model.
        adapters: The adapters that are attached side by side.
        gates: ``[B, R]`` over the ranks of all adapters; None samples from the base model.
        prompts: B prompts as token ids.
        sampling: Length, temperature and top-p.
        seeds: B seeds.
        title: The description of the progress bar.
    """
    if gates is None:
        return generate(lm, prompts, sampling, seeds, description=title)
    with attached(lm, stack(adapters)) as steering:
        return generate(lm, prompts, sampling, seeds, steering, gates, title)


def logps(
    lm: LanguageModel, adapters: Sequence[Adapter], gates: Tensor | None, groups: Sequence[TokenGroup]
) -> list[Tensor]:
    """Return the log-probabilities of each group's responses in nats; ``gates [G, R]`` has one row per group."""
    if gates is None:
        return response_logps(lm, groups)
    with attached(lm, stack(adapters)) as steering:
        return response_logps(lm, groups, steering, gates)


@torch.no_grad()
def distribution(
    lm: LanguageModel,
    adapters: Sequence[Adapter],
    gates: Tensor | None,
    prompt: Sequence[int],
    response: Sequence[int],
) -> Tensor:
    """Return the next-token log-probabilities ``[T, V]`` (fp32) before each of T tokens, with ``gates [1, R]``."""
    if gates is None:
        return logits_before(lm, prompt, response)[0].log_softmax(-1)
    with attached(lm, stack(adapters)) as steering, steering.at(gates):
        return logits_before(lm, prompt, response)[0].log_softmax(-1)


def logits_before(
    lm: LanguageModel, prompt: Sequence[int], response: Sequence[int], copies: int = 1
) -> Tensor:
    """Return the logits ``[copies, T, V]`` (fp32) before each of the T tokens of ``response``, under the gates in force."""
    ids = torch.tensor([[*prompt, *response]], device=lm.device)
    count_read(copies * ids.numel())
    with exclusive(lm.model):
        logits = lm.model(input_ids=ids.expand(copies, -1), logits_to_keep=len(response) + 1).logits
    return logits[:, :-1].float()


def active(adapters: Sequence[Adapter], gate: Tensor) -> list[ActiveAdapter]:
    """Return the adapters that ``gate [R]`` lets through, each with its part of the gate."""
    parts = zip(adapters, gate.split([adapter.rank for adapter in adapters]), strict=True)
    return [(adapter.fingerprint, part.tolist()) for adapter, part in parts if bool(part.any())]


def chosen_logps(distribution: Tensor, tokens: Sequence[int]) -> Tensor:
    """Return the log-probabilities ``[T]`` of ``tokens`` under next-token log-probabilities ``[T, V]``."""
    index = torch.tensor(list(tokens), device=distribution.device)
    return distribution.gather(-1, index[:, None])[:, 0]
