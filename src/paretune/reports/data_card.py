"""The card of a run's data: what each column is, where the rows come from, under which licence, and what was left out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from paretune.core.files import write_text
from paretune.fronts.record import FrontRecord
from paretune.reports.card import NOTHING, About, licence_entries
from paretune.reports.markdown import cell, table

ROWS, ANSWERS = "rows", "answers"
"""The two parts of a run's data: what was trained on and held out, and what the policies answered."""

_SIZES = (
    (1_000, "n<1K"),
    (10_000, "1K<n<10K"),
    (100_000, "10K<n<100K"),
    (1_000_000, "100K<n<1M"),
    (10_000_000, "1M<n<10M"),
)
_COLUMNS = {
    ROWS: (
        ("prompt", "messages with role and content"),
        ("responses", "K texts that reply to the prompt"),
        (
            "scores",
            "objective -> K numbers, one for each response; null where there is none. Higher is better",
        ),
        (
            "labels",
            "objective -> comparisons [a, b, p] of the responses a and b: p = 1 prefers a, -1 prefers b, 0 is a tie",
        ),
        ("truncated", "for each response, whether a token limit cut it"),
        ("source", "file and line, or data set and number, that the row was read from"),
        (
            "weight, margin",
            "what multiplies the loss of a pair of the row, and by how much the chosen response should be ahead",
        ),
    ),
    ANSWERS: (
        (
            "policy",
            "who answered: a policy of the run, base (the model before training), or corners (the single-objective models)",
        ),
        ("preference", "objective -> weight that was asked for; they sum to 1"),
        ("prompt", "messages with role and content, of the split test"),
        ("prompt_id", "key of the prompt, as in scores.jsonl of the run"),
        ("sample", "which of several answers to the prompt, from 0"),
        ("answer", "the text"),
        ("truncated", "whether the token limit cut it"),
        ("scores", "objective -> score of the answer. Higher is better"),
    ),
}


@dataclass(frozen=True)
class DataFacts:
    """What a data card states beside the record of the run.

    Attributes:
        rows: Split -> number of its rows.
        answers: Number of measured answers.
        sources: (name, licence) of each source; the licence is empty where it is not known.
        about: Names on the hub, languages and licence of the data; ``place`` is their name on the hub, once they are there.
        files: Part (:data:`ROWS`, :data:`ANSWERS`) -> split -> file beside the card.
        loadable: Whether the head names the files, for ``datasets`` to load them.
    """

    rows: Mapping[str, int]
    answers: int
    sources: Sequence[tuple[str, str]] = ()
    about: About = NOTHING
    files: Mapping[str, Mapping[str, str]] = field(default_factory=dict)
    loadable: bool = True


def write_data_card(record: FrontRecord, facts: DataFacts, file: str | Path) -> None:
    """Write a card in Markdown with a head that the hub reads, to stand beside the data.

    Args:
        record: The record of the run.
        facts: What the record does not know.
        file: The path to write, usually ``README.md``.

    Raises:
        ParetuneError: The file cannot be written.
    """
    parts = [
        _head(record, facts),
        f"# Data of {cell(record.name)}\n\nPrompts with responses, judged on {cell(', '.join(record.objectives))}, that policies "
        f"were trained on, and what these policies answered to the {record.num_prompts} held-out prompts.",
        _parts(facts),
        _splits(record, facts),
        _objectives(record),
        _sources(record, facts),
        _left_out(record),
        _made(record),
    ]
    write_text(file, "\n\n".join(part for part in parts if part) + "\n")


def _head(record: FrontRecord, facts: DataFacts) -> str:
    from huggingface_hub import DatasetCardData

    about, count = facts.about, sum(facts.rows.values())
    configs = [
        {
            "config_name": part,
            "data_files": [{"split": split, "path": path} for split, path in files.items()],
            **({"default": True} if part == ROWS else {}),
        }
        for part, files in facts.files.items()
    ]
    entries: dict[str, Any] = {
        "language": list(about.languages),
        **licence_entries(about.licence),
        "pretty_name": f"Data of {record.name}",
        "size_categories": [next((name for most, name in _SIZES if count < most), "n>10M")],
        "source_datasets": list(about.datasets),
        "task_categories": ["text-generation"],
        "tags": ["paretune", "preference", "multi-objective"],
        "configs": configs if facts.loadable else [],
    }
    return f"---\n{DatasetCardData(**{key: value for key, value in entries.items() if value}).to_yaml()}\n---"


def _parts(facts: DataFacts) -> str:
    texts = []
    for part, files in facts.files.items():
        count = facts.answers if part == ANSWERS else sum(facts.rows.values())
        named = ", ".join(f"`{cell(path)}`" for path in files.values())
        texts.append(
            f"## {part.capitalize()}\n\n{count:,} in {named}.\n\n{table(['column', 'what it is'], _COLUMNS[part])}"
        )
    return "\n\n".join([*texts, _code(facts)])


def _code(facts: DataFacts) -> str:
    place = facts.about.place
    if not place:
        return ""
    return (
        "```python\nfrom datasets import load_dataset\n\n"
        f'rows = load_dataset({place!r}, "{ROWS}", split="train")\nanswers = load_dataset({place!r}, "{ANSWERS}", split="test")\n'
        f"```\n\n`paretune init hub:{place}` writes a config for the rows."
    )


def _splits(record: FrontRecord, facts: DataFacts) -> str:
    meanings = {
        "train": "trained on",
        "validation": "chose when training ends",
        "test": "held out: fronts are measured on it",
    }
    rows = [
        [
            split,
            f"{count:,}",
            f"{record.splits[split]:,}" if split in record.splits else "-",
            meanings.get(split, ""),
        ]
        for split, count in facts.rows.items()
    ]
    return f"## Splits\n\nBy prompt: no prompt is in two.\n\n{table(['split', 'rows', 'different prompts', 'use'], rows, (1, 2))}"


def _objectives(record: FrontRecord) -> str:
    known = {scores.objective: scores for scores in record.data.objectives} if record.data else {}
    rows = []
    for name in record.objectives:
        scores = known.get(name)
        counts = [f"{scores.comparisons:,}", f"{scores.missing:,}"] if scores else ["-", "-"]
        rows.append([name, record.objectives_info.get(name) or "not stated", *counts])
    columns = [
        "objective",
        "what gives its scores",
        "comparisons (train)",
        "responses without a score (train)",
    ]
    return f"## Objectives\n\n{table(columns, rows, (2, 3))}"


def _sources(record: FrontRecord, facts: DataFacts) -> str:
    rows = [[name, licence or "not stated"] for name, licence in facts.sources]
    licence = f"The licence of this data set: {cell(facts.about.licence or 'not stated')}."
    told = f"{table(['source', 'its licence'], rows)}\n\n{licence}" if rows else licence
    return f"## Sources and licence\n\n{told} Answers were written by {cell(record.model)} and policies trained on it."


def _left_out(record: FrontRecord) -> str:
    notes = record.data.notes if record.data else ()
    lines = [f"- {cell(note)}" for note in notes] or ["- Nothing."]
    return "## What was left out, or not read\n\n" + "\n".join(lines)


def _made(record: FrontRecord) -> str:
    sampling = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in record.sampling.items())
    lines = [
        f"Made with paretune {cell(record.version)} on {cell(record.created)}.",
        f"Answers were sampled with {cell(sampling)}." if sampling else "",
        "A score is what its scorer measures, not what its name promises.",
        "Nobody has checked the texts for personal data or for what may offend.",
    ]
    return "## How it was made\n\n" + "\n".join(f"- {line}" for line in lines if line)
