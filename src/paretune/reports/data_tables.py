"""The sections of the report on data: what was trained on, and what methods made of their own."""

from __future__ import annotations

from html import escape

from paretune.fronts.record import FrontRecord
from paretune.fronts.record_facts import DataSummary, GoalAnswers, Retention
from paretune.reports.page import badge, section, table
from paretune.reports.plots import box_plot
from paretune.reports.wording import NOTHING, known, number, percent


def made_data(record: FrontRecord) -> str:
    """Return what methods that make data of their own kept of it: answers to goals, and improved responses."""
    rows = []
    for i, policy in enumerate(record.policies):
        rows += [
            [badge(record, i), f"iteration {n}", *_goal_cells(o)] for n, o in enumerate(policy.online, 1)
        ]
        if policy.retention:
            rows.append(
                [badge(record, i), f"round {policy.retention.round}", *_round_cells(policy.retention)]
            )
    if not rows:
        return ""
    return section(
        "made",
        "Data the methods made",
        table(["", "", "kept", ""], rows),
        "The distance between requested and obtained scores is the best that a prompt can steer. Self-improvement "
        "rests on the pairs for which a response better than both was found.",
    )


def _goal_cells(online: GoalAnswers) -> list[str]:
    gaps = ", ".join(f"{escape(name)} {number(gap, 2)}" for name, gap in online.gap.items())
    return [
        f"{online.drawn} answers to goals drawn, {online.kept} kept to train on",
        f"requested and obtained scores differ by {gaps} deviations on average" if gaps else NOTHING,
    ]


def _round_cells(kept: Retention) -> list[str]:
    return [
        f"{kept.conflicts} of {kept.pairs} pairs conflict, {kept.taken} taken, {kept.survivors} improved",
        f"{kept.sampled} responses drawn, {kept.rewritten} rewritten (kept: {kept.kept}), {kept.cut} cut, "
        f"{kept.unread} reviews without a suggestion",
    ]


def training_data(record: FrontRecord) -> str:
    """Return what the training data are: counts, scores, conflicts."""
    data = record.data
    if data is None:
        return ""
    splits = ", ".join(f"{escape(name)} {count:,}" for name, count in record.splits.items())
    facts = [
        ("rows", f"{data.rows:,}"),
        ("different prompts", f"{data.prompts:,}"),
        ("responses", f"{data.responses:,}"),
        ("repeated prompts", f"{data.repeated_prompts:,}"),
        ("identical responses", f"{data.identical_responses:,}"),
        ("cut responses", percent(data.truncated_share)),
        ("words per response, median", number(data.response_words.p50, 0)),
    ]
    counts = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in facts)
    return section(
        "data",
        "Training data",
        f'<dl class="facts">{counts}</dl>{_score_table(data)}{_conflict_table(data)}{_left_out(data)}',
        f"Prompts in each split: {splits}." if splits else "",
    )


def _left_out(data: DataSummary) -> str:
    notes = "".join(f"<li>{escape(note)}</li>" for note in data.notes)
    return f"<p>Left out, or not read:</p><ul>{notes}</ul>" if notes else ""


def _score_table(data: DataSummary) -> str:
    rows = []
    for scores in data.objectives:
        five = (scores.low, *scores.quartiles, scores.high)
        drawn = box_plot(five[0], five[1:4], five[4]) if all(map(known, five)) else NOTHING
        figures = [number(value) for value in (*five, scores.mean, scores.std)]
        counts = [f"{scores.missing:,}", f"{scores.comparisons:,}"]
        rows.append([escape(scores.objective), drawn, *figures, *counts])
    columns = ["objective", "", "min", "25 %", "50 %", "75 %", "max", "mean", "std", "missing", "comparisons"]
    return table(columns, rows, range(2, len(columns)))


def _conflict_table(data: DataSummary) -> str:
    if len(data.objectives) < 2:
        return ""
    names = [escape(scores.objective) for scores in data.objectives]
    cells = [
        [name, *(_heat(share, i == j) for j, share in enumerate(line))]
        for i, (name, line) in enumerate(zip(names, data.conflicts, strict=True))
    ]
    matrix = table(["", *names], cells)
    return f"<h3>Pairs on which two objectives disagree</h3><div class=tight>{matrix}</div>"


def _heat(share: float | None, diagonal: bool) -> str:
    if diagonal or not known(share):
        return NOTHING
    return f'<span class="heat" style="--v:{share:.3f}">{percent(share)}</span>'
