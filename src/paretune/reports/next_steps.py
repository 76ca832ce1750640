"""What stands in the way of a run, from the causes that its record knows: each finding with its cure."""

from __future__ import annotations

import math
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from paretune.fronts.front import Interval
from paretune.fronts.indicators import STEERABLE
from paretune.fronts.inference import MOST_PROMPTS
from paretune.fronts.record import FrontRecord, MeasuredPolicy, PairedTest, Point
from paretune.reports.findings import COLLAPSE_FLAG, CUT_FLAG
from paretune.reports.needed import prompts_needed, rounded
from paretune.reports.wording import (
    MIXTURE,
    NO_EFFECT,
    called,
    following,
    known,
    listing,
    number,
    percent,
    winner,
)

GUESSING, WEAK = 0.5, 0.65
"""Share of held-out pairs that guessing ranks right, and the share below which a judge is called weak: a rule of thumb."""


@dataclass(frozen=True)
class NextStep:
    """One thing to do.

    Attributes:
        finding: What was seen.
        cure: What to do about it.
        change: The setting of the run that does it, as ``key=value``; empty where none does by itself.
    """

    finding: str
    cure: str
    change: str = ""


def next_steps(record: FrontRecord) -> list[NextStep]:
    """Return what to do next, the most basic first; empty where nothing stands in the way of using the run."""
    causes = (_cut, _weak_judge, _collapsed, _below, _unmoved, _ignoring, _unseen)
    return [step for cause in causes for step in cause(record)]


def _points(record: FrontRecord) -> list[Point]:
    return [point for policy in record.policies for point in policy.points]


def _cut(record: FrontRecord) -> Iterator[NextStep]:
    rates = [p.cut_rate for p in [record.base, *_points(record)] if known(p.cut_rate)]
    if not rates or max(rates) <= CUT_FLAG:
        return
    low, high = percent(round(min(rates), 2)), percent(round(max(rates), 2))
    most = record.sampling.get("max_new_tokens")
    limit = f" at {most} tokens" if isinstance(most, int) else ""
    larger = f" to {2 * most} or more" if isinstance(most, int) else ""
    share = high if low == high else f"{low.removesuffix(' %')} to {high}"
    yield NextStep(
        f"{share} of the answers were cut{limit}, so scores, lengths above all, are partly those of the limit.",
        f"Raise sampling.max_new_tokens{larger}; training is reused.",
        f"sampling.max_new_tokens={2 * most}" if isinstance(most, int) else "",
    )


def _weak_judge(record: FrontRecord) -> Iterator[NextStep]:
    """Yield what to do about fitted heads that rank held-out pairs hardly better than chance or than length, or saw the prompts."""
    cure = "Collect more comparisons, or name a reward model or a rule under score:; until then read answers, not scores."
    for objective, facts in record.scorers.items():
        right, longer = facts.accuracy, facts.longer_accuracy
        if right is not None and known(right.value):
            share = f"The judge of {objective} ranks {percent(right.value)} of held-out pairs as people did"
            if right.low <= GUESSING or right.value < WEAK:
                yield NextStep(f"{share}, where guessing has 50 %.", cure)
            elif longer is not None and known(longer) and right.value <= longer:
                yield NextStep(
                    f"{share}, and preferring the longer response {percent(longer)}: it may judge lengths.",
                    cure,
                )
        if facts.seen:
            yield NextStep(
                f"The judge of {objective} was fitted on {facts.seen} of the {record.num_prompts} held-out prompts, so it is too "
                "sure of them.",
                "Fit it on the training prompts alone (head: fit does), or hold out others (data.test).",
            )


def _collapses(policy: MeasuredPolicy) -> list[Point]:
    """Return the points of a policy at which too many answers collapse."""
    return [p for p in policy.points if known(p.collapse_rate) and p.collapse_rate > COLLAPSE_FLAG]


def _collapsed(record: FrontRecord) -> Iterator[NextStep]:
    for policy in record.policies:
        bad = _collapses(policy)
        if bad:
            yield NextStep(
                f"{policy.label}: answers collapse at {len(bad)} of {len(policy.points)} preferences "
                f"(up to {percent(max(p.collapse_rate for p in bad))}).",
                f"Train it less or closer to the base model: lower train.learning_rate or train.steps, or raise "
                f"methods.{policy.name}.beta where it has one.",
            )


def _below(record: FrontRecord) -> Iterator[NextStep]:
    """Yield what to do about policies that are shown to be worse than the base model, or than the mixture of corners."""
    for other, cure in (
        ("base model", "Read its answers before its scores. Lower train.learning_rate or train.steps, and check with"
         " `paretune data inspect` that the scorer agrees with the data"),
        (MIXTURE, "What it learned is worth less than its single-objective models"),
    ):  # fmt: skip
        tests = [test for test in record.comparisons if called(record, test.second) == other]
        for test in tests:
            if winner(test) == test.second:
                better = _instead(record, test, other)
                yield NextStep(
                    f"{called(record, test.first)} is shown to be worse than the {other}, by {number(-test.difference, 2)} "
                    "deviations.",
                    f"{cure}{better}.",
                )


def _instead(record: FrontRecord, lower: PairedTest, other: str) -> str:
    """Return which policy of the run to use instead: one that is shown above the lower one, or above what that is below."""
    above = [
        test
        for test in record.comparisons
        if winner(test) == test.first and (test.second == lower.first or called(record, test.second) == other)
    ] + [test for test in record.comparisons if winner(test) == test.second and test.first == lower.first]
    names = [test.first if winner(test) == test.first else test.second for test in above]
    titles = [
        called(record, name)
        for name in dict.fromkeys(names)
        if called(record, name) not in ("base model", MIXTURE)
    ]
    return f". {listing(titles[:2], 'or')} did better on these prompts" if titles else ""


def _unmoved(record: FrontRecord) -> Iterator[NextStep]:
    """Yield what to do about objectives that a policy does not move where they have most weight."""
    for policy in record.policies:
        still, wrong = [], []
        for objective in record.objectives:
            figure = _moved(policy, objective)
            if figure is None or not known(figure.low):
                continue
            if figure.low <= 0 <= figure.high:
                still.append((objective, figure))
            elif figure.high < 0:
                wrong.append(objective)
        if still:
            yield _still(record, policy, still)
        if wrong:
            yield NextStep(
                f"{policy.label} moves {listing(wrong)} the wrong way where its weight is largest.",
                "Look at the answers first: the scorer may reward something else than the data prefer. "
                "`paretune data inspect` shows how often they agree; a cost needs `direction: lower`.",
            )


def _moved(policy: MeasuredPolicy, objective: str) -> Interval | None:
    point = max(policy.points, key=lambda point: point.preference[objective])
    return point.movement.moved.get(objective) if point.movement else None


def _still(record: FrontRecord, policy: MeasuredPolicy, still: list[tuple[str, Interval]]) -> NextStep:
    names = listing([name for name, _ in still], "or")
    half = max((figure.high - figure.low) / 2 for _, figure in still)
    most = max(still, key=lambda entry: entry[1].value)
    finding = (
        f"{policy.label} shows no movement on {names}; {record.num_prompts} held-out prompts leave {number(half, 2)} deviations "
        "open on either side."
    )
    cure = (
        "Train on more prompts"
        if _collapses(policy)
        else "Train longer (double train.steps), or on more prompts"
    )
    change = ""
    if most[1].value > 0:
        enough = prompts_needed(record.num_prompts, most[1])
        if enough is not None:
            cure += (
                f"; or measure on more: about {enough} held-out prompts would show the movement of {most[0]} as measured "
                f"({number(most[1].value, 2)} deviations)"
            )
            change = _more_prompts(record, enough)
    else:
        cure += "; more held-out prompts would not help, as the measured movement is not upwards"
    return NextStep(finding, f"{cure}. `paretune advise DATA --run RUN` gives the numbers.", change)


def _more_prompts(record: FrontRecord, enough: str) -> str:
    """Return the setting that measures on so many prompts, where the run holds out as many."""
    count = int(enough.replace(",", ""))
    return f"evaluate.prompts={count}" if record.num_prompts < count <= record.splits.get("test", 0) else ""


def _ignoring(record: FrontRecord) -> Iterator[NextStep]:
    """Yield what to do about policies whose answers do not change with the preference, those of one finding together."""
    found: dict[str, list[MeasuredPolicy]] = {}
    for policy in record.policies:
        right, wrong, still = following(policy)
        ratios = sorted(math.inf if ratio is None else ratio for ratio in policy.steerability.values())
        if right or wrong:
            continue
        if len(policy.points) > 1 and len({point.mean for point in policy.points}) == 1:
            why = "the answers are the same at every preference"
        elif ratios and ratios[len(ratios) // 2] < STEERABLE:
            why = "the singular values hardly follow the preference"
        elif still:
            why = f"{record.num_prompts} prompts do not tell apart the scores at the ends"
        else:
            continue
        found.setdefault(why, []).append(policy)
    for why, policies in found.items():
        yield NextStep(
            f"{listing([policy.label for policy in policies])}: {why}, so {NO_EFFECT}.",
            f"{_steered(record, policies)}.",
        )


def _steered(record: FrontRecord, policies: Sequence[MeasuredPolicy]) -> str:
    """Return what may make answers follow the preference; a method is named only where it is another way than this run's."""
    check = "check with `paretune data inspect` that the objectives disagree on a fair share of the pairs"
    collapses = any(map(_collapses, policies))
    cure = check[:1].upper() + check[1:] if collapses else f"Train longer (train.steps), and {check}"
    follow = [policy.label for policy in record.policies if following(policy)[0]]
    if follow:
        return f"{cure}; or take {listing(follow, 'or')}, whose answers follow it in this run"
    # Where a policy of this run has an adapter for each objective, that is no change, or it did not help.
    if all(policy.cost and policy.cost.adapters < len(record.objectives) for policy in record.policies):
        cure += "; or take a method that trains each objective by itself, such as dpo-soup"
    return cure


def _unseen(record: FrontRecord) -> Iterator[NextStep]:
    """Yield how many prompts would show the differences that these could not show."""
    open_ = [test for test in record.comparisons if winner(test) is None]
    if not open_:
        return
    least = min((test for test in open_ if test.enough_prompts), key=_prompts, default=None)
    seen = number(max(test.detectable for test in open_ if known(test.detectable)), 2) if open_ else ""
    finding = (
        f"{len(open_)} of {len(record.comparisons)} comparisons show{'s' * (len(open_) == 1)} no difference; {record.num_prompts} "
        f"held-out prompts could have shown one of {seen} deviations."
    )
    change = ""
    if least is None or _prompts(least) > MOST_PROMPTS:
        cure = "What was measured is too close to nothing: more prompts would not show it. Choose by answers or by cost."
    else:
        pair = f"{called(record, least.first)} and {called(record, least.second)}"
        cure = (
            f"About {rounded(_prompts(least))} held-out prompts would show the difference of {pair} as measured: "
            "name more under data.test, or give data.splits.test a larger share (evaluate.prompts limits them)."
        )
        change = _more_prompts(record, rounded(_prompts(least)))
    yield NextStep(finding, cure, change)


def _prompts(test: PairedTest) -> int:
    return test.enough_prompts or MOST_PROMPTS + 1
