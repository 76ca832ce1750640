"""Responses for the prompts of a data set, sampled by the model in this process or by a server; a stopped run resumes."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Sequence
from pathlib import Path

from paretune.core.errors import ConfigError, DataWarning
from paretune.core.files import fingerprint
from paretune.core.sampling import Sampling
from paretune.data.dataset import ScoredDataset
from paretune.data.rows import Row
from paretune.generation.endpoint import Answer, Endpoint, LoRA, Question
from paretune.generation.generate import generate
from paretune.generation.resumable import Drawn, draw_in_parts, part_size
from paretune.models.language_model import LanguageModel


def sample_dataset(
    lm: LanguageModel,
    dataset: ScoredDataset,
    count: int,
    sampling: Sampling,
    seed: int,
    parts: Path,
) -> ScoredDataset:
    """Return the prompts of ``dataset`` with ``count`` responses each sampled from ``lm``; empty responses are left out.

    Args:
        lm: The model.
        dataset: Prompts; their responses, scores and labels are not used.
        count: Number of responses per prompt.
        sampling: Length, temperature, top-p and batch size.
        seed: Seed of all samples; a response depends on it, on its number in the data and on its prompt.
        parts: Folder in which finished parts are kept; a second call with the same arguments reads them.

    Raises:
        DataError: A kept part cannot be read.
    """

    def plan(numbers: range) -> tuple[str, Callable[[], list[Drawn]]]:
        first, last = numbers.start // count, numbers.stop // count
        prompts = [
            lm.encode_prompt(row.prompt, row.source) for row in dataset.rows[first:last] for _ in range(count)
        ]
        seeds = [_seed(seed, number) for number in numbers]
        name = fingerprint(lm.fingerprint, str(lm.model.dtype), prompts, seeds, vars(sampling))

        def draw() -> list[Drawn]:
            title = f"sampling, prompts {first + 1} to {last} of {len(dataset.rows)}"
            responses = generate(lm, prompts, sampling, seeds, description=title)
            return [(response.text, response.truncated) for response in responses]

        return name, draw

    prompts_per_part = max(1, part_size(sampling) // count)
    drawn = draw_in_parts(parts, count * len(dataset.rows), count * prompts_per_part, plan)
    return _filled(dataset, count, [(text, truncated) for text, truncated in drawn])


def sample_remotely(
    endpoint: Endpoint, dataset: ScoredDataset, count: int, sampling: Sampling, seed: int, parts: Path
) -> tuple[ScoredDataset, int]:
    """Return what :func:`sample_dataset` returns, sampled by a server, and the number of tokens that it reports.

    The seeds are the same, but the responses are not: a server has its own random numbers. Prompts that the server refuses are left
    out, and a warning names their rows.

    Raises:
        EndpointError, ConfigError, DataError: See :func:`ask`; finished answers stay in ``parts``.
    """
    questions = [
        Question(
            endpoint.model, row.prompt, _seed(seed, number * count + k), row.source or f"row {number + 1}"
        )
        for number, row in enumerate(dataset.rows)
        for k in range(count)
    ]
    answers = ask(endpoint, questions, sampling, parts, skip=True)
    refused = [(q.source, a.refused) for q, a in zip(questions, answers, strict=True) if a.refused]
    if refused:
        shown = "; ".join(f"{source}: {reason}" for source, reason in refused[:3])
        more = f"; and {len(refused) - 3} more" if len(refused) > 3 else ""
        warnings.warn(
            f"{endpoint.url} refused {len(refused)} of {len(questions)} responses, which are left out: {shown}{more}",
            DataWarning,
            stacklevel=2,
        )
    tokens = sum(answer.tokens or 0 for answer in answers)
    return _filled(dataset, count, [(answer.text, answer.truncated) for answer in answers]), tokens


def ask(
    endpoint: Endpoint,
    questions: Sequence[Question],
    sampling: Sampling,
    folder: Path,
    description: str = "sampling",
    lora: LoRA | None = None,
    skip: bool = False,
    tokens: bool = False,
) -> list[Answer]:
    """Return one answer per question; those in ``folder`` are not requested again.

    Answers are kept in parts of :data:`paretune.generation.remote.PART` questions. A part is written once it is whole, or
    when an error or Ctrl-C ends the sampling. A kill that leaves no time loses the answers of unfinished parts.

    Args:
        endpoint: The server.
        questions: Questions, any number.
        sampling: Length, temperature and top-p; its batch size is not used.
        folder: Folder of the parts.
        description: Title of the progress bar.
        lora: The LoRA that answers all questions, which name it; where an answer is missing the server loads it first.
        skip: Whether a prompt that the server refuses, as too long or by a filter, gets an answer that states so; otherwise it is
            an error once all others are answered.
        tokens: Whether to ask for the tokens of each answer and their log-probabilities, in the dialect of vLLM and SGLang, and for
            sampling from the whole distribution, whatever the model's own defaults are.

    Raises:
        EndpointError: The server cannot be reached, refuses the key, lacks the model, cannot load the LoRA, refuses a
            request, or keeps failing; the message states how many answers are kept.
        ConfigError: The packages of the ``serve`` extra are not installed.
        DataError: A kept part cannot be read.
    """
    try:
        from paretune.generation import remote
    except ImportError as error:
        raise ConfigError(
            f"{error}; an endpoint needs more packages: pip install 'paretune[serve]'"
        ) from error
    return remote.draw(endpoint, questions, sampling, folder, description, lora, skip, tokens)


def _seed(seed: int, number: int) -> int:
    return seed * 1_000_003 + number


def _filled(dataset: ScoredDataset, count: int, responses: Sequence[tuple[str, bool]]) -> ScoredDataset:
    """Return the prompts of ``dataset`` with ``count`` responses each, without the empty ones."""
    rows = []
    for number, row in enumerate(dataset.rows):
        answers = [a for a in responses[number * count : (number + 1) * count] if a[0]]
        texts, truncated = tuple(text for text, _ in answers), tuple(cut for _, cut in answers)
        rows.append(Row(row.prompt, texts, {}, {}, truncated, row.source))
    return ScoredDataset((), tuple(rows))
