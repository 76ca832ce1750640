"""Scores that can be compared within a prompt only, taken against the mean score of the prompt's responses.

An implicit reward lacks the term that depends on the prompt alone, and a reward model fitted to comparisons has an arbitrary one.
Pooled over prompts, such scores rank prompts and not responses. Less the mean of its prompt, a score shows how much better a
response is than what this prompt usually gets.
"""

from __future__ import annotations

from array import array
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace

import numpy as np

from paretune.core.errors import DataError
from paretune.core.files import fingerprint
from paretune.data.dataset import ScoredDataset
from paretune.data.row_store import taken
from paretune.data.rows import Row
from paretune.scoring.scorer import Scorer


def within_prompts(scorers: Sequence[Scorer]) -> frozenset[str]:
    """Return the objectives whose scores can be compared within a prompt only. One without a scorer is taken as comparable."""
    return frozenset(scorer.objective for scorer in scorers if not scorer.across_prompts)


@dataclass(frozen=True, eq=False)
class PromptMeans:
    """The mean scores of each prompt's responses, on the objectives whose scores cannot be compared across prompts.

    Attributes:
        objectives: Names of these D objectives; none where all scores can be compared.
        means: Key of a prompt -> means ``[D]`` over its distinct scored responses, of which there are at least two.
        prompts: Number of prompts in the data, those with fewer such responses included.
    """

    objectives: tuple[str, ...] = ()
    means: Mapping[str, np.ndarray] = field(default_factory=dict)
    prompts: int = 0

    @classmethod
    def of(cls, dataset: ScoredDataset, scorers: Sequence[Scorer]) -> PromptMeans:
        """Measure the prompts of scored data, see :func:`within_prompts`."""
        within = within_prompts(scorers)
        columns = [m for m, name in enumerate(dataset.objectives) if name in within]
        if not columns:
            return cls()
        owners, texts, scores = array("Q"), array("Q"), array("d")
        every = set()
        for row in dataset.rows:
            every.add(row.key)
            for text, values in zip(row.responses, dataset.matrix(row)[:, columns], strict=True):
                if not np.isnan(values).any():
                    owners.append(int(row.key, 16))
                    texts.append(int(fingerprint(row.key, text), 16))
                    scores.frombytes(values.tobytes())
        first = np.unique(np.asarray(texts), return_index=True)[1]  # a repeated response counts once
        keys, owner, counts = np.unique(np.asarray(owners)[first], return_inverse=True, return_counts=True)
        sums = np.zeros((len(keys), len(columns)))
        np.add.at(sums, owner, np.asarray(scores).reshape(-1, len(columns))[first])
        means = {
            f"{key:016x}": total / count
            for key, total, count in zip(keys.tolist(), sums, counts.tolist(), strict=True)
            if count > 1
        }
        return cls(tuple(dataset.objectives[m] for m in columns), means, len(every))

    def check(self, where: str) -> None:
        """Check that some prompt is left.

        Raises:
            DataError: Scores need a mean, and no prompt has one; ``where`` begins the message.
        """
        if self.objectives and not self.means:
            raise DataError(
                f"{where}: {self}: none is left. Give at least two different responses to a prompt (data.sample samples them for "
                "prompts without any), or a scorer whose scores can be compared across prompts"
            )

    def covered(self, dataset: ScoredDataset) -> Sequence[Row]:
        """Return the rows whose scores mean something: those whose prompts have means, or all where all can be compared."""
        if not self.objectives:
            return dataset.rows
        places = [number for number, row in enumerate(dataset.rows) if row.key in self.means]
        return taken(dataset.rows, np.array(places, dtype=np.int64))

    def centred(self, dataset: ScoredDataset) -> ScoredDataset:
        """Return the rows whose prompts have means, with these subtracted; the same data where all scores can be compared."""
        if not self.objectives:
            return dataset
        kept = replace(dataset, rows=self.covered(dataset))
        for column, name in enumerate(self.objectives):
            scores = [
                [score - self.means[row.key][column] for score in row.scores.get(name, ())]
                or [np.nan] * len(row.responses)
                for row in kept.rows
            ]
            kept = kept.with_scores(name, scores)
        return kept

    def __str__(self) -> str:
        alone = self.prompts - len(self.means)
        left_out = (
            f"; {alone} of {self.prompts} prompts have fewer than two scored responses and were left out"
        )
        return (
            f"scores of {', '.join(self.objectives)} cannot be compared across prompts and are taken less the mean of the prompt's "
            f"responses{left_out if alone else ''}"
        )
