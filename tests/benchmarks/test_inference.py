"""The published simulation keeps its bars, its page says what its file holds, and untrained answers are not called better."""

from __future__ import annotations

import re
from pathlib import Path

import numpy as np
import pytest

from benchmarks import inference
from paretune import hypervolume
from paretune.core.files import read_json
from paretune.fronts.front import Front

DOCS = Path(__file__).parents[2] / "docs"
FOUND = read_json(DOCS / "statistics.json")
ROWS = FOUND["worlds"]


@pytest.mark.parametrize("config", ["quickstart", "compare"])
@pytest.mark.parametrize("prompts", [64, None], ids=["64 prompts", "all prompts"])
@pytest.mark.slow
def test_real_answers_dealt_into_policies_are_not_called_better(config: str, prompts: int | None) -> None:
    """The base model's four answers to a prompt are three points and the base model: at most 5 % of 300 draws say otherwise."""
    found = inference.judged(inference.redrawn(config, prompts), 300, 0, seed=1)
    assert found["worlds"] == 300 and found["covered"] is None
    assert found["above"] <= 0.05 and found["below"] <= 0.05


def test_a_test_of_hypervolumes_calls_them_better() -> None:
    """The same draws by the percentiles of resampled hypervolumes, which favour the front of more points: the bar can be missed."""
    world, random = inference.redrawn("quickstart", 64), np.random.default_rng(1)
    draws, above = 40, 0
    for _ in range(draws):
        drawn = world.draw(random)
        assert isinstance(drawn.first, Front) and isinstance(drawn.second, Front)
        reference = np.minimum(drawn.first.means.min(axis=0), drawn.second.means.min(axis=0)) - 1
        rows = random.integers(64, size=(100, 64))
        excess = [
            hypervolume(drawn.first.scores[:, each].mean(axis=1), reference)
            - hypervolume(drawn.second.scores[:, each].mean(axis=1), reference)
            for each in rows
        ]
        above += np.quantile(excess, 0.025) > 0
    assert above / draws >= 0.15, "where 0.025 is right"


@pytest.mark.slow
def test_every_world_keeps_the_bars() -> None:
    """False verdicts in at most 5 % of draws, coverage of at least 92 %, and the power that a test of hypervolumes has."""
    assert [world.name for world in inference.worlds()] == [row["world"] for row in ROWS]
    for row in ROWS:
        assert row["worlds"] >= 1000 and not inference.missed(row, slack=0), row["world"]
    assert inference.missed({**ROWS[0], "above": 0.051}, slack=0) == ["above 0.051"]
    assert inference.missed({**ROWS[0], "covered": 0.919}, slack=0) == ["covered 0.919"]
    power = next(row for row in ROWS if row["power"])
    assert inference.missed({**power, "above": power["power"] - 0.01}, slack=0)


def test_the_page_says_what_the_file_holds() -> None:
    text = (DOCS / "statistics.md").read_text(encoding="utf-8")
    table = [
        re.sub(r"\*\*", "", line).strip("| ").split(" | ")
        for line in text.split("its width |")[1].split("\n\n")[0].splitlines()[2:]
    ]

    def shown(value: float | None, digits: int) -> str:
        return "-" if value is None else f"{100 * value:.{digits}f}"

    expected = [
        [
            row["world"],
            str(row["prompts"]),
            *(shown(row[key], 1) for key in ("above", "below", "covered")),
            "-" if row["width"] is None else f"{shown(row['width'], 0)} %",
        ]
        for row in ROWS
    ]
    assert table == expected
    words = " ".join(text.split())
    alone, together = (round(100 * FOUND["family"][how]) for how in ("each by itself", "Holm"))
    assert f"in {alone} % of reports if each is judged by itself, in {together} % after Holm" in words
    keys = ("overrated", "overrated, shrunk")
    equal, line, bulge = ([f"{each[key]:.3f}".lstrip("0") for key in keys] for each in FOUND["chosen"])
    assert (
        f"overrated by {equal[0]} deviations where all are equal (shrunk: {equal[1]}), by {line[0]} on a long line ({line[1]}), "
        f"by {bulge[0]} on a bulge ({bulge[1]}); the bands hold its true scores in 99 %"
    ) in words
    assert all(round(100 * each["held by bands"]) == 99 for each in FOUND["chosen"])
