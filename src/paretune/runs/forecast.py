"""How long a run will take on this machine, said before its first stage."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import psutil
import torch

from paretune.core.progress import in_words
from paretune.core.work_log import Planned
from paretune.data.dataset import ScoredDataset
from paretune.planning.work import Stage
from paretune.runs.config import RunConfig
from paretune.runs.estimate import estimate
from paretune.runs.plan import plan

SLOWER = 1.3
"""How many times longer a run must take beside other work for it to be said."""


@dataclass(frozen=True)
class Forecast:
    """The plan of a run in time.

    Attributes:
        parts: Its parts, in order.
        sentence: The whole time in words, with what it rests on.
    """

    parts: tuple[Planned, ...]
    sentence: str

    @property
    def seconds(self) -> float:
        """Time of all parts."""
        return sum(part.seconds for part in self.parts)


def forecast(config: RunConfig, splits: Mapping[str, ScoredDataset] | None = None) -> Forecast:
    """Return how long a run will take on this machine, by its plan.

    Args:
        config: Settings of the run.
        splits: Its data, where they are read already.

    Raises:
        ParetuneError: The run cannot be planned.
    """
    planned = plan(config, splits)
    estimated = estimate(planned, config, config.model)
    stages = {stage.name: stage for stage in planned.stages}
    assumption, threads = estimated.device.assumptions, torch.get_num_threads()
    # Rates that were measured by the clock, beside what runs now, have its part in them already.
    counted = "so not kept" in assumption and threads > 1
    tasks = other_tasks() if estimated.device.host and not counted else 0.0
    slower = slowdown(tasks, threads, psutil.cpu_count() or 1)
    parts = tuple(
        Planned(row.name, slower * row.cost.seconds, _trainings(stages.get(row.name)))
        for row in estimated.rows
    )
    seconds = sum(part.seconds for part in parts)
    if assumption.startswith("data sheet"):
        origin = f"by the data sheet of {estimated.device.title}, and not by a measurement"
    elif "so not kept" in assumption:
        origin = "by a plan with a measurement of it while other programs used it, so it may be less"
    else:
        origin = "by a plan with its measured speed"
    if slower >= SLOWER:
        origin += (
            f", beside the other work that runs on it now, about {tasks:.0f} task{'s' * (round(tasks) != 1)} at a time "
            f"({in_words(seconds / slower)} without it)"
        )
    if config.processes and config.processes > 1:
        origin += f", for one process; {config.processes} share the work"
    sentence = (
        f"{config.name}: about {in_words(seconds)} on {estimated.device.title}, {origin}. Stages that are found finished take no "
        f"time; paretune plan shows the parts"
    )
    return Forecast(parts, sentence)


def _trainings(stage: Stage | None) -> int:
    return 0 if stage is None else len(stage.columns)


def other_tasks() -> float:
    """Return how many tasks of other programs wanted a processor at a time, over the last minute."""
    return max(0.0, psutil.getloadavg()[0] - 1)  # one of them is this process, which has read its data


def slowdown(tasks: float, threads: int, processors: int) -> float:
    """Return how many times longer a run of ``threads`` takes beside ``tasks``, where all get an equal share of the processors.

    >>> slowdown(0, 2, 2), slowdown(2, 2, 2), slowdown(1, 1, 2)
    (1.0, 2.0, 1.0)
    """
    return max(1.0, (tasks + threads) / max(threads, processors))
