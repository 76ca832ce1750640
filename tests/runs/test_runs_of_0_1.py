"""A run and a sweep that version 0.1 finished: every stage is found, nothing is trained or sampled again, and policies load.

`data/run_0_1.tar.xz` holds both folders with their config, data and a model of a few thousand numbers, without pictures and pages.
"""

from __future__ import annotations

import tarfile
from pathlib import Path

import pytest

from paretune.core.files import read_json
from paretune.core.preference import Preference
from paretune.fronts.record import FrontRecord
from paretune.generation.batch import Batch
from paretune.models.language_model import load
from paretune.policies.policy import Policy
from paretune.runs.parse import load_config
from paretune.runs.run import run
from paretune.runs.sweep import sweep
from paretune.training import loop

OBJECTIVES = ("short", "good")


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Unpack the folders, go there, and let nothing be trained or sampled."""
    with tarfile.open(Path(__file__).parent / "data/run_0_1.tar.xz") as archive:
        archive.extractall(tmp_path, filter="data")
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("PARETUNE_CACHE", str(tmp_path / "user-cache"))
    monkeypatch.setattr(loop._Loop, "step", lambda *_: pytest.fail("an adapter is trained again"))
    monkeypatch.setattr(Batch, "read", lambda *_: pytest.fail("answers are sampled again"))
    return tmp_path


@pytest.mark.slow
def test_every_stage_of_a_run_is_reused(folder: Path) -> None:
    before = {policy["name"]: policy for policy in read_json("run/front.json")["policies"]}
    config = load_config("config.yaml")
    run(config)
    record = FrontRecord.read(folder / "run/front.json")
    assert len(record.stages) > 50 and all(stage.reused for stage in record.stages)
    assert [policy.name for policy in record.policies] == list(before) == list(config.methods)
    for policy in record.policies:
        means = [point["mean"] for point in before[policy.name]["points"]]
        assert [list(point.mean) for point in policy.points] == means


def test_policies_load_and_answer(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.undo()
    monkeypatch.chdir(folder)
    lm = load("model", "float32", "cpu")
    folders = sorted((folder / "run/policies").iterdir())
    assert len(folders) == 14
    for place in folders:
        policy = Policy.load(place, lm)
        (logps,) = policy.logps([([3, 4, 5], [[6, 7, 2]])], [Preference.one_hot("good", OBJECTIVES)])
        assert policy.objectives == OBJECTIVES and bool(logps.isfinite().all())


@pytest.mark.slow
def test_points_of_a_sweep_are_found(folder: Path) -> None:
    config = load_config("config.yaml")
    methods = {name: config.methods[name] for name in ("modpo", "morlhf", "dpo-soup")}
    swept = sweep(config.model_copy(update={"folder": "swept", "methods": methods}))
    assert swept.report is not None and not swept.failed
    assert swept.done <= 2 and swept.reused >= 11, "tasks of corners have another name, and find their stages"
