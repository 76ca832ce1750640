"""The tasks of a sweep: each does a part of a run in the run's folder, through the stages the run itself would use."""

from __future__ import annotations

import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

from typing_extensions import TypedDict

from paretune.core.errors import ConfigError, ParetuneError
from paretune.core.files import REMAKE, fingerprint, read_json, write_json
from paretune.core.preference import Preference
from paretune.core.settings import as_values
from paretune.data.dataset import ScoredDataset
from paretune.methods.base import Inputs
from paretune.policies.policy import Policy
from paretune.runs.config import RunConfig
from paretune.runs.measure import measure_points
from paretune.runs.memory import memory_told, settle_checkpointing
from paretune.runs.prepare import prepare_data, read_sources
from paretune.runs.run import opened, shape_in, train
from paretune.runs.run_folder import at_work
from paretune.scoring.scorer import Scorer
from paretune.training.lab import Lab
from paretune.training.loop import Training
from paretune.training.remote_stages import identity


@dataclass(frozen=True)
class Task:
    """A part of a run.

    Attributes:
        kind: ``prepare``: data, scores and the reference pass. ``base``: measure the base model. ``corner``: train and measure
            the single-objective model of the one-hot ``preference``. ``train``: train ``method`` for all preferences.
            ``point``: train it for ``preference``, where it has a model for each, and measure it there.
        method: name of an entry of ``methods``.
        preference: Preference as text.
    """

    kind: Literal["prepare", "base", "corner", "train", "point"]
    method: str = ""
    preference: str = ""

    @property
    def name(self) -> str:
        """Name of the task in tables, and of its record on disk."""
        return "@".join(filter(None, [self.method or self.kind, self.preference]))


class Record(TypedDict):
    """What is kept of a task that was done: the fingerprint of all that decides it, the seconds it took, and its value."""

    key: str
    seconds: float
    value: dict[str, list[float]]


@dataclass(frozen=True)
class SweepContext:
    """The inputs of all tasks of a run."""

    config: RunConfig
    lab: Lab
    splits: dict[str, ScoredDataset]
    scorers: Sequence[Scorer]

    @property
    def objectives(self) -> tuple[str, ...]:
        """Names, in order."""
        return self.splits["train"].objectives


@lru_cache(maxsize=1)
def world(config: str) -> SweepContext:
    """Load model and data of a run (its config as JSON); a worker keeps them from one task to the next."""
    settings = RunConfig.model_validate_json(config)
    sources = read_sources(settings)
    lab = opened(settings, shared=True)
    settle_checkpointing(settings, lab, shape_in(lab.lm), sources.splits)
    return SweepContext(settings, lab, *prepare_data(settings, lab, sources))


def perform(order: dict[str, Any]) -> dict[str, Any]:
    """Do a task, and record that it is done.

    Args:
        order: ``config``: the settings of the run, as JSON; ``task``: the fields of a :class:`Task`.

    Returns:
        The mean scores of the point that was measured, one per objective, if any.
    """
    task = Task(**order["task"])
    with at_work(RunConfig.model_validate_json(order["config"]), shared=True):
        here = world(order["config"])
        if (done := finished(here, task)) is not None:
            return done
        began = time.perf_counter()
        with memory_told(here.config, here.splits):
            value = _do(here, task)
        seconds = time.perf_counter() - began
        write_json(_record(here, task), {"key": _key(here, task), "seconds": seconds, "value": value})
        return value


def finished(here: SweepContext, task: Task) -> dict[str, Any] | None:
    """Return the value of a task that was done under the same settings and data; None if it was not."""
    file = _record(here, task)
    if not file.is_file():
        return None
    record = read_json(file, Record)
    if record["key"] != _key(here, task):
        return None
    if len(record["value"].get("mean", here.objectives)) != len(here.objectives):
        raise ParetuneError(f"{file}: not as expected (one mean for each objective); {REMAKE}")
    return record["value"]


def separable(config: RunConfig, method: str) -> bool:
    """Return whether a method trains a model for each preference that does not depend on the other preferences."""
    return config.entry(method).traits.separable


def _do(here: SweepContext, task: Task) -> dict[str, Any]:
    config, lab, objectives = here.config, here.lab, here.objectives
    if task.kind == "prepare":
        _reference_pass(here)
        return {}
    if task.kind == "base":
        return _measured(here, Policy.base(lab.lm, objectives), Preference.uniform(objectives))
    if task.kind == "corner":
        asked = Preference.parse(task.preference, objectives)
        if config.untrained:
            name = next(iter(config.methods))
            with lab.trained_by(config.training(name)):
                first = train(name, config, lab, here.splits, [asked], here.scorers)
            return _measured(here, replace(first, name="corners"), asked)
        dpo, training = config.corners()
        (objective,) = (name for name, weight in asked.as_dict().items() if weight)
        with lab.trained_by(training):
            adapter = Inputs(lab, here.splits["train"], here.splits["validation"]).corner(objective, dpo)
        return _measured(here, Policy.anchors("corners", lab.lm, objectives, [adapter], [asked]), asked)
    asked_for = [Preference.parse(task.preference, objectives)] if task.preference else []
    trained_for = asked_for if asked_for and separable(config, task.method) else config.grid(objectives)
    with lab.trained_by(config.training(task.method)):
        policy = train(task.method, config, lab, here.splits, trained_for, here.scorers)
    return _measured(here, policy, *asked_for) if asked_for else {}


def _reference_pass(here: SweepContext) -> None:
    """Read the pairs of the single-objective models by the base model, in the order of the objectives.

    The first task that needs the pass would do it; but a forward is packed of what is requested together, so the order of the
    passes can show in the last digits, and must be the same in every sweep.
    """
    if here.config.untrained:
        return
    dpo, training = here.config.corners()
    with here.lab.trained_by(training):
        for objective in here.objectives:
            here.lab.train_table(here.lab.pairs(here.splits["train"], objective, dpo.pairs), objective)
            here.lab.pair_table(here.lab.pairs(here.splits["validation"], objective, dpo.pairs), objective)


def _measured(here: SweepContext, policy: Policy, asked: Preference) -> dict[str, Any]:
    measurement = measure_points(here.config, here.lab, here.splits["test"], here.scorers, policy, [asked])
    return {"mean": measurement.front.means[0].tolist()}


def _record(here: SweepContext, task: Task) -> Path:
    return here.lab.folder / "tasks" / f"{task.name}.json"


def _trained_by(training: Training) -> dict[str, Any]:
    return {**training.decisive, "checkpoint_every": training.checkpoint_every}


def _key(here: SweepContext, task: Task) -> str:
    """Return the fingerprint of all that decides what a task does."""
    config, lab = here.config, here.lab
    method: list[Any] = []
    if task.method:
        whole = [] if separable(config, task.method) else [str(w) for w in config.grid(here.objectives)]
        entry = config.entry(task.method)
        method = [as_values(entry.settings), _trained_by(entry.training), whole]
    elif task.kind == "corner" and config.untrained:
        entry = config.entry(next(iter(config.methods)))
        method = [as_values(entry.settings), _trained_by(entry.training)]
    elif task.kind in ("corner", "prepare"):
        dpo, training = config.corners()
        method = [as_values(dpo), _trained_by(training)]
    return fingerprint(
        asdict(task),
        method,
        [lab.lm.fingerprint, str(lab.lm.model.dtype), config.seed],
        [here.splits[name].fingerprint for name in ("train", "validation", "test")],
        [scorer.fingerprint for scorer in here.scorers],
        [config.sampling.identity(), config.evaluate.prompts, config.evaluate.samples],
        *identity(config.endpoint_of(task.method)),
    )


def order(config: RunConfig, task: Task) -> dict[str, Any]:
    """Return what :func:`perform` is to be called with."""
    if config.processes not in (None, 1) or config.sharding != "none":
        raise ConfigError(
            "a sweep runs each task as one process; leave processes and sharding out, or train such a model with `paretune run`"
        )
    return {"config": config.model_dump_json(), "task": asdict(task)}
