"""Long work speaks: lines where no terminal is, silence where it was asked for, and a file that says how far the run is."""

from __future__ import annotations

import json
import logging
import threading
from collections.abc import Iterator
from pathlib import Path

import pytest

from paretune.core import progress as progress_module
from paretune.core import work_log
from paretune.core.files import read_json
from paretune.core.meter import Spent
from paretune.core.progress import found_finished, listening, progress, stage, stages_of
from paretune.core.work_log import FILE, Planned, WorkLog


@pytest.fixture(autouse=True)
def _level_of_before() -> Iterator[None]:
    ours = logging.getLogger("paretune")
    level = ours.level
    yield
    ours.setLevel(level)


def lines(capsys: pytest.CaptureFixture[str]) -> list[str]:
    out, err = capsys.readouterr()
    assert out == ""
    return err.splitlines()


PLAN = [
    Planned("start", 6),
    Planned("score", 4),
    Planned("train: dpo", 120, 2),
    Planned("front: base", 10),
    Planned("front: dpo", 30),
    Planned("report", 2),
]


def test_each_stage_is_one_line_with_the_time_left_of_the_run(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    log = WorkLog("mine", tmp_path)
    log.plan(PLAN)
    with log.working():
        with stage("start"):
            pass
        found_finished("adapters/dpo-a", 50.0)
        with stage("adapters/dpo-b"), progress("dpo-b", 10) as advance:
            advance(10, 0.5)
        with stage("front/base"):
            pass
    said = lines(capsys)
    assert said == [
        "paretune: [0:00:00] start; whole run: about 2.9 min left",
        "paretune: [0:00:00] adapters/dpo-a: found finished",
        "paretune: [0:00:00] adapters/dpo-b; whole run: about 1.7 min left",
        said[3],
    ]
    assert said[3].startswith("paretune: [0:00:00] front/base; whole run: about ")


def test_the_fit_of_each_head_belongs_to_that_of_all(capsys: pytest.CaptureFixture[str]) -> None:
    log = WorkLog("mine", None)
    log.plan([Planned("start", 6), Planned("heads", 50), Planned("score", 4)])
    with log.working():
        for name in ("start", "heads/good", "heads/short", "score"):
            with stage(name):
                pass
    left = [line.partition("about ")[2] for line in lines(capsys)]
    assert left == ["60 s left", "54 s left", "54 s left", "4 s left"]


def test_once_a_minute_a_line_says_step_loss_rate_and_time_left(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(work_log, "MINUTE", 0.05)
    monkeypatch.setattr(work_log, "SECONDS", 0.02)
    log = WorkLog("mine", None)
    log.plan(PLAN)
    with log.working(), stage("adapters/dpo-a"), progress("dpo-a", 40, 10) as advance:
        advance(10, 0.51234)
        threading.Event().wait(0.3)
    said = [line for line in lines(capsys) if "20 of 40" in line]
    assert said and ": 20 of 40, loss 0.512, " in said[0]
    assert " left; whole run: about " in said[0] and said[0].count("dpo-a") == 1
    assert "a second" in said[0] or "s each" in said[0]


def test_silence_is_silent_and_the_file_is_written_all_the_same(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    logging.getLogger("paretune").setLevel(logging.ERROR)
    with WorkLog("mine", tmp_path).working(), stage("start"):
        pass
    assert lines(capsys) == []
    written = json.loads((tmp_path / FILE).read_text())
    assert written["state"] == "finished" and [done["name"] for done in written["done"]] == ["start"]


def test_a_run_that_is_stopped_says_what_is_kept_and_how_to_go_on(
    capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    log = WorkLog("mine", tmp_path)
    with pytest.raises(KeyboardInterrupt), log.working():
        with stage("start"):
            pass
        with stage("adapters/dpo-a"), progress("dpo-a", 40) as advance:
            advance(3, 0.7)
            raise KeyboardInterrupt
    last = lines(capsys)[-1]
    assert (
        f"stopped: 1 finished stage is kept in {tmp_path}, and adapters/dpo-a to its last checkpoint" in last
    )
    assert "The same command goes on from there" in last and f"paretune status {tmp_path}" in last
    written = json.loads((tmp_path / FILE).read_text())
    assert written["state"] == "stopped" and written["now"]["stage"] == "adapters/dpo-a"


def test_a_failure_leaves_its_message_and_the_stage_it_came_from(tmp_path: Path) -> None:
    log = WorkLog("mine", tmp_path)
    log.plan(PLAN)
    with pytest.raises(ValueError, match="no luck"), log.working(), stage("adapters/dpo-a"):
        raise ValueError("no luck")
    written = json.loads((tmp_path / FILE).read_text())
    assert (written["state"], written["error"], written["left"]) == ("failed", "no luck", None)
    assert written["now"]["stage"] == "adapters/dpo-a"
    assert [name for name, _ in written["planned"]] == ["train: dpo", "front: base", "front: dpo", "report"]


def test_the_time_left_follows_the_pace_of_what_was_done() -> None:
    log = WorkLog("mine", None)
    log.plan([Planned("train: dpo", 200, 2), Planned("front: dpo", 100)])
    assert log.left == pytest.approx(300)
    log.stage_began("adapters/dpo-a")
    log.stage_ended("adapters/dpo-a", 220.0, False)
    assert log.left == pytest.approx(200 * (220 + work_log.PRIOR) / (100 + work_log.PRIOR))


def test_more_stages_than_planned_do_not_use_up_the_rest_of_the_plan() -> None:
    log = WorkLog("mine", None)
    log.plan([Planned("train: dpo", 20, 1), Planned("front: dpo", 100)])
    for name in ("a", "b", "c"):
        log.stage_ended(f"adapters/{name}", 20.0, True)
    assert log.left == pytest.approx(100)


SHARED = [
    Planned("train: dpo", 100, 2),
    Planned("train: modpo", 60, 1),
    Planned("train: paretohqd", 80, 4),
    Planned("front: base", 10),
]


def test_each_method_has_parts_of_its_own_whatever_it_shares_trains_more_or_trains_less() -> None:
    log = WorkLog("mine", None)
    log.plan(SHARED)

    def after(method: str, *trained: str) -> float | None:
        with stages_of(method):
            for name in trained:
                found_finished(f"adapters/{name}", 1.0)
        return log.left

    with listening(log):
        assert after("dpo-soup", "dpo-a", "dpo-b") == 60 + 80 + 10
        assert after("mod") == 60 + 80 + 10  # its adapters are the soup's
        assert after("modpo", "modpo-a", "modpo-b") == 80 + 10  # one more than was planned
        assert after("paretohqd", "first", "second") == 10  # two less


def test_work_outside_a_run_says_a_line_a_minute(
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    with progress("embedding", 100) as advance:
        advance(10)
    assert lines(capsys) == []
    monkeypatch.setattr(progress_module, "MINUTE", 0.0)
    with progress("embedding", 100) as advance:
        advance(10)
    (line,) = lines(capsys)
    assert line.startswith("paretune: embedding: 10 of 100, ")


def test_steps_within_a_step_do_not_hide_it() -> None:
    log = WorkLog("mine", None)
    log.stage_began("adapters/morlhf")
    log.steps_began("morlhf", 10, 0)
    log.steps_done(2, 0.5)
    log.steps_began("sampling", 300, 0)
    log.steps_done(100, None)
    now = log.now()
    assert now is not None and (now["what"], now["step"], now["steps"]) == ("morlhf", 2, 10)
    log.steps_ended()
    log.steps_done(1, 0.25)
    now = log.now()
    assert now is not None and (now["step"], now["loss"]) == (3, 0.25)


def test_a_stage_worked_on_point_by_point_is_listed_once_with_all_that_it_spent(tmp_path: Path) -> None:
    log, part = (
        WorkLog("mine", tmp_path),
        Spent(cpu_seconds=1.0, tokens_read=5, tokens_sampled=2, peak_bytes=7),
    )
    with log.working():
        log.stage_ended("front/a", 9.0, True, None)
        log.stage_ended("front/a", 2.0, False, part)
        log.stage_ended("front/a", 3.0, False, part | {"peak_bytes": 9})
        log.stage_ended("front/a", 50.0, True, part)
    (stage,) = read_json(tmp_path / "stages.json")["stages"]
    wanted = {"seconds": 5.0, "cpu_seconds": 2.0, "tokens_read": 10, "tokens_sampled": 4, "peak_bytes": 9}
    assert stage == {"name": "front/a", "reused": False, "tokens_per_second": 14 / 5, **wanted}


def test_a_run_that_fails_writes_no_profile(tmp_path: Path) -> None:
    with pytest.raises(ValueError), WorkLog("mine", tmp_path).working():
        raise ValueError
    assert not (tmp_path / "stages.json").exists() and (tmp_path / FILE).is_file()
