"""Pairs as token ids with one column for everything a method knows about them: the stamped table that `fit` trains on."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from paretune.errors import TrainingError
from paretune.lm import LanguageModel
from paretune.packing import TokenGroup
from paretune.pairs import Pair

COLUMNS = ("margin", "scale", "weight", "reversed_weight")
"""Columns a method may stamp, with the meaning they have in :func:`paretune.losses.pair_loss`."""


@dataclass(frozen=True, eq=False)
class PairTable:
    """N tokenised pairs with their stamped columns.

    Attributes:
        prompts, chosen, rejected: token ids; responses end with the end of turn unless they were cut.
        pairs: the pairs themselves, for messages and for methods that stamp labels or score gaps.
        reference: fp32 ``[N, 2]``, log-probabilities of chosen and rejected under the reference model, in nats.
        margin, scale, weight, reversed_weight: fp32 ``[N]``, see :func:`paretune.losses.pair_loss`.
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

    def __len__(self) -> int:
        return len(self.pairs)

    def groups(self, rows: Sequence[int]) -> list[TokenGroup]:
        """Return the token groups of ``rows``: one prompt shared by chosen and rejected."""
        return [(self.prompts[row], (self.chosen[row], self.rejected[row])) for row in rows]

    def stamp(self, **columns: Tensor | float) -> PairTable:
        """Return the table with columns replaced; a number fills the column, a tensor gives one value a pair.

        Raises:
            TrainingError: an unknown column, another length, or values that are not finite (the pair is named).
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


def tokenise(lm: LanguageModel, pairs: Sequence[Pair], max_tokens: int) -> tuple[PairTable, int]:
    """Tokenise pairs; return the table (reference log-probabilities still NaN) and how many pairs were dropped.

    A pair of which prompt and longer response exceed ``max_tokens`` is dropped, never cut: a cut response would train
    the model on an end that its author did not write.

    Raises:
        TrainingError: no pair is left.
    """
    kept: list[tuple[tuple[int, ...], tuple[int, ...], tuple[int, ...], Pair]] = []
    for pair in pairs:
        prompt = tuple(lm.encode_prompt(pair.prompt))
        chosen = tuple(lm.encode_response(pair.chosen, pair.chosen_truncated))
        rejected = tuple(lm.encode_response(pair.rejected, pair.rejected_truncated))
        if len(prompt) + max(len(chosen), len(rejected)) <= max_tokens:
            kept.append((prompt, chosen, rejected, pair))
    if not pairs:
        raise TrainingError(
            "there is no pair to train on: no prompt has two responses that the objective tells apart; "
            "give more responses a prompt, or scores that differ"
        )
    if not kept:
        raise TrainingError(
            f"all {len(pairs)} pairs are longer than max_tokens={max_tokens} and none is left; raise max_tokens"
        )
    count = len(kept)
    prompts, chosen_ids, rejected_ids, used = zip(*kept, strict=True)
    table = PairTable(
        prompts=prompts,
        chosen=chosen_ids,
        rejected=rejected_ids,
        pairs=used,
        reference=torch.full((count, 2), float("nan")),
        margin=torch.zeros(count),
        scale=torch.ones(count),
        weight=torch.ones(count),
        reversed_weight=torch.zeros(count),
    )
    return table, len(pairs) - count
