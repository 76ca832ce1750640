"""Accelerate's trackers (tensorboard, wandb, trackio, mlflow), which show a run while it trains."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator

from paretune.core.errors import ConfigError
from paretune.training.loop import Record


@contextmanager
def tracked(
    names: Sequence[str], device: torch.device, folder: Path, facts: Mapping[str, Any]
) -> Iterator[Callable[[int, Record], None]]:
    """Yield a function that sends a step's record to the trackers ``names``, which keep their files in ``folder``.

    Raises:
        ConfigError: A tracker that is unknown or not installed.
    """
    if not names:
        yield lambda step, record: None
        return
    try:
        accelerator = Accelerator(cpu=device.type == "cpu", log_with=list(names), project_dir=str(folder))
    except ValueError as error:
        raise ConfigError(f"trackers: {error}") from error
    working = {str(getattr(tracker, "value", tracker)) for tracker in accelerator.log_with}
    missing = [tracker for tracker in names if tracker not in working]
    if missing:
        raise ConfigError(
            f"trackers: {missing[0]!r} is not installed; pip install {missing[0]}, or leave it out"
        )
    scalars = {key: value for key, value in facts.items() if isinstance(value, (int, float, str, bool))}
    accelerator.init_trackers("paretune", config=scalars)
    try:
        yield lambda step, record: accelerator.log(record, step=step)
    finally:
        accelerator.end_training()
