"""What to do next with a run: what its verdicts allow, the commands that use it, and what would make it better."""

from __future__ import annotations

import math
from html import escape

from paretune.fronts.record import FrontRecord, Point
from paretune.reports.next_steps import NextStep, next_steps
from paretune.reports.page import section
from paretune.reports.wording import (
    NO_EFFECT,
    called,
    following,
    known,
    leading,
    listing,
    places,
    turning,
    winner,
)


def commands(record: FrontRecord, run: str) -> list[tuple[str, str]]:
    """Return the commands that use a run, ready to copy, each with what it does.

    Args:
        record: The record of the run.
        run: The run's folder, as the commands are to name it.
    """
    if not record.policies:
        return []
    best = leading(record)
    several = f" --policy {best.name}" if len(record.policies) > 1 else ""
    points = [point for point in best.points if max(point.preference.values()) < 1] or list(best.points)
    middle = min(points, key=lambda point: max(point.preference.values()))
    preference = ",".join(f"{name}={weight:g}" for name, weight in middle.preference.items())
    folder = "exported" if run == "." else f"{run.rstrip('/')}-exported"
    choose = [
        (f"paretune choose {run}{several}", "the knee, and stops of a dial with the scores to expect"),
        (
            f'paretune choose {run}{several} "{_floors(record, middle)}"',
            "the preference that meets least scores; these are met, so raise them",
        ),
    ]
    if not record.stages:  # of policies that were trained elsewhere there are only scores
        return choose
    return [
        (f"paretune serve {run}", "the dial in a browser, and the OpenAI API"),
        *choose,
        (
            f"paretune export {run} {folder}{several} -p {preference}",
            "a LoRA at one preference, for other servers",
        ),
        (f"paretune status {run}", "what was done, in which time"),
    ]


def _floors(record: FrontRecord, point: Point) -> str:
    """Return floors that a measured point meets by its intervals, in few digits."""
    floors = []
    for m, objective in enumerate(record.objectives):
        digits = places(record)[m]
        bounds = [table[m] for table in (point.band_low, point.low) if table and known(table[m])]
        least = math.floor((bounds[0] if bounds else point.mean[m]) * 10**digits) / 10**digits
        floors.append(f"{objective} >= {least:.{digits}f}")
    return " and ".join(floors)


def standing_of_use(record: FrontRecord) -> str:
    """Return in a sentence what the verdicts allow: which policy to use, and what its dial is shown to do."""
    best = leading(record)
    against = [
        test
        for test in record.comparisons
        if called(record, test.second) == "base model"
        and called(record, test.first) in (best.label, best.name)
    ]
    right, wrong, _ = following(best)
    dial = f"its dial is shown to move {listing(right)}" if right and not wrong else turning(best)
    if not against:
        return f"{best.label} was not compared with the base model{f'; {dial}' if dial else ''}."
    above = winner(against[0])
    if above is None:
        verdict = f"{best.label} is not shown to be better than the base model"
    else:
        verdict = f"{best.label} is {'better' if above == against[0].first else 'worse'} than the base model"
    if dial == NO_EFFECT:
        return f"{verdict}, but {NO_EFFECT}: its dial is not shown to do anything."
    return f"{verdict}{f', and {dial}' if dial else ''}."


def what_next(record: FrontRecord) -> str:
    """Return the section of the report."""
    if not record.policies:
        return ""
    found = next_steps(record)
    steps = (
        "".join(map(_step, found))
        or "<li>Nothing that this page knows of stands in the way of using it.</li>"
    )
    lines = "".join(f"<dt>{_code(line)}</dt><dd>{escape(what)}</dd>" for line, what in commands(record, "."))
    again = (
        "<p class=lead>A command that runs again reuses all that its change does not touch. Data that the run named by a "
        "relative path are looked for from the folder in which you give it.</p>"
        if any(step.change for step in found)
        else ""
    )
    return section(
        "next",
        "What to do next",
        f"<h3>Use it</h3><p>{escape(standing_of_use(record))} In the folder of this page:</p><dl class=commands>{lines}</dl>"
        f"<h3>Make it better</h3><ul class=steps>{steps}</ul>{again}",
    )


def _step(step: NextStep) -> str:
    command = f"<div>{_code(f'paretune run config.yaml folder=. {step.change}')}</div>" if step.change else ""
    return f"<li>{escape(step.finding)} <b>{escape(step.cure)}</b>{command}</li>"


def _code(line: str) -> str:
    """Return a command as the page's script gives it a button that copies it."""
    return f'<code class="command">{escape(line)}</code>'
