"""Responses drawn from a language model for prompts, part by part, so that a killed run goes on where it stopped."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from paretune.dataset import ScoredDataset
from paretune.errors import DataError
from paretune.files import fingerprint, read_json, write_json
from paretune.generate import Sampling, generate
from paretune.lm import LanguageModel
from paretune.rows import Row

BATCHES_PER_PART = 4
"""Batches drawn between two writes: what a killed run loses at most."""


def sample_dataset(
    lm: LanguageModel,
    dataset: ScoredDataset,
    count: int,
    sampling: Sampling,
    seed: int,
    parts: Path,
) -> ScoredDataset:
    """Return the prompts of ``dataset`` with ``count`` responses each drawn from ``lm``; empty answers are left out.

    Args:
        lm: the model.
        dataset: its prompts are used; responses, scores and labels it has are not.
        count: responses a prompt.
        sampling: length, temperature, top-p, batch size.
        seed: of the whole draw; a response depends on it, on its place in the data and on its prompt.
        parts: folder in which finished parts are kept; a second call with the same arguments reads them.

    Raises:
        DataError: a kept part cannot be read.
    """
    per_part = max(1, BATCHES_PER_PART * sampling.batch_size // count)
    responses: list[tuple[str, bool]] = []
    for start in range(0, len(dataset.rows), per_part):
        rows = dataset.rows[start : start + per_part]
        prompts = [lm.encode_prompt(row.prompt) for row in rows for _ in range(count)]
        seeds = [seed * 1_000_003 + start * count + number for number in range(len(prompts))]
        file = (
            parts / f"{fingerprint(lm.fingerprint, str(lm.model.dtype), prompts, seeds, vars(sampling))}.json"
        )
        if not file.is_file():
            what = f"sampling, prompts {start + 1} to {start + len(rows)} of {len(dataset.rows)}"
            drawn = generate(lm, prompts, sampling, seeds, description=what)
            write_json(file, [[r.text, r.truncated] for r in drawn])
        responses += _read(file, len(prompts))
    made = []
    for number, row in enumerate(dataset.rows):
        answers = [a for a in responses[number * count : (number + 1) * count] if a[0]]
        texts, cut = tuple(text for text, _ in answers), tuple(cut for _, cut in answers)
        made.append(Row(row.prompt, texts, {}, {}, cut, row.source))
    return ScoredDataset((), tuple(made))


def _read(file: Path, count: int) -> list[tuple[str, bool]]:
    """Return the texts of a finished part, and whether each was cut."""
    values: Any = read_json(file)
    try:
        found = [(str(text), bool(cut)) for text, cut in values]
    except (TypeError, ValueError) as error:
        raise DataError(
            f"{file}: not a part of a draw ({error}); delete the file to have it drawn again"
        ) from error
    if len(found) != count:
        raise DataError(
            f"{file}: {len(found)} responses, expected {count}; delete the file to have it drawn again"
        )
    return found
