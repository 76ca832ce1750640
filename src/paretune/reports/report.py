"""A run as one page that opens offline, made of its record."""

from __future__ import annotations

import base64
import hashlib
import json
from html import escape
from pathlib import Path
from string import Template
from typing import Any

from paretune.core.files import write_text
from paretune.fronts.record import FrontRecord
from paretune.reports.answers import answers_section, shown_of
from paretune.reports.beside import read_beside
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
from paretune.reports.front_section import front_section
from paretune.reports.how_trained import conflicts, floors
from paretune.reports.page import badge, contents, section
from paretune.reports.plot_data import drawn_front
from paretune.reports.response_plots import along, ternary
from paretune.reports.scorers import asked_of, judged_by
from paretune.reports.scripts import page_script, plot_file, template
from paretune.reports.selection import picks_of, record_of, selection
from paretune.reports.tiles import headline, tiles
from paretune.reports.training import training_curves
from paretune.reports.use import what_next
from paretune.reports.verdicts import comparisons, ends, side_effects, trade_offs
from paretune.reports.wording import (
    has_base,
    luck,
)


def write_report(record: FrontRecord, folder: str | Path, run: str | Path | None = None) -> Path:
    """Write ``folder/report.html``, one file without external resources that needs no JS; return its path.

    Args:
        record: The record of the run.
        folder: The folder to write to.
        run: The run's folder, where all answers and the histories of training are looked for; by default ``folder``.

    Raises:
        ParetuneError: The file cannot be written, or one of those of the run is damaged.
    """
    picks, shared = picks_of(record)
    beside = read_beside(record, Path(folder if run is None else run))
    shown = shown_of(beside.answers)
    sections = [
        _head(record),
        front_section(record, bool(shown.prompts)),
        what_next(record),
        trade_offs(record),
        comparisons(record),
        _responses_to_weights(record, picks),
        side_effects(record),
        steerability(record),
        mixing(record),
        conflicts(record),
        floors(record),
        answers_section(record, picks, shared, shown, len(beside.answers.prompts)),
        training_curves(record, beside.histories),
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
    script = page_script()
    page = Template(template("report.html")).substitute(
        title=escape(f"{record.name}: measured front"),
        policy=_policy(script),
        css=plot_file("plot.css") + template("report.css"),
        head=sections[0],
        contents=contents(sections[1:]),
        body="\n".join(section for section in sections[1:] if section),
        data=_script_safe(selection(record, picks, shared, shown) | {"front": drawn_front(record, picks)}),
        record=_script_safe(record_of(record)),
        js=script,
    )
    target = Path(folder) / "report.html"
    write_text(target, page)
    return target


def _policy(script: str) -> str:
    """Return the page's own content security policy: its one script, its styles, pictures made by it, and no other address."""
    digest = base64.b64encode(hashlib.sha256(script.encode("utf-8")).digest()).decode()
    return (
        f"default-src 'none'; script-src 'sha256-{digest}'; style-src 'unsafe-inline'; img-src data: blob:; base-uri 'none'; "
        "form-action 'none'"
    )


def _script_safe(value: Any) -> str:
    """Return JSON that cannot end its script element, whatever texts it holds."""
    text = json.dumps(value, ensure_ascii=False, allow_nan=False, separators=(",", ":"))
    for character in "<>&\u2028\u2029":
        text = text.replace(character, f"\\u{ord(character):04x}")
    return text


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
