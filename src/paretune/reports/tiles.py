"""The first thing on the page: what the dial does, and what the policies are better than. Tiles say what verdicts show, no more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from html import escape

from paretune.fronts.inference import MOST_PROMPTS
from paretune.fronts.record import FrontRecord, MeasuredPolicy, PairedTest, Point
from paretune.reports.natural import counts_words, from_to, scores_from_to
from paretune.reports.needed import prompts_needed, rounded
from paretune.reports.wording import (
    MIXTURE,
    MOST_NAMED,
    called,
    following,
    has_base,
    has_mixture,
    known,
    leading,
    listing,
    number,
    winner,
)

MOST_DIALS = 2
"""The most objectives that have a tile each; of more, one tile has a line for each."""
UNTESTED = "Measured, not tested."
YES, NO, OPEN = "yes", "no", "open"
"""The states of a tile: shown, shown to be the other way, and not shown."""


@dataclass(frozen=True)
class Tile:
    """A question with its answer.

    Attributes:
        question: What is asked.
        answer: The answer in a few words.
        state: One of the states above.
        lines: What stands below it.
    """

    question: str
    answer: str
    state: str
    lines: tuple[str, ...] = ()


def tiles(record: FrontRecord) -> str:
    """Return the tiles as HTML."""
    shown = "".join(
        f'<div class="tile {tile.state}"><h2>{escape(tile.question)}</h2><p class="answer">{escape(tile.answer)}</p>'
        f"{''.join(f'<p>{escape(line)}</p>' for line in tile.lines)}</div>"
        for tile in tiles_of(record)
    )
    return f'<div class="tiles">{shown}</div>' if shown else ""


def tiles_of(record: FrontRecord) -> list[Tile]:
    """Return what a reader wants to know first; a question that the record cannot answer has no tile."""
    if not record.policies:
        return []
    policy = leading(record)
    made = _dials(record, policy) if len(policy.points) > 1 else []
    singles = "single-objective models" if len(record.objectives) > 2 else "two single-objective models"
    made += [_better(record, "base model", "Better than the base model?")] if has_base(record) else []
    if has_mixture(record) and len(record.objectives) > 1:
        made.append(_better(record, MIXTURE, f"Better than picking one of the {singles} at random?"))
    return made


def headline(record: FrontRecord) -> str:
    """Return the verdict against the base model in one line; where there is none, what was measured."""
    tests = [test for test in record.comparisons if called(record, test.second) == "base model"]
    above = [called(record, test.first) for test in tests if winner(test) == test.first]
    below = [called(record, test.first) for test in tests if winner(test) == test.second]
    if not tests:
        names = [policy.label for policy in record.policies]
        who = listing(names) if 0 < len(names) <= 2 else f"{len(names)} policies"
        return f"{who} over {listing(record.objectives)}"
    if above:
        return f"{_who(above, len(tests))} better than the base model"
    if below:
        return f"{_who(below, len(tests))} worse than the base model"
    names = [called(record, test.first) for test in tests]
    who = listing(names, "or") if len(names) <= 2 else f"any of {len(names)} policies"
    return f"No difference of {who} from the base model is shown"


def _who(names: Sequence[str], count: int) -> str:
    """Return the names with their verb, or how many of ``count`` they are."""
    text = listing(names) if len(names) <= 2 else f"{len(names)} of {count} policies"
    return f"{text} {'is' if len(names) == 1 else 'are'}"


# What the dial does


def _dials(record: FrontRecord, policy: MeasuredPolicy) -> list[Tile]:
    objectives = record.objectives
    if len(objectives) <= MOST_DIALS:
        return [_dial(record, policy, m) for m in range(len(objectives))]
    lines = [_dial(record, policy, m) for m in range(len(objectives))]
    moved = [name for name, line in zip(objectives, lines, strict=True) if line.state == YES]
    answer = f"Moves {len(moved)} of {len(objectives)} objectives"
    if not policy.ends:
        answer = "Measured, not tested"
    wrong = any(line.state == NO for line in lines)
    told = tuple(
        f"{name}: {_inner(line.answer)}{', not tested' if line.lines[-1] == UNTESTED else ''}"
        for name, line in zip(objectives, lines, strict=True)
    )
    state = NO if wrong else YES if moved else OPEN
    return [Tile("What the dial does", answer, state, (*told, f"By {policy.label}."))]


def _inner(answer: str) -> str:
    return answer[:1].lower() + answer[1:]


def _dial(record: FrontRecord, policy: MeasuredPolicy, m: int) -> Tile:
    """Return what turning the dial from no weight to full weight on an objective does to its score."""
    objective, figure = record.objectives[m], policy.ends.get(record.objectives[m])
    starts, ends = _ends(policy, objective)
    change = from_to(record, m, starts, ends)
    before, after = (group[0].preference[objective] for group in (starts, ends))
    detail = [f"{policy.label}, weight on {objective} from {before:.3g} to {after:.3g}."]
    if counts_words(record, objective) and change.endswith(" words"):
        detail.append(f"Score {scores_from_to(record, m, starts, ends)}.")
    question = f"What the dial does to {objective}"
    if figure is None or not known(figure.low):
        return Tile(question, change.capitalize(), OPEN, (*detail, UNTESTED))
    deviations = f"{number(figure.value, 2)} deviations [{number(figure.low, 2)}, {number(figure.high, 2)}]"
    if figure.low > 0:
        shown = f"Shown: {deviations}{_others(record, objective)}."
        return Tile(question, change.capitalize(), YES, (*detail, shown))
    if figure.high < 0:
        return Tile(question, f"The wrong way, {change}", NO, (*detail, f"Shown: {deviations}."))
    detail.append(
        f"Measured {change}, which {record.num_prompts} prompts cannot tell from nothing: {deviations}."
    )
    needed = prompts_needed(record.num_prompts, figure) if figure.value > 0 else None
    if needed is not None:
        detail.append(f"About {needed} prompts would show as much.")
    return Tile(question, "No effect shown", OPEN, tuple(detail))


def _others(record: FrontRecord, objective: str) -> str:
    """Return for how many policies it is shown that an objective follows its weight, where there are several."""
    if len(record.policies) < 2:
        return ""
    count = sum(objective in following(policy)[0] for policy in record.policies)
    return f"; shown for {count} of {len(record.policies)} policies"


def _ends(policy: MeasuredPolicy, objective: str) -> tuple[list[Point], list[Point]]:
    """Return the points with the smallest and those with the largest weight on an objective."""
    shares = [point.preference[objective] for point in policy.points]
    return (
        [
            point
            for point, share in zip(policy.points, shares, strict=True)
            if abs(share - min(shares)) < 1e-8
        ],
        [
            point
            for point, share in zip(policy.points, shares, strict=True)
            if abs(share - max(shares)) < 1e-8
        ],
    )


# What it is better than


def _better(record: FrontRecord, other: str, question: str) -> Tile:
    tests = [test for test in record.comparisons if called(record, test.second) == other]
    if not tests:
        reasons = dict.fromkeys(
            pair.reason for pair in record.uncompared if called(record, pair.second) == other
        )
        return Tile(
            question, "Not compared", OPEN, tuple(f"{text[:1].upper()}{text[1:]}." for text in reasons)
        )
    above = [test for test in tests if winner(test) == test.first]
    below = [test for test in tests if winner(test) == test.second]
    if len(above) == len(tests):
        answer, state = (
            ("Yes" if len(tests) == 1 else f"Yes, {'both' if len(tests) == 2 else f'all {len(tests)}'}"),
            YES,
        )
    elif above:
        answer, state = f"Yes: {_some(record, above, len(tests))}", YES
    elif below:
        answer, state = f"No: {_some(record, below, len(tests))} worse", NO
    else:
        answer, state = "Not shown", OPEN
    return Tile(question, answer, state, _told(record, tests, above, below))


def _some(record: FrontRecord, tests: Sequence[PairedTest], count: int) -> str:
    return called(record, tests[0].first) if len(tests) == 1 else f"{len(tests)} of {count}"


def _told(
    record: FrontRecord,
    tests: Sequence[PairedTest],
    above: Sequence[PairedTest],
    below: Sequence[PairedTest],
) -> tuple[str, ...]:
    """Return a line for each test; of many, how the rest is counted."""
    if len(tests) <= MOST_NAMED:
        return tuple(_one(record, test) for test in tests)
    best = max(tests, key=lambda test: test.difference)
    rest = len(tests) - len(above) - len(below)
    lines = [_one(record, best)]
    if below:
        lines.append(f"Worse: {listing([called(record, test.first) for test in below])}.")
    if rest:
        lines.append(f"Not shown for {rest} of {len(tests)}.")
    return tuple(lines)


def _one(record: FrontRecord, test: PairedTest) -> str:
    name, above = called(record, test.first), winner(test)
    if above is not None:
        size, low, high = test.difference, test.low, test.high
        if above != test.first:
            size, low, high = -size, -high, -low
        way = "better" if above == test.first else "worse"
        return f"{name}: {way} by {number(size, 2)} deviations [{number(low, 2)}, {number(high, 2)}]."
    text = (
        f"{name}: not shown. {test.prompts} prompts could have shown {number(test.detectable, 2)} deviations"
    )
    if test.enough_prompts is None:
        return f"{text}."
    if test.enough_prompts > MOST_PROMPTS:
        return f"{text}; what was measured is too small for any number of prompts."
    return f"{text}; about {rounded(test.enough_prompts)} would show what was measured."
