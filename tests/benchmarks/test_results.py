"""The pages under docs/results say what their kept figures give."""

from __future__ import annotations

from pathlib import Path

import pytest

from benchmarks import results
from paretune.core.files import read_json
from paretune.fronts.record import FrontRecord

ROOT = Path(__file__).parents[2]
PAGES = sorted((ROOT / "docs/results").glob("*/figures.json"))


@pytest.mark.parametrize("figures", PAGES, ids=lambda path: path.parent.name)
def test_a_page_says_what_its_figures_give(figures: Path) -> None:
    document = figures.parent.with_suffix(".md").read_text(encoding="utf-8")
    assert results.replaced(document, results.page(FrontRecord.read(figures))) == document


def test_another_figure_makes_a_page_stale_and_writing_mends_it(tmp_path: Path) -> None:
    facts = read_json(PAGES[0])
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept/figures.json").write_bytes(PAGES[0].read_bytes())
    page = tmp_path / "kept.md"
    page.write_text(f"before\n{results.BEGIN}\n{results.END}\nafter\n", encoding="utf-8")
    assert results.stale(tmp_path, check=True) == [page] == results.stale(tmp_path, check=False)
    assert results.stale(tmp_path, check=True) == []
    said = page.read_text(encoding="utf-8")
    assert said.startswith("before\n") and said.endswith("after\n")
    for policy in facts["policies"]:
        assert policy["title"] in said


def test_a_kept_record_has_no_answers_and_the_same_verdicts() -> None:
    facts = read_json(PAGES[0])
    for point in (facts["base"], *(point for policy in facts["policies"] for point in policy["points"])):
        point |= {"responses": ["so", "no"], "response_scores": [[1.0, 2.0], [3.0, 4.0]]}
    record = FrontRecord.parse(facts)
    again = FrontRecord.parse(results.compact(record))
    assert [test.verdict for test in again.comparisons] == [test.verdict for test in record.comparisons]
    assert not any(point.responses for policy in again.policies for point in policy.points)


def test_kept_settings_name_no_place_of_the_machine_of_their_run() -> None:
    assert (
        results.placeless("name: a\nfolder: /home/somebody/runs/a\nmodel: b\n")
        == "name: a\nfolder: ''\nmodel: b\n"
    )
    kept = list((ROOT / "docs/results").glob("*/config.yaml"))
    assert kept and all("\nfolder: ''\n" in file.read_text() for file in kept)


def test_a_page_without_the_marks_is_an_error(tmp_path: Path) -> None:
    (tmp_path / "kept").mkdir()
    (tmp_path / "kept/figures.json").write_bytes(PAGES[0].read_bytes())
    (tmp_path / "kept.md").write_text("no marks\n", encoding="utf-8")
    with pytest.raises(SystemExit, match=f"kept.md.*{results.BEGIN}"):
        results.stale(tmp_path, check=True)
