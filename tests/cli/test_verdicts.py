"""What the terminal says of a finished run: what each trade-off buys, which differences are real, and what could not be seen."""

from __future__ import annotations

from typing import Any

import pytest
from rich.console import Console

from paretune.cli.verdicts import facts_of, render
from paretune.fronts.record import FrontRecord
from support import records


def record(count: int) -> FrontRecord:
    """Return a record of ``count`` policies at both corners, of which the last is measured highest above the base model."""
    policies, comparisons = [], []
    for n in range(count):
        points: list[dict[str, Any]] = []
        for weight in (1.0, 0.0):
            moved = {"concise": records.figure(2.0 * weight), "warm": records.figure(0.1)}
            points.append(
                records.point(
                    {"concise": weight, "warm": 1 - weight},
                    (-6.0 + 4.0 * weight, -6.0),
                    movement={"moved": moved, "along": records.figure(1.0), "across": records.figure(0.7)},
                )
            )
        policies.append(records.policy(f"p{n}", points))
        comparisons.append(records.test(f"p{n}", "base", 0.4 + n, f"p{n} above"))
    comparisons.append(records.test("p0", "mixture of corners", 0.1, "no difference shown"))
    return FrontRecord.parse(records.record(("concise", "warm"), policies, comparisons=comparisons))


def told(found: FrontRecord) -> str:
    console = Console(width=400)
    with console.capture() as captured:
        console.print(render(found))
    return " ".join(captured.get().split())


@pytest.mark.parametrize(("count", "shown"), [(1, ["p0"]), (2, ["p0", "p1"]), (3, ["p2"])])
def test_trade_offs_come_before_the_verdicts(count: int, shown: list[str]) -> None:
    said = told(record(count))
    for n in range(count):
        assert (f"What trade-offs of p{n} buy" in said) == (f"p{n}" in shown)
    assert ("(2 more policies are in the report):" in said) == (count == 3)
    line = "- At concise 1, warm 0: concise from −6.0 to −2.0 (+2.00 deviations), warm from −6.0"
    assert said.count(line) == len(shown)
    assert "side effect of 0.70 deviations" in said
    trades, real = said.index("What trade-offs"), said.index("Which differences are real:")
    assert trades < real < said.index("p0 is above the base model by 0.40 deviations")
    assert "a difference of 0.31 deviations could have been seen; about 400 prompts would show one" in said


def test_the_facts_hold_the_trade_offs_of_every_policy() -> None:
    facts = facts_of(record(3))
    assert list(facts["trade_offs"]) == ["p0", "p1", "p2"]
    assert all(
        len(lines) == 2 and lines[0].startswith("At concise 1") for lines in facts["trade_offs"].values()
    )
