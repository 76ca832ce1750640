from __future__ import annotations

import io
import json
import math

import pytest
from rich.console import Console

from paretune.cli.inspect import render
from paretune.data.dataset import ScoredDataset
from paretune.data.rows import Message, Row
from paretune.data.summary import inspect


def ask(text: str) -> tuple[Message, ...]:
    return (Message("user", text),)


@pytest.fixture
def dataset() -> ScoredDataset:
    rows = (
        Row(
            ask("one two three"),
            ("a", "b b", "a"),
            {"warm": (1, 2, 3), "brief": (3, 2, 1)},
            truncated=(False, True, False),
        ),
        Row(ask("One  two THREE"), ("a b c d",), {"warm": (4,)}),
        Row(ask("four"), ("a", "b"), {"warm": (0, 0), "brief": (0, 1)}, {"warm": ((0, 1, 0.0), (0, 1, 1.0))}),
    )
    return ScoredDataset(("warm", "brief"), rows)


def test_worked_example(dataset) -> None:
    found = inspect(dataset)
    assert (found.rows, found.prompts, found.responses) == (3, 2, 6)
    assert (found.repeated_prompts, found.identical_responses) == (1, 1)
    assert found.truncated_share == pytest.approx(1 / 6)
    warm, brief = found.objectives
    assert (warm.count, warm.missing, warm.comparisons, warm.ties) == (6, 0, 2, 1)
    assert (warm.mean, warm.low, warm.quartiles, warm.high) == (
        pytest.approx(10 / 6),
        0,
        (0.25, 1.5, 2.75),
        4,
    )
    assert warm.std == pytest.approx(math.sqrt(30 / 6 - (10 / 6) ** 2))
    assert (brief.count, brief.missing, brief.comparisons) == (5, 1, 0)
    assert found.prompt_words.mean == pytest.approx(7 / 3) and found.prompt_words.longest == 3
    assert found.response_words.mean == pytest.approx(10 / 6) and found.response_words.p50 == 1
    # of the pairs (0,1) and (1,2) of the first row, where both judge, and (0,1) of the last
    assert found.conflicts[0][1] == 1.0
    # complete points: (1,3) (2,2) (3,1) to one prompt, (0,0) (0,1) to another
    assert found.layered == 5
    assert found.layers_by_prompt == (4, 1)
    assert found.layers_overall == (3, 1, 1)


def test_it_can_be_written_as_json_and_rendered(dataset) -> None:
    found = inspect(dataset)
    again = json.loads(json.dumps(found.to_dict(), allow_nan=False))
    assert again["rows"] == 3 and again["objectives"][1]["objective"] == "brief"
    text = _rendered(found)
    for piece in (
        "rows repeating a prompt",
        "16.7 %",
        "warm",
        "0 (front)",
        "Pairs on which two objectives disagree",
    ):
        assert piece in text


def test_names_are_text_not_markup() -> None:
    rows = (Row(ask("q"), ("a", "b"), {"[red]": (1, 2), "plain": (2, 1)}),)
    assert _rendered(inspect(ScoredDataset(("[red]", "plain"), rows))).count("[red]") == 3


@pytest.mark.parametrize("rows", [(), (Row(ask("q"), ()),)])
def test_prompts_alone_and_nothing_at_all(rows) -> None:
    found = inspect(ScoredDataset((), rows))
    assert found.responses == 0 and math.isnan(found.truncated_share) and found.layers_overall == ()
    json.dumps(found.to_dict(), allow_nan=False)
    assert "rows" in _rendered(found)


def _rendered(found, width: int = 140) -> str:
    console = Console(file=io.StringIO(), width=width)
    console.print(render(found))
    return console.file.getvalue()


def test_tables_of_many_objectives_fit_80_columns() -> None:
    """Eight objectives of long names: no word is broken, and those that disagree most come first."""
    names = [f"instruction_following_{n}" for n in range(8)]
    scores = {name: (float(n), float(7 - n), 1.5) for n, name in enumerate(names)}
    rows = tuple(Row(ask(f"q{n}"), ("a", "b", "c"), scores) for n in range(1200))
    text = _rendered(inspect(ScoredDataset(tuple(names), rows)), width=80)
    assert max(map(len, text.splitlines())) <= 80
    assert all(text.count(name) >= 2 for name in names) and "13 more, which disagree less" in text
    (worst, *_) = (line for line in text.splitlines() if "100.0 %" in line)
    assert "instruction_following_0, instruction_following_" in worst
