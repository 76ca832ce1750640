"""Training of value heads by TD(lambda) on texts that the frozen model sampled; nothing of the model is trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Annotated

import torch
from annotated_types import Ge, Le
from torch import Tensor, nn

from paretune.core.bounds import Positive, Share, check_bounds
from paretune.core.errors import TrainingError
from paretune.core.files import fingerprint, write_json
from paretune.models.packing import PackedBatch, pack, packed_states
from paretune.models.values import Values, hidden_size
from paretune.training.batches import Batches, held_out
from paretune.training.checkpoint import remove_checkpoint
from paretune.training.lab import Lab
from paretune.training.loop import Group, Record, TrainingRun, fit
from paretune.training.trackers import tracked
from paretune.training.value_losses import explained, lambda_returns, value_loss
from paretune.training.value_samples import SampleTable


@dataclass(frozen=True)
class ValueSettings:
    """How value heads learn.

    Attributes:
        lam: lambda of TD(lambda): how far a target looks ahead before it trusts the values themselves; 1 is the outcome alone. 0.95
            as in the released code.
        width: Neurons of the trunk.
        rate_factor: Factor on ``train.learning_rate``, as heads start from nothing where an adapter starts from a model.
    """

    lam: Share = 0.95
    width: Annotated[int, Ge(1), Le(65536)] = 256
    rate_factor: Positive = 5.0

    def __post_init__(self) -> None:
        check_bounds(self)


def fit_values(
    lab: Lab,
    name: str,
    objectives: Sequence[str],
    table: SampleTable,
    validation: SampleTable,
    settings: ValueSettings,
    inputs: Sequence[str],
) -> Values:
    """Return the value heads of stage ``values/NAME``, trained now unless they are finished under the same inputs and settings.

    The parameters of the lowest error on held-out outcomes are kept.

    Args:
        lab: The run, with the settings of training; ``batch_pairs`` counts prompts with their texts.
        name: Name of the stage.
        objectives: M names.
        table: Texts to train on.
        validation: Texts that choose the best parameters.
        settings: How the heads learn.
        inputs: Keys of the stages that sampled the texts.

    Raises:
        TrainingError: A loss or gradient is not finite.
    """
    lm, training = lab.lm, lab.training
    key = fingerprint(
        list(inputs),
        list(objectives),
        asdict(settings),
        training.decisive,
        lm.fingerprint,
        str(lm.model.dtype),
    )
    checkpoint = lab.folder / "checkpoints" / f"values-{name}-{key}.safetensors"
    run = TrainingRun(lm, training, lab.accelerator, checkpoint, f"values-{name}", key, notify=lab.say)
    facts = {"method": "vas", "objectives": list(objectives), **asdict(settings), "cut": table.cut}

    def make(folder: Path) -> None:
        with tracked(lab.trackers, lm.device, lab.folder / "logs" / f"values-{name}", facts) as log:
            task = ValueTask(replace(run, log=log), objectives, table, validation, settings)
            history = fit(task, task.run)
        shares = task.explained()
        task.values(facts | {"explained": shares}).save(folder / "values")
        write_json(folder / "history.json", history)

    folder = lab.stage(f"values/{name}", key, make, together=True) / "values"
    remove_checkpoint(checkpoint)
    made = Values.load(folder, lm.fingerprint, hidden_size(lm.model))
    shares = ", ".join(f"{name} {share:.0%}" for name, share in made.info["explained"].items())
    lab.say(f"values-{name}: the values explain of the variance of held-out outcomes: {shares}")
    return made


class ValueTask:
    """Value heads on the states of sampled texts (a :class:`paretune.training.loop.Task`)."""

    def __init__(
        self,
        run: TrainingRun,
        objectives: Sequence[str],
        table: SampleTable,
        validation: SampleTable,
        settings: ValueSettings,
    ) -> None:
        self.run, self.table, self.validation, self.settings = run, table, validation, settings
        self.share = run.share()
        self.batches = Batches.of_table(run, table)
        lm = run.lm
        hidden = hidden_size(lm.model)
        start = Values.start(hidden, settings.width, objectives, lm.fingerprint, run.settings.seed).to(
            lm.device
        )
        self.parameters = {name: nn.Parameter(tensor) for name, tensor in start.tensors.items()}
        self.heads = replace(start, tensors=self.parameters)
        self.embeddings = lm.model.get_input_embeddings()

    def groups(self) -> list[Group]:
        """Return the parameters of the trunk and the heads."""
        return [Group(self.parameters, self.settings.rate_factor, self.run.settings.weight_decay)]

    def values(self, info: dict[str, object]) -> Values:
        """Return the trained heads on the CPU."""
        tensors = {name: parameter.detach().cpu().clone() for name, parameter in self.parameters.items()}
        return Values(tensors, self.heads.objectives, self.heads.base, info)

    @contextmanager
    def batch(self, step: int, micro: int, held_out: Record) -> Iterator[tuple[Tensor, Record]]:
        """Yield half the squared TD error per token of the texts to the next prompts in the order of the data."""
        (drawn,) = self.batches.rows(step, micro)
        rows = self.share.rows(drawn)
        values, packed = self._values(self.table, rows)
        rewards = self._rewards(self.table, rows)
        targets = lambda_returns(values, rewards, packed.lengths, self.settings.lam)
        loss = value_loss(values, targets).sum()
        if not bool(loss.isfinite()):
            raise TrainingError(
                f"{self.run.name}: the loss is not finite at step {step + 1}, on the prompts {rows}; lower train.learning_rate, or "
                "look at the scores of their answers"
            )
        count = self.share.total(torch.tensor(float(len(packed.targets)), device=loss.device))
        outcomes = rewards[packed.responses]
        record = {"tokens": packed.input_ids.numel(), **self.batches.metrics([rows])}
        errors = (values.detach() - outcomes).square().mean(0)
        record |= {
            f"error/{name}": float(error) for name, error in zip(self.heads.objectives, errors, strict=True)
        }
        yield self.share.total(loss) / count, record

    def _values(self, table: SampleTable, rows: Sequence[int]) -> tuple[Tensor, PackedBatch]:
        """Return the values ``[S, M]`` of the states behind each token of the texts of ``rows``, and the packed batch."""
        packed = pack(table.groups(rows), self.run.lm.device)
        with torch.no_grad():
            hidden = packed_states(self.run.lm.model, packed)[packed.predictors]
            embeddings = self.embeddings(packed.targets)
        return self.heads(hidden, embeddings), packed

    def _rewards(self, table: SampleTable, rows: Sequence[int]) -> Tensor:
        """Return the rewards ``[R, M]`` of the texts of ``rows``."""
        return table.rewards[list(rows)].flatten(0, 1).to(self.run.lm.device)

    @torch.no_grad()
    def validate(self) -> Record:
        """Return half the squared error of the held-out outcomes themselves per token: no value stands for what is to come."""
        sums = torch.zeros(2, device=self.run.lm.device)
        for rows in self.share.team.part(held_out(self.run.settings, self.validation)):
            values, packed = self._values(self.validation, rows)
            outcomes = self._rewards(self.validation, rows)[packed.responses]
            sums += torch.stack([value_loss(values, outcomes).sum(), sums.new_tensor(float(len(values)))])
        total, count = self.share.reduce_sums(sums).tolist()
        return {"validation_loss": total / count}

    @torch.no_grad()
    def explained(self) -> dict[str, float | None]:
        """Return the share of the variance of held-out outcomes that the values explain; None where all are alike."""
        found = []
        for rows in held_out(self.run.settings, self.validation):
            values, packed = self._values(self.validation, rows)
            found.append(torch.stack([values, self._rewards(self.validation, rows)[packed.responses]]))
        values, outcomes = torch.cat(found, dim=1)
        shares = explained(values, outcomes).tolist()
        return {
            name: None if share != share else share
            for name, share in zip(self.heads.objectives, shares, strict=True)
        }
