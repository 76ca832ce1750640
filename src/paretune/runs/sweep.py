"""A run as a queue of tasks (methods x preferences x seeds) that others may do at the same time; one front, one report."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

from paretune.core.errors import ConfigError, TrainingError
from paretune.core.files import write_json
from paretune.core.preference import Preference
from paretune.fronts.record import FILE, FrontRecord
from paretune.fronts.refinement import next_preferences
from paretune.fronts.score_table import SEED_MARK
from paretune.runs.config import RunConfig, SweepConfig
from paretune.runs.given import keep_given, read_given
from paretune.runs.run import finish
from paretune.runs.run_folder import at_work, told
from paretune.runs.tasks import SweepContext, Task, finished, order, perform, separable, world
from paretune.runs.workers import Job, Outcome, Perform, Queue, Tell, in_order, on_ray


@dataclass(frozen=True)
class Swept:
    """The outcome of a sweep.

    Attributes:
        report: Path of the report; None where too little was finished for one.
        failed: Tasks that failed at every try.
        done, reused: Numbers of tasks done now, and done before.
        why: Reason why there is no report.
    """

    report: Path | None
    failed: Sequence[Outcome]
    done: int
    reused: int
    why: str = ""


@dataclass
class Progress:
    """The state of the tasks so far: task -> value, and the outcomes of those that were tried."""

    values: dict[Task, dict[str, Any]] = field(default_factory=dict)
    outcomes: list[Outcome] = field(default_factory=list)

    @property
    def failed(self) -> list[Outcome]:
        """Outcomes without value."""
        return [outcome for outcome in self.outcomes if outcome.error]


Do = Callable[[Sequence[Task]], None]
"""Does the tasks that are not finished, and records the outcomes."""


def sweep(config: RunConfig, address: str | None = None, performed_by: Perform = perform) -> Swept:
    """Do a run as a queue of tasks, and write one report of all that was finished.

    Args:
        config: Settings of the run; ``sweep`` divides it.
        address: Address of a Ray cluster, see :func:`paretune.runs.workers.on_ray`; None runs the tasks in order in this process.
        performed_by: Function that does a task.

    Raises:
        ConfigError: No cluster answers, or settings that cannot be.
        TrainingError: The data cannot be prepared.
    """
    config = read_given(expanded(config))
    # The cluster comes first: where none answers, no folder is made.
    with (
        _queue(config.sweep, address, performed_by) as queue,
        at_work(config, shared=True),
        told(config),
        _board(address is not None) as tell,
    ):
        return _sweep(keep_given(config), queue, tell)


def _sweep(config: RunConfig, queue: Queue, tell: Tell) -> Swept:
    known = Progress()

    def do(tasks: Sequence[Task]) -> None:
        jobs = [Job(task.name, order(config, task)) for task in tasks]
        outcomes = queue(jobs, tell) if jobs else []
        known.outcomes.extend(outcomes)
        for task, outcome in zip(tasks, outcomes, strict=True):
            if outcome.value is not None:
                known.values[task] = outcome.value

    do([Task("prepare")])
    if known.failed:
        raise TrainingError(f"the sweep cannot start: {known.failed[0].error}")
    here = world(config.model_dump_json())
    here.config.extrapolations(here.objectives)  # a wrong one is reported before training, not after it
    reused = _do_all(here, known, do)
    return _gathered(here, known, reused)


def expanded(config: RunConfig) -> RunConfig:
    """Return the config with a method for each seed of the sweep, named ``NAME-seed-SEED``, and an absolute run folder."""
    folder = str(config.run_folder.absolute())
    if not config.sweep.seeds:
        return config.model_copy(update={"folder": folder})
    if len(set(config.sweep.seeds)) < len(config.sweep.seeds):
        raise ConfigError(f"sweep.seeds: {config.sweep.seeds} holds a seed twice")
    methods = {
        f"{name}{SEED_MARK}{seed}": {
            **settings,
            "method": config.kind(name),
            "train": {**settings.get("train", {}), "seed": seed},
        }
        for name, settings in config.methods.items()
        for seed in config.sweep.seeds
    }
    return config.model_copy(update={"folder": folder, "methods": methods})


def _queue(
    settings: SweepConfig, address: str | None, performed_by: Perform
) -> AbstractContextManager[Queue]:
    if address is None:
        return nullcontext(in_order(performed_by, settings.retries))
    room = settings.resources
    return on_ray(address, performed_by, settings.retries, room.cpus, room.gpus)


def _do_all(here: SweepContext, known: Progress, do: Do) -> int:
    """Do what is not finished, in waves: the needs of others come first. Return the number of tasks that were finished before."""
    reused = 0

    def do_rest(tasks: Sequence[Task]) -> None:
        nonlocal reused
        done = {task: value for task in tasks if (value := finished(here, task)) is not None}
        reused += len(done)
        known.values.update(done)
        do([task for task in tasks if task not in done])

    config, objectives = here.config, here.objectives
    single = [name for name in config.methods if separable(config, name)]
    whole = [name for name in config.methods if name not in single]
    corners = [Preference.one_hot(objective, objectives) for objective in objectives]
    do_rest([*(Task("corner", preference=str(w)) for w in corners), Task("base")])
    first = config.grid(objectives) if config.sweep.choose == "grid" else corners
    # Method by method within a preference: neighbours in the queue rarely wait for the same stage.
    do_rest(
        [*(Task("train", name) for name in whole), *(Task("point", n, str(w)) for w in first for n in single)]
    )
    trained = [name for name in whole if Task("train", name) in known.values]
    do_rest([Task("point", name, str(w)) for w in config.fine_grid(objectives) for name in trained])
    if config.sweep.choose == "adaptive":
        _fill_gaps(here, known, single, first, do_rest)
    return reused


def _fill_gaps(
    here: SweepContext, known: Progress, methods: Sequence[str], corners: Sequence[Preference], do: Do
) -> None:
    """Train each method where its measured front has the largest gap, until it has as many preferences as it may have."""
    config, objectives = here.config, here.objectives
    most = config.sweep.points or len(config.grid(objectives))
    tried = {name: list(corners) for name in methods}
    while True:
        round_ = []
        for name in methods:
            points = _points(known, name, objectives)
            room = min(config.sweep.together, most - len(tried[name]))
            if room < 1 or any(corner not in points for corner in corners):
                continue
            weights = np.array([w.weights for w in points])
            asked = np.array([w.weights for w in tried[name]])
            means = np.array(list(points.values()))
            chosen = [
                Preference(tuple(objectives), tuple(row))
                for row in next_preferences(weights, means, asked, room).tolist()
            ]
            tried[name] += chosen
            round_ += [Task("point", name, str(w)) for w in chosen]
        if not round_:
            return
        do(round_)


def _points(known: Progress, method: str, objectives: Sequence[str]) -> dict[Preference, list[float]]:
    """Return the mean scores of a method at the preferences where it was measured."""
    return {
        Preference.parse(task.preference, objectives): value["mean"]
        for task, value in known.values.items()
        if task.kind == "point" and task.method == method
    }


def _gathered(here: SweepContext, known: Progress, reused: int) -> Swept:
    """Write the report of the methods that have a point, at the preferences where they have one."""
    config, objectives = here.config, here.objectives
    points = {name: list(_points(known, name, objectives)) for name in config.methods}
    points = {
        name: sorted(measured, key=lambda w: w.weights, reverse=True)
        for name, measured in points.items()
        if measured
    }
    done = len(known.outcomes) - len(known.failed) - 1  # preparing is no task of its own
    report, why = None, ""
    whole = config.grid(objectives)
    trained = {name: measured if separable(config, name) else whole for name, measured in points.items()}
    missing = [
        outcome.name for outcome in known.failed if outcome.name.partition("@")[0] not in config.methods
    ]
    here.lab.stages.clear()  # those of tasks, of which only this process's are known
    if points and not missing:
        report = finish(config, here.lab, here.splits, here.scorers, trained, points)
        _spread_over_seeds(here, report)
    else:
        why = f"the front needs {missing[0]}, which failed" if missing else "no method was measured anywhere"
    return Swept(report, known.failed, done, reused, why)


def _spread_over_seeds(here: SweepContext, report: Path) -> None:
    """Write ``sweep.json``: for each method that was trained with several seeds, its hypervolumes, their mean and deviation."""
    hypervolumes: dict[str, list[float]] = {}
    for policy in FrontRecord.read(report.parent / FILE).policies:
        name, mark, _ = policy.name.rpartition(SEED_MARK)
        if mark:
            hypervolumes.setdefault(name, []).append(policy.figures["hypervolume"].value)
    spread: Mapping[str, Any] = {
        name: {
            "hypervolumes": values,
            "mean": float(np.mean(values)),
            "deviation": float(np.std(values, ddof=1)) if len(values) > 1 else None,
        }
        for name, values in hypervolumes.items()
    }
    write_json(report.parent / "sweep.json", {"seeds": here.config.sweep.seeds, "methods": spread})


@contextmanager
def _board(live: bool) -> Iterator[Tell]:
    """Show the states of the tasks, at a terminal only: a live table where tasks run at the same time, else one line per change."""
    if not sys.stderr.isatty():
        yield lambda name, state: None
        return
    from rich.console import Console
    from rich.live import Live
    from rich.table import Table

    console = Console(stderr=True)
    if not live:  # a task in this process shows a bar of its own
        yield lambda name, state: console.print(f"{name}: {state}", markup=False, highlight=False)
        return
    states: dict[str, str] = {}

    def table() -> Table:
        shown = Table("task", "state")
        for name, state in states.items():
            shown.add_row(name, state)
        return shown

    with Live(table(), console=console) as screen:

        def tell(name: str, state: str) -> None:
            states[name] = state
            screen.update(table())

        yield tell
