"""Scored responses of Rewards-in-Context, and how they become demonstrations after prompts that show their scores."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from paretune.core.errors import ConfigError, DataError, TrainingError
from paretune.data.dataset import ScoredDataset
from paretune.data.rows import Prompt
from paretune.policies.prompts import Prompting
from paretune.scoring.prompt_means import PromptMeans
from paretune.scoring.scorer import Scorer, score_dataset
from paretune.training.demonstrations import Demonstration
from paretune.training.lab import Lab


@dataclass(frozen=True, eq=False)
class Rated:
    """N responses to prompts without tags, and their scores ``[N, M]``.

    Scores are raw, or less the mean of their prompt where they cannot be compared across prompts.
    """

    items: tuple[Demonstration, ...]
    scores: np.ndarray
    prompt_means: PromptMeans = field(default_factory=PromptMeans)

    def __getitem__(self, kept: np.ndarray) -> Rated:
        numbers = np.arange(len(self.items))[kept]
        return replace(self, items=tuple(self.items[n] for n in numbers), scores=self.scores[numbers])


def rated(
    lab: Lab, dataset: ScoredDataset, objectives: Sequence[str], scorers: Sequence[Scorer], what: str
) -> Rated:
    """Return all responses with scores of every objective: those of its scorer, or of the data where it has none.

    New responses are rated by the scorers, and one objective must have one scale; where the data's scores come from the same
    scorer they are in the cache. Responses without a score are left out and counted. Scores that cannot be compared across
    prompts are taken less the mean of their prompt.

    Raises:
        ConfigError: an objective without scorer and without any score in the data.
        DataError: scores need the mean of their prompt, and no prompt has two scored responses.
        TrainingError: no responses.
    """
    fresh = lab.team.once(lambda: score_dataset(dataset, scorers, lab.score_cache))
    before, after = flat(dataset, objectives), flat(fresh, objectives)
    if not after.items:
        raise TrainingError(f"ric, {what}: no responses; give some, or have them drawn with data.sample")
    missing = np.isnan(after.scores)
    other = ~np.isclose(before.scores, after.scores) & ~np.isnan(before.scores)
    for m, name in enumerate(objectives):
        if missing[:, m].all():
            raise ConfigError(
                f"ric, {what}: no scorer for the objective {name!r}, and the data hold no scores of it; add a scorer under score:"
            )
        if other[:, m].any():
            lab.say(
                f"ric, {what}: the scores of {name!r} in the data are not those of its scorer, which rates new responses; the "
                "scorer's are used for all"
            )
    prompt_means = PromptMeans.of(fresh, scorers)
    if prompt_means.objectives:
        prompt_means.check(f"ric, {what}")
        lab.say(f"ric, {what}: {prompt_means}")
        after = flat(prompt_means.centred(fresh), objectives)
    bad = np.isnan(after.scores).any(axis=1)
    if bad.any():
        lab.say(f"ric, {what}: {int(bad.sum())} of {len(bad)} responses lack a score and were left out")
    return replace(after[~bad], prompt_means=prompt_means)


def flat(dataset: ScoredDataset, objectives: Sequence[str]) -> Rated:
    """Return the responses of a data set in order, NaN where a score is missing."""
    items = tuple(
        Demonstration(row.prompt, text, cut, f"{row.source or 'row'} (response {k})")
        for row in dataset.rows
        for k, (text, cut) in enumerate(zip(row.responses, row.truncated, strict=True))
    )
    columns = [
        [value for row in dataset.rows for value in row.scores.get(name, (np.nan,) * len(row.responses))]
        for name in objectives
    ]
    return Rated(items, np.array(columns, dtype=np.float64).T.reshape(len(items), len(objectives)))


def relabelled(responses: Rated, prompting: Prompting) -> list[Demonstration]:
    """Return the responses after prompts that show the scores they obtained."""
    values = prompting.standardise(responses.scores)
    return [
        replace(item, prompt=tagged(prompting, item.prompt, obtained, item.where))
        for item, obtained in zip(responses.items, values, strict=True)
    ]


def tagged(prompting: Prompting, prompt: Prompt, values: np.ndarray, where: str) -> Prompt:
    """Return the prompt with scores ``[M]`` as tags; where it holds a tag already, a DataError that names its origin."""
    try:
        return prompting.prompt(prompt, values)
    except DataError as error:
        raise DataError(f"{where}: {error}") from error
