"""Rows decoded together, each with its own preference, settings and random numbers; rows join and leave at any token."""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import AbstractContextManager, ExitStack, nullcontext
from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor
from transformers import DynamicCache

from paretune.core.meter import count_read, count_sampled
from paretune.core.sampling import Sampling
from paretune.generation.draw import draw, drawn_logps, uniforms
from paretune.generation.mixing import Mixture, mix
from paretune.generation.prefill import columns as columns_of
from paretune.generation.prefill import prefill
from paretune.generation.structure import Form
from paretune.models.devices import double_device
from paretune.models.kv_cache import (
    RowStates,
    given_cache,
    growing_cache,
    row_states,
    rows_join,
    rows_known,
    rows_leave,
)
from paretune.models.language_model import LanguageModel
from paretune.models.steering import Steering
from paretune.models.values import last_states

FIRST_UNIFORMS = 4096
"""Random numbers that a row has at first."""


@dataclass(eq=False)
class Slot:
    """One response that is being sampled.

    Attributes:
        prompt: Token ids of the prompt.
        sampling: Length, temperature and top-p; its batch size is not used.
        seed: Seed that alone decides the row's random numbers.
        gates: Gates ``[C, R]`` of the copies of the row that are run; None is the base model.
        mixture: Mixture of this one row, where tokens are drawn from a mixture of the copies.
        tokens: Tokens so far, end of turn included.
        logp: Log-probability of the tokens at temperature 1 and without top-p, in nats.
        normalisers: Log Z of each token of a mixture.
        prompts: Token ids of the prompt of each copy, in the order of ``kinds``, where copies read different ones; otherwise none.
        form: The form that the response must have; None for any text.
        alternatives: Number of likely tokens whose log-probabilities are kept for each token; None keeps no log-probabilities.
        likely: For each token its log-probability, and those of the likeliest tokens, as they were drawn from at temperature 1.
    """

    prompt: Sequence[int]
    sampling: Sampling
    seed: int
    gates: Tensor | None = None
    mixture: Mixture | None = None
    tokens: list[int] = field(default_factory=list)
    logp: float = 0.0
    normalisers: list[float] = field(default_factory=list)
    prompts: Sequence[Sequence[int]] = ()
    form: Form | None = None
    alternatives: int | None = None
    likely: list[tuple[float, list[tuple[int, float]]]] = field(default_factory=list)

    def read_by(self, kind: int) -> Sequence[int]:
        """Return the token ids of the prompt that the copy of a kind reads."""
        return self.prompts[self.kinds.index(kind)] if self.prompts else self.prompt

    def gates_of(self, kind: int) -> Tensor | None:
        """Return the gates ``[R]`` of the copy of a kind; None is the base model."""
        return None if self.gates is None else self.gates[self.kinds.index(kind)]

    @property
    def longest(self) -> int:
        """Tokens of the longest prompt of its copies."""
        return max(map(len, self.prompts)) if self.prompts else len(self.prompt)

    @cached_property
    def kinds(self) -> list[int]:
        """Columns of the mixture's coefficients that have a copy; a row without a mixture is one copy of kind 0."""
        return [0] if self.mixture is None else self.mixture.copies[0].nonzero()[:, 0].tolist()

    @cached_property
    def uniforms(self) -> list[float]:
        """Random number of each token; a limit that answers never reach costs nothing, see :meth:`uniform`."""
        return uniforms(self.seed, min(self.sampling.max_new_tokens, FIRST_UNIFORMS)).tolist()

    def uniform(self, token: int) -> float:
        """Return the random number of a token, counted from 0."""
        while token >= len(self.uniforms):
            count = min(self.sampling.max_new_tokens, 4 * len(self.uniforms))
            self.uniforms = uniforms(self.seed, count).tolist()
        return self.uniforms[token]

    def finished(self, stops: frozenset[int]) -> bool:
        """Return whether the response ends with its last token."""
        return bool(self.tokens) and (
            self.tokens[-1] in stops or len(self.tokens) == self.sampling.max_new_tokens
        )


@dataclass(frozen=True, eq=False)
class _Mixed:
    """Rows of a batch that are mixed by one rule: ``rows [b]``, their ``copies [n]``, and the arguments of :func:`mix`.

    Rows and copies are on the device of the logits, what remains is on the CPU.
    """

    rows: Tensor
    copies: Tensor
    owners: Tensor
    kinds: Tensor
    mixture: Mixture


class Batch:
    """Rows decoded together.

    A row takes one place in the forward, or where it is a mixture one per copy. First :meth:`read` reads the prompts and
    draws a token for each row; from then on, each :meth:`step` draws one more.

    Attributes:
        rows: Rows, in no particular order.
        unread: Number of columns of the left-padded prompts that are still to be read.
    """

    def __init__(self, lm: LanguageModel, steering: Steering | None, rows: Sequence[Slot] = ()) -> None:
        self.rows: list[Slot] = list(rows)
        self._lm, self._steering = lm, steering
        self._width, self.unread = 0, max((row.longest for row in rows), default=0)
        self._cache = growing_cache(lm.model.config)
        self._states: Tensor | None = None
        self._arrange([(row, kind) for row in rows for kind in row.kinds])

    @property
    def copies(self) -> int:
        """Number of rows in one forward."""
        return len(self._copies)

    @property
    def cached(self) -> int:
        """Number of cached positions of all copies together, padding included."""
        return self.copies * self._width

    @torch.no_grad()
    def go_on_from(self, known: Sequence[tuple[RowStates, int]]) -> int:
        """Begin with what was read of each copy before, the copies of a row side by side, and return how many columns that is.

        Args:
            known: For each copy keys and values, and how many of their positions, the first ones, are those of its prompt; its last
                token is not among them.
        """
        pads = [self.unread - len(row.read_by(kind)) for row, kind in self._copies]
        begun = min(pad + common for pad, (_, common) in zip(pads, known, strict=True))
        states = [each for each, _ in known]
        self._cache = rows_known(self._lm.model.config, states, pads, begun)
        self._width, self.unread = begun, self.unread - begun
        return begun

    def texts(self, row: Slot) -> list[tuple[int, list[int], RowStates]]:
        """Return of each copy of a row its kind, the tokens that were read, and a copy of their keys and values."""
        texts = []
        for number, (owner, kind) in enumerate(self._copies):
            if owner is row:
                tokens = [*row.read_by(kind), *row.tokens[:-1]]
                texts.append((kind, tokens, row_states(self._cache, number, self._width - len(tokens))))
        return texts

    @torch.no_grad()
    def read(self, columns: int | None = None) -> None:
        """Read the next ``columns`` of the left-padded prompts, or all that remain.

        After the last column each row draws its first token. If all columns are read at once, a prompt is read once for all
        copies with the same gates and prompt: several answers at one preference, or mixtures of the same policies at any weights.
        """
        added = self.unread if columns is None else min(columns, self.unread)
        prompts = [row.read_by(kind) for row, kind in self._copies]
        if added == self.unread and not self._width:
            self._cache, logits, self._states = prefill(self._lm, prompts, self._gates, self._forward)
        else:
            pads = [self._width + self.unread - len(prompt) for prompt in prompts]
            span = range(self._width, self._width + added)
            count_read(sum(max(0, span.stop - max(span.start, pad)) for pad in pads))
            filler = self._lm.turn_end
            ids = [columns_of(prompt, pad, span, filler) for prompt, pad in zip(prompts, pads, strict=True)]
            logits, self._states = self._forward(self._cache, ids, pads, self._gates)
        self._width += added
        self.unread -= added
        if not self.unread:
            self._take(logits)

    @torch.no_grad()
    def step(self) -> None:
        """Draw the next token of every row."""
        pads = [self._width + 1 - len(row.read_by(kind)) - len(row.tokens) for row, kind in self._copies]
        ids = [[row.tokens[-1]] for row, _ in self._copies]
        logits, self._states = self._forward(self._cache, ids, pads, self._gates)
        self._width += 1
        self._take(logits)

    @torch.no_grad()
    def join(self, other: Batch) -> None:
        """Take over the rows of ``other``, whose prompts are read; do not use ``other`` afterwards."""
        if self.rows:
            rows_join(self._cache, other._cache)
        else:
            self._cache = other._cache
        self._width = max(self._width, other._width)
        self._arrange([*self._copies, *other._copies])

    @torch.no_grad()
    def leave(self, rows: Sequence[Slot]) -> None:
        """Remove rows."""
        gone = set(rows)
        kept = [number for number, (row, _) in enumerate(self._copies) if row not in gone]
        if len(kept) == len(self._copies):
            return
        if not kept:
            self._width, self.unread, self._cache = 0, 0, growing_cache(self._lm.model.config)
            self._arrange([])
            return
        needed = max(row.longest + max(len(row.tokens) - 1, 0) for row in self.rows if row not in gone)
        surplus = self._width + self.unread - needed
        trimmed = min(surplus, self._width)
        order = rows_leave(self._cache, kept, trimmed) if self._width else kept
        self._width -= trimmed
        self.unread -= surplus - trimmed
        self._arrange([self._copies[number] for number in order])

    def _forward(
        self, cache: DynamicCache, ids: list[list[int]], pads: Sequence[int], gates: Tensor | None
    ) -> tuple[Tensor, Tensor | None]:
        """Return the logits ``[n, V]`` (fp32) behind further tokens ``[n, t]`` of rows that are padded by ``pads [n]``.

        Where values re-score tokens, the last hidden states ``[n, d]`` are returned with them.
        """
        device, added = self._lm.device, len(ids[0])
        left = torch.tensor(pads, device=device)[:, None]
        columns = torch.arange(cache.get_seq_length() + added, device=device)
        with ExitStack() as stack:
            stack.enter_context(gated(self._steering, gates))
            states = stack.enter_context(last_states(self._lm.model)) if self._valued else []
            logits = self._lm.model(
                input_ids=torch.tensor(ids, device=device),
                attention_mask=(columns >= left).long(),
                position_ids=(columns[-added:] - left).clamp(min=0),
                use_cache=True,
                # An index, not a count: the slice of a count is not contiguous, and the head would be copied for every row.
                logits_to_keep=torch.tensor([added - 1], device=device),
                **given_cache(self._lm.model, cache),
            ).logits
        return logits[:, -1].float(), states[-1][:, -1] if states else None

    def _take(self, logits: Tensor) -> None:
        """Draw a token for each row from the logits ``[n, V]`` of all copies."""
        normalisers: dict[int, float] = {}
        if self._mixed:
            copies, logits = logits, logits[self._first]
            for part in self._mixed:
                mixture, rescoring = part.mixture, part.mixture.rescoring
                mixed, log_z = mix(copies[part.copies], part.owners, part.kinds, mixture)
                if rescoring is not None and self._states is not None:
                    states = self._states[part.copies]
                    mixed = rescoring(mixed, states, mixture.coefficients[:, 1:])
                else:
                    normalisers.update(zip(part.rows.tolist(), log_z.tolist(), strict=True))
                logits[part.rows] = mixed
        for number, row in enumerate(self.rows):
            if row.form is not None:
                admitted = row.form.admitted(logits.shape[1]).to(logits.device)
                logits[number] = logits[number].masked_fill(~admitted, -torch.inf)
        uniform = torch.tensor(
            [row.uniform(len(row.tokens)) for row in self.rows],
            dtype=torch.float64,
            device=double_device(logits.device),
        )
        if len(self._settings) == 1:
            tokens = draw(logits, uniform, *next(iter(self._settings)))
        else:
            tokens = torch.empty(len(self.rows), dtype=torch.long, device=logits.device)
            for setting, rows in self._settings.items():
                tokens[rows] = draw(logits[rows], uniform[rows], *setting)
        logps = drawn_logps(logits, tokens)
        # One transfer from the device a step; float32 holds the number of every token.
        count_sampled(len(self.rows))
        for number, (token, logp) in enumerate(torch.stack([tokens.float(), logps], dim=1).tolist()):
            row = self.rows[number]
            row.tokens.append(int(token))
            row.logp += logp
            if row.form is not None:
                row.form.take(int(token))
            if row.alternatives is not None:
                row.likely.append((logp, _likeliest(logits[number].log_softmax(-1), row.alternatives)))
            if number in normalisers:
                row.normalisers.append(normalisers[number])

    def _arrange(self, copies: list[tuple[Slot, int]]) -> None:
        """Set the copies, (row, kind) in the order of the cache, and compute all that depends on them."""
        self._copies = copies
        places: dict[Slot, list[int]] = {}
        for copy, (row, _) in sorted(enumerate(copies), key=lambda item: item[1][1]):
            places.setdefault(row, []).append(copy)
        self.rows = list(dict.fromkeys(row for row, _ in copies))
        device = self._lm.device
        self._first = torch.tensor([places[row][0] for row in self.rows], dtype=torch.long, device=device)
        self._gates = self._gate_rows(copies)
        settings: dict[tuple[float, float], list[int]] = {}
        rules: dict[tuple[object, ...], list[int]] = {}
        for number, row in enumerate(self.rows):
            settings.setdefault((row.sampling.temperature, row.sampling.top_p), []).append(number)
            if row.mixture is not None:
                mixture = row.mixture
                rule = mixture.rule, mixture.nucleus, mixture.rescoring, mixture.coefficients.shape[1]
                rules.setdefault(rule, []).append(number)
        self._settings = settings
        self._mixed = [self._mixed_rows(numbers, places) for numbers in rules.values()]
        self._valued = any(part.mixture.rescoring is not None for part in self._mixed)

    def _gate_rows(self, copies: list[tuple[Slot, int]]) -> Tensor | None:
        """Return the gates ``[n, R]`` of all copies; None where no copy has any."""
        if self._steering is None or all(row.gates is None for row, _ in copies):
            return None
        base = torch.zeros(self._steering.rank)
        return torch.stack([base if (gates := row.gates_of(kind)) is None else gates for row, kind in copies])

    def _mixed_rows(self, numbers: list[int], places: dict[Slot, list[int]]) -> _Mixed:
        rows = [self.rows[number] for number in numbers]
        mixtures = [row.mixture for row in rows if row.mixture is not None]
        device = self._lm.device
        return _Mixed(
            torch.tensor(numbers, device=device),
            torch.tensor([copy for row in rows for copy in places[row]], device=device),
            torch.tensor([owner for owner, row in enumerate(rows) for _ in row.kinds]),
            torch.tensor([kind for row in rows for kind in row.kinds]),
            Mixture(
                torch.cat([mixture.coefficients for mixture in mixtures]),
                mixtures[0].rule,
                mixtures[0].nucleus,
                mixtures[0].rescoring,
            ),
        )


def _likeliest(distribution: Tensor, count: int) -> list[tuple[int, float]]:
    """Return the ``count`` likeliest tokens of log-probabilities ``[V]`` with theirs; impossible ones are left out."""
    top = distribution.topk(min(count, len(distribution)))
    pairs = zip(top.indices.tolist(), top.values.tolist(), strict=True)
    return [(token, logp) for token, logp in pairs if logp > -torch.inf]


def gated(steering: Steering | None, gates: Tensor | None) -> AbstractContextManager[None]:
    """Return the context in which the model runs under ``gates``; None is the base model alone."""
    if steering is None:
        return nullcontext()
    return steering.off() if gates is None else steering.at(gates)
