"""What a run writes of its data for others: its measured answers as a table, and a card of all of it."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from paretune.data.dataset import ScoredDataset
from paretune.data.readers import Record, write_jsonl
from paretune.data.rows import Row
from paretune.evaluation.judge import Judgement
from paretune.evaluation.judged import Evaluation
from paretune.fronts.record import FrontRecord
from paretune.reports.beside import ANSWERS_FILE, FOLDER
from paretune.reports.card import About
from paretune.reports.data_card import ANSWERS, ROWS, DataFacts, write_data_card
from paretune.runs.about_data import about_data, sources_of

CARD = "README.md"


def write_answers(judgement: Judgement, rows: Iterable[Row], file: Path) -> int:
    """Write one line of JSON for each answer: policy, preference, prompt, text, scores. Return their number.

    Args:
        judgement: What was measured.
        rows: The held-out rows.
        file: The file to write.
    """
    evaluations = (*judgement.everything.values(), *judgement.extrapolations.values())
    asked = {prompt for evaluation in evaluations for prompt in evaluation.prompts}
    known = {row.key: row for row in rows if row.key in asked}
    write_jsonl(file, _answers(evaluations, judgement.objectives, known))
    return sum(
        len(texts) for evaluation in evaluations for point in evaluation.points for texts in point.responses
    )


def _answers(
    evaluations: Sequence[Evaluation], objectives: Sequence[str], rows: Mapping[str, Row]
) -> Iterator[Record]:
    for evaluation in evaluations:
        for preference, point in zip(evaluation.preferences, evaluation.points, strict=True):
            for p, key in enumerate(evaluation.prompts):
                for sample, text in enumerate(point.responses[p]):
                    yield {
                        "policy": evaluation.name,
                        "preference": preference.over(objectives).as_dict(),
                        "prompt": [{"role": m.role, "content": m.content} for m in rows[key].prompt],
                        "prompt_id": key,
                        "sample": sample,
                        "answer": text,
                        "truncated": bool(point.truncated[p, sample]),
                        "scores": dict(zip(objectives, point.scores[p, sample].tolist(), strict=True)),
                    }


def write_card_beside(
    record: FrontRecord, splits: Mapping[str, ScoredDataset], answers: int, data: Sequence[Any], folder: Path
) -> None:
    """Write the card of a run's data into the folder with the data.

    Args:
        record: The record of the run.
        splits: The parts of its data.
        answers: Number of measured answers.
        data: What the config names under ``data.source`` and ``data.test``.
        folder: The run's folder.
    """
    files = {
        ROWS: {name: f"{name}.jsonl.gz" for name in splits},
        ANSWERS: {"test": ANSWERS_FILE},
    }
    rows = {name: len(part.rows) for name, part in splits.items()}
    facts = DataFacts(rows, answers, sources_of(*data), about_of(data), files, loadable=False)
    write_data_card(record, facts, folder / FOLDER / CARD)


def about_of(data: Sequence[Any]) -> About:
    """Return what is known of the data: the licence where all sources have the same."""
    licences = {licence for _, licence in sources_of(*data)}
    return replace(about_data(*data), licence=licences.pop() if len(licences) == 1 else "")
