"""Work done by several processes at once."""

from __future__ import annotations

import faulthandler
import gc
import importlib
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

from support import measuring

HANGS = 120
"""Seconds after which a process is taken to hang: it prints where, and ends, so that the test fails and says why."""

LOADED = ("paretune.runs.run", "paretune.reports.report", "paretune.planning.calibrate")
"""What runs load: once in this process, and not in each of those that are forked from it."""

LAUNCHER = ("RANK", "LOCAL_RANK", "WORLD_SIZE", "MASTER_ADDR", "MASTER_PORT", "TORCHELASTIC_RESTART_COUNT")


def together(work: Callable[..., Any], *arguments: object, size: int = 2, logs: Path | None = None) -> list:
    """Run ``work`` in ``size`` processes forked from this one, under torchrun's agent; return what each returns."""
    from torch.distributed.elastic.multiprocessing import DefaultLogsSpecs, Std
    from torch.distributed.launcher.api import LaunchConfig, elastic_launch

    specs = DefaultLogsSpecs(log_dir=str(logs), redirects=Std.ALL) if logs else DefaultLogsSpecs()
    config = LaunchConfig(
        min_nodes=1,
        max_nodes=1,
        max_restarts=0,
        run_id="test",
        nproc_per_node=size,
        rdzv_backend="c10d",
        rdzv_endpoint="localhost:0",
        start_method="fork",
        monitor_interval=0.1,
        logs_specs=specs,
    )
    for name in LOADED:
        importlib.import_module(name)
    measuring.tell()
    gc.collect()
    gc.disable()  # a fork that collected what belongs to the agent's threads, which it does not have, would crash
    try:
        found = elastic_launch(config, _joined)(work, *arguments)
    finally:
        gc.enable()
    return [found[rank] for rank in range(size)]


def _joined(work: Callable[..., Any], *arguments: object) -> Any:
    from accelerate.state import AcceleratorState

    AcceleratorState._reset_state(reset_partial_state=True)  # that of the process this one was forked from
    faulthandler.dump_traceback_later(HANGS, exit=True, file=sys.__stderr__)
    try:
        return work(*arguments)
    finally:
        faulthandler.cancel_dump_traceback_later()
