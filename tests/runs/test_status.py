"""``paretune status``: how far a run is, from its files alone, while it runs and after it ended in any way."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from paretune.core.errors import ParetuneError
from paretune.core.run_lock import working_in
from paretune.core.work_log import FILE, Planned, WorkLog
from paretune.runs.status import status
from support.command import call
from support.runs_world import quick_config
from support.world import write_model


def half_way(folder: Path) -> WorkLog:
    """Return the log of a run that trains its second adapter."""
    (folder / "versions.json").write_text('{"paretune": "0"}')
    log = WorkLog("mine", folder)
    log.plan([Planned("train: dpo", 100, 2), Planned("front: dpo", 40)])
    log.stage_ended("adapters/dpo-a", 50.0, True)
    log.stage_began("adapters/dpo-b")
    log.steps_began("dpo-b", 10, 0)
    log.steps_done(4, 0.25)
    log._write()
    return log


def test_a_running_run_tells_stage_step_loss_and_who_works(tmp_path: Path) -> None:
    with working_in(tmp_path):
        half_way(tmp_path)
        found = status(tmp_path)
        assert found.state == "running" and found.worker is not None and found.worker.pid == os.getpid()
        assert [(stage["name"], stage["reused"]) for stage in found.done] == [("adapters/dpo-a", True)]
        assert [name for name, _ in found.to_do] == ["front: dpo"]
        assert found.now is not None
        now = {key: found.now[key] for key in ("stage", "step", "steps", "loss")}
        assert now == {"stage": "adapters/dpo-b", "step": 4, "steps": 10, "loss": 0.25}
        assert found.now["rate"] > 0 and found.left is not None and found.left > 30
    assert status(tmp_path).state == "killed"  # it says that it runs, and nobody works there


def test_a_folder_without_a_run_and_a_damaged_file_are_one_message(tmp_path: Path) -> None:
    with pytest.raises(ParetuneError, match=r"none: is no folder; expected the folder of a run"):
        status(tmp_path / "none")
    with pytest.raises(ParetuneError, match=r"has no versions\.json"):
        status(tmp_path)
    half_way(tmp_path)
    for damage in ("", "[]", '{"name": 3}', '{"name": "x'):
        (tmp_path / FILE).write_text(damage)
        with pytest.raises(ParetuneError, match=r"progress\.json: .*start the run again"):
            status(tmp_path)
    (tmp_path / FILE).unlink()
    assert status(tmp_path).state == "unknown"


def test_status_does_not_load_torch(tmp_path: Path) -> None:
    half_way(tmp_path)
    code = (
        f"import sys; sys.argv = ['paretune', 'status', {str(tmp_path)!r}]\n"
        "from paretune.cli.main import main\n"
        "try: main()\n"
        "except SystemExit as end: assert not end.code, end.code\n"
        "heavy = sorted({'torch', 'transformers', 'accelerate', 'matplotlib'} & set(sys.modules))\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
    assert "adapters/dpo-b" in done.stdout and "4 of 10" in done.stdout


def config(folder: Path, **changes: Any) -> Path:
    values = quick_config(folder, write_model(folder / "model"), **changes)
    file = folder / "run.yaml"
    file.write_text(json.dumps(values))
    return file


@pytest.mark.slow
def test_a_run_says_its_time_first_then_each_stage_and_leaves_its_status(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = config(tmp_path)
    code, _, err = call(monkeypatch, capsys, "run", file)
    assert code == 0, err
    said = " ".join(err.split())
    assert "told: about" in said and "on this machine" in said
    assert said.index("told: about") < said.index("adapters/dpo-short")
    stages = (
        "start",
        "score",
        "adapters/dpo-short",
        "adapters/dpo-good",
        "front/base",
        "front/corners",
        "report",
    )
    for name in stages:
        assert err.count(f"] {name};") == 1, (name, err)
    assert err.count("] front/dpo-soup: found finished") == 1  # the corners are its points
    code, out, err = call(monkeypatch, capsys, "status", tmp_path / "run", "--json")
    facts = json.loads(out)
    assert code == 0 and facts["state"] == "finished" and facts["worker"] is None
    assert {stage["name"] for stage in facts["done"]} >= set(stages) and facts["to_do"] == []
    code, _, err = call(monkeypatch, capsys, "-q", "run", file)
    assert (code, err) == (0, "")
    assert all(s["reused"] for s in status(tmp_path / "run").done if s["name"].startswith("adapters/"))
