"""What to do next, from the causes that a record knows: each finding with its cure, and the commands that use the run."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from html import escape

from paretune.fronts.front import Interval
from paretune.fronts.indicators import STEERABLE
from paretune.fronts.inference import MOST_PROMPTS
from paretune.fronts.record import FrontRecord, MeasuredPolicy, PairedTest, Point
from paretune.reports.findings import COLLAPSE_FLAG, CUT_FLAG
from paretune.reports.page import section
from paretune.reports.wording import (
    NO_EFFECT,
    called,
    following,
    known,
    leading,
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
    """

    finding: str
    cure: str


def next_steps(record: FrontRecord) -> list[NextStep]:
    """Return what to do next, the most basic first; empty where nothing stands in the way of using the run."""
    causes = (_cut, _weak_judge, _collapsed, _unmoved, _ignoring, _unseen)
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


def _collapsed(record: FrontRecord) -> Iterator[NextStep]:
    for policy in record.policies:
        bad = [p for p in policy.points if known(p.collapse_rate) and p.collapse_rate > COLLAPSE_FLAG]
        if bad:
            yield NextStep(
                f"{policy.label}: answers collapse at {len(bad)} of {len(policy.points)} preferences "
                f"(up to {percent(max(p.collapse_rate for p in bad))}).",
                f"Train it less or closer to the base model: lower train.learning_rate or train.steps, or raise "
                f"methods.{policy.name}.beta where it has one.",
            )


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
    cure = "Train longer (double train.steps), or on more prompts"
    if most[1].value > 0:
        enough = _enough(record.num_prompts, half, most[1].value)
        if enough is not None:
            cure += (
                f"; or measure on more: about {enough} held-out prompts would show the movement of {most[0]} as measured "
                f"({number(most[1].value, 2)} deviations)"
            )
    else:
        cure += "; more held-out prompts would not help, as the measured movement is not upwards"
    return NextStep(finding, f"{cure}. `paretune advise DATA --run RUN` gives the numbers.")


def _enough(prompts: int, half: float, value: float) -> str | None:
    """Return how many prompts make an interval of half the width ``half`` exclude 0 for ``value``; None for too many to say.

    Its width falls with the square root of their number.
    """
    count = prompts * (half / value) ** 2
    return None if not math.isfinite(count) or count > MOST_PROMPTS else number(float(f"{count:.2g}"), 0)


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
        cure = (
            "Train longer (train.steps), and check with `paretune data inspect` that the objectives disagree on a fair "
            "share of the pairs"
        )
        others = [name for name in ("dpo-soup", "modpo") if name not in {policy.name for policy in policies}]
        if others:
            cure += (
                f"; or take a method that trains each objective by itself, such as {listing(others, 'or')}"
            )
        yield NextStep(
            f"{listing([policy.label for policy in policies])}: {why}, so {NO_EFFECT}.",
            f"{cure}.",
        )


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
    if least is None or _prompts(least) > MOST_PROMPTS:
        cure = "What was measured is too close to nothing: more prompts would not show it. Train longer, or take them as equal."
    else:
        pair = f"{called(record, least.first)} and {called(record, least.second)}"
        cure = (
            f"About {number(float(f'{_prompts(least):.2g}'), 0)} held-out prompts would show the difference of {pair} as measured: "
            "name more under data.test, or give data.splits.test a larger share (evaluate.prompts limits them)."
        )
    yield NextStep(finding, cure)


def _prompts(test: PairedTest) -> int:
    return test.enough_prompts or MOST_PROMPTS + 1


def commands(record: FrontRecord, run: str) -> list[tuple[str, str]]:
    """Return the commands that use a run, ready to copy, each with what it does.

    Args:
        record: The record of the run.
        run: The run's folder, as the commands are to name it.
    """
    if not record.policies:
        return []
    best, trained = (
        leading(record),
        bool(record.stages),
    )  # of policies that were trained elsewhere there are only scores
    several = f" --policy {best.name}" if len(record.policies) > 1 else ""
    points = [point for point in best.points if max(point.preference.values()) < 1] or list(best.points)
    middle = min(points, key=lambda point: max(point.preference.values()))
    preference = ",".join(f"{name}={weight:g}" for name, weight in middle.preference.items())
    folder = "exported" if run == "." else f"{run.rstrip('/')}-exported"
    choose = (f"paretune choose {run}{several}", "the knee, and stops of a dial with the scores to expect")
    if not trained:
        return [choose]
    return [
        (f"paretune serve {run}", "the dial in a browser, and the OpenAI API"),
        choose,
        (
            f"paretune export {run} {folder}{several} -p {preference}",
            "a LoRA at one preference, for other servers",
        ),
        (f"paretune status {run}", "what was done, in which time"),
    ]


def what_next(record: FrontRecord) -> str:
    """Return the section of the report."""
    steps = "".join(
        f"<li>{escape(step.finding)} <b>{escape(step.cure)}</b></li>" for step in next_steps(record)
    )
    steps = steps or "<li>Nothing that this page knows of stands in the way of using it.</li>"
    lines = "".join(
        f"<dt><code>{escape(line)}</code></dt><dd>{escape(what)}</dd>" for line, what in commands(record, ".")
    )
    return section(
        "next",
        "What to do next",
        f"<ul>{steps}</ul><p>In the folder of this page:</p><dl>{lines}</dl>",
    )
