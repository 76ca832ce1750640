"""Pairs as token ids, with the columns that a method stamps on them: what training reads."""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Literal, TypeAlias

import torch
from torch import Tensor

from paretune.core.errors import TrainingError
from paretune.core.files import fingerprint
from paretune.data.dataset import ScoredDataset
from paretune.data.pairs import Pair
from paretune.data.rows import Prompt
from paretune.models.language_model import LanguageModel
from paretune.models.packing import TokenGroup
from paretune.training.loop import Training, data_order
from paretune.training.prompt_cuts import cut_at_start

logger = logging.getLogger(__name__)

TooLong: TypeAlias = Literal["drop", "cut", "prompt-left", "refuse"]
"""What happens to a text that is too long: it is left out, its response is cut at its end or its prompt at its beginning, or it is
refused."""

Fitted: TypeAlias = tuple[tuple[int, ...], list[tuple[int, ...]]]
"""Token ids of a prompt and of responses to it."""

Say: TypeAlias = Callable[[str], None]
"""What takes a sentence for the user."""

COLUMNS = ("margin", "scale", "weight", "reversed_weight")
"""Columns a method may stamp, with the meaning they have in :func:`paretune.training.losses.pair_loss`."""


@dataclass(frozen=True, eq=False)
class PairTable:
    """N tokenised pairs with their stamped columns.

    Attributes:
        prompts, chosen, rejected: Token ids; responses end with the end of turn unless they were cut.
        pairs: The pairs themselves, for messages and for methods that stamp labels or score gaps.
        reference: fp32 ``[N, 2]``, log-probabilities of chosen and rejected under the reference model, in nats.
        margin, scale, weight, reversed_weight: fp32 ``[N]``, see :func:`paretune.training.losses.pair_loss`.
        preferred: fp32 ``[N]``, share in which the terms beside the loss take chosen as preferred; None: as the weights say.
    """

    prompts: tuple[tuple[int, ...], ...]
    chosen: tuple[tuple[int, ...], ...]
    rejected: tuple[tuple[int, ...], ...]
    pairs: tuple[Pair, ...]
    reference: Tensor
    margin: Tensor
    scale: Tensor
    weight: Tensor
    reversed_weight: Tensor
    preferred: Tensor | None = None

    def __len__(self) -> int:
        return len(self.pairs)

    @property
    def fingerprint(self) -> str:
        """Fingerprint of all that training reads."""
        labels = [pair.labels for pair in self.pairs]
        return fingerprint(self.prompts, self.chosen, self.rejected, labels, *self._columns)

    @property
    def content(self) -> str:
        """Fingerprint of what a loss of stamped pairs reads: the labels are stamped, so what objectives say beside is left out."""
        return fingerprint(self.prompts, self.chosen, self.rejected, *self._columns)

    @property
    def _columns(self) -> list[bytes]:
        columns = (
            self.reference,
            self.margin,
            self.scale,
            self.weight,
            self.reversed_weight,
            self.preferred,
        )
        return [column.numpy().tobytes() for column in columns if column is not None]

    @cached_property
    def votes(self) -> Tensor:
        """Weights fp32 ``[N, 2]`` with which the terms beside the loss take chosen, and rejected, as preferred."""
        both = torch.stack([self.weight, self.reversed_weight], dim=1)
        if self.preferred is None:
            return both
        return both.sum(1, keepdim=True) * torch.stack([self.preferred, 1 - self.preferred], dim=1)

    def groups(self, rows: Sequence[int]) -> list[TokenGroup]:
        """Return the token groups of ``rows``: one prompt shared by chosen and rejected."""
        return [(self.prompts[row], (self.chosen[row], self.rejected[row])) for row in rows]

    @property
    def distinct(self) -> list[TokenGroup]:
        """Token groups of all pairs: each prompt once, with its responses, each once."""
        owners: dict[tuple[int, ...], dict[tuple[int, ...], None]] = {}
        for prompt, chosen, rejected in zip(self.prompts, self.chosen, self.rejected, strict=True):
            owners.setdefault(prompt, {}).update({chosen: None, rejected: None})
        return [(prompt, list(responses)) for prompt, responses in owners.items()]

    def in_pairs(self, groups: Sequence[TokenGroup], values: Sequence[Tensor]) -> Tensor:
        """Return ``[N, 2]``: the values of chosen and rejected, given those of the responses of :attr:`distinct` groups."""
        at = {
            (tuple(prompt), tuple(response)): value
            for (prompt, responses), row in zip(groups, values, strict=True)
            for response, value in zip(responses, row, strict=True)
        }
        found = zip(self.prompts, self.chosen, self.rejected, strict=True)
        return torch.stack([torch.stack([at[prompt, a], at[prompt, b]]) for prompt, a, b in found])

    def stamp(self, **columns: Tensor | float) -> PairTable:
        """Return the table with columns replaced; a number fills the column, a tensor gives one value per pair.

        Raises:
            TrainingError: An unknown column, another length, or values that are not finite (the pair is named).
        """
        stamped = {}
        for name, values in columns.items():
            if name not in COLUMNS:
                raise TrainingError(f"unknown column {name!r}; expected one of: {', '.join(COLUMNS)}")
            column = torch.as_tensor(values, dtype=torch.float32).expand(len(self)).clone()
            bad = (~column.isfinite()).nonzero()[:, 0]
            if len(bad):
                raise TrainingError(
                    f"{name} of {len(bad)} of {len(self)} pairs is missing or not finite, first at {self.where([int(bad[0])])}; "
                    "score every response of these pairs, or drop them"
                )
            stamped[name] = column
        return replace(self, **stamped)

    def require_reference(self, name: str) -> None:
        """Raise a TrainingError when reference log-probabilities are missing; ``name`` is the run that needs them."""
        if not bool(self.reference.isfinite().all()):
            raise TrainingError(
                f"{name}: the pairs have no reference log-probabilities; build the table with Lab.pair_table"
            )

    def where(self, rows: Sequence[int]) -> str:
        """Name ``rows`` for a message: row in the data, responses and the start of the prompt."""
        named = [self.pairs[row] for row in rows]
        return "; ".join(
            f"row {pair.row} (responses {pair.chosen_index} and {pair.rejected_index}, prompt {pair.prompt[-1].content[:40]!r})"
            for pair in named
        )


@dataclass(frozen=True, eq=False)
class ResponseTable:
    """N tokenised responses with the advantage of each objective: what the policy-gradient form trains on.

    Attributes:
        prompts, responses: Token ids; responses end with the end of turn unless they were cut.
        rows: Row of each response in the data and its number in the row, for messages.
        reference: fp32 ``[N]``, log-probabilities under the reference model, which sampled the responses, in nats.
        advantages: fp32 ``[N, M]``: each objective's score, standardised among the responses to its prompt.
    """

    prompts: tuple[tuple[int, ...], ...]
    responses: tuple[tuple[int, ...], ...]
    rows: tuple[tuple[int, int], ...]
    reference: Tensor
    advantages: Tensor

    def __len__(self) -> int:
        return len(self.responses)

    @property
    def fingerprint(self) -> str:
        """Fingerprint of all that training reads."""
        values = (self.reference.numpy().tobytes(), self.advantages.numpy().tobytes())
        return fingerprint(self.prompts, self.responses, *values)

    @property
    def lengths(self) -> Tensor:
        """Tokens in each response, int64 ``[N]``."""
        return torch.tensor([len(response) for response in self.responses])

    def require_reference(self, name: str) -> None:
        """Raise a TrainingError when reference log-probabilities are missing; ``name`` is the run that needs them."""
        if not bool(self.reference.isfinite().all()):
            raise TrainingError(
                f"{name}: the responses have no reference log-probabilities; build the table with Lab.response_table"
            )

    def where(self, rows: Sequence[int]) -> str:
        """Name ``rows`` for a message: row in the data and place of the response."""
        return "; ".join(f"row {self.rows[n][0]} (response {self.rows[n][1]})" for n in rows)


@dataclass
class Limit:
    """The most tokens of a prompt with its response, and what happens to longer texts.

    Attributes:
        lm: The model, whose positions bound the limit.
        max_tokens: The limit of ``train.max_tokens``.
        too_long: What happens to longer texts. A response that is cut teaches no end of turn. With ``cut`` a text of which the
            prompt alone is too long is left out, with ``prompt-left`` one of which the response is
            (:mod:`paretune.training.prompt_cuts`).
        cut: Number of texts that were cut so far.
    """

    lm: LanguageModel
    max_tokens: int
    too_long: TooLong = "drop"
    cut: int = field(default=0, init=False)

    @property
    def most(self) -> int:
        """The limit in tokens."""
        return self.lm.room(self.max_tokens)

    def __str__(self) -> str:
        own = self.most == self.max_tokens
        return f"max_tokens={self.most}" if own else f"the {self.most} positions of {self.lm.name}"

    def fit(
        self,
        prompt: Prompt,
        responses: Sequence[tuple[int, ...]],
        where: str,
        ids: tuple[int, ...] | None = None,
    ) -> Fitted | None:
        """Return a prompt and the responses to it as token ids, cut where they are to be; None where they are left out.

        Args:
            prompt: The prompt.
            responses: Token ids of the responses.
            where: Their name, for messages.
            ids: Token ids of the prompt, where they are known.

        Raises:
            TrainingError: They are too long and to be refused; ``where`` names them.
        """
        ids = tuple(self.lm.encode_prompt(prompt, where)) if ids is None else ids
        room, longest = self.most - len(ids), max(map(len, responses))
        if longest <= room:
            return ids, list(responses)
        if self.too_long == "refuse":
            raise TrainingError(
                f"{where}: {len(ids) + longest} tokens with the prompt, more than {self}; shorten it, raise train.max_tokens "
                "where the model has more positions, or set data.too_long to drop, cut or prompt-left"
            )
        if self.too_long == "drop":
            return None
        if self.too_long == "prompt-left":
            shorter = cut_at_start(self.lm, prompt, self.most - longest)
            if shorter is None:
                return None
            self.cut += 1
            return tuple(self.lm.encode_prompt(shorter)), list(responses)
        cut = [response[: max(room, 0)] for response in responses]
        if room < 1 or len(set(cut)) < len(set(responses)):
            return None
        self.cut += 1
        return ids, cut

    def say_cut(self, total: int, what: str, say: Say) -> None:
        """Say how many of ``total`` texts were cut, if any."""
        if self.cut:
            end = (
                "their prompts were cut at the beginning"
                if self.too_long == "prompt-left"
                else "were cut at their end"
            )
            say(f"{self.cut} of {total} {what} are longer than {self} and {end}")


def tokenise_responses(
    lm: LanguageModel,
    dataset: ScoredDataset,
    max_tokens: int,
    too_long: TooLong = "drop",
    say: Say = logger.warning,
) -> tuple[ResponseTable, int]:
    """Tokenise all responses with their advantages; return the table and how many responses were left out for their length.

    The reference log-probabilities are still NaN.

    Rows with fewer than two responses have nothing to compare and are left out. For responses that exceed ``max_tokens`` or the
    model's positions with their prompt, see :class:`Limit`. An objective on which all responses to a prompt score alike has
    advantage 0 there. ``say`` takes a sentence on how many were cut.

    Raises:
        TrainingError: A score is missing, or no row is left.
    """
    kept: list[tuple[tuple[int, ...], tuple[int, ...], tuple[int, int]]] = []
    advantages, limit, long = [], Limit(lm, max_tokens, too_long), 0
    for number, row in enumerate(dataset.rows):
        if len(row.responses) < 2:
            continue
        scores = torch.from_numpy(dataset.matrix(row))
        if not bool(scores.isfinite().all()):
            raise TrainingError(
                f"{row.source or f'row {number}'}: a response has no score for some objective; the policy-gradient form "
                "needs all scores"
            )
        spread = scores.std(0, correction=0)
        standardised = (scores - scores.mean(0)) / torch.where(spread > 0, spread, torch.ones_like(spread))
        prompt = tuple(lm.encode_prompt(row.prompt, row.source or f"row {number}"))
        for k, (text, cut) in enumerate(zip(row.responses, row.truncated, strict=True)):
            where = f"{row.source or f'row {number}'} (response {k})"
            if fitted := limit.fit(row.prompt, [tuple(lm.encode_response(text, cut))], where, prompt):
                kept.append((fitted[0], fitted[1][0], (number, k)))
                advantages.append(standardised[k])
            else:
                long += 1
    if not kept:
        raise TrainingError(
            f"no prompt has two scored responses that fit {limit} with it; sample more, or raise max_tokens"
        )
    limit.say_cut(len(kept), "responses", say)
    say_markers(lm, [response for _, response, _ in kept], say)
    prompts, responses, rows = zip(*kept, strict=True)
    unknown = torch.full((len(kept),), float("nan"))
    return ResponseTable(prompts, responses, rows, unknown, torch.stack(advantages).float()), long


def tokenise(
    lm: LanguageModel,
    pairs: Sequence[Pair],
    max_tokens: int,
    too_long: TooLong = "drop",
    objective: str = "",
    say: Say = logger.warning,
) -> tuple[PairTable, int]:
    """Tokenise pairs; return the table (reference log-probabilities still NaN) and how many pairs were dropped.

    Margin and weight are those of the data. ``objective`` is named in messages. ``say`` takes a sentence on how many were cut.

    By default a pair of which prompt and longer response exceed ``max_tokens`` or the model's positions is dropped, not cut: a
    cut response ends where its author did not end it. See :class:`Limit`.

    Raises:
        TrainingError: No pair is left, or one is too long and to be refused.
    """
    limit = Limit(lm, max_tokens, too_long)
    kept: list[tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], Pair]] = []
    for pair in pairs:
        if fitted := fitted_pair(limit, pair):
            kept.append((*fitted, pair))
    if not pairs:
        raise TrainingError(
            f"there is no pair to train on: no prompt has two responses that {named(objective) or 'the objective'} tells apart; "
            "give more responses per prompt, or scores that differ"
        )
    if not kept:
        cure = "raise max_tokens" if limit.most == max_tokens else "give shorter texts"
        raise TrainingError(
            f"all {len(pairs)} pairs{' of ' * bool(objective)}{named(objective)} are longer than {limit} and none is left; {cure}"
        )
    limit.say_cut(len(pairs), f"pairs{' of ' * bool(objective)}{named(objective)}", say)
    say_markers(lm, [ids for _, chosen, rejected, _ in kept for ids in (chosen, rejected)], say)
    count = len(kept)
    prompts, chosen_ids, rejected_ids, used = zip(*kept, strict=True)
    table = PairTable(
        prompts=prompts,
        chosen=chosen_ids,
        rejected=rejected_ids,
        pairs=used,
        reference=torch.full((count, 2), float("nan")),
        margin=torch.tensor([pair.margin for pair in used]),
        scale=torch.ones(count),
        weight=torch.tensor([pair.weight for pair in used]),
        reversed_weight=torch.zeros(count),
    )
    return table, len(pairs) - count


def say_markers(lm: LanguageModel, responses: Sequence[Sequence[int]], say: Say) -> None:
    """Say how many responses hold a token that ends or begins something, before their own end: data often keep such markers."""
    tokenizer = lm.tokenizer
    markers = {lm.turn_end, *tokenizer.all_special_ids} - {tokenizer.unk_token_id}
    found = [next((i for i in response[:-1] if i in markers), None) for response in responses]
    held = [number for number in found if number is not None]
    if held:
        shown = tokenizer.convert_ids_to_tokens(held[0])
        say(
            f"{len(held)} of {len(found)} responses hold the text of a special token, such as {shown!r}, which the model reads as "
            "the token itself; take it out of the data where it is no part of the answer"
        )


def named(objective: str) -> str:
    """Return an objective as messages name it, "" for none."""
    return f"the objective {objective!r}" if objective else ""


def fitted_pair(limit: Limit, pair: Pair) -> tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...]] | None:
    """Return the token ids of prompt, chosen and rejected as :meth:`Limit.fit` leaves them; None where it leaves them out."""
    chosen = tuple(limit.lm.encode_response(pair.chosen, pair.chosen_truncated))
    rejected = tuple(limit.lm.encode_response(pair.rejected, pair.rejected_truncated))
    where = f"row {pair.row} (prompt {pair.prompt[-1].content[:40]!r})"
    fitted = limit.fit(pair.prompt, (chosen, rejected), where)
    return (fitted[0], *fitted[1]) if fitted else None  # type: ignore[return-value]


def drawn_pairs(limit: Limit, pairs: Sequence[Pair], training: Training) -> tuple[list[Pair], int]:
    """Return the pairs that a run will use, in order, and how many were looked at.

    They are all pairs, whatever their length, where the run has steps for them; else a choice by the seed of as many short enough
    ones as it has steps for, or of fewer where there are no more.
    """
    count, draws = len(pairs), training.draws
    if draws >= count:
        return list(pairs), count
    order = data_order(count, count, training.seed)
    places: list[int] = []
    looked = 0
    while len(places) < draws and looked < count:
        asked = sorted(order[looked : looked + draws - len(places)])  # in order, as pairs of a file are read
        looked += len(asked)
        places += [place for place in asked if fitted_pair(limit, pairs[place])]
    return [pairs[place] for place in sorted(places)], looked
