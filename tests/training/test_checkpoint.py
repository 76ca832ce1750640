"""Checkpoints stay small, survive a kill at any moment, and are refused with the cure where they are damaged."""

from __future__ import annotations

import json
import os
import signal
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file

from paretune.core.errors import TrainingError
from paretune.training import checkpoint
from paretune.training.checkpoint import Progress, history_of, remove_checkpoint, restore, save

TENSORS = {"weight/x": torch.arange(4.0), "best/x": torch.ones(4)}
STEPS = 100_000


def progress(step: int, validated: bool = False) -> Progress:
    history = [{"step": n + 1, "loss": 1 / (n + 3)} for n in range(step)]
    return (
        Progress(step, 0.25, {"validation_loss": 0.25}, history)
        if validated
        else Progress(step, history=history)
    )


def restored(file: Path, key: str = "key", steps: int = STEPS) -> tuple[Progress, dict[str, torch.Tensor]]:
    return restore(file, key, steps, TENSORS, ["best/x"])


def test_what_was_saved_is_restored(tmp_path: Path) -> None:
    for validated in (False, True):
        file = tmp_path / str(validated) / "x.safetensors"
        state = progress(3, validated)
        save(file, "key", state, TENSORS if validated else {"weight/x": TENSORS["weight/x"]})
        again, tensors = restored(file)
        assert (again.step, again.best_loss, again.held_out) == (3, state.best_loss, state.held_out)
        assert json.dumps(again.history) == json.dumps(state.history)
        assert torch.equal(tensors["weight/x"], TENSORS["weight/x"])


def test_a_checkpoint_does_not_grow_with_the_steps(tmp_path: Path) -> None:
    file, state, sizes = tmp_path / "x.safetensors", progress(0), list[int]()
    for step in (1000, 2000, 40_000):
        state.history, state.step = progress(step).history, step
        before = history_of(file).stat().st_size if step > 1000 else 0
        save(file, "key", state, TENSORS)
        sizes.append(file.stat().st_size)
        assert history_of(file).stat().st_size > before
    assert max(sizes) - min(sizes) < 32
    assert restored(file)[0].history == state.history


@pytest.mark.parametrize("moment", ["before", "between", "half"])
def test_a_kill_while_a_checkpoint_is_saved_loses_nothing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    file, state = tmp_path / "x.safetensors", progress(3, True)
    save(file, "key", state, TENSORS)
    child = os.fork()
    if child == 0:
        append = checkpoint.append

        def deadly(target: Path, raw: bytes, at: int) -> None:
            if moment != "before":
                append(target, raw[: None if moment == "between" else 5], at)
            os.kill(os.getpid(), signal.SIGKILL)

        monkeypatch.setattr(checkpoint, "append", deadly)
        state.history, state.step = progress(6).history, 6
        save(file, "key", state, TENSORS)
    os.waitpid(child, 0)
    again, _ = restored(file)
    assert again.history == progress(3).history
    again.history, again.step = progress(5).history, 5
    save(file, "key", again, TENSORS)
    assert restored(file)[0].history == progress(5).history
    remove_checkpoint(file)
    assert not list(tmp_path.iterdir())


def test_a_checkpoint_of_version_0_1_is_read_and_saved_anew(tmp_path: Path) -> None:
    file, old = tmp_path / "x.safetensors", progress(4, True)
    facts = {"key": "key", "step": 4, "best_loss": 0.25, "held_out": old.held_out, "history": old.history}
    save_file(TENSORS, file, metadata={"paretune": json.dumps(facts)})
    again, _ = restored(file)
    assert json.dumps(again.history) == json.dumps(old.history)
    save(file, "key", again, TENSORS)
    assert restored(file)[0].history == old.history


def rewritten(file: Path, facts: Any = None, tensors: dict[str, torch.Tensor] | None = None) -> None:
    with safe_open(file, framework="pt") as opened:
        known = json.loads(opened.metadata()["paretune"])
    made = json.dumps(
        known | facts if isinstance(facts, dict) and facts else known if facts is None else facts
    )
    save_file(tensors or load_file(file), file, metadata={"paretune": made})


DAMAGE = {
    "no facts": lambda file: rewritten(file, {}) or rewritten(file, []),
    "a step below 0": lambda file: rewritten(file, {"step": -5}),
    "a step behind the end": lambda file: rewritten(file, {"step": STEPS + 1}),
    "a step of another kind": lambda file: rewritten(file, {"step": "3"}),
    "bytes below 0": lambda file: rewritten(file, {"bytes": -1}),
    "a missing tensor": lambda file: rewritten(file, tensors={"best/x": torch.ones(4)}),
    "another shape": lambda file: rewritten(file, tensors=TENSORS | {"weight/x": torch.ones(3)}),
    "another format": lambda file: rewritten(file, tensors=TENSORS | {"weight/x": torch.ones(4).double()}),
    "half a file": lambda file: file.write_bytes(file.read_bytes()[:40]),
    "an empty file": lambda file: file.write_bytes(b""),
    "no records": lambda file: history_of(file).unlink(),
    "half the records": lambda file: history_of(file).write_bytes(history_of(file).read_bytes()[:9]),
    "other records": lambda file: history_of(file).write_bytes(b"[]" + history_of(file).read_bytes()[2:]),
}


@pytest.mark.parametrize("case", DAMAGE)
def test_a_damaged_checkpoint_is_named_with_a_cure_that_cures(tmp_path: Path, case: str) -> None:
    file = tmp_path / "x.safetensors"
    save(file, "key", progress(3, True), TENSORS)
    DAMAGE[case](file)
    with pytest.raises(
        TrainingError,
        match=r"x\.safetensors: cannot read the checkpoint .*; delete it to start this run again",
    ):
        restored(file)
    file.unlink()
    save(file, "key", progress(2, True), TENSORS)
    assert restored(file)[0].history == progress(2).history


def test_a_checkpoint_of_other_settings_is_refused(tmp_path: Path) -> None:
    file = tmp_path / "x.safetensors"
    save(file, "key", progress(3, True), TENSORS)
    with pytest.raises(TrainingError, match="of a run with other settings"):
        restored(file, key="other")
