"""A run keeps the times that it said beforehand beside those that it took: in its folder, its record and its report."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import pytest

from paretune.core.files import read_json
from paretune.planning import calibrate
from paretune.planning.devices import Rates
from paretune.runs import forecast as forecasts
from paretune.runs.parse import parse_config
from paretune.runs.run import run
from support.runs_world import quick_config
from support.world import write_model

RATES = Rates(1e11, 1e10, 1e10, 1e10, 1e-5, 1e10)


def rows_of(page: str) -> dict[str, list[str]]:
    """Return part -> its cells in the report's table."""
    table = page.split("<h3>Said beforehand, and taken</h3>")[1].split("</table>")[0]
    found = [re.findall(r"<t[dh][^>]*>(.*?)</t[dh]>", row) for row in table.split("<tbody>")[1].split("<tr>")]
    return {re.sub("<.*?>", "", cells[0]): cells[1:] for cells in found if cells}


@pytest.mark.slow
def test_said_and_taken_stand_in_folder_record_and_report_and_a_resumed_run_compares_its_own_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARETUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(calibrate, "measure", lambda *_: RATES)
    monkeypatch.setattr(forecasts, "other_tasks", lambda: 0.0)
    config = parse_config(quick_config(tmp_path, write_model(tmp_path / "model"), preferences=3))
    report = run(config, forecast=True)
    profile = read_json(tmp_path / "run/stages.json")
    said = {row["name"]: row for row in profile["said"]}
    stages = {stage["name"]: stage for stage in profile["stages"]}
    own = set(said) - {"all else", "in all"}
    assert (
        own
        == set(stages)
        == {
            *("start", "score", "adapters/dpo-short", "adapters/dpo-good"),
            *("front/base", "front/corners", "front/dpo-soup", "report"),
        }
    )
    for name in own:
        assert said[name]["said"] > 0 and said[name]["taken"] == stages[name]["seconds"], name
        assert said[name]["ratio"] == pytest.approx(said[name]["taken"] / said[name]["said"]), name
    assert said["in all"]["taken"] == pytest.approx(profile["total"]["seconds"])
    assert said["in all"]["said"] == pytest.approx(sum(said[name]["said"] for name in (*own, "all else")))

    record = read_json(tmp_path / "run/front.json")
    kept = {part["name"]: (part["said"], part["taken"]) for part in record["said"]}
    assert kept["front/dpo-soup"] == (said["front/dpo-soup"]["said"], said["front/dpo-soup"]["taken"])
    assert kept["report"][1] is None and set(kept) == own | {"all else"}
    table = rows_of(report.read_text(encoding="utf-8"))
    assert set(table) == {*kept, "in all"}
    assert all(re.fullmatch(r"[\d.,]+", table[name][2]) for name in set(table) - {"report"})
    assert table["report"][1:] == ["-", "-"]

    # An adapter and all that was measured of the soup are made again; the rest is found finished.
    shutil.rmtree(tmp_path / "run/adapters/dpo-good")
    report = run(config, forecast=True)
    again = {row["name"]: row for row in read_json(tmp_path / "run/stages.json")["said"]}
    assert {name for name in again if again[name]["taken"] is not None} == {
        *("start", "adapters/dpo-good", "report", "in all"),
    }
    done = [again[name] for name in ("start", "adapters/dpo-good", "report")]
    for figure in ("said", "taken"):
        assert again["in all"][figure] == pytest.approx(sum(row[figure] for row in done))
    table = rows_of(report.read_text(encoding="utf-8"))
    assert table["adapters/dpo-short"][1:] == ["-", "-"] and table["adapters/dpo-good"][2] != "-"
