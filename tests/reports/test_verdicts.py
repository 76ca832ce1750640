"""What the report says of trade-offs, differences, power and side effects, so that a reader who knows no statistics sees each."""

from __future__ import annotations

import re
from html import unescape
from pathlib import Path
from typing import Any

import pytest

from paretune.fronts.record import FrontRecord
from paretune.reports.findings import sense
from paretune.reports.report import write_report
from paretune.reports.verdicts import comparisons, side_effects, trade_offs
from support import records

TWO = ("concise", "warm")


def point(weight: float, across: float = 0.7, **rest: Any) -> dict[str, Any]:
    """Return a point that moves concise where it has weight; warm moves with it, and words are far fewer."""
    moved = {
        "concise": records.figure(2.0 * weight, 0.3),
        "warm": records.figure(0.1, 0.3),
        "words": records.figure(-0.8, 0.3),
    }
    movement = {"moved": moved, "along": records.figure(1.5), "across": records.figure(across)}
    preference = dict(zip(TWO, (weight, 1 - weight), strict=True))
    mean = (-6.0 + 4.0 * weight, -5.9)
    return records.point(preference, mean, words=25.0, movement=movement, **rest)


def record(points: list[dict[str, Any]], **rest: Any) -> FrontRecord:
    return FrontRecord.parse(records.record(TWO, [records.policy("modpo", points)], **rest))


def text(section: str) -> str:
    """Return what a reader sees of a section."""
    return " ".join(unescape(re.sub(r"<[^>]+>", " ", section)).split())


def test_a_trade_off_is_told_with_what_moved_what_did_not_and_what_nobody_asked_for() -> None:
    said = text(trade_offs(record([point(1.0), point(0.5), point(0.0, across=0.2)])))
    assert "At concise 1, warm 0: concise from −6.0" in said
    assert "(+2.00 deviations)" in said and "(no change shown)" in said
    assert "words from 40 to 25 (−0.80 deviations)" in said
    assert "side effect of 0.70 deviations, mainly too few words" in said
    last = said.split("At concise 0, warm 1:")[1]
    assert "side effect" not in last.split("No knee")[0], "its interval holds 0"


def test_differences_say_which_are_real_which_could_not_be_seen_and_how_many_prompts_would_do() -> None:
    tests = [
        records.test("modpo", "base", 0.45, "modpo above"),
        records.test("modpo", "mixture of corners", 0.125, "no difference shown", enough_prompts=1234),
        records.test("other", "base", 0.1, "no difference shown", detectable=0.52, enough_prompts=2_000_000),
    ]
    section = comparisons(record([point(1.0)], comparisons=tests))
    said = text(section)
    assert "Of 3 differences 1 is shown." in said
    assert (
        "Where these 60 prompts show no difference, one of 0.31 to 0.52 deviations could have been seen."
        in said
    )
    assert "modpo is above the base model by 0.45 deviations" in said
    rows = [
        [text(cell) for cell in re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row, re.DOTALL)]
        for row in re.findall(r"<tr>(.*?)</tr>", section, re.DOTALL)
    ]
    assert {row[0]: row[4:6] for row in rows if "−" in row[0] and row[1] != "verdict"} == {
        "modpo − base model": ["-", "-"],
        "modpo − mixture of corners": ["0.31", "1,200"],
        "other − base model": ["0.52", "> 100,000"],
    }
    alone = comparisons(record([point(1.0)], comparisons=tests[:1]))
    assert "could have been seen four" not in text(alone) and "Where these" not in text(alone)


def test_side_effects_stand_beside_the_movement_that_was_wanted() -> None:
    said = text(side_effects(record([point(1.0), point(0.0, across=0.2)])))
    assert "1 / 0 1.50 [1.00, 2.00] 0.70 [0.20, 1.20] too few words" in said
    assert "0 / 1 1.50 [1.00, 2.00] 0.20 [−0.30, 0.70] not shown" in said
    assert side_effects(record([records.point(dict(zip(TWO, (1.0, 0.0), strict=True)), (0.0, 0.0))])) == ""


@pytest.mark.parametrize(
    ("sampling", "name", "words"),
    [
        ({"temperature": 1, "top_p": 1}, "KL from base", "KL from base is estimated from these answers"),
        ({"temperature": 0.7, "top_p": 1}, "log-ratio to base", "here it is too large"),
        ({"temperature": 1, "top_p": 0.9}, "log-ratio to base", "here it is too large"),
        ({}, "log-ratio to base", "here it is too large"),
    ],
)
def test_a_divergence_is_called_one_only_where_answers_are_samples_of_the_policy(
    sampling: dict[str, float], name: str, words: str
) -> None:
    said = text(sense(record([point(1.0)], sampling=sampling)))
    assert f"{name}, nats per answer" in said and words in said


def test_the_chance_to_be_on_the_front_is_in_the_table_and_in_the_picture(tmp_path: Path) -> None:
    points = [point(1.0, on_front=0.984), point(0.5, on_front=0.25), point(0.0, on_front=None)]
    found = record(points)
    cells = re.findall(r"<td[^>]*>([^<]*)</td>", sense(found))
    assert "98 %" in cells and "25 %" in cells
    page = write_report(found, tmp_path).read_text(encoding="utf-8")
    drawn = re.findall(r'<g class="pt pol0 of0" style="--on:([\d.]+)" [^>]* at concise ([\d.]+)', page)
    assert {weight: opaque for opaque, weight in drawn} == {"1": "0.99", "0.5": "0.40", "0": "1.00"}
    assert '"opacity":0.4,' in page, "what the module draws from says it too"
    assert 'class="badge faint"' in page
    sure = write_report(record([point(1.0), point(0.0)]), tmp_path).read_text(encoding="utf-8")
    assert 'class="badge faint"' not in sure
