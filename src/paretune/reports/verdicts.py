"""The sections of the report that judge: what each trade-off buys, which differences are real, what the side effects are."""

from __future__ import annotations

from html import escape

from paretune.fronts.inference import MOST_PROMPTS
from paretune.fronts.record import FrontRecord, MeasuredPolicy, PairedTest
from paretune.reports.needed import rounded
from paretune.reports.page import badge, bounded, section, table
from paretune.reports.plots import SHAPES, strip
from paretune.reports.wording import (
    NOTHING,
    astray,
    bought,
    called,
    has_base,
    known,
    number,
    sentences,
    turning,
    verdict,
    weights,
    winner,
)

MOST_OPEN = 4
"""The most policies whose trade-offs are shown at once; the others open with a click."""
MOST_SENTENCES = 12
"""The most verdicts that are written out above the table; of more, the table is read more easily."""


def trade_offs(record: FrontRecord) -> str:
    """Return what the points that a reader asks about first buy against the base model, in words."""
    parts = []
    for i, policy in enumerate(record.policies):
        lines = "".join(f"<li>{escape(line)}</li>" for line in bought(record, policy))
        shown = " open" if i < MOST_OPEN else ""
        parts.append(
            f'<details{shown}><summary>{badge(record, i)}</summary><ul class="says">{lines}</ul></details>'
        )
    return section(
        "trades",
        "What each trade-off buys",
        "".join(parts),
        "From the base model to the point with most weight on each objective, and to the knee where the front bulges. A deviation "
        "is that of the base model's answers; a change is called one only where it is shown for all points of this page together."
        if has_base(record)
        else "The point with most weight on each objective, and the knee where the front bulges.",
    )


def comparisons(record: FrontRecord) -> str:
    """Return the verdicts, in words and as a table."""
    if not record.comparisons and not record.uncompared:
        return ""
    written = sentences(record)
    shown = [test for test in record.comparisons if winner(test) is not None]
    if len(written) > MOST_SENTENCES:
        written = written[len(record.comparisons) :]  # what could not be compared is in no table
    lines = "".join(f"<li>{escape(line)}</li>" for line in written)
    text = f'<ul class="says">{lines}</ul>' if lines else ""
    return section(
        "comparisons",
        "Which differences are real",
        text + _tests(record),
        f"Of {len(record.comparisons)} differences {len(shown)} {'is' if len(shown) == 1 else 'are'} shown. A difference is one of "
        "mean utility: how much better the answers score, averaged over all tastes, in deviations of an answer's score. Policies "
        "are compared at the preferences that both serve, on the same prompts. All are judged together, so that at most one report "
        f"in 20 calls anything above falsely. {_power(record)}An interval that holds 0 shows neither a difference nor equality.",
    )


def _power(record: FrontRecord) -> str:
    """Return what differences these prompts could have shown where they show none."""
    seen = [test.detectable for test in record.comparisons if winner(test) is None]
    if not seen:
        return ""
    low, high = (number(value, 2) for value in (min(seen), max(seen)))
    return (
        f"Where these {record.num_prompts} prompts show no difference, one of {low if low == high else f'{low} to {high}'} "
        "deviations could have been seen. "
    )


def _tests(record: FrontRecord) -> str:
    if not record.comparisons:
        return ""
    bounds = [0.0, *(b for test in record.comparisons for b in (test.low, test.high) if known(b))]
    low, high = min(bounds), max(bounds)
    names = [policy.name for policy in record.policies]
    columns = ["first − second", "verdict", "difference", "", "could have been seen", "prompts that would do"]
    rows = []
    for test in record.comparisons:
        above = winner(test)
        kind = f"pol{names.index(above) % len(SHAPES)}" if above in names else "quiet"
        text = escape(verdict(record, test))
        rows.append([
            f"{escape(called(record, test.first))} − {escape(called(record, test.second))}",
            f'<span class="plain">{text}</span>' if above is None else f"<b>{text}</b>",
            bounded(test.interval, 2),
            strip(test.interval, low, high, kind, zero=True),
            number(test.detectable, 2) if above is None else NOTHING,
            _enough(test) if above is None else NOTHING,
            "&lt; 0.001" if test.adjusted < 0.001 else number(test.adjusted, 3),
        ])  # fmt: skip
    return table([*columns, "p, adjusted"], rows, (4, 5, 6))


def _enough(test: PairedTest) -> str:
    """Return how many prompts would show a difference as small as the observed one, to two digits."""
    if test.enough_prompts is None:
        return NOTHING
    if test.enough_prompts > MOST_PROMPTS:
        return f"&gt; {number(MOST_PROMPTS, 0)}"
    return rounded(test.enough_prompts)


def ends(record: FrontRecord) -> str:
    """Return a line for each policy on what turning the dial from end to end does to its scores, with what is shown of it."""
    lines = [
        f"<li>{badge(record, i)}: {_figures(policy)} deviations; {escape(turning(policy))}</li>"
        for i, policy in enumerate(record.policies)
        if policy.ends
    ]
    return f'<ul class="says">{"".join(lines)}</ul>' if lines else ""


def _figures(policy: MeasuredPolicy) -> str:
    return ", ".join(f"{escape(objective)} {bounded(figure, 2)}" for objective, figure in policy.ends.items())


def side_effects(record: FrontRecord) -> str:
    """Return the table of how far each point moves along the wanted direction, and across it."""
    rows = [row for i, policy in enumerate(record.policies) for row in _side_effects(record, i, policy)]
    if not rows:
        return ""
    return section(
        "across",
        "Side effects",
        table(["", " / ".join(map(escape, record.objectives)), "along", "across", "mainly"], rows, (2, 3)),
        "How far the answers are from the base model's, in deviations of its answers: along the wanted direction, which is the "
        "preference itself, and across it, which nobody asked for: in objectives with less weight, and in the length in words "
        "where no objective measures it. The size across is corrected for noise.",
    )


def _side_effects(record: FrontRecord, i: int, policy: MeasuredPolicy) -> list[list[str]]:
    return [
        [
            badge(record, i),
            weights(record, point),
            bounded(point.movement.along, 2),
            bounded(point.movement.across, 2),
            escape(astray(point))
            if point.movement.across.low > 0
            else '<span class="plain">not shown</span>',
        ]
        for point in policy.points
        if point.movement
    ]
