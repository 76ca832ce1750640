"""A queue of jobs: run in order in this process, or on the machines of a Ray cluster. A job that fails does not stop the others."""

from __future__ import annotations

import importlib.util
import logging
import os
import socket
import subprocess
import sys
import time
import traceback
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import dataclass
from functools import partial
from typing import Any, NamedTuple

from paretune.core.errors import ConfigError, DataError, ParetuneError, PreferenceError, TrainingError
from paretune.core.progress import at_terminal, progress

Perform = Callable[[Any], dict[str, Any]]
"""Does a job: from its order, which can be pickled, to JSON values. It is a function of a module, as workers import it."""

Tell = Callable[[str, str], None]
"""Receives the name of a job and its state."""

Queue = Callable[[Sequence["Job"], Tell], "list[Outcome]"]
"""Runs jobs, with their retries (none where another try would end alike), and returns their outcomes in the same order."""

PATIENCE = 30.0
"""Seconds in which a cluster must answer."""


@dataclass(frozen=True)
class Job:
    """A job's name, and the order that defines it."""

    name: str
    order: Any


@dataclass(frozen=True)
class Outcome:
    """The outcome of a job: its value, or why it failed at the last of its tries; seconds of that try."""

    name: str
    value: dict[str, Any] | None
    error: str
    tries: int
    seconds: float


class Attempt(NamedTuple):
    """The outcome of one try: the value of a job, or why it failed, and whether the same order would fail in the same way again."""

    value: dict[str, Any] | None
    error: str = ""
    lasting: bool = False


def attempt(perform: Perform, order: Any, folder: str) -> Attempt:
    """Try a job; paths in its order are relative to ``folder``."""
    try:
        if os.getcwd() != folder:  # noqa: PTH109
            os.chdir(folder)
        return Attempt(perform(order))
    except ParetuneError as error:
        return Attempt(None, str(error), lasting(error))
    except Exception:  # noqa: BLE001 - however a job fails, the others go on
        return Attempt(None, traceback.format_exc())


def lasting(error: BaseException) -> bool:
    """Return whether an error is one of data or settings alone, so that another try would end in the same way.

    One that something outside has caused (a disk, the network, a process) may pass.
    """
    cause = error.__cause__
    while cause is not None:
        if not isinstance(cause, (ValueError, TypeError, LookupError)):
            return False
        cause = cause.__cause__
    return isinstance(error, (ConfigError, DataError, PreferenceError, TrainingError))


def in_order(perform: Perform, retries: int) -> Queue:
    """Return the queue that runs one job after the other in this process."""

    def run(jobs: Sequence[Job], tell: Tell) -> list[Outcome]:
        return [_persist(job, tell) for job in jobs]

    def _persist(job: Job, tell: Tell) -> Outcome:
        for tries in range(1, retries + 2):
            tell(job.name, "running" if tries == 1 else f"running, try {tries}")
            began = time.perf_counter()
            value, error, last = attempt(perform, job.order, os.getcwd())  # noqa: PTH109
            if not error or last:
                break
        outcome = Outcome(job.name, value, error, tries, time.perf_counter() - began)
        tell(job.name, "failed" if error else "done")
        return outcome

    return run


@contextmanager
def on_ray(address: str, perform: Perform, retries: int, cpus: float, gpus: float) -> Iterator[Queue]:
    """Connect to a Ray cluster and yield the queue that runs on it, as many jobs at a time as have room.

    The machines import paretune, and see the working folder under the same path as this one. A worker that is killed counts as
    a failed try.

    Args:
        address: ``host:port``, ``ray://host:port``, ``auto`` (the cluster this machine is of) or ``local`` (one is started
            here for the length of the context).
        perform: Function that does a job, see there.
        retries: Number of further tries of a job that failed.
        cpus, gpus: Resources of a job.

    Raises:
        ConfigError: Ray is not installed, or no cluster answers.
    """
    ray = _connected(address)
    remote = ray.remote(num_cpus=cpus, num_gpus=gpus, max_retries=0)(attempt)
    folder = os.getcwd()  # noqa: PTH109

    def run(jobs: Sequence[Job], tell: Tell) -> list[Outcome]:
        if not any(_has_room(node, cpus, gpus) for node in ray.nodes()):
            tell(
                jobs[0].name,
                f"no machine of the cluster has {cpus:g} CPUs and {gpus:g} GPUs now; waiting for one",
            )
        outcomes: dict[str, Outcome] = {}
        running = {remote.remote(perform, job.order, folder): (job, 1, time.perf_counter()) for job in jobs}
        # A person at a terminal sees the states of all tasks instead.
        with nullcontext() if at_terminal() else progress("tasks", len(jobs)) as advance:
            while running:
                for reference in ray.wait(list(running), num_returns=1)[0]:
                    job, tries, began = running.pop(reference)
                    try:
                        value, error, last = ray.get(reference)
                    except ray.exceptions.RayError as lost:
                        reason = str(lost).strip().splitlines()[0]
                        value, error, last = None, f"its worker ended: {reason}", False
                    if error and not last and tries <= retries:
                        tell(job.name, f"waiting for try {tries + 1}")
                        again = remote.remote(perform, job.order, folder)
                        running[again] = (job, tries + 1, time.perf_counter())
                        continue
                    outcomes[job.name] = Outcome(job.name, value, error, tries, time.perf_counter() - began)
                    tell(job.name, "failed" if error else "done")
                    if advance is not None:
                        advance()
        return [outcomes[job.name] for job in jobs]

    try:
        yield run
    finally:
        ray.shutdown()


def _connected(address: str) -> Any:
    """Return the module ray, connected."""
    if importlib.util.find_spec("ray") is None:
        raise ConfigError(
            "sweeps on a cluster need Ray: pip install 'paretune[ray]' (without --ray and RAY_ADDRESS the same tasks run in order "
            "on this machine)"
        )
    cure = (
        "start one with `ray start --head` and give the address it shows, or leave --ray and RAY_ADDRESS out to run the same "
        "tasks in order on this machine. What is finished is kept"
    )
    try:
        if address != "local" and _found(address) == "token":
            os.environ["RAY_AUTH_MODE"] = "token"  # Ray reads it once, when it is imported
        import ray

        quiet = partial(ray.init, address=address, log_to_driver=False, logging_level=logging.ERROR)
        if address == "local":
            quiet(include_dashboard=False)
        else:
            quiet()
    except (OSError, ValueError, RuntimeError) as error:
        raise ConfigError(f"no Ray cluster answers at {address} ({error}); {cure}") from error
    return ray


def _found(address: str) -> str:
    """Return how a cluster is to be addressed (``disabled``, or with a ``token``); raise an OSError unless one answers in time.

    Ray itself would try for minutes, and then end the process. A cluster requires a token where one lay in the home folder at
    its start; clients must know it.
    """
    stated = os.environ.get("RAY_AUTH_MODE")
    modes = [stated] if stated else ["disabled", "token"]
    if address != "auto":
        host, _, port = address.removeprefix("ray://").rpartition(":")
        with socket.create_connection((host, int(port)), PATIENCE):
            pass
    if address.startswith("ray://"):  # a client's connection, on which Ray sets a limit itself
        return modes[0]
    options = [] if address == "auto" else ["--address", address]
    command = [sys.executable, "-m", "ray.scripts.scripts", "health-check", *options]
    try:
        for mode in modes:
            environment = {**os.environ, "RAY_AUTH_MODE": mode}
            done = subprocess.run(
                command, timeout=PATIENCE, capture_output=True, check=False, env=environment
            )
            if not done.returncode:
                return mode
    except subprocess.TimeoutExpired as error:
        raise ConnectionError(f"no answer in {PATIENCE:g} s") from error
    raise ConnectionError("ray health-check finds none")


def _has_room(node: dict[str, Any], cpus: float, gpus: float) -> bool:
    has = node.get("Resources", {})
    return bool(node.get("Alive")) and has.get("CPU", 0) >= cpus and has.get("GPU", 0) >= gpus
