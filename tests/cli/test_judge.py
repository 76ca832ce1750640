"""``paretune judge`` and ``paretune figures`` on tables of scores."""

from __future__ import annotations

import csv
import json
import sys
from pathlib import Path

import pytest

from paretune.cli.main import main
from paretune.data.score_files import read_scores
from paretune.fronts.score_records import read_table
from support.command import call
from support.score_rows import score_rows


def write_table(folder: Path) -> Path:
    file = folder / "scores.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in score_rows(lift=1.5)))
    return file


@pytest.fixture
def table(tmp_path: Path) -> Path:
    return write_table(tmp_path)


@pytest.fixture(scope="module")
def judged(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder that ``paretune judge`` writes; no test changes it."""
    place = tmp_path_factory.mktemp("place")
    with pytest.MonkeyPatch.context() as patch:
        words = ["judge", write_table(place), "--out", place / "judged", "--resamples", 50]
        patch.setattr(sys, "argv", ["paretune", *map(str, words)])
        with pytest.raises(SystemExit) as ended:
            main()
    assert not ended.value.code
    return place / "judged"


@pytest.mark.slow
def test_judge_prints_verdicts_and_writes_only_where_it_is_asked(table, tmp_path, monkeypatch, capsys):
    before = sorted(tmp_path.iterdir())
    code, out, _ = call(monkeypatch, capsys, "judge", table, "--resamples", "50")
    assert code == 0 and "a is above b by" in " ".join(out.split()) and sorted(tmp_path.iterdir()) == before
    code, out, _ = call(monkeypatch, capsys, "judge", table, "--out", tmp_path / "judged", "--json")
    facts = json.loads(out)
    assert code == 0 and set(facts["hypervolumes"]) == {"a", "b", "base", "mixture of corners"}
    assert {path.name for path in (tmp_path / "judged").iterdir()} == {
        "front.json", "front.png", "report.html", "paretune.json"
    }  # fmt: skip
    assert call(monkeypatch, capsys, "judge", table, "--out", tmp_path / "judged")[0] == 0, (
        "its own is replaced"
    )


def test_judge_leaves_a_folder_of_the_user_alone(table, tmp_path, monkeypatch, capsys):
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "front.json").write_text("mine")
    code, _, error = call(monkeypatch, capsys, "judge", table, "--out", tmp_path / "mine")
    assert code == 2 and "holds other files" in error
    assert (tmp_path / "mine" / "front.json").read_text() == "mine"


def test_judge_reads_csv_with_columns_of_other_names(tmp_path, monkeypatch, capsys):
    file = tmp_path / "scores.csv"
    with file.open("w", newline="") as opened:
        writer = csv.writer(opened)
        writer.writerow(["model", "weight_warm", "weight_concise", "id", "rm", "concise"])
        for r in score_rows(base=False, corners=False, lift=1.5):
            w = r["preference"]
            writer.writerow([r["policy"], w["warm"], w["concise"], r["prompt"], r["warm"], r["concise"]])
    named = ["--column", "policy=model", "--column", "prompt=id", "--column", "warm=rm"]
    code, out, error = call(monkeypatch, capsys, "judge", file, *named)
    assert code == 0, error
    assert "a is above b by" in " ".join(out.split())


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--base", "sft"], "--base sft: expected one of"),
        (["--corner", "warm"], "--corner 'warm': expected OBJECTIVE=POLICY"),
        (["--column", "policy=none"], "no column 'none'"),
        (["--reference-point", "warm=low,concise=0"], "warm='low': expected a number"),
        (["--reference-point", "warm=1_0,concise=0"], "warm='1_0': expected a number"),
        (["--reference-point", "warm=0"], "a number for each of warm, concise"),
        (["--objectives", "warm,polite"], "no score on 'polite'"),
        (["--resamples", "1"], "resamples"),
        (["--device", "cpu"], "--device: is for new scores; give it with --scorer"),
        (["--cache", "scores.sqlite"], "--cache: is for new scores"),
    ],
)
def test_options_that_make_no_sense_are_refused(table, monkeypatch, capsys, arguments, message):
    code, out, error = call(monkeypatch, capsys, "judge", table, *arguments)
    assert code == 2 and message in " ".join(error.split()) and not out


def test_bad_rows_are_named_by_file_and_line(table, monkeypatch, capsys):
    lines = table.read_text().splitlines()
    lines[4] = json.dumps({**json.loads(lines[4]), "warm": None})
    table.write_text("\n".join(lines))
    code, _, error = call(monkeypatch, capsys, "judge", table)
    assert code == 2 and f"{table}:5: column 'warm': empty" in " ".join(error.split())
    code, _, error = call(monkeypatch, capsys, "judge", table.with_name("none.jsonl"))
    assert code == 2 and "no such file" in error
    (empty := table.with_name("empty.jsonl")).write_text("")
    code, _, error = call(monkeypatch, capsys, "judge", empty)
    assert code == 2 and "no row of scores" in error


@pytest.mark.parametrize("name", ["front.svg", "front.pdf", "front.png"])
@pytest.mark.slow
def test_figures_are_pictures_of_a_column_and_the_same_bytes_again(
    judged, tmp_path, monkeypatch, capsys, name
):
    made = []
    for n in (1, 2):
        target = tmp_path / f"{n}" / name
        assert call(monkeypatch, capsys, "figures", judged, target)[0] == 0
        made.append(target.read_bytes())
    assert made[0] == made[1] and len(made[0]) > 1000
    if name.endswith(".svg"):
        assert b'width="241.2pt"' in made[0] and b"warm (higher is better)" in made[0]


def test_figures_refuses_what_it_cannot_write(judged, tmp_path, monkeypatch, capsys):
    for arguments, message in (
        ([judged, tmp_path / "front.xlsx"], "expected one of: .svg"),
        ([tmp_path, tmp_path / "front.csv"], "no front.json"),
        ([judged, tmp_path / "t.csv", "--what", "answers"], "rows of 'answers'"),
        ([judged, tmp_path / "t.csv", "--what", "prompts"], "no scores of single answers"),
        ([judged, tmp_path / "f.svg", "--objectives", "warm"], "a picture shows two"),
        ([judged, tmp_path / "f.svg", "--objectives", "warm,concse"], "did you mean 'concise'"),
    ):
        code, _, error = call(monkeypatch, capsys, "figures", *arguments)
        assert code == 2 and message in " ".join(error.split()), error


def test_judge_reads_a_data_set_of_the_hub_and_one_in_memory(table, monkeypatch, capsys):
    datasets = pytest.importorskip("datasets")
    given = datasets.Dataset.from_list(score_rows(lift=1.5))
    asked = []
    monkeypatch.setattr(
        datasets, "load_dataset", lambda hub, **options: asked.append((hub, options)) or given
    )
    code, out, error = call(monkeypatch, capsys, "judge", "hub:team/scores@v1", "--resamples", "50", "--json")
    assert code == 0 and asked[0][0] == "team/scores" and asked[0][1]["revision"] == "v1", error
    of_file = call(monkeypatch, capsys, "judge", table, "--resamples", "50", "--json")[1]
    assert json.loads(out)["verdicts"] == json.loads(of_file)["verdicts"]
    in_memory = read_scores(given)
    assert [row.scores for row in in_memory.rows] == [row.scores for row in read_scores(table).rows]
    assert len(read_table(given).rows) == len(in_memory.rows) == len(given)
