"""Whether a policy can be steered is said by the answers at the ends of its dial, and alike wherever it is said."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from paretune.cli.verdicts import facts_of
from paretune.fronts.record import FrontRecord
from paretune.reports.card import write_card
from paretune.reports.report import write_report
from paretune.reports.wording import turning
from support import records

NO_EFFECT = "no effect of the preference is shown"
WEIGHTS = "the preference hardly changes the weights"


def made(concise: float, warm: float, ratio: float | None = 0.5, **policy: Any) -> FrontRecord:
    """Return a record of one policy whose ends differ so far, each by 0.5 on either side, with this ratio of its weights."""
    points = [
        records.point({"concise": w, "warm": 1 - w}, [-4.0 + w, -3.0 - w], [-5.0, -4.0], [-3.0, -2.0])
        for w in (0.0, 0.5, 1.0)
    ]
    values: dict[str, Any] = {
        "steerability": {"model.layers.0.q_proj": ratio, "model.layers.1.q_proj": ratio},
        "ends": {"concise": records.figure(concise, 0.5), "warm": records.figure(warm, 0.5)},
        **policy,
    }
    return FrontRecord.parse(
        records.record(["concise", "warm"], [records.policy("panacea", points, **values)])
    )


def section(record: FrontRecord, folder: Path, name: str) -> str:
    page = write_report(record, folder).read_text(encoding="utf-8")
    if f'<section id="{name}">' not in page:
        return ""
    return (
        page.split(f'<section id="{name}">')[1]
        .split("</section>")[0]
        .split('class="lead"')[1]
        .split("</p>", 1)[1]
    )


@pytest.mark.parametrize("ratio", [0.5, 0.001, None])
def test_where_no_movement_is_shown_nothing_says_steerable_whatever_the_weights_are(
    tmp_path: Path, ratio: float | None
) -> None:
    record = made(0.2, -0.1, ratio)
    cells = section(record, tmp_path, "steerability")
    assert ("not shown" in cells and f"{NO_EFFECT} by 60 prompts" in cells) == (ratio is not None)
    assert "steerable" not in cells
    assert (WEIGHTS in cells) == (ratio == 0.001)
    assert NO_EFFECT in section(record, tmp_path, "steering")
    found = facts_of(record)
    assert f"and {NO_EFFECT}" in found["summary"]
    assert any(NO_EFFECT in step["finding"] for step in found["next"])
    write_card(record, tmp_path / "README.md")
    assert f"and {NO_EFFECT}" in (tmp_path / "README.md").read_text(encoding="utf-8")


@pytest.mark.parametrize("ratio", [0.5, 0.001, None])
def test_what_the_answers_show_is_said_whatever_the_weights_are(tmp_path: Path, ratio: float | None) -> None:
    record = made(0.9, 1.2, ratio)
    cells = section(record, tmp_path, "steerability")
    told = "steerable: concise and warm follow the preference"
    assert (told in cells) == (ratio is not None) and "not shown" not in cells
    assert (WEIGHTS in cells) == (ratio == 0.001)
    lines = section(record, tmp_path, "steering")
    assert (
        "concise 0.90<small>[0.40, 1.40]</small>" in lines
        and "concise and warm follow the preference" in lines
    )
    found = facts_of(record)
    assert NO_EFFECT not in found["summary"]
    assert not any(NO_EFFECT in step["finding"] for step in found["next"])


def test_each_objective_is_judged_by_itself(tmp_path: Path) -> None:
    part = made(0.9, 0.2)
    assert turning(part.policies[0]) == "concise follows the preference and no effect on warm is shown"
    assert "steerable in part: concise follows" in section(part, tmp_path, "steerability")
    against = made(0.9, -0.8)
    assert turning(against.policies[0]) == "concise follows the preference and warm turns against it"
    cells = section(against, tmp_path, "steerability")
    assert "⚠ concise follows the preference and warm turns against it" in cells and "steerable" not in cells


def test_a_record_that_does_not_compare_the_ends_says_so(tmp_path: Path) -> None:
    record = made(0.9, 0.9, ends={})
    assert turning(record.policies[0]) == ""
    cells = section(record, tmp_path, "steerability")
    assert "not shown</span>: its ends were not compared" in cells and "steerable" not in cells
    assert NO_EFFECT not in facts_of(record)["summary"]
