"""Supervised fine-tuning: one adapter that imitates given responses."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass

import torch
from torch import Tensor

from paretune.core.errors import TrainingError
from paretune.data.rows import Prompt
from paretune.models.adapter import Adapter
from paretune.models.language_model import LanguageModel
from paretune.models.packing import TokenGroup, pack, packed_logps
from paretune.models.steering import trained
from paretune.training.batches import Batches, held_out
from paretune.training.learner import OneAdapter, one_adapter
from paretune.training.loop import Group, Record, TrainingRun, fit
from paretune.training.token_tables import Limit, Say, TooLong, logger, say_markers


@dataclass(frozen=True)
class Demonstration:
    """A response to imitate.

    Attributes:
        prompt: The conversation before it.
        response: Its text.
        truncated: Whether a token limit cut it, so that it does not teach where to end.
        where: Its origin, for messages, such as ``answers.jsonl:12 (response 0)``.
    """

    prompt: Prompt
    response: str
    truncated: bool = False
    where: str = ""


@dataclass(frozen=True, eq=False)
class DemonstrationTable:
    """N tokenised demonstrations.

    Attributes:
        prompts, responses: Token ids; responses end with the end of turn unless they were cut.
        wheres: Their origins.
    """

    prompts: tuple[tuple[int, ...], ...]
    responses: tuple[tuple[int, ...], ...]
    wheres: tuple[str, ...]

    def __len__(self) -> int:
        return len(self.responses)

    def groups(self, rows: Sequence[int]) -> list[TokenGroup]:
        """Return the token groups of ``rows``."""
        return [(self.prompts[row], [self.responses[row]]) for row in rows]


def tokenise_demonstrations(
    lm: LanguageModel,
    items: Sequence[Demonstration],
    max_tokens: int,
    too_long: TooLong = "drop",
    say: Say = logger.warning,
) -> tuple[DemonstrationTable, int]:
    """Tokenise demonstrations; return the table and how many were left out because they are too long, see :class:`Limit`.

    ``say`` takes a sentence on how many were cut.

    Labels come from token counts, not from a search for a template: the prompt is never imitated, the end of turn is.

    Raises:
        TrainingError: None is left.
    """
    kept, limit = [], Limit(lm, max_tokens, too_long)
    for item in items:
        response = tuple(lm.encode_response(item.response, item.truncated))
        where = item.where or f"prompt {item.prompt[-1].content[:40]!r}"
        if fitted := limit.fit(item.prompt, [response], where):
            kept.append((fitted[0], fitted[1][0], item.where))
    if not kept:
        raise TrainingError(
            f"none of {len(items)} responses to imitate has at most {limit.most} tokens with its prompt ({limit}); give some, or "
            "raise train.max_tokens"
        )
    limit.say_cut(len(items), "responses", say)
    say_markers(lm, [response for _, response, _ in kept], say)
    prompts, responses, wheres = zip(*kept, strict=True)
    return DemonstrationTable(prompts, responses, wheres), len(items) - len(kept)


def fit_demonstrations(
    run: TrainingRun, table: DemonstrationTable, validation: DemonstrationTable | None
) -> tuple[Adapter, list[Record]]:
    """Train one adapter to imitate ``table``; return it with one record of metrics per optimiser step.

    The loss is the mean negative log-likelihood of a response token, in nats. ``batch_pairs`` of the settings counts
    responses here.

    Raises:
        TrainingError: A loss or gradient is not finite; run, step and responses are named.
    """
    learner = one_adapter(run)
    with trained(learner.steering, run.settings.checkpointing):
        history = fit(DemonstrationTask(run, learner, table, validation), run)
        return learner.adapter(run.info), history


class DemonstrationTask:
    """One adapter under a constant gate on responses to imitate (a :class:`paretune.training.loop.Task`)."""

    def __init__(
        self,
        run: TrainingRun,
        learner: OneAdapter,
        table: DemonstrationTable,
        validation: DemonstrationTable | None,
    ) -> None:
        self.run, self.learner, self.table, self.validation = run, learner, table, validation
        self.share, self.gate = run.share(), learner.gate
        self.batches = Batches.of_table(run, table)

    def groups(self) -> list[Group]:
        """Return the trainable parameters, among them the embeddings of tags."""
        return self.learner.groups()

    @contextmanager
    def batch(self, step: int, micro: int, held_out: Record) -> Iterator[tuple[Tensor, Record]]:
        """Yield the mean loss per token of the next responses in the order of the data."""
        (drawn,) = self.batches.rows(step, micro)
        rows = self.share.rows(drawn)
        with self.learner.steering.at(self.gate):
            loss, targets, tokens = self._loss(self.table, rows)
            if not bool(loss.isfinite()):
                named = "; ".join(self.table.wheres[row] for row in rows)
                raise TrainingError(
                    f"{self.run.name}: the loss is not finite at step {step + 1}, on {named}; lower train.learning_rate, or look "
                    "at these responses"
                )
            count = self.share.total(torch.tensor(float(targets), device=loss.device))
            yield self.share.total(loss) / count, {"tokens": tokens, **self.batches.metrics([rows])}

    def _loss(self, table: DemonstrationTable, rows: Sequence[int]) -> tuple[Tensor, int, int]:
        """Return the summed negative log-likelihood of ``rows``, its tokens, and all tokens of the one forward."""
        batch = pack(table.groups(rows), self.run.lm.device)
        loss = -packed_logps(self.run.lm.model, batch).sum()
        return loss, sum(len(table.responses[row]) for row in rows), batch.input_ids.numel()

    @torch.no_grad()
    def validate(self) -> Record | None:
        """Return the mean loss per token of the held-out responses."""
        if self.validation is None:
            return None
        sums = torch.zeros(2, device=self.run.lm.device)
        for rows in self.share.team.part(held_out(self.run.settings, self.validation)):
            with self.learner.steering.at(self.gate):
                loss, count, _ = self._loss(self.validation, rows)
            sums += torch.tensor([float(loss), count], device=sums.device)
        total, targets = self.share.reduce_sums(sums).tolist()
        return {"validation_loss": total / targets}
