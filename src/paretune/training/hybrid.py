"""Training one adapter on pairs and on weighted responses at once, with one forward and one backward of the policy per step."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from paretune.core.errors import TrainingError
from paretune.core.files import fingerprint
from paretune.models.adapter import Adapter
from paretune.models.packing import TokenGroup, pack, packed_logps
from paretune.models.steering import trained
from paretune.training.batches import Batches, group_tokens, spans
from paretune.training.demonstrations import Demonstration
from paretune.training.lab import Lab
from paretune.training.learner import OneAdapter, one_adapter
from paretune.training.loop import Group, Record, TrainingRun, fit
from paretune.training.losses import log_ratio_gap, nll_loss, pair_loss
from paretune.training.preference_pairs import PairLoss
from paretune.training.token_tables import Limit, PairTable


@dataclass(frozen=True, eq=False)
class WeightedResponses:
    """N tokenised responses, each with the weight of imitating it.

    Attributes:
        prompts, responses: Token ids; responses end with the end of turn unless they were cut.
        wheres: Their origins, for messages.
        weights: fp32 ``[N]``, at least 0, a factor of the mean negative log-likelihood of a response token.
    """

    prompts: tuple[tuple[int, ...], ...]
    responses: tuple[tuple[int, ...], ...]
    wheres: tuple[str, ...]
    weights: Tensor

    @classmethod
    def of(cls, lab: Lab, items: Sequence[Demonstration], weights: Tensor) -> WeightedResponses:
        """Tokenise responses; what is left out or cut because it is too long is said.

        Raises:
            TrainingError: No response is short enough.
        """
        limit: Limit = lab.limit
        kept = []
        for number, item in enumerate(items):
            response = tuple(lab.lm.encode_response(item.response, item.truncated))
            if fitted := limit.fit(item.prompt, [response], item.where):
                kept.append((fitted[0], fitted[1][0], item.where, number))
        if not kept:
            raise TrainingError(
                f"none of {len(items)} responses has at most {limit.most} tokens with its prompt ({limit}); give shorter ones, or "
                "raise train.max_tokens"
            )
        if dropped := len(items) - len(kept):
            lab.leave_out(
                f"{dropped} of {len(items)} responses to imitate are longer than {limit} and were left out"
            )
        limit.say_cut(len(items), "responses", lab.leave_out)
        prompts, responses, wheres, numbers = zip(*kept, strict=True)
        return cls(prompts, responses, wheres, weights[list(numbers)].float())

    def __len__(self) -> int:
        return len(self.responses)

    def groups(self, rows: Sequence[int]) -> list[TokenGroup]:
        """Return the token groups of ``rows``."""
        return [(self.prompts[row], [self.responses[row]]) for row in rows]

    @property
    def fingerprint(self) -> str:
        """Fingerprint of all that training reads."""
        return fingerprint(self.prompts, self.responses, self.weights.numpy().tobytes())


@dataclass(frozen=True, eq=False)
class HybridData:
    """What one adapter is trained on.

    Attributes:
        pairs: Stamped pairs; None for none.
        responses: Weighted responses.
    """

    pairs: PairTable | None
    responses: WeightedResponses

    @property
    def lengths(self) -> list[int]:
        """Numbers of rows: of the pairs, if there are any, and of the responses."""
        return [*([] if self.pairs is None else [len(self.pairs)]), len(self.responses)]

    def groups(self, rows: Sequence[Sequence[int]]) -> list[TokenGroup]:
        """Return the token groups of rows of each table: those of the pairs first."""
        pairs = [] if self.pairs is None else self.pairs.groups(rows[0])
        return [*pairs, *self.responses.groups(rows[-1])]

    def where(self, rows: Sequence[Sequence[int]]) -> str:
        """Name rows of each table, for a message."""
        named = [self.responses.wheres[row] for row in rows[-1]]
        return "; ".join([*([] if self.pairs is None else [self.pairs.where(rows[0])]), *named])

    @property
    def fingerprint(self) -> str:
        """Fingerprint of all that training reads."""
        return fingerprint(self.pairs.fingerprint if self.pairs else "", self.responses.fingerprint)


def fit_hybrid(
    lab: Lab, name: str, data: HybridData, validation: HybridData, loss: PairLoss, info: dict[str, Any]
) -> Adapter:
    """Train an adapter on pairs and weighted responses, or return the finished one of an earlier run with the same inputs.

    Args:
        lab: The run.
        name: Name of the stage and of its folder under ``adapters/``.
        data: What is trained on.
        validation: What chooses the best parameters, stamped and weighted alike.
        loss: Loss of each pair; the columns of the table enter it.
        info: Facts stored with the adapter.
    """
    facts = info | {"beta": loss.beta, "pairs": sum(data.lengths[:-1]), "responses": len(data.responses)}
    inputs = ["hybrid", data.fingerprint, validation.fingerprint, loss.facts()]

    def train(run: TrainingRun) -> tuple[Adapter, list[Record]]:
        for part in (data, validation):
            if part.pairs is not None:
                part.pairs.require_reference(name)
        learner = one_adapter(run)
        with trained(learner.steering, run.settings.checkpointing):
            history = fit(HybridTask(run, learner, data, validation, loss), run)
            return learner.adapter(run.info), history

    return lab.fit_stage(name, inputs, facts, train)


class HybridTask:
    """One adapter under a constant gate on pairs and weighted responses (a :class:`paretune.training.loop.Task`).

    A step draws ``batch_pairs`` pairs and as many responses, packed into one forward. The loss is the mean loss of the pairs plus
    the mean of weight times negative log-likelihood per token of the responses.
    """

    def __init__(
        self,
        run: TrainingRun,
        learner: OneAdapter,
        data: HybridData,
        validation: HybridData,
        loss: PairLoss,
    ) -> None:
        self.run, self.learner, self.loss = run, learner, loss
        self.data, self.validation = data, validation
        self.share, self.gate = run.share(), learner.gate
        orders = [run.settings.order(length, number) for number, length in enumerate(data.lengths)]
        self.batches = Batches.of(
            run, orders, lambda n: group_tokens(data.groups([[order[n]] for order in orders]))
        )

    def groups(self) -> list[Group]:
        """Return the trainable parameters."""
        return self.learner.groups()

    @contextmanager
    def batch(self, step: int, micro: int, held_out: Record) -> Iterator[tuple[Tensor, Record]]:
        """Yield the loss of the next pairs and responses in the order of the data."""
        rows = [self.share.rows(drawn) for drawn in self.batches.rows(step, micro)]
        with self.learner.steering.at(self.gate):
            pairs, responses, tokens = self.losses(self.data, rows)
            if not bool(pairs.isfinite().all() and responses.isfinite().all()):
                raise TrainingError(
                    f"{self.run.name}: the loss is not finite at step {step + 1}, on {self.data.where(rows)}; "
                    "lower train.learning_rate, or look at these rows"
                )
            imitation = self.share.mean(responses)
            loss = imitation if self.data.pairs is None else self.share.mean(pairs) + imitation
            record = {"loss/imitation": float(imitation.detach()), "tokens": tokens}
            yield loss, {**record, **self.batches.metrics(rows)}

    def losses(self, data: HybridData, rows: Sequence[Sequence[int]]) -> tuple[Tensor, Tensor, int]:
        """Return the losses of pairs ``[B]`` (none without pairs) and of responses ``[B]``, and the tokens of the one forward."""
        batch = pack(data.groups(rows), self.run.lm.device)
        logps = packed_logps(self.run.lm.model, batch)
        count = 2 * len(rows[0]) if data.pairs is not None else 0
        weights = data.responses.weights[list(rows[-1])].to(logps.device)
        imitated = weights * nll_loss(logps[count:], batch.lengths[count:])
        if data.pairs is None:
            return imitated[:0], imitated, batch.input_ids.numel()
        table, index = data.pairs, list(rows[0])
        columns = {
            name: getattr(table, name)[index].to(logps.device)
            for name in ("margin", "scale", "weight", "reversed_weight")
        }
        both, reference = logps[:count].view(-1, 2), table.reference[index].to(logps.device)
        pairs = pair_loss(log_ratio_gap(both, reference), self.loss.beta, link=self.loss.link, **columns)
        votes = table.votes[index].to(logps.device)
        pairs = pairs + self.loss.beside(both, reference, batch.lengths[:count].view(-1, 2), votes)
        return pairs, imitated, batch.input_ids.numel()

    @torch.no_grad()
    def validate(self) -> Record:
        """Return the loss over the held-out pairs and responses."""
        settings, data = self.run.settings, self.validation
        sums = torch.zeros(2, device=self.run.lm.device)

        def cost(n: int) -> int:
            return group_tokens(data.groups([[n] if n < length else [] for length in data.lengths]))

        for part in self.share.team.part(
            spans(max(data.lengths), settings.batch_pairs, settings.batch_tokens, cost)
        ):
            rows = [range(part.start, min(part.stop, length)) for length in data.lengths]
            with self.learner.steering.at(self.gate):
                pairs, responses, _ = self.losses(data, rows)
            sums += torch.stack([pairs.sum(), responses.sum()])
        sums = self.share.reduce_sums(sums).cpu()
        count = len(data.pairs) if data.pairs is not None else 1
        return {"validation_loss": float(sums[0] / count + sums[1] / len(data.responses))}
