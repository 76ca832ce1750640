"""Runs as data, by command: tables of what was judged, pictures for a paper, and the options of ``paretune judge``."""

from __future__ import annotations

import csv
import json
import re
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from matplotlib.figure import Figure

from paretune.fronts.record import FrontRecord
from paretune.fronts.score_records import read_table
from support.command import call
from support.score_rows import score_rows

POINTS = 241.2 / 72 * 300
"""Pixels of the width of a column, 85 mm, at 300 in an inch."""


def write(file: Path, rows: list[dict[str, Any]]) -> Path:
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


@pytest.fixture
def judged(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> Path:
    """A folder that ``paretune judge`` wrote."""
    table = write(tmp_path / "scores.jsonl", score_rows(lift=1.5))
    code, _, error = call(
        monkeypatch, capsys, "judge", table, "--resamples", "50", "--out", tmp_path / "judged"
    )
    assert code == 0, error
    return tmp_path / "judged"


def three_objectives() -> list[dict[str, Any]]:
    random = np.random.default_rng(0)
    rows = []
    for name in ("ours", "theirs"):
        for w in np.eye(3):
            for p in range(12):
                scores = dict(zip("abc", (w + random.normal(size=3)).tolist(), strict=True))
                rows.append(
                    {
                        "policy": name,
                        "prompt": f"q{p}",
                        "preference": dict(zip("abc", w.tolist(), strict=True)),
                        **scores,
                    }
                )
    return rows


@pytest.mark.parametrize("what", ["points", "tests", "figures"])
def test_a_csv_has_a_line_for_each_row_of_the_record(
    what: Any,
    judged: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    given = () if what == "points" else ("--what", what)
    code, out, error = call(monkeypatch, capsys, "figures", judged, tmp_path / "table.csv", *given)
    assert (code, out) == (0, f"{tmp_path / 'table.csv'}\n"), error
    expected = FrontRecord.read(judged / "front.json").to_rows(what)
    with (tmp_path / "table.csv").open(newline="") as opened:
        found = list(csv.DictReader(opened))
    assert len(found) == len(expected) > 0
    for line, row in zip(found, expected, strict=True):
        assert {name for name, value in line.items() if value} >= {
            name for name, value in row.items() if isinstance(value, str) and value
        }
        for name, value in row.items():
            if isinstance(value, float) and not np.isfinite(value):
                assert line[name] == ""
            elif isinstance(value, float):
                assert float(line[name]) == value
            elif value is not None:
                assert line[name] == str(value)


@pytest.mark.slow
def test_a_picture_has_the_width_of_a_column_in_every_format(
    judged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from matplotlib.image import imread

    raw = {}
    for kind in ("svg", "pdf", "png"):
        assert call(monkeypatch, capsys, "figures", judged, tmp_path / f"front.{kind}")[0] == 0
        raw[kind] = (tmp_path / f"front.{kind}").read_bytes()
    assert b'width="241.2pt"' in raw["svg"] and b"<text" in raw["svg"], "text stays text"
    box = re.search(rb"/MediaBox \[ 0 0 ([\d.]+) [\d.]+ \]", raw["pdf"])
    assert (
        raw["pdf"].startswith(b"%PDF") and box is not None and float(box[1]) == pytest.approx(241.2, abs=0.1)
    )
    assert b"/FontType 3" not in raw["pdf"], "journals refuse bitmap fonts"
    assert imread(tmp_path / "front.png").shape[1] == pytest.approx(POINTS, abs=1)


def test_three_objectives_are_three_panels_or_the_two_that_are_named(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table = write(tmp_path / "scores.jsonl", three_objectives())
    code, _, error = call(
        monkeypatch, capsys, "judge", table, "--resamples", "50", "--out", tmp_path / "judged"
    )
    assert code == 0, error
    panels = {}
    for name, given in (("all", ()), ("one", ("--objectives", "c,a"))):
        file = tmp_path / f"{name}.svg"
        assert call(monkeypatch, capsys, "figures", tmp_path / "judged", file, *given)[0] == 0
        text = file.read_text()
        panels[name] = len(re.findall(r'<g id="axes_\d+">', text))
        assert ("b (higher is better)" in text) == (name == "all")
    assert panels == {"all": 3, "one": 1}


def test_a_front_and_a_record_are_drawn_on_axes_by_their_name(judged: Path) -> None:
    one, other = Figure().subplots(2)
    front = read_table(score_rows()).fronts()["a"]
    assert front.plot(ax=one) is one and one.lines
    assert FrontRecord.read(judged / "front.json").plot(ax=other) is other and other.get_legend() is not None


def test_what_was_judged_is_chosen_from(
    judged: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, error = call(monkeypatch, capsys, "choose", judged, "--policy", "a", "--dial", "3", "--json")
    assert code == 0, error
    facts = json.loads(out)
    assert facts["policy"] == "a" and len(facts["dial"]) == 3


def test_policies_on_other_prompts_are_judged_on_the_common_ones_where_that_is_asked(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    rows = [row for row in score_rows(lift=1.5) if row["policy"] != "b" or row["prompt"] not in ("q0", "q1")]
    table = write(tmp_path / "scores.jsonl", rows)
    code, out, error = call(monkeypatch, capsys, "judge", table)
    assert code == 2 and not out and "--common-prompts" in error
    asked = ("judge", table, "--common-prompts", "--resamples", "50", "--out", tmp_path / "judged")
    code, out, error = call(monkeypatch, capsys, *asked)
    assert code == 0, error
    record = FrontRecord.read(tmp_path / "judged/front.json")
    assert record.num_prompts == 18 and any("2" in caution for caution in record.cautions)


def test_the_reference_point_is_the_one_that_is_given(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    table = write(tmp_path / "scores.jsonl", score_rows(lift=1.5))
    volumes = []
    for low in ("-10", "-20"):
        given = ("--reference-point", f"warm={low},concise={low}", "--resamples", "50", "--json")
        code, out, error = call(monkeypatch, capsys, "judge", table, *given)
        assert code == 0, error
        volumes.append(json.loads(out)["hypervolumes"]["a"]["value"])
    assert 100 < volumes[0] < volumes[1] < 900


@pytest.mark.slow
def test_a_report_is_written_anew_without_its_run(
    judged: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, said, error = call(monkeypatch, capsys, "report", judged, "--out", tmp_path / "anew")
    assert code == 0, error
    names = ["report.html", "front.png", "front.svg", "front.pdf"]
    assert said.split() == [str(tmp_path / "anew" / name) for name in names]
    starts = [b"<!doctype html>", b"\x89PNG", b"<?xml", b"%PDF"]
    for name, start in zip(names, starts, strict=True):
        assert (tmp_path / "anew" / name).read_bytes().startswith(start)
    assert (tmp_path / "anew" / "report.html").read_bytes() == (judged / "report.html").read_bytes()
    code, _, error = call(monkeypatch, capsys, "report", tmp_path / "none")
    assert code == 2 and "no front.json; expected the folder of a finished run" in error
    code, _, error = call(monkeypatch, capsys, "report", judged, "--out", tmp_path / "scores.jsonl")
    assert code == 2 and "is a file; name a folder" in error
    assert call(monkeypatch, capsys, "report", judged)[0] == 0
    again = ("judge", tmp_path / "scores.jsonl", "--resamples", "50", "--out", judged)
    code, _, error = call(monkeypatch, capsys, *again)
    assert code == 0, error
