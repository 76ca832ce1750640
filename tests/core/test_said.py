"""The time that was said of a run, beside the time that it took: each part once, and only what this process did."""

from __future__ import annotations

from pathlib import Path

import pytest

from paretune.core.files import read_json
from paretune.core.progress import progress, stage
from paretune.core.said import IN_ALL, REST, Said, in_all
from paretune.core.work_log import FILE, Planned, WorkLog, said_beforehand

PLAN = [
    Planned("start", 6),
    Planned("data", 1),
    Planned("score", 4),
    Planned("reference", 3),
    Planned("train: dpo", 120, 2),
    Planned("front: base", 10),
    Planned("front: mod", 30),
    Planned("report", 2),
]
STAGES = {
    "start": 9.0,
    "score": 2.0,
    "adapters/dpo-a": 90.0,
    "adapters/dpo-b": 45.0,
    "front/base": 5.0,
    "front/mod": 20.0,
    "audits/mod": 10.0,
    "report": 3.0,
}


def heard(log: WorkLog, reused: tuple[str, ...] = (), shares: dict[str, float] | None = None) -> list[Said]:
    """Let a log hear all stages, and return what it compares."""
    log.plan(PLAN)
    for name, seconds in STAGES.items():
        if name not in reused:
            log.stage_began(name, (shares or {}).get(name, 1.0))
        log.stage_ended(name, seconds, name in reused)
    return log.compared()


def taken(parts: list[Said]) -> dict[str, tuple[float, float | None]]:
    return {part.name: (part.said, part.taken) for part in parts}


def test_each_part_is_compared_once_and_what_has_no_stage_together() -> None:
    with WorkLog("mine", None).working():
        pass
    log = WorkLog("mine", None)
    with log.working():
        parts = heard(log)
    *own, rest = parts
    assert taken(own) == {
        "start": (6, 9),
        "score": (4, 2),
        "adapters/dpo-a": (60, 90),
        "adapters/dpo-b": (60, 45),
        "front/base": (10, 5),
        "front/mod": (30, 30),  # with the audit, which the plan counts in
        "report": (2, 3),
    }
    assert (rest.name, rest.said) == (REST, 4) and rest.taken is not None, "data and reference"
    assert [part.ratio for part in own][:4] == [1.5, 0.5, 1.5, 0.75]
    whole = in_all(own)
    assert (whole.name, whole.said, whole.taken) == (IN_ALL, 172, 184)
    assert whole.ratio == pytest.approx(184 / 172)


def test_only_what_this_process_did_is_compared(tmp_path: Path) -> None:
    (tmp_path / FILE).parent.mkdir()
    (tmp_path / FILE).write_text("{}")  # somebody worked here before
    log = WorkLog("mine", tmp_path)
    found = ("adapters/dpo-a", "front/base")
    parts = heard(log, found, {"front/mod": 0.5})
    assert taken(parts) == {
        "start": (6, 9),
        "score": (4, None),  # caches may hold what the earlier one did
        "adapters/dpo-a": (60, None),
        "adapters/dpo-b": (60, 45),
        "front/base": (10, None),
        "front/mod": (15, 30),  # half of its points were there
        "report": (2, 3),
        REST: (4, None),
    }
    whole = in_all(parts)
    assert (whole.said, whole.taken) == (6 + 60 + 15 + 2, 9 + 45 + 30 + 3)
    nothing = in_all([Said("score", 4, None)])
    assert nothing.taken is nothing.ratio is None


def test_training_that_goes_on_from_a_checkpoint_is_compared_with_its_share() -> None:
    log = WorkLog("mine", None)
    log.plan([Planned("train: dpo", 40, 1)])
    with log.working(), stage("adapters/dpo-a"):
        with progress("dpo-a", 10, 7) as advance, progress("sampling", 4, 2) as inner:
            inner(2)
            advance(3)
        assert said_beforehand()[0].taken is None, "not ended"
    (part, _) = log.compared()
    assert part.said == pytest.approx(12) and part.taken is not None


def test_the_file_has_said_taken_and_ratio_of_each_part_and_in_all(tmp_path: Path) -> None:
    log = WorkLog("mine", tmp_path)
    with log.working():
        parts = heard(log)
        assert [part.name for part in said_beforehand()] == [part.name for part in parts]
    rows = {row["name"]: row for row in read_json(tmp_path / "stages.json")["said"]}
    assert rows["adapters/dpo-a"] == {"name": "adapters/dpo-a", "said": 60, "taken": 90, "ratio": 1.5}
    whole = rows.pop(IN_ALL)
    assert whole["said"] == sum(row["said"] for row in rows.values()) == 176
    assert whole["taken"] == pytest.approx(sum(row["taken"] for row in rows.values()))
    assert whole["ratio"] == pytest.approx(whole["taken"] / 176)
    assert said_beforehand() == []
    with WorkLog("mine", tmp_path).working():
        assert said_beforehand() == [], "nothing was said"
    assert "said" not in read_json(tmp_path / "stages.json")
