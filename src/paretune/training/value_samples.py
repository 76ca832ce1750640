"""Texts that the frozen model samples and scorers rate, on which value heads are trained: sampled once, and kept as a stage."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from paretune.core.errors import DataError, ScoreError, TrainingError
from paretune.core.files import fingerprint, read_json, write_json
from paretune.core.sampling import Sampling
from paretune.data.rows import Prompt
from paretune.generation.generate import generate
from paretune.generation.resumable import Drawn, draw_in_parts, part_size
from paretune.models.packing import TokenGroup
from paretune.scoring.prompt_means import within_prompts
from paretune.scoring.scorer import Scorer, score_texts
from paretune.training.lab import Lab
from paretune.training.prompt_cuts import cut_at_start


@dataclass(frozen=True, eq=False)
class SampleTable:
    """K sampled texts to each of P prompts, with their rewards.

    Attributes:
        prompts: Token ids of the prompts.
        responses: Token ids of the K texts of each, end of turn included unless it was cut.
        rewards: fp32 ``[P, K, M]``, in deviations.
        cut: Share of texts that the token limit cut.
    """

    prompts: tuple[tuple[int, ...], ...]
    responses: tuple[tuple[tuple[int, ...], ...], ...]
    rewards: Tensor
    cut: float

    def __len__(self) -> int:
        return len(self.prompts)

    def groups(self, rows: Sequence[int]) -> list[TokenGroup]:
        """Return the token groups of prompts: each with its texts."""
        return [(self.prompts[row], self.responses[row]) for row in rows]


@dataclass(frozen=True, eq=False)
class Raw:
    """Sampled texts with their raw scores ``[P, K, M]``, as the stage keeps them, and the key of the stage."""

    prompts: tuple[tuple[int, ...], ...]
    responses: tuple[tuple[tuple[int, ...], ...], ...]
    truncated: tuple[bool, ...]
    scores: np.ndarray
    key: str

    def table(self, scale: Scale) -> SampleTable:
        """Return the texts with their scores on a scale."""
        rewards = torch.from_numpy(scale.apply(self.scores)).float()
        return SampleTable(self.prompts, self.responses, rewards, sum(self.truncated) / len(self.truncated))


@dataclass(frozen=True, eq=False)
class Scale:
    """Mean and deviation ``[M]`` of raw scores of training samples; ``within [M]`` marks those taken less their prompt's mean."""

    mean: np.ndarray
    deviation: np.ndarray
    within: np.ndarray

    @classmethod
    def of(cls, scores: np.ndarray, scorers: Sequence[Scorer]) -> Scale:
        """Measure raw scores ``[P, K, M]``.

        Raises:
            ScoreError: All samples score alike on an objective, so that no token is worth more than another.
        """
        names = within_prompts(scorers)
        within = np.array([scorer.objective in names for scorer in scorers])
        left = _less_prompts(scores, within)
        mean, deviation = left.mean((0, 1)), left.std((0, 1))
        for scorer, value, spread in zip(scorers, mean, deviation, strict=True):
            if spread <= 1e-12 * max(1.0, abs(value)):
                raise ScoreError(
                    f"objective {scorer.objective!r}: all {scores.shape[0] * scores.shape[1]} sampled answers score {value:g}, so "
                    "their values cannot be told apart; check the scorer, or raise responses, prompts or sampling.max_new_tokens"
                )
        return cls(mean, deviation, within)

    def apply(self, scores: np.ndarray) -> np.ndarray:
        """Return raw scores ``[P, K, M]`` in deviations."""
        return np.asarray((_less_prompts(scores, self.within) - self.mean) / self.deviation)


def _less_prompts(scores: np.ndarray, within: np.ndarray) -> np.ndarray:
    means = np.where(within, scores.mean(1, keepdims=True), 0.0)
    return np.asarray(scores - means)


def with_room(lab: Lab, prompts: Sequence[Prompt], new: int) -> list[Prompt]:
    """Return the prompts that leave room for ``new`` tokens within ``train.max_tokens``; those that do not are cut or left out, and
    counted.

    Raises:
        TrainingError: None does.
    """
    limit, kept = lab.limit, []
    for prompt in prompts:
        asked = len(lab.lm.encode_prompt(prompt))
        if asked > limit.most - new and limit.too_long == "prompt-left":
            shorter = cut_at_start(lab.lm, prompt, limit.most - new)
            limit.cut += shorter is not None
            prompt, asked = (prompt, asked) if shorter is None else (shorter, 0)
        if asked <= limit.most - new:
            kept.append(prompt)
    limit.say_cut(len(prompts), f"prompts with {new} new tokens", lab.leave_out)
    if dropped := len(prompts) - len(kept):
        lab.leave_out(
            f"{dropped} of {len(prompts)} prompts leave no room for {new} new tokens within {limit} and were left out"
        )
    if not kept:
        raise TrainingError(
            f"none of {len(prompts)} prompts leaves room for {new} new tokens within {limit}; raise train.max_tokens, lower "
            "sampling.max_new_tokens, or give shorter prompts"
        )
    return kept


def sampled(
    lab: Lab,
    name: str,
    prompts: Sequence[Prompt],
    count: int,
    scorers: Sequence[Scorer],
    sampling: Sampling,
    seed: int,
) -> Raw:
    """Return ``count`` texts to each prompt, drawn from the base model at temperature 1, and scored: a stage ``answers/NAME``.

    Args:
        lab: The run.
        name: Name of the stage.
        prompts: P prompts with room for an answer.
        count: K.
        scorers: M scorers, in the order of objectives.
        sampling: Length, and rows decoded together; the rest is not read.
        seed: Text n is drawn with ``seed + n``.

    Raises:
        ScoreError: A text cannot be scored.
        DataError: What the stage kept cannot be read.
    """
    lm, drawing = lab.lm, replace(sampling, temperature=1.0, top_p=1.0)
    encoded = [tuple(lm.encode_prompt(prompt)) for prompt in prompts]
    who = [lm.fingerprint, str(lm.model.dtype), drawing.identity(), count, seed]
    key = fingerprint(who, [list(ids) for ids in encoded], [scorer.fingerprint for scorer in scorers])

    def plan(numbers: range) -> tuple[str, Callable[[], list[Drawn]]]:
        part = [encoded[number // count] for number in numbers]

        def draw() -> list[Drawn]:
            seeds = [seed + number for number in numbers]
            responses = generate(lm, part, drawing, seeds, description="sampling for values")
            return [(response.text, response.truncated, list(response.tokens)) for response in responses]

        return fingerprint(who, [list(ids) for ids in part], numbers.start), draw

    def make(folder: Path) -> None:
        size = max(1, part_size(drawing) // count) * count
        drawn = draw_in_parts(lab.folder / "cache" / "answers", count * len(prompts), size, plan, width=3)
        owners = [prompt for prompt in prompts for _ in range(count)]
        texts, cut = [text for text, _, _ in drawn], [bool(truncated) for _, truncated, _ in drawn]
        columns = [score_texts(scorer, owners, texts, cut, lab.score_cache) for scorer in scorers]
        scores = np.stack(columns, axis=1).tolist()
        rows = [
            [*response, values] for response, values in zip(drawn, scores, strict=True)
        ]  # text, cut, tokens, scores
        write_json(folder / "responses.json", rows)

    file = lab.stage(f"answers/{name}", key, make) / "responses.json"
    return _read(file, encoded, count, len(scorers), key)


def _read(file: Path, prompts: Sequence[tuple[int, ...]], count: int, objectives: int, key: str) -> Raw:
    try:
        rows = read_json(file, list[Any])
        tokens = [tuple(int(token) for token in row[2]) for row in rows]
        scores = np.array([row[3] for row in rows], dtype=np.float64).reshape(len(prompts), count, objectives)
        truncated = tuple(bool(row[1]) for row in rows)
        if not all(tokens):
            raise ValueError("an answer without tokens")
    except (TypeError, ValueError, IndexError, KeyError) as error:
        raise DataError(
            f"{file}: no sampled answers ({error}); delete its folder to have them sampled again"
        ) from error
    grouped = tuple(tuple(tokens[n * count : (n + 1) * count]) for n in range(len(prompts)))
    return Raw(tuple(prompts), grouped, truncated, scores, key)
