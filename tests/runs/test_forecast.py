"""The time that a run says beforehand: by its plan, and beside the other work of the machine."""

from __future__ import annotations

from pathlib import Path
from types import SimpleNamespace

import psutil
import pytest
import torch

from paretune.core.errors import ConfigError, ModelError
from paretune.core.progress import in_words
from paretune.planning import calibrate
from paretune.planning.devices import Rates
from paretune.runs import forecast as forecasts
from paretune.runs import run as runs
from paretune.runs.estimate import estimate
from paretune.runs.forecast import Forecast, forecast, other_tasks, slowdown
from paretune.runs.parse import parse_config
from paretune.runs.plan import plan
from support.world import make_dataset

RATES = Rates(1e11, 1e10, 1e10, 1e10, 1e-5, 1e10)


@pytest.fixture
def told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    """What a run of the embedded model says on a machine of known rates, beside other tasks, on some threads."""
    monkeypatch.setenv("PARETUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(calibrate, "measure", lambda *_: RATES)
    monkeypatch.setattr(psutil, "cpu_count", lambda *_: 2)
    make_dataset(24).write(tmp_path / "data.jsonl")
    config = parse_config(
        {
            "name": "mine",
            "model": "smollm2-135m",
            "dtype": "float32",
            "device": "cpu",
            "data": {
                "source": str(tmp_path / "data.jsonl"),
                "splits": {"train": 0.5, "validation": 0.25, "test": 0.25},
            },
            "score": [{"objective": name, "rule": "length"} for name in ("short", "good")],
            "methods": {"dpo-soup": {}},
        }
    )

    def tell(tasks: float, threads: int = 1, measured_beside: float = 0.0) -> Forecast:
        monkeypatch.setattr(torch, "get_num_threads", lambda: threads)
        monkeypatch.setattr(calibrate, "_others", lambda before, after: measured_beside)
        monkeypatch.setattr(forecasts, "other_tasks", lambda: tasks)
        said = forecast(config)
        assert said is not None
        return said

    tell.config = config
    return tell


@pytest.mark.slow
def test_a_quiet_machine_is_told_the_time_of_the_plan(told) -> None:
    quiet = told(0)
    planned = estimate(plan(told.config), told.config, "smollm2-135m").cost.seconds
    assert quiet.seconds == pytest.approx(planned)
    assert quiet.sentence.startswith(f"mine: about {in_words(planned)} on this machine, 1 thread")
    assert "other work" not in quiet.sentence


def test_other_work_is_said_with_its_part_in_the_time(told) -> None:
    quiet, busy = told(0), told(7)
    assert busy.seconds == pytest.approx(4 * quiet.seconds)  # eight tasks share two processors
    assert f"about {in_words(busy.seconds)} on this machine" in busy.sentence
    assert "beside the other work that runs on it now, about 7 tasks at a time" in busy.sentence
    assert f"({in_words(quiet.seconds)} without it)" in busy.sentence
    assert [part.seconds for part in busy.parts] == pytest.approx([4 * part.seconds for part in quiet.parts])
    assert "about 1 task at a time" in told(1, threads=2).sentence
    assert "other work" not in told(1).sentence  # there is a processor for each


def test_what_was_measured_by_the_clock_beside_other_work_is_not_made_longer_again(told) -> None:
    alone = told(0, threads=2, measured_beside=0.9)
    beside = told(7, threads=2, measured_beside=0.9)
    assert beside.seconds == pytest.approx(alone.seconds)
    assert "while other programs used it, so it may be less" in beside.sentence
    # One thread is measured by the time of its process, which other work has no part in.
    assert told(7, measured_beside=0.9).seconds == pytest.approx(4 * told(0).seconds)


@pytest.mark.parametrize("loads", [False, True], ids=["a model that cannot be used", "another reason"])
def test_a_time_that_is_not_known_is_said_only_where_the_run_goes_on(
    told, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture, tmp_path: Path, loads: bool
) -> None:
    """A model that cannot be used ends the run by one message, and not by a warning and a message."""

    def refuse(*_: object) -> None:
        raise ModelError("config.json: is no valid JSON")

    def end(*_: object) -> None:
        raise ConfigError("the run went on")

    monkeypatch.setattr(runs, "expect", refuse)
    monkeypatch.setattr(runs, "opened", (lambda _: SimpleNamespace(lm=None)) if loads else refuse)
    monkeypatch.setattr(runs, "shape_in", lambda _: None)
    monkeypatch.setattr(runs, "settle_checkpointing", lambda *_: None)
    monkeypatch.setattr(runs, "prepare_data", end)
    config = told.config.model_copy(update={"folder": str(tmp_path / "run")})
    with pytest.raises(ConfigError if loads else ModelError, match="went on" if loads else "no valid JSON"):
        runs.run(config, forecast=True)
    said = [r.getMessage() for r in caplog.records if "how long the run takes is not known" in r.getMessage()]
    assert said == (["how long the run takes is not known: config.json: is no valid JSON"] if loads else [])


def test_an_equal_share_of_the_processors() -> None:
    assert slowdown(15, 1, 2) == 8
    assert slowdown(0, 8, 2) == 1  # the rates of eight threads were measured on these two processors
    for tasks in (0.0, 0.5, 3.0):
        assert slowdown(tasks, 1, 64) == 1 <= slowdown(tasks + 1, 2, 2)


def test_this_process_is_not_other_work(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(psutil, "getloadavg", lambda: (3.5, 9.0, 9.0))
    assert other_tasks() == 2.5
    monkeypatch.setattr(psutil, "getloadavg", lambda: (0.2, 9.0, 9.0))
    assert other_tasks() == 0
