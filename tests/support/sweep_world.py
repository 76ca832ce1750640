"""What tests of sweeps send to workers: tasks that fail, or are killed, once or always."""

import os
import signal
from pathlib import Path

from paretune.runs import tasks
from paretune.training import lab


def killed_once(order):
    """Do a task; but who first trains MODPO's middle is killed in the stage, holding its lock."""
    mark = Path(os.environ["SWEEP_MARK"])
    if order["task"]["preference"] == "short=0.5,good=0.5" and order["task"]["method"] == "modpo":
        try:
            mark.touch(exist_ok=False)
        except FileExistsError:
            return tasks.perform(order)

        def die(*args, **kwargs):
            os.kill(os.getpid(), signal.SIGKILL)

        lab.fit_pairs = die
    return tasks.perform(order)


def counted(order):
    """Do a task, and write its name down."""
    with Path(os.environ["SWEEP_MARK"]).open("a") as file:
        file.write(tasks.Task(**order["task"]).name + "\n")
    return tasks.perform(order)
