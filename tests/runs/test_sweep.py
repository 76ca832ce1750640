"""Sweeps: the queue in order and on a real Ray cluster, killed workers, failed tasks, resume, the choice of the next preference."""

from __future__ import annotations

import errno
import importlib.util
import json
import multiprocessing
import os
import signal
import socket
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from paretune.core.errors import ConfigError, DataError, ScoreError, TrainingError
from paretune.fronts.refinement import next_preferences
from paretune.runs import workers
from paretune.runs.parse import parse_config
from paretune.runs.run import run
from paretune.runs.sweep import expanded, sweep
from paretune.runs.workers import Job, in_order
from paretune.training.lab import Lab
from support import forked, sweep_world
from support.world import make_dataset

SCORERS = [
    {"objective": "short", "rule": "length", "direction": "lower"},
    {"objective": "good", "rule": "regex", "pattern": "good|kind", "how": "count"},
]
TESTS = Path(__file__).parents[1]


@pytest.fixture
def settings(lm, tmp_path: Path) -> dict[str, Any]:
    make_dataset(24).select([]).write(tmp_path / "data.jsonl")
    return {
        "folder": str(tmp_path / "run"),
        "model": lm.name,
        "dtype": "float32",
        "device": "cpu",
        "data": {"source": str(tmp_path / "data.jsonl")},
        "score": SCORERS,
        "methods": {"dpo-soup": {}, "modpo": {}},
        "preferences": 3,
        "train": {"steps": 3, "batch_pairs": 2, "rank": 2, "learning_rate": 1e-2},
        "sampling": {"max_new_tokens": 5, "batch_size": 64},
        "evaluate": {"prompts": 3, "resamples": 50},
    }


def front(folder: Path) -> dict[str, list[tuple[Any, ...]]]:
    facts = json.loads((folder / "front.json").read_text())
    return {
        policy["name"]: [(p["preference"], p["mean"], p["responses"]) for p in policy["points"]]
        for policy in facts["policies"]
    }


# In order


@pytest.mark.slow
def test_a_sweep_in_order_gives_the_front_of_the_run_and_does_nothing_twice(
    settings: dict[str, Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    swept = sweep(parse_config(settings))
    assert swept.report is not None and not swept.failed and (swept.done, swept.reused) == (10, 0)
    run(parse_config({**settings, "folder": str(tmp_path / "plain")}))
    assert front(tmp_path / "run") == front(tmp_path / "plain")

    monkeypatch.setenv("SWEEP_MARK", str(tmp_path / "names"))
    again = sweep(parse_config(settings), performed_by=sweep_world.counted)
    assert (again.done, again.reused) == (0, 10)
    assert (tmp_path / "names").read_text() == "prepare\n"
    stages = json.loads((tmp_path / "run/front.json").read_text())["stages"]
    assert stages and all(stage["reused"] for stage in stages)
    run(parse_config(settings))
    stages = json.loads((tmp_path / "run/front.json").read_text())["stages"]
    assert all(stage["reused"] for stage in stages), "the ordinary run finds what the sweep made"
    changed = parse_config({**settings, "methods": {"dpo-soup": {}, "modpo": {"beta": 0.3}}})
    assert sweep(changed).reused == 7, "base, corners and the soup; what others need not be done again is not"


@pytest.mark.slow
def test_seeds_are_variants_side_by_side(settings: dict[str, Any], tmp_path: Path) -> None:
    config = parse_config({**settings, "methods": {"dpo-lw": {}}, "sweep": {"seeds": [0, 3]}})
    assert list(expanded(config).methods) == ["dpo-lw-seed-0", "dpo-lw-seed-3"]
    assert expanded(config).training("dpo-lw-seed-3").seed == 3
    assert not sweep(config).failed
    found = front(tmp_path / "run")
    assert found["dpo-lw-seed-0"] != found["dpo-lw-seed-3"]
    facts = json.loads((tmp_path / "run/front.json").read_text())
    tests = [(test["first"], test["second"], test["seeds"]) for test in facts["comparisons"]]
    assert tests == [("dpo-lw", "base", [2, 0]), ("dpo-lw", "mixture of corners", [2, 0])], (
        "judged as one method"
    )
    assert "2 training seeds of DPO loss weighting (dpo-lw)" in (tmp_path / "run/report.html").read_text()
    spread = json.loads((tmp_path / "run/sweep.json").read_text())["methods"]["dpo-lw"]
    assert len(spread["hypervolumes"]) == 2 and spread["mean"] == pytest.approx(
        np.mean(spread["hypervolumes"])
    )


@pytest.mark.slow
def test_a_failing_task_is_reported_and_the_others_are_kept(settings: dict[str, Any], tmp_path: Path) -> None:
    """The folder of one adapter holds files of somebody else, which its stage does not overwrite."""
    settings["methods"] = {"modpo": {}}
    sweep(parse_config({**settings, "folder": str(tmp_path / "elsewhere")}))
    (adapter,) = (tmp_path / "elsewhere/adapters").glob("modpo-short=0.5,good=0.5-*")
    theirs = tmp_path / "run/adapters" / adapter.name / "notes.txt"
    theirs.parent.mkdir(parents=True)
    theirs.write_text("mine")
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump({**settings, "sweep": {"retries": 1}}))
    command = [sys.executable, "-m", "paretune", "sweep", str(config)]
    result = forked.run(command, capture_output=True, text=True)
    assert result.returncode == 1, result.stderr
    assert "failed after 2 tries: modpo@short=0.5,good=0.5" in result.stderr and "notes.txt" in result.stderr
    assert "Report: " in result.stdout and "Traceback" not in result.stderr
    assert [point[0]["short"] for point in front(tmp_path / "run")["modpo"]] == [1.0, 0.0]
    assert theirs.read_text() == "mine"


def test_a_job_is_tried_again_and_its_neighbours_go_on() -> None:
    calls: list[str] = []

    def perform(order: str) -> dict[str, Any]:
        calls.append(order)
        if order == "never" or (order == "once" and calls.count("once") == 1):
            raise RuntimeError(order)
        return {"order": order}

    jobs = [Job(name, name) for name in ("once", "never", "well")]
    outcomes = in_order(perform, 2)(jobs, lambda name, state: None)
    assert [(o.value is None, o.tries) for o in outcomes] == [(False, 2), (True, 3), (False, 1)]
    assert "RuntimeError: never" in outcomes[1].error


def test_an_error_that_would_come_again_is_not_tried_again() -> None:
    """A row of the data stays as it is; a disk, a network or a process may be well at the next try."""

    def perform(order: str) -> dict[str, Any]:
        try:
            if order == "read":
                raise OSError(errno.EIO, "the disk")
            if order == "number":
                int("x")
        except (OSError, ValueError) as error:
            raise DataError(order) from error
        raise {"data": DataError, "config": ConfigError, "loss": TrainingError, "score": ScoreError}[order](
            order
        )

    jobs = [Job(name, name) for name in ("data", "config", "loss", "number", "read", "score")]
    outcomes = in_order(perform, 2)(jobs, lambda name, state: None)
    assert [o.tries for o in outcomes] == [1, 1, 1, 1, 3, 3]
    assert [o.error for o in outcomes] == [o.name for o in outcomes]


# Locks


def hold(lab_: Lab, folder: Path) -> None:
    """Begin a stage and never end it."""

    def make(place: Path) -> None:
        (folder / "held").touch()
        time.sleep(600)

    lab_.stage("adapters/x", "abc", make)


def test_the_lock_of_a_killed_holder_is_free(lm, tmp_path: Path) -> None:
    shared = Lab(lm, tmp_path / "run", shared=True)
    process = multiprocessing.get_context("fork").Process(target=hold, args=(shared, tmp_path))
    process.start()
    while not (tmp_path / "held").exists():
        time.sleep(0.02)
    began = time.perf_counter()
    assert process.pid is not None
    subprocess.Popen(["sh", "-c", f"sleep 1; kill -9 {process.pid}"])
    folder = shared.stage("adapters/x", "abc", lambda place: (place / "made").touch())
    assert (folder / "made").exists() and time.perf_counter() - began > 0.9, "it waited for the holder"
    process.join()
    assert process.exitcode == -signal.SIGKILL
    assert (
        folder.name == "x-abc" and Lab(lm, tmp_path / "run").own_name("adapters/x", "abc") == "adapters/x-abc"
    )


# On Ray


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return int(listener.getsockname()[1])


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """Start a Ray cluster of one machine and two workers, which asks for a token; return its address."""
    marks = tmp_path_factory.mktemp("marks")
    token = marks / "token"
    token.write_text("0" * 64)
    os.environ["RAY_AUTH_TOKEN_PATH"] = str(token)
    if importlib.util.find_spec("ray") is None:  # an import would read the environment for good
        pytest.skip("Ray is not installed")
    port = free_port()
    path = os.pathsep.join([str(TESTS), str(TESTS.parent / "src"), os.environ.get("PYTHONPATH", "")])
    environment = {**os.environ, "PYTHONPATH": path, "SWEEP_MARK": str(marks / "killed")}
    command = ["start", "--head", f"--port={port}", "--num-cpus=2", "--include-dashboard=false", "--block"]
    address = f"127.0.0.1:{port}"
    deadline = time.monotonic() + 300

    def start() -> subprocess.Popen[bytes]:
        return subprocess.Popen(
            [sys.executable, "-m", "ray.scripts.scripts", *command, "--disable-usage-stats"],
            env=environment,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
        )

    head = start()
    while True:
        try:
            assert workers._found(address) == "token"
            break
        except OSError:
            assert time.monotonic() < deadline, "the cluster does not start"
        if head.poll() is not None:  # Ray gives up after 30 s, which a busy machine may need
            head = start()
        time.sleep(0.5)
    os.environ["SWEEP_MARK_OF_CLUSTER"] = environment["SWEEP_MARK"]
    yield address
    del os.environ["RAY_AUTH_TOKEN_PATH"]
    head.terminate()
    head.wait(60)


@pytest.mark.slow
def test_a_killed_worker_changes_nothing(
    settings: dict[str, Any], tmp_path: Path, cluster: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It dies in the middle of a stage whose lock it holds; the front is that of an undisturbed sweep in order."""
    waves: list[tuple[int, int]] = []

    @contextmanager
    def progress(what: str, total: int) -> Iterator[Callable[[], None]]:
        ended: list[None] = []
        yield lambda: ended.append(None)
        waves.append((total, len(ended)))

    monkeypatch.setattr(workers, "progress", progress)
    swept = sweep(parse_config(settings), cluster, sweep_world.killed_once)
    assert sum(total for total, _ in waves) == 11 and all(total == ended for total, ended in waves)
    assert Path(os.environ["SWEEP_MARK_OF_CLUSTER"]).exists(), "a worker was killed"
    assert not swept.failed and (swept.done, swept.reused) == (10, 0)
    sweep(parse_config({**settings, "folder": str(tmp_path / "undisturbed")}))
    disturbed, undisturbed = front(tmp_path / "run"), front(tmp_path / "undisturbed")
    assert disturbed == undisturbed
    again = sweep(parse_config(settings))
    assert (again.done, again.reused) == (0, 10), "what the cluster made is found here"


@pytest.mark.parametrize("address", ["port", "nonsense"])
def test_a_cluster_that_cannot_be_reached_is_one_message(
    settings: dict[str, Any], tmp_path: Path, address: str
) -> None:
    pytest.importorskip("ray")
    address = f"127.0.0.1:{free_port()}" if address == "port" else address
    with pytest.raises(ConfigError, match=f"no Ray cluster answers at {address} .*What is finished is kept"):
        sweep(parse_config(settings), address)
    assert not (tmp_path / "run").exists()


# Where to go next


def test_the_longest_piece_is_halved_in_units_of_no_importance() -> None:
    weights = np.array([[1, 0], [0, 1], [0.5, 0.5]])
    points = np.array([[10.0, 0.0], [0.0, 1.0], [9.0, 0.2]])
    for scale in ([1, 1], [100, 1], [1, 1e-3]):
        chosen = next_preferences(weights, points * scale, np.zeros((0, 2)))
        assert chosen.tolist() == [[0.25, 0.75]]
    more = next_preferences(weights, points, np.zeros((0, 2)), 3)
    assert more.tolist() == [[0.25, 0.75], [0.125, 0.875], [0.375, 0.625]]
    assert next_preferences(weights, points, np.array([[0.25, 0.75]])).tolist() == [[0.75, 0.25]]


def test_three_objectives_fill_the_triangle() -> None:
    weights = np.eye(3)
    for _ in range(12):
        points = weights / np.linalg.norm(weights, axis=1, keepdims=True)
        weights = np.concatenate([weights, next_preferences(weights, points, np.zeros((0, 3)))])
    assert np.allclose(weights.sum(1), 1) and len(np.unique(weights, axis=0)) == 15
    assert (weights.min(1) > 0).sum() >= 3, "inside too"


@pytest.mark.slow
def test_an_adaptive_sweep_trains_corners_then_gaps(settings: dict[str, Any], tmp_path: Path) -> None:
    wanted = {"choose": "adaptive", "points": 4}
    config = parse_config({**settings, "methods": {"modpo": {}}, "sweep": wanted})
    assert not sweep(config).failed
    asked = [point[0]["short"] for point in front(tmp_path / "run")["modpo"]]
    assert len(asked) == 4 and asked == sorted(asked, reverse=True) and {0.0, 0.5, 1.0} < set(asked)
    assert {0.25, 0.75} & set(asked)


@pytest.mark.slow
def test_what_a_sweep_cannot_be(settings: dict[str, Any]) -> None:
    with pytest.raises(ConfigError, match=r"sweep\.sedes"):
        parse_config({**settings, "sweep": {"sedes": [1]}})
    with pytest.raises(ConfigError, match="a seed twice"):
        sweep(parse_config({**settings, "sweep": {"seeds": [1, 1]}}))
    with pytest.raises(ConfigError, match="each task as one process"):
        sweep(parse_config({**settings, "processes": 2}))
