"""The model card of a run: what was trained, towards what, how well, and how to use it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from paretune.core.files import write_text
from paretune.core.preference import Preference
from paretune.fronts.record import FrontRecord, Point
from paretune.reports.wording import (
    MIXTURE,
    chance,
    chosen_points,
    duration,
    interval,
    log_ratio,
    luck,
    number,
    off_simplex,
    percent,
    places,
    sentences,
    summary,
    trade_off,
    weights,
)


def write_card(record: FrontRecord, file: str | Path, base_model: str = "") -> None:
    """Write a model card in Markdown with a YAML head, to stand beside ``front.png`` and ``policies/``.

    Args:
        record: The record of the run.
        file: The path to write, usually ``README.md`` in the run's folder.
        base_model: The name of the base model on the hub; by default its name in the record.

    Raises:
        ParetuneError: The file cannot be written.
    """
    import yaml

    head = yaml.safe_dump(_head(record, base_model or record.model), sort_keys=False, allow_unicode=True)
    parts = [
        f"---\n{head}---",
        f"# {_cell(record.name)}\n\n{_cell(summary(record))}\n\n![The measured front](front.png)",
        _objectives(record),
        _policies(record),
        _front(record),
        _trades(record),
        _verdicts(record),
        _hypervolumes(record),
        _data(record),
        _use(record),
        _limits(record),
    ]
    write_text(file, "\n\n".join(part for part in parts if part) + "\n")


def _head(record: FrontRecord, base_model: str) -> dict[str, Any]:
    head: dict[str, Any] = {"base_model": base_model, "library_name": "paretune"}
    if record.licence:
        head["license"] = record.licence
    head["pipeline_tag"] = "text-generation"
    head["tags"] = ["paretune", "multi-objective", "lora", *(policy.name for policy in record.policies)]
    return head


def _cell(value: object) -> str:
    """Return text that is plain text in Markdown: no table cell, tag or line ends early."""
    text = " ".join(str(value).split())
    for character, safe in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("|", "&#124;")):
        text = text.replace(character, safe)
    return text


def _table(columns: Sequence[str], rows: Sequence[Sequence[object]], numbers: Sequence[int] = ()) -> str:
    rule = ["---:" if k in numbers else "---" for k in range(len(columns))]
    lines = [map(_cell, columns), rule, *(map(_cell, row) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _objectives(record: FrontRecord) -> str:
    rows = [
        [objective, "higher", record.objectives_info.get(objective) or "not stated"]
        for objective in record.objectives
    ]
    return f"## Objectives\n\n{_table(['objective', 'better is', 'what it measures'], rows)}"


def _policies(record: FrontRecord) -> str:
    rows = []
    for policy in record.policies:
        cost = policy.cost
        rows.append([
            policy.label,
            f"policies/{policy.name}",
            policy.enters,
            number(cost.runs if cost else None, 0),
            duration(cost.seconds if cost else None),
            policy.paper,
        ])  # fmt: skip
    columns = ["method", "folder", "where the preference enters", "training runs", "training time", "paper"]
    return f"## Policies\n\n{_table(columns, rows, (3, 4))}"


def _front(record: FrontRecord) -> str:
    objectives, shown = record.objectives, places(record)
    columns = [
        "",
        " / ".join(objectives),
        *objectives,
        "words",
        f"{log_ratio(record)}, nats",
        "on the front",
        "collapsed",
    ]

    def row(name: str, weights: str, point: Point) -> list[str]:
        scores = [interval(point.score(m), shown[m]) for m in range(len(objectives))]
        words, collapsed = number(point.words, 0), percent(point.collapse_rate)
        distance, front = interval(point.log_ratio, 1), chance(point.on_front)
        return [name, weights, *scores, words, distance, front, collapsed]

    rows = [row("base model", "-", record.base)]
    for policy in record.policies:
        rows += [row(policy.label, weights(record, point), point) for point in policy.points]
    for i, point in off_simplex(record):
        rows.append(row(f"{record.policies[i].label}, extrapolated", weights(record, point), point))
    return (
        f"## Front\n\nMean scores on {record.num_prompts} held-out prompts, in brackets the 95 % interval "
        "over prompts. On the front: the chance that no other point of the policy is clearly better on every objective.\n\n"
        f"{_table(columns, rows, range(2, len(columns)))}"
    )


def _trades(record: FrontRecord) -> str:
    lines = [
        f"- {_cell(policy.label)}, {_cell(trade_off(record, point))}."
        for policy in record.policies
        for point in chosen_points(record, policy)
    ]
    return "## What each trade-off buys\n\nAgainst the base model:\n\n" + "\n".join(lines)


def _verdicts(record: FrontRecord) -> str:
    lines = [f"- {_cell(line)}" for line in sentences(record)]
    if not lines:
        return ""
    return (
        "## Which differences are real\n\nAbove means that, averaged over all tastes, the answers score higher. All are judged "
        f"together. {_cell(luck(record))}\n\n" + "\n".join(lines)
    )


def _hypervolumes(record: FrontRecord) -> str:
    shown = places(record)
    point = ", ".join(
        f"{objective} {number(value, shown[m])}"
        for m, (objective, value) in enumerate(zip(record.objectives, record.reference_point, strict=True))
    )
    rows = [[policy.label, interval(policy.figures["hypervolume"])] for policy in record.policies]
    rows.append([f"{MIXTURE} (single-objective models)", interval(record.mixture.hypervolume)])
    rows.append(["base model", interval(record.base.hypervolume)])
    return (
        f"## Hypervolume\n\nReference point: {_cell(point)}. Corrected for the luck of the best points; a figure, not a verdict."
        f"\n\n{_table(['', 'hypervolume'], rows, (1,))}"
    )


def _data(record: FrontRecord) -> str:
    data = record.data
    if data is None:
        return ""
    splits = ", ".join(f"{name} {count:,}" for name, count in record.splits.items())
    text = f"## Data\n\n{data.rows:,} training rows with {data.responses:,} responses"
    text += f"; prompts in each split: {_cell(splits)}." if splits else "."
    return f"{text} Licence: {_cell(record.licence or 'not stated')}."


def _use(record: FrontRecord) -> str:
    policy = record.policies[0]
    text = str(Preference.of(policy.points[policy.knee].preference))
    return (
        "## Use\n\nFrom this folder, in Python:\n\n```python\n"
        "from paretune import Message, Preference, load_policy\n\n"
        f"policy = load_policy({'policies/' + policy.name!r})\n"
        'prompt = (Message("user", "How do I keep basil alive indoors?"),)\n'
        f"preference = Preference.parse({text!r})\n"
        "print(policy.generate([prompt], [preference])[0].text)\n```"
    )


def _limits(record: FrontRecord) -> str:
    meanings = "; ".join(f"{name}: {meaning}" for name, meaning in record.objectives_info.items() if meaning)
    sampling = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in record.sampling.items())
    lines = [
        "A score is what its scorer measures, not what its name promises"
        + (f" ({_cell(meanings)})." if meanings else "."),
        *map(_cell, record.cautions),
        _cell(luck(record)),
        f"Measured with {_cell(sampling)}; other sampling gives other scores." if sampling else "",
        "The prompts are of the same kind as the training data; elsewhere the front is unknown.",
        "No safety evaluation is part of this run beyond the objectives above.",
        f"Made with paretune {_cell(record.version)} on {_cell(record.created)}; "
        "`report.html` beside this file shows everything.",
    ]
    return "## Limits\n\n" + "\n".join(f"- {line}" for line in lines if line)
