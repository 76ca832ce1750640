"""A run as one page that opens offline, made of its record."""

from __future__ import annotations

import json
from collections.abc import Sequence
from html import escape
from importlib.resources import files as package_files
from itertools import combinations
from pathlib import Path
from string import Template
from typing import Any

from paretune.core.files import write_text
from paretune.fronts.record import FrontRecord, Point
from paretune.reports.data_tables import made_data, training_data
from paretune.reports.findings import (
    READING,
    cost,
    hypervolumes,
    mixing,
    sense,
    settings,
    steerability,
)
from paretune.reports.how_trained import conflicts, floors
from paretune.reports.page import badge, plain_badge, section, table
from paretune.reports.plots import parallel
from paretune.reports.response_plots import along, ternary
from paretune.reports.scatter import View, scatter
from paretune.reports.scorers import asked_of, judged_by
from paretune.reports.tiles import headline, tiles
from paretune.reports.use import what_next
from paretune.reports.verdicts import comparisons, ends, side_effects, trade_offs
from paretune.reports.wording import (
    MIXTURE,
    NOTHING,
    any_faint,
    chance,
    has_base,
    has_mixture,
    interval,
    knee,
    log_ratio,
    luck,
    number,
    percent,
    places,
    preference,
)


def write_report(record: FrontRecord, folder: str | Path) -> Path:
    """Write ``folder/report.html``, one file without external resources that needs no JS; return its path.

    Args:
        record: The record of the run.
        folder: The run's folder.

    Raises:
        ParetuneError: The file cannot be written.
    """
    picks, shared = _picks(record)
    sections = [
        _head(record),
        _front(record, picks),
        trade_offs(record),
        comparisons(record),
        what_next(record),
        _responses_to_weights(record, picks),
        side_effects(record),
        steerability(record),
        mixing(record),
        conflicts(record),
        floors(record),
        _answers(record, shared),
        hypervolumes(record),
        sense(record),
        judged_by(record),
        asked_of(record),
        training_data(record),
        made_data(record),
        cost(record),
        READING,
        settings(record),
    ]
    page = Template(_template("report.html")).substitute(
        title=escape(f"{record.name}: measured front"),
        css=_template("report.css"),
        body="\n".join(section for section in sections if section),
        data=_script_safe(_selection(record, picks, shared)),
        js=_template("report.js"),
    )
    target = Path(folder) / "report.html"
    write_text(target, page)
    return target


def _template(name: str) -> str:
    return (package_files("paretune.reports") / "templates" / name).read_text(encoding="utf-8")


def _script_safe(value: Any) -> str:
    """Return JSON that cannot end its script element, whatever texts it holds."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


def _picks(record: FrontRecord) -> tuple[dict[tuple[int, int], int], list[dict[str, float]]]:
    """Return (policy, point) -> number among the different preferences, and these, by falling first weight."""
    objectives = record.objectives
    keys = {
        (i, n): tuple(round(point.preference[objective], 9) for objective in objectives)
        for i, policy in enumerate(record.policies)
        for n, point in enumerate(policy.points)
    }
    different = sorted(set(keys.values()), reverse=True)
    shared = [dict(zip(objectives, key, strict=True)) for key in different]
    return {point: different.index(key) for point, key in keys.items()}, shared


def _at(record: FrontRecord, picks: dict[tuple[int, int], int], k: int) -> list[Point | None]:
    """Return each policy's point at preference ``k``, None where it has none."""
    return [
        next((point for n, point in enumerate(policy.points) if picks[i, n] == k), None)
        for i, policy in enumerate(record.policies)
    ]


def _selection(
    record: FrontRecord, picks: dict[tuple[int, int], int], shared: list[dict[str, float]]
) -> dict[str, Any]:
    """Return what the page's script shows on selection, with every number as text already."""
    shown = places(record)

    def point(given: Point | None) -> dict[str, Any] | None:
        if given is None:
            return None
        return {
            "scores": [interval(given.score(m), shown[m]) for m in range(len(shown))],
            "short": [number(value, shown[m]) for m, value in enumerate(given.mean)],
            "words": number(given.words, 0),
            "front": chance(given.on_front),
            "distance": interval(given.log_ratio, 1),
            "collapse": percent(given.collapse_rate),
            "responses": given.responses,
            "own": [_own(given, p, shown) for p in range(len(given.responses))],
        }

    return {
        "objectives": record.objectives,
        "distance": f"{log_ratio(record)}, nats",
        "prompts": record.prompts,
        "mean": f"mean of {record.num_prompts} prompts",
        "preferences": [
            {"text": preference(weights), "weights": list(weights.values())} for weights in shared
        ],
        "base": point(record.base),
        "policies": [
            {"title": policy.label, "points": [point(_at(record, picks, k)[i]) for k in range(len(shared))]}
            for i, policy in enumerate(record.policies)
        ],
    }


def _head(record: FrontRecord) -> str:
    return (
        f'<header><p class="over">{escape(record.name)} · {escape(record.model)} · '
        f"{escape(record.created)} · paretune {escape(record.version)}</p><h1>{escape(headline(record))}</h1>"
        f"{''.join(f'<p class=caution>⚠ {escape(text)}</p>' for text in record.cautions)}"
        f"{tiles(record)}"
        f'<p class="lead">Better means that, averaged over all tastes, answers score higher; judged on {record.num_prompts} '
        "held-out prompts, all tests of this page together. A deviation is how far single answers' scores lie apart. "
        f'{escape(luck(record))} <a href="#reading">How to read this page</a></p>'
        "</header>"
    )


def _front(record: FrontRecord, picks: dict[tuple[int, int], int]) -> str:
    objectives, M = record.objectives, len(record.objectives)
    legend = [badge(record, i) for i in range(len(record.policies))]
    legend += [plain_badge("base", "base model")] * has_base(record)
    legend += [plain_badge("mixture", MIXTURE)] * has_mixture(record)
    legend.append(plain_badge("bar", "95 % interval"))
    if M >= 2 and any(len(policy.points) > 2 for policy in record.policies):
        legend.append(plain_badge("hull", "mixtures of a policy's points"))
    if M == 2 and any(knee(policy) is not None for policy in record.policies):
        legend.append(plain_badge("knee", "knee"))
    if any_faint(record):
        legend.append(plain_badge("faint", "the fainter, the less likely on the front"))
    if M == 2:
        drawing = (
            f'<div class="wide">{scatter(record, View(0, 1, 1040, 620), picks)}</div>'
            f'<div class="narrow">{scatter(record, View(0, 1, 380, 430), picks)}</div>'
        )
        first, second = map(escape, objectives)
        lead = f"The number beside a point is the weight on {first}; the rest is on {second}."
    else:
        pairs = "".join(
            f"<div>{scatter(record, View(a, b, 360, 330, lines=False), picks)}</div>"
            for a, b in combinations(range(M), 2)
        )
        drawing = (
            f'<div class="pairs">{pairs}</div><div class="wide">{parallel(record, 1040, 380, picks)}</div>'
            f'<div class="narrow">{parallel(record, 380, 340, picks)}</div>'
        )
        lead = "Every pair of objectives, then all of them at once: one line per point, best at the top."
    marks = "".join(f"<li>{mark}</li>" for mark in legend)
    return section(
        "front",
        "The front",
        f'<ul class="legend">{marks}</ul><div class="figure">{drawing}'
        '<div id="tip" role="status" hidden></div></div><p id="chosen" class="lead" hidden></p>'
        f"{_meanings(record)}",
        lead,
    )


def _meanings(record: FrontRecord) -> str:
    """Return what a point more on each axis means."""
    told = "".join(
        f"<div><dt>{escape(objective)}</dt><dd>{escape(meaning)}</dd></div>"
        for objective, meaning in record.objectives_info.items()
        if meaning
    )
    return f"<dl class=meanings>{told}</dl>" if told else ""


def _responses_to_weights(record: FrontRecord, picks: dict[tuple[int, int], int]) -> str:
    """Return how each objective's score follows its weight: lines for two objectives, triangles for three."""
    M = len(record.objectives)
    if M == 2:
        drawn = "".join(f"<div>{along(record, m, 500, 320, picks)}</div>" for m in range(M))
        lead = "The mean score of each objective over its own weight, with its 95 % band"
        lead += "; dashed: the base model." if has_base(record) else "."
    elif M == 3:
        drawn = "".join(
            f"<div>{badge(record, i)}{ternary(record, i, m, picks)}</div>"
            for i in range(len(record.policies))
            for m in range(M)
        )
        lead = (
            "There is a triangle for each policy and objective. Each dot is a preference; it is larger and fuller where the "
            "objective in bold scores better. A policy that can be steered is full at that objective's corner."
        )
    else:
        return ""
    kind = "halves" if M == 2 else "pairs"
    told = ends(record)
    if told:
        lead += (
            " The lines below say what turning the dial from end to end does: each objective's score at its largest weight less "
            "that at its smallest, in deviations, with bounds that hold for all of them together."
        )
    return section(
        "steering", "Does it follow the preference?", f'<div class="{kind}">{drawn}</div>{told}', lead
    )


def _answers(record: FrontRecord, shared: list[dict[str, float]]) -> str:
    if not record.prompts:
        return ""
    picks, _ = _picks(record)
    options = "".join(
        f'<option value="{p}">{escape(_shortened(prompt, 90))}</option>'
        for p, prompt in enumerate(record.prompts)
    )
    choices = "".join(
        f'<option value="{k}">{escape(preference(weights))}</option>' for k, weights in enumerate(shared)
    )
    objectives = record.objectives
    ends = (f"more {objectives[0]}", f"more {objectives[1]}") if len(objectives) == 2 else ("", "")
    slider = (
        f'<label class="dial">{escape(ends[0])}<input type="range" id="dial" min="0" max="{len(shared) - 1}" '
        f'step="1" value="0" aria-label="preference">{escape(ends[1])}</label>'
    )
    controls = (
        f'<div id="compare" hidden><div class="controls"><label>Preference<select id="preference">{choices}'
        f"</select></label>{slider if len(shared) > 1 else ''}"
        f'<label>Prompt<select id="prompt">{options}</select></label></div>'
        '<blockquote id="asked"></blockquote><div id="cards" class="cards" aria-live="polite"></div></div>'
    )
    columns = ["preference", *(badge(record, i) for i in range(len(record.policies)))]
    rows = []
    for k, weights in enumerate(shared):
        answers = [NOTHING if point is None else _answer(record, point, 0) for point in _at(record, picks, k)]
        rows.append([escape(preference(weights)), *answers])
    static = (
        '<details id="all" open><summary>All preferences side by side, first prompt</summary>'
        f'<blockquote>{escape(record.prompts[0])}</blockquote><div class="plain">base model</div>'
        f'<div class="from-base">{_answer(record, record.base, 0)}</div>'
        f'<div class="texts">{table(columns, rows)}</div></details>'
    )
    return section(
        "answers",
        "The answers",
        controls + static,
        _about_answers(record),
    )


def _about_answers(record: FrontRecord) -> str:
    if record.base.response_scores:
        return (
            "One sample each. Below an answer stand the scores of that answer, and beside them the point's means over all "
            f"{record.num_prompts} held-out prompts."
        )
    return (
        f"One sample each. Below it stand the point's means over all {record.num_prompts} held-out prompts; this record has no "
        "scores of single answers, so run paretune run again to see them."
    )


def _answer(record: FrontRecord, point: Point, p: int) -> str:
    """Return an answer with its own scores below it."""
    text = point.responses[p] if p < len(point.responses) else ""
    shown = f'<div class="text">{escape(text)}</div>' if text else "<i>(empty)</i>"
    if p >= len(point.response_scores):
        return shown
    own = zip([*record.objectives, "words"], _own(point, p, places(record)), strict=True)
    return (
        f'{shown}<div class="plain own">{escape(", ".join(f"{name} {value}" for name, value in own))}</div>'
    )


def _own(point: Point, p: int, shown: Sequence[int]) -> list[str]:
    """Return the scores of one answer, and its length in words; ``-`` for scores that were not kept."""
    kept = p < len(point.response_scores)
    scores = [
        number(point.response_scores[p][m], digits) if kept else NOTHING for m, digits in enumerate(shown)
    ]
    return [*scores, number(len(point.responses[p].split()), 0)]


def _shortened(text: str, length: int) -> str:
    folded = " ".join(text.split())
    return folded if len(folded) <= length else folded[: length - 1] + "…"
