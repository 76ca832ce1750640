"""``paretune score check``: its tables and figures, its cache, and what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from support.command import call
from support.world import make_dataset

SHORT = "{objective: short, rule: length, unit: words, direction: lower}"
WARM = "{objective: warm, rule: sentiment}"


@pytest.fixture
def data(tmp_path: Path) -> Path:
    make_dataset(30, 4, seed=3).write(tmp_path / "data.jsonl")
    return tmp_path / "data.jsonl"


def test_its_figures(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["score", "check", data, "--scorer", SHORT, "--scorer", WARM, "--cache", tmp_path / "scores"]
    code, told, err = call(monkeypatch, capsys, *words, "--json")
    assert code == 0, err
    facts = json.loads(told)
    [right] = facts[
        "accuracies"
    ]  # the data have no labels of warm, and two objectives, so that it is clear which
    assert right["scorer"] == "short" and right["accuracy"] == 1.0 and right["where_longer"] is None
    assert [(g["chosen_by"], g["judged_by"]) for g in facts["best_of"] if g["n"] == 4][:2] == [
        ("short", "short"),
        ("short", "warm"),
    ]
    assert (tmp_path / "scores").is_file()
    code, told, err = call(monkeypatch, capsys, *words)
    assert code == 0, err
    for shown in ("Right on labelled pairs", "Agreement", "Best of n", "100.0%"):
        assert shown in told


@pytest.mark.parametrize(
    ("words", "said"),
    [
        (["--scorer", "{objective: short, rule: lenght}"], "lenght"),
        (
            ["--scorer", SHORT, "--objective", "shrt"],
            "unknown objective 'shrt'; did you mean 'short'",
        ),
        (["--scorer", "short"], "expected a mapping"),
    ],
)
def test_what_is_refused(
    data: Path,
    words: list[str],
    said: str,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    code, _, err = call(monkeypatch, capsys, "score", "check", data, *words)
    assert code == 2 and said in err and "Traceback" not in err
