"""Answers to goals in the prompt, drawn here or by a server, cleaned and scored: the data of an iteration of RiC's online stage."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path

import numpy as np

from paretune.core.errors import TrainingError
from paretune.core.files import fingerprint, read_json, write_json
from paretune.core.sampling import Sampling
from paretune.data.dataset import ScoredDataset
from paretune.data.rows import Prompt, Row
from paretune.generation.endpoint import Endpoint
from paretune.generation.generate import Response, attached, generate
from paretune.generation.resumable import Drawn, draw_in_parts, part_size
from paretune.methods.base import Inputs
from paretune.methods.ric.responses import Rated, flat
from paretune.models.adapter import Adapter
from paretune.policies.prompts import Prompting
from paretune.scoring.prompt_means import PromptMeans
from paretune.scoring.repetition import is_collapsed
from paretune.scoring.scorer import score_dataset
from paretune.training.lab import Lab
from paretune.training.remote_stages import ask_stage, identity


@dataclass(frozen=True, eq=False)
class Goals:
    """N prompts that ask for scores.

    Attributes:
        rows: Training rows that the prompts are of.
        scores: Requested scores ``[N, M]``, standardised.
        prompts: The prompts with the requested scores as tags.
        seeds: One seed per answer.
        sampling: Length, temperature and top-p of the answers.
    """

    rows: Sequence[Row]
    scores: np.ndarray
    prompts: Sequence[Prompt]
    seeds: Sequence[int]
    sampling: Sampling


@dataclass(frozen=True)
class Counts:
    """The fates of the answers of one iteration; ``gap`` is the mean |requested - obtained| score per objective, standardised."""

    drawn: int
    empty: int
    cut: int
    collapsed: int
    gap: Mapping[str, float]

    def __str__(self) -> str:
        gaps = ", ".join(f"{name} {value:.2f}" for name, value in self.gap.items())
        return (
            f"{self.drawn} drawn, {self.empty} empty, {self.cut} cut by the token limit, {self.collapsed} collapsed"
            + (f"; asked and obtained scores differ by {gaps} deviations on average" if gaps else "")
        )


def answered(
    inputs: Inputs,
    adapter: Adapter,
    goals: Goals,
    prompting: Prompting,
    prompt_means: PromptMeans,
    number: int,
) -> tuple[Rated, Counts]:
    """Return the answers of an adapter to goals, cleaned and scored: a stage on disk, in the canonical form of data.

    ``prompt_means`` are those of the training responses: the score of an answer is its excess over these.

    Raises:
        TrainingError: no answer of iteration ``number`` is left after cleaning.
    """
    lab, rows = inputs.lab, goals.rows
    scorers = [scorer for scorer in inputs.scorers if scorer.objective in inputs.objectives]
    reader = replace(lab.lm, tags=prompting.tags)
    encoded = [reader.encode_prompt(prompt) for prompt in goals.prompts]
    sampler = [adapter.fingerprint, lab.lm.fingerprint, str(lab.lm.model.dtype), goals.sampling.identity()]
    who = fingerprint(*sampler, *identity(inputs.endpoint))

    def make(folder: Path) -> None:
        if inputs.endpoint is None:
            answers = drawn(lab, adapter, encoded, goals.seeds, goals.sampling, who)
        else:
            answers = drawn_by(inputs.endpoint, lab, adapter, goals.prompts, goals.seeds, goals.sampling)
        fates = [what for _, what in answers]
        left = [n for n, what in enumerate(fates) if what == "kept"]
        kept = (Row(rows[n].prompt, (answers[n][0],), source=rows[n].source) for n in left)
        # Scorers read the prompt without tags.
        made = score_dataset(ScoredDataset((), tuple(kept)), scorers, lab.score_cache)
        gap: dict[str, float] = {}
        if left:
            obtained = prompting.standardise(flat(prompt_means.centred(made), prompting.objectives).scores)
            missed = np.abs(obtained - goals.scores[left]).mean(axis=0)
            gap = dict(zip(prompting.objectives, missed.tolist(), strict=True))
        counts = Counts(len(rows), fates.count("empty"), fates.count("cut"), fates.count("collapsed"), gap)
        if not left:
            raise TrainingError(
                f"ric, iteration {number}: {counts}; nothing is left to train on. Raise sampling.max_new_tokens where answers are "
                f"cut, or train longer before; with methods.ric.iterations={number - 1} the run ends with the adapter it has"
            )
        made.write(folder / "generated.jsonl.gz")
        write_json(folder / "counts.json", vars(counts))

    judged = [scorer.fingerprint for scorer in scorers], prompting.mean, prompting.std
    subtracted = [[prompt_means.means[row.key].tolist() for row in rows]] if prompt_means.objectives else []
    key = fingerprint(who, [row.fingerprint for row in rows], encoded, goals.seeds, judged, *subtracted)
    folder = lab.stage(f"samples/ric-{number}", key, make)
    made = prompt_means.centred(ScoredDataset.read(folder / "generated.jsonl.gz"))
    return flat(made, prompting.objectives), read_json(folder / "counts.json", Counts)


def drawn(
    lab: Lab,
    adapter: Adapter,
    prompts: Sequence[Sequence[int]],
    seeds: Sequence[int],
    sampling: Sampling,
    who: str,
) -> list[tuple[str, str]]:
    """Sample one answer per prompt; return texts and fates: ``empty``, ``cut`` by the limit, ``collapsed`` or ``kept``.

    Finished parts are kept on disk under the fingerprint ``who`` of the sampler, so that a killed run continues.
    """

    def plan(numbers: range) -> tuple[str, Callable[[], list[Drawn]]]:
        part = slice(numbers.start, numbers.stop)

        def draw() -> list[Drawn]:
            title = f"sampling at goals, from {numbers.start + 1} of {len(prompts)}"
            with attached(lab.lm, adapter) as steering:
                gates = adapter.gates().expand(len(numbers), -1)
                responses = generate(lab.lm, prompts[part], sampling, seeds[part], steering, gates, title)
            return [(response.text, fate(response)) for response in responses]

        return fingerprint(who, [list(prompt) for prompt in prompts[part]], list(seeds[part])), draw

    folder = lab.folder / "cache" / "samples"
    return [(text, what) for text, what in draw_in_parts(folder, len(prompts), part_size(sampling), plan)]


def drawn_by(
    endpoint: Endpoint,
    lab: Lab,
    adapter: Adapter,
    prompts: Sequence[Prompt],
    seeds: Sequence[int],
    sampling: Sampling,
) -> list[tuple[str, str]]:
    """Return what :func:`drawn` does, from a server; the tokens of an answer are those of its text, encoded again."""
    answers = ask_stage(lab, endpoint, adapter, prompts, sampling, seeds, "sampling at goals")
    tokens = [tuple(lab.lm.encode_response(answer.text, answer.truncated)) for answer in answers]
    read = [
        Response(answer.text, ids, answer.truncated, math.nan)
        for answer, ids in zip(answers, tokens, strict=True)
    ]
    return [(response.text, fate(response)) for response in read]


def fate(response: Response) -> str:
    """Return the fate of an answer, see :func:`drawn`."""
    if not response.text.strip():
        return "empty"
    return "cut" if response.truncated else "collapsed" if is_collapsed(response.tokens) else "kept"
