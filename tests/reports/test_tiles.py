"""The tiles and the headline of the report: they say what verdicts show, in words with numbers, and no more."""

from __future__ import annotations

from typing import Any

import pytest

from paretune.fronts.record import FrontRecord
from paretune.reports.tiles import Tile, headline, tiles, tiles_of
from paretune.scoring.meaning import meaning
from support import records

OPEN = "no difference shown"
INFO = {
    "concise": meaning({"objective": "concise", "rule": "length", "per": 10, "enough": 15}),
    "warm": meaning({"objective": "warm", "rule": "sentiment", "how": "sum"}),
}


def made(
    ends: tuple[float, float] | None = (1.3, 0.9), names: tuple[str, ...] = ("modpo",), **rest: Any
) -> FrontRecord:
    """Return a record whose dial goes from 71 words and a warmth of 0.8 to 30 words and 1.9, with ends told apart by 0.5."""
    points = [
        records.point({"concise": w, "warm": 1 - w}, [-5.6 + 4.1 * w, 1.9 - 1.1 * w], words=71 - 41 * w)
        for w in (1.0, 0.5, 0.0)
    ]
    told = (
        {} if ends is None else dict(zip(("concise", "warm"), (records.figure(v) for v in ends), strict=True))
    )
    policies = [records.policy(name, points, ends=told) for name in names]
    return FrontRecord.parse(
        records.record(["concise", "warm"], policies, **{"objectives_info": INFO, **rest})
    )


def against(*verdicts: str, other: str = "base", **rest: Any) -> list[dict[str, Any]]:
    """Return a test of each of the policies ``one``, ``two``, ... with this verdict against another front."""
    differences = {OPEN: 0.1, f"{other} above": -0.9}
    return [
        records.test(name, other, differences.get(verdict, 0.9), verdict, **rest)
        for name, verdict in zip(("one", "two", "three", "four", "five"), verdicts, strict=False)
    ]


def tile(record: FrontRecord, question: str) -> Tile:
    return next(each for each in tiles_of(record) if question in each.question)


def test_the_dial_is_told_in_the_unit_that_a_reader_knows() -> None:
    concise, warm = tile(made(), "to concise"), tile(made(), "to warm")
    assert concise.answer == "From 71 to 30 words" and concise.state == "yes"
    assert "Score from −5.6 to −1.5." in concise.lines
    assert warm.answer == "From 0.8 to 1.9"
    assert any("1.30 deviations [0.80, 1.80]" in line for line in concise.lines)
    older = made(objectives_info={"concise": "rule length, unit words, direction lower, per 10, enough 15"})
    assert tile(older, "to concise").answer == "From 71 to 30 words"
    letters = meaning({"objective": "concise", "rule": "length", "unit": "characters", "per": 100})
    assert tile(made(objectives_info={"concise": letters}), "to concise").answer == "From −5.6 to −1.5"


@pytest.mark.parametrize(
    "ends, answer, state, said",
    [
        # Half a width of 0.5 at 60 prompts: 0.2 would be shown by 60 * (0.5 / 0.2)**2 = 375 prompts.
        ((0.2, 0.9), "No effect shown", "open", "About 380 prompts would show as much."),
        ((-0.2, 0.9), "No effect shown", "open", "60 prompts cannot tell from nothing"),
        ((-1.3, 0.9), "The wrong way, from 71 to 30 words", "no", "Shown: −1.30 deviations"),
        (None, "From 71 to 30 words", "open", "Measured, not tested."),
    ],
)
def test_what_is_not_shown_is_not_claimed(
    ends: tuple[float, float] | None, answer: str, state: str, said: str
) -> None:
    found = tile(made(ends), "to concise")
    assert (found.answer, found.state) == (answer, state)
    assert said in " ".join(found.lines)
    assert ("would show as much" in " ".join(found.lines)) == (ends == (0.2, 0.9)), (
        "no number helps a wrong sign"
    )


@pytest.mark.parametrize(
    "verdicts, answer, state, title",
    [
        (("one above",), "Yes", "yes", "one is better than the base model"),
        (("one above", "two above"), "Yes, both", "yes", "one and two are better than the base model"),
        (("one above", OPEN), "Yes: one", "yes", "one is better than the base model"),
        ((OPEN, OPEN), "Not shown", "open", "No difference of one or two from the base model is shown"),
        (("base above", OPEN), "No: one worse", "no", "one is worse than the base model"),
        (
            ("one above", "two above", "three above", OPEN, "base above"),
            "Yes: 3 of 5",
            "yes",
            "3 of 5 policies are better than the base model",
        ),
    ],
)
def test_better_than_the_base_model(verdicts: tuple[str, ...], answer: str, state: str, title: str) -> None:
    names = ("one", "two", "three", "four", "five")[: len(verdicts)]
    record = made(names=names, comparisons=against(*verdicts))
    found = tile(record, "the base model")
    assert (found.answer, found.state) == (answer, state)
    assert headline(record) == title and len(title) < 90
    text = " ".join(found.lines)
    if len(verdicts) > 4:
        assert "Worse: five." in text and "Not shown for 1 of 5." in text
    elif OPEN in verdicts:
        assert (
            "not shown. 60 prompts could have shown 0.31 deviations; about 400 would show what was measured."
            in text
        )
    if "base above" in verdicts and len(verdicts) == 2:
        assert "one: worse by 0.90 deviations [0.70, 1.10]." in text


def test_picking_at_random_is_asked_about_where_it_was_measured() -> None:
    tests = against(OPEN, other="mixture of corners", enough_prompts=None)
    found = tile(made(names=("one",), comparisons=tests), "at random")
    assert found.answer == "Not shown" and found.lines[0].endswith("could have shown 0.31 deviations.")
    without = made(mixture={"points": [], "hypervolume": records.figure(None)})
    assert not any("at random" in each.question for each in tiles_of(without))


def test_fronts_that_were_not_compared_say_why() -> None:
    pair = {"first": "modpo", "second": "base", "reason": "compared by an earlier version"}
    found = tile(made(uncompared=[pair]), "the base model")
    assert (found.answer, found.state, found.lines) == (
        "Not compared",
        "open",
        ("Compared by an earlier version.",),
    )
    assert headline(made()) == "modpo over concise and warm"


def test_more_than_two_objectives_share_a_tile() -> None:
    names = ("concise", "warm", "plain")
    points = [
        records.point({name: float(name == most) for name in names}, [-float(name != most) for name in names])
        for most in names
    ]
    ends = {"concise": records.figure(1.0), "warm": records.figure(0.1), "plain": records.figure(-1.0)}
    record = FrontRecord.parse(records.record(names, [records.policy("modpo", points, ends=ends)]))
    found = tile(record, "What the dial does")
    assert (found.answer, found.state) == ("Moves 1 of 3 objectives", "no")
    assert found.lines[:3] == (
        "concise: from −1.0 to 0.0",
        "warm: no effect shown",
        "plain: the wrong way, from −1.0 to 0.0",
    )


def test_tiles_are_escaped() -> None:
    record = made(names=("<b>",), comparisons=against("<b> above"))
    assert "<b>" not in tiles(record) and "&lt;b&gt;" in tiles(record)
