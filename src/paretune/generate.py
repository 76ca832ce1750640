"""Sampling responses in batches in which every row has its own preference and its own random numbers."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field

import torch
from torch import Tensor

from paretune.adapter import Adapter
from paretune.errors import ConfigError
from paretune.kv_cache import growing_cache
from paretune.lm import LanguageModel
from paretune.mixture import Mixture, mix
from paretune.packing import TokenGroup, pack, packed_logps
from paretune.progress import progress
from paretune.steering import Steering

NUCLEUS = 512
"""Tokens looked at first for top-p; the rare row whose nucleus is wider is sorted in full."""


@dataclass(frozen=True)
class Sampling:
    """How responses are drawn.

    Attributes:
        max_new_tokens: a response that reaches it without an end of turn is cut (``truncated``).
        temperature: 0 is greedy.
        top_p: keep the smallest set of tokens whose probability reaches it; 1 keeps all.
        batch_size: rows decoded together.
    """

    max_new_tokens: int = 128
    temperature: float = 1.0
    top_p: float = 1.0
    batch_size: int = 64

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1 or self.batch_size < 1:
            raise ConfigError(
                f"max_new_tokens and batch_size must be at least 1, got {self.max_new_tokens} and {self.batch_size}"
            )
        if self.temperature < 0 or not 0 < self.top_p <= 1:
            raise ConfigError(
                f"expected temperature >= 0 and 0 < top_p <= 1, got {self.temperature} and {self.top_p}"
            )

    def identity(self) -> dict[str, float]:
        """Return what decides a response: everything but the number of rows that are decoded together."""
        return {name: value for name, value in vars(self).items() if name != "batch_size"}


@dataclass(frozen=True)
class Response:
    """A sampled response.

    Attributes:
        text: without special tokens.
        tokens: end of turn included unless the response was cut.
        truncated: cut by ``max_new_tokens``.
        logp: log-probability of the tokens under the policy that drew them, at temperature 1 and without top-p, in nats.
        normalisers: where policies were mixed (:mod:`paretune.mixture`), log Z of each token: 0 where they agree.
    """

    text: str
    tokens: tuple[int, ...]
    truncated: bool
    logp: float
    normalisers: tuple[float, ...] = ()


def generate(
    lm: LanguageModel,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    seeds: Sequence[int],
    steering: Steering | None = None,
    gates: Tensor | None = None,
    description: str = "sampling",
    mixture: Mixture | None = None,
) -> list[Response]:
    """Sample one response for every row.

    Args:
        lm: the model.
        prompts: token ids of each row's prompt (B rows).
        sampling: length, temperature, top-p, batch size.
        seeds: one a row; a row's random numbers depend on its seed only, not on its neighbours.
        steering: adapters attached to the model, or None for a bare model.
        gates: ``[B, R]``, one gate vector a row; None samples from the base model.
        description: shown by the progress bar.
        mixture: of copies of each row, whose gates are ``[B, 1 + M, R]`` then; all copies of a row take one token, drawn
            from their mixture.
    """
    order = sorted(range(len(prompts)), key=lambda row: len(prompts[row]))
    responses: dict[int, Response] = {}
    with progress(description, len(prompts)) as advance:
        for start in range(0, len(order), sampling.batch_size):
            rows = order[start : start + sampling.batch_size]
            decoded = _decode(
                lm,
                [prompts[row] for row in rows],
                sampling,
                [seeds[row] for row in rows],
                steering,
                None if gates is None else gates[rows],
                None if mixture is None else mixture[rows],
            )
            for row, drawn in zip(rows, decoded, strict=True):
                ids, normalisers = tuple(drawn.tokens), tuple(drawn.normalisers)
                responses[row] = Response(
                    lm.decode(drawn.tokens), ids, ids[-1] not in lm.stops, drawn.logp, normalisers
                )
            advance(len(rows))
    return [responses[row] for row in range(len(prompts))]


@contextmanager
def attached(lm: LanguageModel, adapter: Adapter) -> Iterator[Steering]:
    """Attach ``adapter`` to the model for the length of the context."""
    steering = Steering.attach_adapter(lm.model, adapter, base=lm.fingerprint)
    try:
        yield steering
    finally:
        steering.detach()


@dataclass
class _Drawn:
    """What one row has drawn so far; see :class:`Response`."""

    tokens: list[int] = field(default_factory=list)
    logp: float = 0.0
    normalisers: list[float] = field(default_factory=list)


@torch.no_grad()
def _decode(
    lm: LanguageModel,
    prompts: Sequence[Sequence[int]],
    sampling: Sampling,
    seeds: Sequence[int],
    steering: Steering | None,
    gates: Tensor | None,
    mixture: Mixture | None,
) -> list[_Drawn]:
    """Decode one left-padded batch; finished rows leave it as soon as a quarter of it is idle.

    A row stands in the batch once, or where it is a mixture once for each copy that takes part: ``owners`` and ``kinds`` say
    which row and which copy.
    """
    rows = range(len(prompts))
    owners, kinds = torch.arange(len(prompts)), torch.zeros(len(prompts), dtype=torch.long)
    if mixture is not None:
        assert gates is not None
        owners, kinds = mixture.copies.nonzero(as_tuple=True)
        gates = gates[owners, kinds]
    owners, kinds = owners.to(lm.device), kinds.to(lm.device)
    width = max(len(prompt) for prompt in prompts)
    pad = lm.turn_end
    ids = torch.tensor([[pad] * (width - len(prompt)) + list(prompt) for prompt in prompts], device=lm.device)
    mask = torch.tensor(
        [[0] * (width - len(prompt)) + [1] * len(prompt) for prompt in prompts], device=lm.device
    )
    ids, mask = ids[owners], mask[owners]
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    noise = torch.stack([_uniforms(seed, sampling.max_new_tokens) for seed in seeds]).to(lm.device)
    alive = torch.arange(len(prompts), device=lm.device)
    done = torch.zeros(len(prompts), dtype=torch.bool, device=lm.device)
    stops = torch.tensor(sorted(lm.stops), device=lm.device)
    outputs = [_Drawn() for _ in rows]
    totals = torch.zeros(len(prompts), dtype=torch.float64, device=lm.device)
    cache = growing_cache(lm.model.config)
    for step in range(sampling.max_new_tokens):
        with _gated(steering, gates):
            logits = (
                lm.model(
                    input_ids=ids,
                    attention_mask=mask,
                    position_ids=positions,
                    past_key_values=cache,
                    use_cache=True,
                    # An index, not a count: its slice would not be contiguous, and the head be copied for every row.
                    logits_to_keep=torch.tensor([ids.shape[1] - 1], device=lm.device),
                )
                .logits[:, -1]
                .float()
            )
        conflicts: list[float] = []
        if mixture is not None:
            logits, normalisers = mix(logits, owners, kinds, mixture)
            conflicts = normalisers.tolist()
        tokens = draw(logits, noise[alive, step], sampling.temperature, sampling.top_p)
        logps = logits.gather(-1, tokens[:, None])[:, 0] - logits.logsumexp(-1)
        totals[alive] += torch.where(done, 0.0, logps.double())
        chosen = tokens.tolist()
        for place, (row, over) in enumerate(zip(alive.tolist(), done.tolist(), strict=True)):
            if not over:
                outputs[row].tokens.append(chosen[place])
                outputs[row].normalisers += conflicts[place : place + 1]
        done = done | torch.isin(tokens, stops)
        if bool(done.all()):
            break
        positions = positions[:, -1:] + 1
        mask = torch.cat([mask, mask.new_ones(len(mask), 1)], dim=1)
        ids = tokens[owners, None]
        if int(done.sum()) * 4 >= len(done):
            keep = ~done
            copies = keep[owners].nonzero()[:, 0]
            cache.batch_select_indices(copies)
            # Rows are numbered anew by how many are kept before them.
            owners, kinds = (keep.cumsum(0) - 1)[owners[copies]], kinds[copies]
            ids, mask, positions = ids[copies], mask[copies], positions[copies]
            gates = None if gates is None else gates[copies.to(gates.device)]
            mixture = None if mixture is None else mixture[keep.nonzero()[:, 0].cpu()]
            alive, done = alive[keep], done[keep]
    for drawn, total in zip(outputs, totals.tolist(), strict=True):
        drawn.logp = total
    return outputs


def _gated(steering: Steering | None, gates: Tensor | None) -> AbstractContextManager[None]:
    if steering is None:
        return nullcontext()
    return steering.off() if gates is None else steering.at(gates)


def _uniforms(seed: int, count: int) -> Tensor:
    return torch.rand(count, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)


def draw(logits: Tensor, uniform: Tensor, temperature: float, top_p: float) -> Tensor:
    """Draw one token a row ``[B]`` from logits ``[B, V]`` by inverting the distribution at ``uniform`` ``[B]`` in [0, 1).

    Temperature 0 takes the most likely token. With ``top_p`` below 1 only the smallest set of most likely tokens whose
    probability reaches it takes part.
    """
    if temperature == 0:
        return logits.argmax(-1)
    probabilities = (logits / temperature).softmax(-1)
    if top_p == 1:
        return _invert(probabilities, uniform)
    count = min(NUCLEUS, probabilities.shape[-1])
    top, tokens = probabilities.topk(count, dim=-1)
    drawn = _draw_nucleus(top, tokens, uniform, top_p)
    wide = (top.sum(-1) < top_p).nonzero()[:, 0]
    if len(wide):
        top, tokens = probabilities[wide].sort(dim=-1, descending=True)
        drawn[wide] = _draw_nucleus(top, tokens, uniform[wide.to(uniform.device)], top_p)
    return drawn


def _draw_nucleus(top: Tensor, tokens: Tensor, uniform: Tensor, top_p: float) -> Tensor:
    """Draw ``[B]`` among ``tokens`` ``[B, n]``, whose probabilities ``top`` fall along each row."""
    before = top.cumsum(-1) - top
    nucleus = top.masked_fill(before >= top_p, 0.0)
    return tokens.gather(-1, _invert(nucleus, uniform)[:, None])[:, 0]


def _invert(weights: Tensor, uniform: Tensor) -> Tensor:
    """Index ``[B]`` at which the cumulative weight passes ``uniform`` times the total, never one of weight zero."""
    cumulative = weights.double().cumsum(-1)
    level = uniform.to(cumulative.device)[:, None] * cumulative[:, -1:]
    return torch.searchsorted(cumulative, level, right=True)[:, 0].clamp(max=weights.shape[-1] - 1)


@torch.no_grad()
def response_logps(
    lm: LanguageModel,
    groups: Sequence[TokenGroup],
    steering: Steering | None = None,
    gates: Tensor | None = None,
    budget: int = 1024,
    description: str = "scoring",
) -> list[Tensor]:
    """Return for each group the log-probabilities of its responses (fp32, in nats, summed over tokens).

    Groups are packed to at most ``budget`` tokens, so a prompt is read once for all its responses.

    Args:
        lm: the model.
        groups: G prompts, each with its responses, as token ids.
        steering: adapters attached to the model, or None for a bare model.
        gates: ``[R]`` for all groups or ``[G, R]``, one a group; None scores with the base model.
        budget: tokens in one forward.
        description: shown by the progress bar.
    """
    sizes = [len(prompt) + sum(map(len, responses)) for prompt, responses in groups]
    order = sorted(range(len(groups)), key=lambda number: sizes[number])
    results: dict[int, Tensor] = {}
    with progress(description, len(groups)) as advance:
        while order:
            part, tokens = [order.pop()], 0
            tokens += sizes[part[0]]
            while order and tokens + sizes[order[-1]] <= budget:
                tokens += sizes[order[-1]]
                part.append(order.pop())
            batch = pack([groups[number] for number in part], lm.device, lm.model.dtype)
            context: AbstractContextManager[None] = _gated(steering, gates)
            if steering is not None and gates is not None and gates.ndim == 2:
                context = steering.at(gates[part], index=batch.groups)
            with context:
                logps = packed_logps(lm.model, batch).cpu()
            for number, values in zip(part, logps.split([len(groups[n][1]) for n in part]), strict=True):
                results[number] = values
            advance(len(part))
    return [results[number] for number in range(len(groups))]
