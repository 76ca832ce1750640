"""The section of the report with the answers: beside each other by the page's script, and as a table that needs none."""

from __future__ import annotations

from html import escape

from paretune.fronts.record import FrontRecord
from paretune.reports.beside import ANSWERS_FILE, FOLDER, Answers, Told
from paretune.reports.page import badge, section, table
from paretune.reports.selection import Picks, at
from paretune.reports.wording import NOTHING, number, places, preference

MOST_BYTES = 4_000_000
"""The most bytes of prompts and answers that a page holds; of more, the first prompts are shown."""


def shown_of(answers: Answers) -> Answers:
    """Return the answers to as many of the first prompts as a page holds."""
    if answers.bytes <= MOST_BYTES:
        return answers
    few, many = 1, len(answers.prompts)
    while many - few > 1:
        middle = (few + many) // 2
        few, many = (middle, many) if answers.first(middle).bytes <= MOST_BYTES else (few, middle)
    return answers.first(few)


def answers_section(
    record: FrontRecord, picks: Picks, shared: list[dict[str, float]], shown: Answers, measured: int
) -> str:
    """Return the section; nothing where the record has no answers.

    Args:
        record: The record of the run.
        picks, shared: The numbers of the preferences, and these.
        shown: The answers that the page holds.
        measured: The number of prompts to which there are answers.
    """
    if not shown.prompts:
        return ""
    columns = ["preference", *(badge(record, i) for i in range(len(record.policies)))]
    rows = []
    for k, weights in enumerate(shared):
        cells = [
            NOTHING if n is None else _answer(record, shown.points[i, n])
            for i, n in enumerate(at(record, picks, k))
        ]
        rows.append([escape(preference(weights)), *cells])
    static = (
        '<details id="all" open><summary>All preferences side by side, first prompt</summary>'
        f'<blockquote>{escape(shown.prompts[0])}</blockquote><div class="plain">base model</div>'
        f'<div class="from-base">{_answer(record, shown.base)}</div>'
        f'<div class="texts">{table(columns, rows)}</div></details>'
    )
    lead = f"One sample each. {_held(shown, measured, record)} {_about(record, shown)}"
    return section("answers", "The answers", _controls(record, shared, shown) + static, lead)


def _controls(record: FrontRecord, shared: list[dict[str, float]], shown: Answers) -> str:
    choices = "".join(
        f'<option value="{k}">{escape(preference(weights))}</option>' for k, weights in enumerate(shared)
    )
    objectives = record.objectives
    ends = (f"more {objectives[0]}", f"more {objectives[1]}") if len(objectives) == 2 else ("", "")
    dial = (
        f'<label class="dial">{escape(ends[0])}<input type="range" id="dial" min="0" max="{len(shared) - 1}" '
        f'step="1" value="0" aria-label="preference">{escape(ends[1])}</label>'
        if len(shared) > 1
        else ""
    )
    orders = '<option value="">as measured</option>'
    if shown.base.scores is not None:
        orders += "".join(
            f'<option value="{m} {way}">{escape(name)}, {word} first</option>'
            for m, name in enumerate((*objectives, "words"))
            for way, word in (("1", "lowest"), ("-1", "highest"))
        )
    return (
        f'<div id="compare" hidden><div class="controls"><label>Preference<select id="preference">{choices}</select></label>'
        f'{dial}<label>Order by the mean of the answers shown<select id="order">{orders}</select></label>'
        '<label>Prompts that contain<input type="search" id="filter" autocomplete="off"></label>'
        '<div class="asks"><label>Prompt<select id="prompt"></select></label>'
        '<button type="button" id="before" aria-label="previous prompt">←</button>'
        '<button type="button" id="after" aria-label="next prompt">→</button></div>'
        '<output id="matching" for="filter"></output></div>'
        '<blockquote id="asked"></blockquote><div id="cards" class="cards" aria-live="polite"></div></div>'
    )


def _held(shown: Answers, measured: int, record: FrontRecord) -> str:
    """Return how many of the prompts the page holds, and how large their answers are."""
    size = f"{max(1, round(shown.bytes / 1000)):,} kB"
    if len(shown.prompts) < measured:
        file = f"<code>{FOLDER}/{ANSWERS_FILE}</code>"
        return f"The first {len(shown.prompts):,} of {measured:,} prompts are here ({size}); {file} has all."
    if measured < record.num_prompts:
        return f"{measured:,} of {record.num_prompts:,} prompts are here ({size})."
    return f"All {measured:,} prompts are here ({size})."


def _about(record: FrontRecord, shown: Answers) -> str:
    if shown.base.scores is not None:
        return (
            "Below an answer stand the scores of that answer, and beside them the point's means over all "
            f"{record.num_prompts} held-out prompts."
        )
    return (
        f"Below it stand the point's means over all {record.num_prompts} held-out prompts; this record has no scores of single "
        "answers, so run paretune run again to see them."
    )


def _answer(record: FrontRecord, told: Told) -> str:
    """Return the answer to the first prompt with its own scores below it."""
    text = told.texts[0]
    shown = f'<div class="text">{escape(text)}</div>' if text else "<i>(empty)</i>"
    if told.scores is None:
        return shown
    own = [number(told.scores[0][m], digits) for m, digits in enumerate(places(record))]
    parts = [*zip(record.objectives, own, strict=True), ("words", number(len(text.split()), 0))]
    return (
        f'{shown}<div class="plain own">{escape(", ".join(f"{name} {value}" for name, value in parts))}</div>'
    )
