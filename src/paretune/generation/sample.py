"""Responses drawn from a language model for prompts, part by part, so that a killed run goes on where it stopped."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from paretune.core.errors import ConfigError, DataError
from paretune.core.files import fingerprint, read_json, write_json
from paretune.core.sampling import Sampling
from paretune.data.dataset import ScoredDataset
from paretune.data.rows import Row
from paretune.generation.endpoint import Answer, Endpoint, LoRA, Question
from paretune.generation.generate import generate
from paretune.models.language_model import LanguageModel

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
    return _filled(dataset, count, responses)


def sample_remotely(
    endpoint: Endpoint, dataset: ScoredDataset, count: int, sampling: Sampling, seed: int, parts: Path
) -> tuple[ScoredDataset, int]:
    """Do what :func:`sample_dataset` does by a server, and return the tokens that it counted, too.

    The seeds are the same, but not the responses: a server has its own generator.

    Raises:
        EndpointError, ConfigError, DataError: see :func:`ask`; finished answers stay in ``parts``.
    """
    questions = [
        Question(endpoint.model, row.prompt, seed * 1_000_003 + number * count + k)
        for number, row in enumerate(dataset.rows)
        for k in range(count)
    ]
    answers = ask(endpoint, questions, sampling, parts)
    tokens = sum(answer.tokens or 0 for answer in answers)
    return _filled(dataset, count, [(answer.text, answer.truncated) for answer in answers]), tokens


def ask(
    endpoint: Endpoint,
    questions: Sequence[Question],
    sampling: Sampling,
    folder: Path,
    description: str = "sampling",
    lora: LoRA | None = None,
) -> list[Answer]:
    """Return one answer a question; those in ``folder`` are not asked for again.

    Answers are kept in parts of :data:`paretune.generation.remote.PART` questions, each written when it is whole, and
    those not yet whole
    when something ends the drawing, Ctrl-C included. A kill that leaves no time loses the parts that are on their way.

    Args:
        endpoint: the server.
        questions: any number.
        sampling: length, temperature, top-p; its batch size means nothing here.
        folder: of the parts.
        description: shown by the progress bar.
        lora: what answers all questions, which name it; the server loads it first, where any answer is missing.

    Raises:
        EndpointError: the server cannot be reached, refuses the key, does not have the model, cannot load the LoRA, refuses a
            request, or goes on to fail; says how many answers are kept.
        ConfigError: the packages of the ``serve`` extra are not installed.
        DataError: a kept part cannot be read.
    """
    try:
        from paretune.generation import remote
    except ImportError as error:
        raise ConfigError(
            f"{error}; an endpoint needs more packages: pip install 'paretune[serve]'"
        ) from error
    return remote.draw(endpoint, questions, sampling, folder, description, lora)


def _filled(dataset: ScoredDataset, count: int, responses: Sequence[tuple[str, bool]]) -> ScoredDataset:
    """Return the prompts of ``dataset`` with ``count`` responses each, without empty ones."""
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
