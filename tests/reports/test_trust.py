"""How far the scores of a run can be trusted, as its report shows it: the judge's accuracy, what it saw, and what was left out."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any

from paretune.fronts.record import FrontRecord
from paretune.reports.report import write_report
from support import records

COUNTS = {"mean": 30.0, "p50": 28.0, "p95": 60.0, "longest": 77}
DATA = {
    "rows": 150,
    "prompts": 148,
    "responses": 300,
    "objectives": [],
    "repeated_prompts": 2,
    "identical_responses": 3,
    "truncated_share": 0.04,
    "prompt_words": COUNTS,
    "response_words": COUNTS,
    "conflicts": [],
}


def page_of(folder: Path, **facts: Any) -> str:
    points = [records.point({"concise": w, "<warm>": 1 - w}, [-4.0, -3.0]) for w in (0.0, 1.0)]
    run = records.record(["concise", "<warm>"], [records.policy("modpo", points)], **facts)
    return write_report(FrontRecord.parse(run), folder).read_text(encoding="utf-8")


def rows_of(page: str, section: str) -> list[list[str]]:
    """Return the cells of the table of a section, as text; the notes in an interval stand after a blank."""
    table = page.split(f'<section id="{section}">')[1].split("</section>")[0].split("<tbody>")[1]
    found = [re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row) for row in table.split("<tr>")]
    return [[re.sub("<.*?>", " ", cell).strip() for cell in row] for row in found if row]


def judge(seen: int | None) -> dict[str, Any]:
    return {
        "fingerprint": "x",
        "accuracy": {"value": 0.764, "low": 0.651, "high": 0.857},
        "train_accuracy": 0.97,
        "longer_accuracy": 0.582,
        "pairs": 72,
        "prompts": 41,
        "seen": seen,
    }


def test_a_fitted_judge_is_shown_with_its_accuracy_and_with_the_held_out_prompts_that_it_saw(
    tmp_path: Path,
) -> None:
    page = page_of(tmp_path, scorers={"<warm>": judge(0), "concise": {"fingerprint": "a rule"}})
    (row,) = rows_of(page, "judge")  # a rule has no accuracy
    assert row[0] == "&lt;warm&gt;"
    assert re.sub(" +", " ", row[1]) == "76.4 % [65.1 %, 85.7 %]"
    assert row[2:] == ["72 / 41", "97 %", "58.2 %", "0 of 60"]
    assert "flag" not in page.split('<section id="judge">')[1].split("</section>")[0]


def test_a_judge_that_saw_held_out_prompts_is_flagged_and_one_of_which_it_is_not_known_says_so(
    tmp_path: Path,
) -> None:
    page = page_of(tmp_path, scorers={"<warm>": judge(17), "concise": judge(None)})
    known, unknown = rows_of(page, "judge")
    assert known[-1] == "⚠ 17 of 60" and unknown[-1] == "not known: fit the head again"
    section = page.split('<section id="judge">')[1].split("</section>")[0]
    assert section.count('class="flag"') == 1
    assert "was fitted on 17 of the 60 held-out prompts" in page


def test_scorers_without_a_fitted_judge_have_no_such_section(tmp_path: Path) -> None:
    assert 'id="judge"' not in page_of(tmp_path, scorers={"concise": {"fingerprint": "a rule"}})
    assert 'id="judge"' not in page_of(tmp_path)


def test_what_was_left_out_of_the_data_is_listed_with_its_counts(tmp_path: Path) -> None:
    notes = [
        "dpo-soup, warm: 8 of 16 pairs are longer than train.max_tokens=256 and were left out",
        "3 of 60 held-out prompts have an answer that got no score <why>",
    ]
    data = page_of(tmp_path, data={**DATA, "notes": notes}, splits={"train": 150, "test": 60})
    section = data.split('<section id="data">')[1].split("</section>")[0]
    assert "Left out, or not read:" in section
    found = re.findall(r"<li>(.*?)</li>", section)
    assert found == [notes[0], notes[1].replace("<why>", "&lt;why&gt;")]
    assert "Prompts in each split: train 150, test 60." in section
    assert "Left out" not in page_of(tmp_path, data=DATA)
