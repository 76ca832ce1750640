"""``paretune compare``: finished runs side by side as tables, as JSON, or as the one reason why they do not compare."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from support.command import call
from support.runs_world import small_run, tiny_model


@pytest.fixture(scope="module")
def runs(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Path]:
    """Two runs on the same held-out prompts, of the methods dpo-soup and modpo each."""
    place = tmp_path_factory.mktemp("runs")
    model = tiny_model(place / "model")
    return small_run(place / "monday", model), small_run(place / "friday", model, train={"steps": 4})


def copy(source: Path, target: Path, old: str, new: str) -> Path:
    """Copy what compare reads of a run, with one word in place of another."""
    target.mkdir()
    for name in ("front.json", "scores.jsonl"):
        (target / name).write_text((source / name).read_text().replace(old, new))
    return target


@pytest.mark.slow
def test_each_policy_of_one_run_is_compared_with_each_of_the_other(
    runs: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, err = call(monkeypatch, capsys, "compare", *runs)
    assert code == 0, err
    assert out.startswith("Runs") and "Mean utility, first less second, in deviations" in out
    code, printed, err = call(monkeypatch, capsys, "compare", *runs, "--json")
    assert code == 0, err
    facts = json.loads(printed)
    assert [run["run"] for run in facts["runs"]] == ["monday", "friday"]
    assert {tuple(run["policies"]) for run in facts["runs"]} == {("dpo-soup", "modpo")}
    pairs = [(test["first"], test["second"]) for test in facts["comparisons"]]
    methods = ("dpo-soup", "modpo")
    assert pairs == [(f"monday/{a}", f"friday/{b}") for a in methods for b in methods]
    rows = [[cell.strip() for cell in line.split("│")] for line in out.splitlines()]
    for test, sentence in zip(facts["comparisons"], facts["verdicts"], strict=True):
        (row,) = (row for row in rows if row[1:3] == [test["first"], test["second"]])
        assert row[3] == test["verdict"] and row[4].startswith(f"{test['difference']:.2f}".replace("-", "−"))
        assert sentence in " ".join(out.split())
    code, printed, _ = call(monkeypatch, capsys, "compare", *runs, "--policy", "modpo", "--json")
    assert code == 0
    assert [(test["first"], test["second"]) for test in json.loads(printed)["comparisons"]] == [pairs[3]]


@pytest.mark.slow
def test_what_does_not_compare_stands_beside_what_does(
    runs: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    other = copy(runs[1], tmp_path / "kind", '"good"', '"kind"')
    code, out, err = call(monkeypatch, capsys, "compare", *runs, other)
    assert code == 0, err
    assert "- Not compared: monday and kind (the objectives are short, good and short, kind;" in out
    facts = json.loads(call(monkeypatch, capsys, "compare", *runs, other, "--json")[1])
    assert [(pair["first"], pair["second"]) for pair in facts["uncompared"]] == [
        ("monday", "kind"),
        ("friday", "kind"),
    ]
    assert len(facts["comparisons"]) == 4


@pytest.mark.parametrize("given", [(), ("--json",)])
def test_what_cannot_be_compared_is_one_message(
    runs: tuple[Path, Path],
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    given: tuple[str, ...],
) -> None:
    empty, file = tmp_path / "empty", tmp_path / "file"
    empty.mkdir()
    file.write_text("no run")
    other = copy(runs[1], tmp_path / "kind", '"good"', '"kind"')
    torn = copy(runs[1], tmp_path / "torn", "{", "[")
    for arguments, message in (
        ((runs[0], empty), f"{empty}: no front.json; expected the folder of a finished run"),
        ((runs[0], tmp_path / "none"), "none: no front.json"),
        ((runs[0], file), "file: no front.json"),
        ((runs[0], torn), "torn"),
        ((runs[0],), "expected at least two different folders of finished runs"),
        ((runs[0], runs[0]), "expected at least two different folders of finished runs"),
        ((runs[0], other), "monday and kind do not compare: the objectives are short, good and short, kind"),
        (
            (*runs, "--policy", "mopo"),
            "--policy mopo: did you mean 'modpo'? expected one of: dpo-soup, modpo",
        ),
    ):
        code, out, err = call(monkeypatch, capsys, "compare", *arguments, *given)
        assert code == 2 and not out and message in " ".join(err.split()), (arguments, out + err)
        assert err.count("\n") == 1, err
