"""`--device` and `--dtype` on every command that loads a model, by the tree of commands; and that they reach scorers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import click
import numpy as np
import pytest
import typer.main

from paretune.cli.main import app
from paretune.runs.parse import parse_config
from paretune.runs.prepare import read_sources
from paretune.scoring import encoder as encode
from support.command import call
from support.reward_models import llama
from support.world import make_dataset

LOADS_NONE = {
    "init": "drafts a config from data",
    "advise": "reads data",
    "status": "reads a run's folder",
    "plan": "plans for the device of its option, and loads nothing",
    "choose": "reads a front",
    "push": "sends files",
    "pull": "fetches files",
    "compare": "reads fronts",
    "figures": "draws fronts",
    "report": "reads a run's record",
    "methods": "lists",
    "doctor": "asks for versions",
    "data sets": "lists",
    "data inspect": "reads data",
    "data convert": "writes data",
    "data select": "reads scores",
    "data from-votes": "reads votes",
    "pal name": "writes names",
    "config schema": "prints",
    "config reference": "prints",
}
"""Commands that load no model, and what they do instead."""


def commands(command: click.Command, path: tuple[str, ...] = ()) -> Iterator[tuple[str, click.Command]]:
    """Yield the names of all commands with their words in front, and the commands."""
    if isinstance(command, click.Group) or hasattr(command, "commands"):
        for name, inner in command.commands.items():
            yield from commands(inner, (*path, name))
    else:
        yield " ".join(path), command


ALL = dict(commands(typer.main.get_command(app)))


def test_the_list_names_commands_that_there_are() -> None:
    assert len(ALL) > 30 and set(LOADS_NONE) <= set(ALL)


@pytest.mark.parametrize("name", sorted(ALL))
def test_a_command_that_loads_a_model_has_both_options(name: str) -> None:
    options = {option for parameter in ALL[name].params for option in parameter.opts}
    found = {"--device", "--dtype"} & options
    if name == "plan":
        assert found == {"--device"}
    else:
        assert found == (set() if name in LOADS_NONE else {"--device", "--dtype"})


# Scorers


@pytest.fixture
def loaded(monkeypatch: pytest.MonkeyPatch) -> list[tuple[str | None, str]]:
    """Device and number format of each reward model that is loaded; none really is."""
    found: list[tuple[str | None, str]] = []

    def load(folder: Path, device: str | None, quantization: object, dtype: str, head: object) -> object:
        found.append((device, dtype))
        return object()

    monkeypatch.setattr(encode, "load_classifier", load)
    monkeypatch.setattr(encode, "rewards", lambda model, p, r, *more: np.zeros((len(r), 2)))
    return found


def test_options_of_score_reach_the_reward_model_unless_its_entry_says_otherwise(
    tmp_path: Path, loaded: list, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    folder, data = llama(tmp_path / "reward", pad=True), tmp_path / "data.jsonl"
    make_dataset(3).write(data)

    def rate(name: str, entry: str, *options: str) -> None:
        scorer = f"{{objective: kind, model: {folder}{entry}}}"
        code, _, error = call(
            monkeypatch, capsys, "score", "rate", data, tmp_path / name, "--scorer", scorer, *options
        )
        assert code == 0, error

    rate("a.jsonl", "", "--device", "cpu", "--dtype", "bfloat16")
    rate("b.jsonl", ", device: cpu, dtype: float32", "--device", "mps", "--dtype", "bfloat16")
    rate("c.jsonl", "")
    assert loaded == [("cpu", "bfloat16"), ("cpu", "float32"), (None, "auto")]


def test_a_device_that_is_not_there_is_one_message(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    folder, data = llama(tmp_path / "reward", pad=True), tmp_path / "data.jsonl"
    make_dataset(3).write(data)
    scorer = f"{{objective: kind, model: {folder}}}"
    for option, word in (
        (("--device", "cuda:7"), "is not on this machine"),
        (("--dtype", "int3"), "is not known"),
    ):
        code, _, error = call(
            monkeypatch, capsys, "score", "rate", data, tmp_path / "out.jsonl", "--scorer", scorer, *option
        )
        assert code == 2 and word in error and "Traceback" not in error


def test_the_device_of_a_run_reaches_its_scorers(tmp_path: Path, loaded: list) -> None:
    folder = llama(tmp_path / "reward", pad=True)
    make_dataset(40).write(tmp_path / "data.jsonl")
    score: list[dict[str, Any]] = [
        {"objective": "short", "model": str(folder)},
        {"objective": "good", "model": str(folder), "index": 1, "device": "cuda"},
    ]
    config = parse_config({"data": {"source": str(tmp_path / "data.jsonl")}, "score": score, "device": "cpu"})
    for scorer in read_sources(config).scorers:
        assert scorer is not None
        scorer([make_dataset(1).rows[0].prompt], ["good"], [False])
    assert loaded == [("cpu", "auto"), ("cuda", "auto")]


def test_bfloat16_changes_scores_and_so_the_scorer(tmp_path: Path) -> None:
    from support.reward_models import sequence_classifier

    folder, prompt = str(llama(tmp_path / "reward", pad=True)), make_dataset(1).rows[0].prompt
    whole, half = (
        sequence_classifier("a", folder, device="cpu", dtype=kind) for kind in ("auto", "bfloat16")
    )
    texts = ["fine thanks and you ?", "the cat and the dog"]
    one, other = (scorer([prompt] * 2, texts, [False] * 2) for scorer in (whole, half))
    assert whole.fingerprint != half.fingerprint
    assert not np.array_equal(one, other) and np.abs(one - other).max() < 0.1 * np.abs(one).max()
