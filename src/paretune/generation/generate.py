"""Sampling responses in batches, each row with its own preference and its own random numbers."""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from paretune.core.errors import ConfigError, DataError
from paretune.core.progress import progress
from paretune.core.sampling import Sampling
from paretune.generation.batch import Batch, Slot, gated
from paretune.generation.mixing import Mixture
from paretune.models.adapter import Adapter
from paretune.models.devices import memory_of
from paretune.models.distributed import ProcessGroup
from paretune.models.exclusive import exclusive
from paretune.models.kv_cache import position_bytes
from paretune.models.language_model import LanguageModel
from paretune.models.packing import TokenGroup, pack, packed_logps, share_beginning
from paretune.models.steering import Steering

logger = logging.getLogger(__name__)

SHARE = 0.25
"""Share of a device's memory that keys and values of the rows that decode together may take; reading prompts takes as much."""


@dataclass(frozen=True)
class Response:
    """A sampled response.

    Attributes:
        text: Text without special tokens.
        tokens: Token ids, end of turn included unless the response was cut.
        truncated: Whether the response was cut by ``max_new_tokens``.
        logp: Log-probability of the tokens under the policy that drew them, at temperature 1 and without top-p, in nats.
        normalisers: Log Z of each token where policies were mixed (:mod:`paretune.generation.mixing`); 0 where they agree.
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
    """Sample one response for each row.

    Args:
        lm: The model.
        prompts: Token ids of each row's prompt (B rows).
        sampling: Length, temperature, top-p and batch size.
        seeds: One seed per row; a row's random numbers depend on its seed alone, not on its neighbours.
        steering: Adapters attached to the model, or None for a bare model.
        gates: Gates ``[B, R]``, one vector per row; None samples from the base model.
        description: Title of the progress bar.
        mixture: Mixture of copies of each row, with gates ``[B, 1 + M, R]``; all copies of a row take one token, drawn from
            their mixture.

    Raises:
        DataError: A prompt leaves no position of the model for an answer. One that leaves fewer than ``max_new_tokens`` is
            answered within these; a warning counts them.
    """
    rows = [
        _row(prompt, sampling, seed, None if gates is None else gates[number], mixture, number)
        for number, (prompt, seed) in enumerate(zip(prompts, seeds, strict=True))
    ]
    return respond(lm, rows, sampling, steering, description)


def respond(
    lm: LanguageModel,
    rows: Sequence[Slot],
    sampling: Sampling,
    steering: Steering | None = None,
    description: str = "sampling",
) -> list[Response]:
    """Sample the responses of rows that were made one by one, such as those whose copies read different prompts.

    Args:
        lm: The model.
        rows: B rows without a token; each has the ``sampling``.
        sampling: Length, temperature, top-p and batch size.
        steering: Adapters attached to the model, or None for a bare model.
        description: Title of the progress bar.

    Raises:
        DataError: As :func:`generate`.
    """
    check_room(lm, sampling)
    _end_within_context(lm, rows, sampling)
    order = sorted(rows, key=lambda row: row.longest)
    with exclusive(lm.model), _caching(lm.model), progress(description, len(rows)) as advance:
        for part in together(lm, order, sampling.batch_size):
            batch = Batch(lm, steering, part)
            batch.read()
            # A batch is done by its share of steps: the answers end late and together, so their number would tell no time.
            steps = counted = 0
            while batch.rows:
                batch.leave([row for row in batch.rows if row.finished(lm.stops)])
                if batch.rows:
                    batch.step()
                    steps += 1
                    due = len(part) * steps // sampling.max_new_tokens
                    if due > counted:
                        advance(due - counted)
                        counted = due
            if counted < len(part):
                advance(len(part) - counted)
    return [
        Response(
            lm.decode(row.tokens),
            tuple(row.tokens),
            row.tokens[-1] not in lm.stops,
            row.logp,
            tuple(row.normalisers),
        )
        for row in rows
    ]


def together(lm: LanguageModel, rows: Sequence[Slot], most: int) -> list[list[Slot]]:
    """Return the rows in the parts that decode together: at most ``most``, and whose keys and values :data:`SHARE` of memory holds.

    How many decode together changes no answer, so that one of a config that was written on a larger machine is the same here.

    Args:
        lm: The model.
        rows: Rows, the shortest prompt first.
        most: Largest number of rows in a part, at least 1; a row too large for the memory is a part of its own.
    """
    room = SHARE * memory_of(lm.device) / float(position_bytes(lm.model.config, lm.model.dtype))
    parts: list[list[Slot]] = []
    copies = 0
    for row in rows:
        copies += len(row.kinds)
        positions = row.longest + row.sampling.max_new_tokens
        if not parts or len(parts[-1]) == most or copies * positions > room:
            parts.append([])
            copies = len(row.kinds)
        parts[-1].append(row)
    largest = max(map(len, parts), default=0)
    if largest < min(most, len(rows)):
        logger.info(
            "keys and values of %d answers at once would take more than %d %% of the memory here; at most %d are sampled together",
            min(most, len(rows)),
            round(100 * SHARE),
            largest,
        )
    return parts


@contextmanager
def _caching(model: torch.nn.Module) -> Iterator[None]:
    """Let a model keep keys and values: in training with gradient checkpointing it does not."""
    training = model.training
    model.eval()
    try:
        yield
    finally:
        model.train(training)


def check_room(lm: LanguageModel, sampling: Sampling) -> None:
    """Refuse a length whose keys and values no memory here holds, for one row alone.

    Raises:
        ConfigError: The message has the estimate.
    """
    needed = float(position_bytes(lm.model.config, lm.model.dtype)) * sampling.max_new_tokens
    there = memory_of(lm.device)
    if needed > there:
        raise ConfigError(
            f"max_new_tokens {sampling.max_new_tokens}: keys and values of one answer of this length need {needed / 1e9:.3g} GB, "
            f"and there are {there / 1e9:.3g} GB here; give a smaller length"
        )


def _end_within_context(lm: LanguageModel, rows: Sequence[Slot], sampling: Sampling) -> None:
    """Let every row end at the model's last position at the latest."""
    most = sampling.max_new_tokens
    rooms = [most if lm.context is None else min(most, lm.context - row.longest) for row in rows]
    for row, room in zip(rows, rooms, strict=True):
        if room < 1:
            raise DataError(
                f"a prompt of {row.longest} tokens, {lm.text(row.prompt)[:40]!r}, leaves none of the {lm.context} positions of "
                f"{lm.name} for an answer; shorten it or leave it out"
            )
        if room < most:
            row.sampling = replace(sampling, max_new_tokens=room)
    short = sum(room < most for room in rooms)
    if short:
        logger.warning(
            "%d of %d prompts leave fewer than max_new_tokens=%d of the %d positions of %s; their answers end at the last one",
            short,
            len(rows),
            most,
            lm.context,
            lm.name,
        )


def _row(
    prompt: Sequence[int],
    sampling: Sampling,
    seed: int,
    gates: Tensor | None,
    mixture: Mixture | None,
    number: int,
) -> Slot:
    row = Slot(prompt, sampling, seed, mixture=None if mixture is None else mixture[[number]])
    if gates is not None:
        row.gates = gates[None] if mixture is None else gates[row.kinds]
    return row


@contextmanager
def attached(lm: LanguageModel, adapter: Adapter) -> Iterator[Steering]:
    """Attach ``adapter`` to the model for the length of the context."""
    with exclusive(lm.model):
        steering = Steering.attach_adapter(lm.model, adapter, base=lm.fingerprint)
        try:
            yield steering
        finally:
            steering.detach()


@torch.no_grad()
def response_logps(
    lm: LanguageModel,
    groups: Sequence[TokenGroup],
    steering: Steering | None = None,
    gates: Tensor | None = None,
    budget: int = 1024,
    description: str = "scoring",
    team: ProcessGroup = ProcessGroup(),  # noqa: B008 - it is frozen
) -> list[Tensor]:
    """Return for each group the log-probabilities of its responses (fp32, in nats, summed over tokens).

    Groups are packed to at most ``budget`` tokens, so a prompt is read once for all its responses. Where each has a single
    response, what prompts begin with alike, such as what a chat template says first, is read once in a forward.

    Args:
        lm: The model.
        groups: G prompts, each with its responses, as token ids.
        steering: Adapters attached to the model, or None for a bare model.
        gates: Gates ``[R]`` for all groups or ``[G, R]``, one per group; None scores with the base model.
        budget: Largest number of tokens in one forward.
        description: Title of the progress bar.
        team: Processes that share the forwards; all call this alike and get the same result. The forwards are those of one
            process, so the results are equal bit for bit.

    Raises:
        DataError: A text has more tokens than the model has positions.
    """
    for prompt, responses in groups:
        longest = len(prompt) + max(map(len, responses), default=0)
        if lm.context is not None and longest > lm.context:
            raise DataError(
                f"a text of {longest} tokens with its prompt, {lm.text(prompt)[:40]!r}, is longer than the {lm.context} "
                f"positions of {lm.name}; shorten it or leave it out"
            )
    forwards = _forwards(groups, budget)

    def run(some: Sequence[list[int]]) -> list[Tensor]:
        logps = []
        with exclusive(lm.model), progress(description, sum(map(len, some))) as advance:
            for part in some:
                of_part = [groups[number] for number in part]
                if steering is not None and gates is not None and gates.ndim == 2:
                    batch = pack(of_part, lm.device)
                    context: AbstractContextManager[None] = steering.at(gates[part], index=batch.groups)
                else:
                    shared, unscored = share_beginning(of_part)
                    batch, context = pack(shared, lm.device, unscored), gated(steering, gates)
                with context:
                    logps.append(packed_logps(lm.model, batch).cpu())
                advance(len(part))
        return logps

    results: dict[int, Tensor] = {}
    for part, logps in zip(forwards, team.divide(run, forwards), strict=True):
        pieces = logps.split([len(groups[number][1]) for number in part])
        results.update(zip(part, pieces, strict=True))
    return [results[number] for number in range(len(groups))]


def _forwards(groups: Sequence[TokenGroup], budget: int) -> list[list[int]]:
    """Return the numbers of the groups of each forward: the longest first, as many as ``budget`` tokens hold."""
    sizes = [len(prompt) + sum(map(len, responses)) for prompt, responses in groups]
    order = sorted(range(len(groups)), key=lambda number: sizes[number])
    forwards = []
    while order:
        part = [order.pop()]
        tokens = sizes[part[0]]
        while order and tokens + sizes[order[-1]] <= budget:
            tokens += sizes[order[-1]]
            part.append(order.pop())
        forwards.append(part)
    return forwards
