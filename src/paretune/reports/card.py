"""The model card of a run: what was trained, towards what, how well, and how to use it."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paretune.core.files import write_text
from paretune.core.preference import Preference
from paretune.fronts.record import FrontRecord, Point
from paretune.reports.markdown import cell, table
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

if TYPE_CHECKING:
    from huggingface_hub import EvalResult


@dataclass(frozen=True)
class About:
    """What a model card states beside the record of the run.

    Attributes:
        base_model: The name of the base model on the hub; empty takes the name in the record.
        datasets: Names on the hub of the data sets that were trained on.
        languages: Codes of their languages, such as ``en``.
        licence: The licence of the policy, as the hub writes it (``apache-2.0``); empty takes that of the record.
        policy: The policy that the card is of; empty for a run with all its policies.
        place: What :func:`paretune.load_policy` is given to load it; empty for the folder of the policy in its run.
        chat_template: The arguments of the base model's chat template.
    """

    base_model: str = ""
    datasets: tuple[str, ...] = ()
    languages: tuple[str, ...] = ()
    licence: str = ""
    policy: str = ""
    place: str = ""
    chat_template: Mapping[str, Any] = field(default_factory=dict)


NOTHING = About()
"""Nothing beside the record."""


def write_card(record: FrontRecord, file: str | Path, about: About = NOTHING) -> None:
    """Write a model card in Markdown with a head that the model hub reads, to stand beside ``front.png``.

    Args:
        record: The record of the run, or of one policy of it.
        file: The path to write, usually ``README.md`` in the run's folder.
        about: What the record does not know.

    Raises:
        ParetuneError: The file cannot be written.
    """
    parts = [
        _head(
            _facts(about, record.model, record.licence, [policy.name for policy in record.policies]),
            record,
            about,
        ),
        f"# {cell(record.name)}\n\n{cell(summary(record))}\n\n![The measured front](front.png)",
        _objectives(record),
        _policies(record, alone=bool(about.place)),
        _front(record),
        _trades(record),
        _verdicts(record),
        _hypervolumes(record),
        _data(record),
        _use(record, about),
        _limits(record, alone=bool(about.place)),
    ]
    write_text(file, "\n\n".join(part for part in parts if part) + "\n")


def write_card_of_policy(name: str, objectives: Sequence[str], file: str | Path, about: About) -> None:
    """Write the model card of a policy whose front was not measured, or lies elsewhere.

    Args:
        name: The policy's name.
        objectives: M names.
        file: The path to write.
        about: All else that is known of it.

    Raises:
        ParetuneError: The file cannot be written.
    """
    preference = Preference.uniform(tuple(objectives))
    parts = [
        _head(_facts(about, "", "", [name])),
        f"# {cell(name)}\n\nOne language model that follows a preference over {cell(', '.join(objectives))}, trained with "
        "paretune. No measured front comes with it.",
        _code(about.place or f"policies/{name}", str(preference), about.chat_template),
    ]
    write_text(file, "\n\n".join(parts) + "\n")


_PATH = re.compile(r"^[~./]|^[A-Za-z]:|\\|/.*/|\.gguf$")
"""What a base model's name has that is a place on a machine, and no name on the hub."""


def licence_entries(licence: str) -> dict[str, str]:
    """Return the entries of a card's head that state a licence: by its name on the hub, or as another one with its own name."""
    stated = licence.strip().lower()
    if re.fullmatch(r"[a-z0-9][a-z0-9.-]*", stated) or not stated:
        return {"license": stated}
    return {"license": "other", "license_name": re.sub(r"[^a-z0-9.]+", "-", stated).strip("-")}


def _facts(about: About, model: str, licence: str, policies: Sequence[str]) -> dict[str, Any]:
    """Return the entries of a card's head: those that are known."""
    base = about.base_model or model
    facts = {
        "base_model": "" if _PATH.search(base) else base,
        "base_model_relation": "" if _PATH.search(base) or not base else "adapter",
        "datasets": list(about.datasets),
        "language": list(about.languages),
        "library_name": "paretune",
        **licence_entries(about.licence or licence),
        "pipeline_tag": "text-generation",
        "tags": list(dict.fromkeys(["paretune", "multi-objective", "lora", *policies])),
    }
    return {key: value for key, value in facts.items() if value}


def _head(facts: dict[str, Any], record: FrontRecord | None = None, about: About = NOTHING) -> str:
    """Return the head of a card between its two lines, with the figures of the front as results."""
    from huggingface_hub import ModelCardData

    results: dict[str, Any] = (
        {} if record is None else {"model_name": record.name, "eval_results": _results(record, about)}
    )
    return f"---\n{ModelCardData(**facts, **results).to_yaml()}\n---"


def _results(record: FrontRecord, about: About) -> list[EvalResult]:
    """Return the mean scores of the points that none of their policy dominates, one result per point."""
    from huggingface_hub import EvalResult

    return [
        EvalResult(
            task_type="text-generation",
            dataset_type=about.datasets[0] if about.datasets else "held-out-prompts",
            dataset_name=f"{record.num_prompts} held-out prompts",
            dataset_config=f"{policy.name} at {Preference.of(point.preference)}",
            dataset_split="test",
            metric_type=objective,
            metric_value=round(point.mean[m], 4),
            metric_name=f"mean {objective}, higher is better",
        )
        for policy in record.policies
        for point, best in zip(policy.points, policy.non_dominated, strict=True)
        for m, objective in enumerate(record.objectives)
        if best and math.isfinite(point.mean[m])
    ]


def _objectives(record: FrontRecord) -> str:
    rows = [
        [objective, "higher", record.objectives_info.get(objective) or "not stated"]
        for objective in record.objectives
    ]
    return f"## Objectives\n\n{table(['objective', 'better is', 'what it measures'], rows)}"


def _policies(record: FrontRecord, alone: bool) -> str:
    rows = []
    for policy in record.policies:
        cost = policy.cost
        rows.append([
            policy.label,
            "here" if alone else f"policies/{policy.name}",
            policy.enters,
            number(cost.runs if cost else None, 0),
            duration(cost.seconds if cost else None),
            policy.paper,
        ])  # fmt: skip
    columns = ["method", "folder", "where the preference enters", "training runs", "training time", "paper"]
    return f"## Policies\n\n{table(columns, rows, (3, 4))}"


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
        f"{table(columns, rows, range(2, len(columns)))}"
    )


def _trades(record: FrontRecord) -> str:
    lines = [
        f"- {cell(policy.label)}, {cell(trade_off(record, point))}."
        for policy in record.policies
        for point in chosen_points(record, policy)
    ]
    return "## What each trade-off buys\n\nAgainst the base model:\n\n" + "\n".join(lines)


def _verdicts(record: FrontRecord) -> str:
    lines = [f"- {cell(line)}" for line in sentences(record)]
    if not lines:
        return ""
    return (
        "## Which differences are real\n\nAbove means that, averaged over all tastes, the answers score higher. All are judged "
        f"together. {cell(luck(record))}\n\n" + "\n".join(lines)
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
        f"## Hypervolume\n\nReference point: {cell(point)}. Corrected for the luck of the best points; a figure, not a verdict."
        f"\n\n{table(['', 'hypervolume'], rows, (1,))}"
    )


def _data(record: FrontRecord) -> str:
    data = record.data
    if data is None:
        return ""
    splits = ", ".join(f"{name} {count:,}" for name, count in record.splits.items())
    text = f"## Data\n\n{data.rows:,} training rows with {data.responses:,} responses"
    text += f"; prompts in each split: {cell(splits)}." if splits else "."
    return f"{text} Licence: {cell(record.licence or 'not stated')}."


def _use(record: FrontRecord, about: About) -> str:
    policy = record.policies[0]
    text = str(Preference.of(policy.points[policy.knee].preference))
    return _code(about.place or f"policies/{policy.name}", text, about.chat_template)


def _code(place: str, preference: str, chat_template: Mapping[str, Any]) -> str:
    where = "From this folder, in Python" if place.startswith("policies/") else "In Python"
    return (
        f"## Use\n\n{where}, with `pip install paretune`:\n\n```python\n"
        "from paretune import Message, Preference, load_policy\n\n"
        f"policy = load_policy({place!r})\n"
        'prompt = (Message("user", "How do I keep basil alive indoors?"),)\n'
        f"preference = Preference.parse({preference!r})\n"
        "print(policy.generate([prompt], [preference])[0].text)\n```\n\n"
        "The base model is loaded with it, and is refused where its weights are others than those in training. Where it lies "
        "elsewhere, say so: `load_policy(..., model=FOLDER_OR_HUB_NAME)`."
        + (
            f" Prompts are written with the arguments `{json.dumps(dict(chat_template))}` of its chat template, as in training."
            if chat_template
            else ""
        )
    )


def _limits(record: FrontRecord, alone: bool) -> str:
    meanings = "; ".join(f"{name}: {meaning}" for name, meaning in record.objectives_info.items() if meaning)
    sampling = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in record.sampling.items())
    lines = [
        "A score is what its scorer measures, not what its name promises"
        + (f" ({cell(meanings)})." if meanings else "."),
        *map(cell, record.cautions),
        cell(luck(record)),
        f"Measured with {cell(sampling)}; other sampling gives other scores." if sampling else "",
        "The prompts are of the same kind as the training data; elsewhere the front is unknown.",
        "No safety evaluation is part of this run beyond the objectives above.",
        f"Made with paretune {cell(record.version)} on {cell(record.created)}"
        + ("." if alone else "; `report.html` beside this file shows everything."),
    ]
    return "## Limits\n\n" + "\n".join(f"- {line}" for line in lines if line)
