"""Scores of single answers as a table, of any origin, and the fronts they make.

A row says what one answer scored: of which policy, at which preference, to which prompt. :func:`read_table` reads rows of any
tool; a run writes its own as :data:`FILE` beside its record. All that is known of where a row came from goes with it, so that a
mistake is named by file and line.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from paretune.core.errors import DataError
from paretune.core.preference import Preference
from paretune.fronts.front import Front

FILE = "scores.jsonl"
"""The name of the table in a run's folder."""
SEED_MARK = "-seed-"
"""What stands between a method's name and the training seed in the name of a policy."""
BASE, CORNERS = "base", "corners"
"""The names under which a run writes the base model and the single-objective models."""


@dataclass(frozen=True, slots=True)
class ScoreRow:
    """What one answer scored.

    Attributes:
        policy: Name of the policy.
        preference: The preference it was asked for; None for a policy without one.
        prompt: The prompt's id, by which policies are matched.
        sample: Which of several answers to the prompt it is.
        scores: ``[M]``, higher is better.
        scorer: What gave the scores, in any words; rows with other words do not compare. Empty where nobody said.
        where: Where the row stands, for messages.
    """

    policy: str
    preference: Preference | None
    prompt: str
    sample: str
    scores: tuple[float, ...]
    scorer: str = ""
    where: str = ""


@dataclass(frozen=True, eq=False)
class PolicyScores:
    """The scores of one policy.

    Attributes:
        name: Its name.
        objectives: M names.
        preferences: N preferences.
        prompts: P ids.
        scores: ``[N, P, S, M]``, S answers to each prompt at each preference.
        where: Where its first row stands.
    """

    name: str
    objectives: tuple[str, ...]
    preferences: tuple[Preference, ...]
    prompts: tuple[str, ...]
    scores: np.ndarray
    where: str = ""

    @property
    def front(self) -> Front:
        """The mean scores ``[N, P, M]`` over the answers to each prompt."""
        weights = np.stack([preference.array() for preference in self.preferences])
        beyond = any(preference.extrapolated for preference in self.preferences)
        return Front(self.name, self.objectives, weights, self.scores.mean(axis=2), self.prompts, beyond)

    def at(self, numbers: Sequence[int]) -> PolicyScores:
        """Return the same at some of the preferences alone."""
        kept = tuple(self.preferences[n] for n in numbers)
        return PolicyScores(
            self.name, self.objectives, kept, self.prompts, self.scores[list(numbers)], self.where
        )

    def on(self, prompts: Sequence[str]) -> PolicyScores:
        """Return the same on some of the prompts alone, in their order."""
        place = {prompt: p for p, prompt in enumerate(self.prompts)}
        kept = self.scores[:, [place[prompt] for prompt in prompts]]
        return PolicyScores(self.name, self.objectives, self.preferences, tuple(prompts), kept, self.where)

    def over(self, objectives: Sequence[str]) -> PolicyScores:
        """Return the same with the objectives in another order."""
        order = [self.objectives.index(objective) for objective in objectives]
        preferences = tuple(preference.over(objectives) for preference in self.preferences)
        scores = self.scores[..., order]
        return PolicyScores(self.name, tuple(objectives), preferences, self.prompts, scores, self.where)


@dataclass(frozen=True, eq=False)
class ScoreTable:
    """Rows of scores on the same objectives.

    Attributes:
        objectives: M names.
        rows: The rows, in the order of the file.
        notes: What of the origin was not read, in words.
    """

    objectives: tuple[str, ...]
    rows: Sequence[ScoreRow]
    notes: tuple[str, ...] = field(default=())

    @property
    def scorers(self) -> tuple[str, ...]:
        """The different words for what gave the scores."""
        return tuple(dict.fromkeys(row.scorer for row in self.rows))

    def check_scorers(self) -> None:
        """Raise a DataError where rows were scored by different scorers; it names the first such row."""
        first = self.rows[0]
        for row in self.rows:
            if row.scorer != first.scorer:
                raise DataError(
                    f"{row.where}: scored by {row.scorer or 'an unnamed scorer'}, but {first.where} by "
                    f"{first.scorer or 'an unnamed scorer'}; scores of different scorers do not compare, so score all answers alike"
                )

    def fronts(self, common_prompts: bool = False) -> dict[str, Front]:
        """Return policy -> its front, see :meth:`policies`."""
        return {name: policy.front for name, policy in self.policies(common_prompts).items()}

    def policies(self, common_prompts: bool = False) -> dict[str, PolicyScores]:
        """Return policy -> its scores, all on the same prompts.

        Args:
            common_prompts: Keep only prompts that every policy has at each of its preferences.

        Raises:
            DataError: An answer stands twice, a prompt is missing somewhere, prompts have different numbers of answers, or no
                prompt is left; the message names the row.
        """
        cells = self._cells()
        prompts = self._prompts(cells, common_prompts)
        return {name: self._policy(name, points, prompts) for name, points in cells.items()}

    def _cells(self) -> dict[str, dict[Preference, dict[str, dict[str, ScoreRow]]]]:
        """Return policy -> preference -> prompt -> sample -> row."""
        cells: dict[str, dict[Preference, dict[str, dict[str, ScoreRow]]]] = {}
        uniform = Preference.uniform(self.objectives)
        for row in self.rows:
            points = cells.setdefault(row.policy, {})
            samples = points.setdefault(row.preference or uniform, {}).setdefault(row.prompt, {})
            if row.sample in samples:
                raise DataError(
                    f"{row.where}: a second answer of {row.policy!r} to prompt {row.prompt!r} at {row.preference or 'none'}"
                    f" (the first: {samples[row.sample].where}); number several answers in a column 'sample', or keep one"
                )
            samples[row.sample] = row
        return cells

    def _prompts(
        self, cells: Mapping[str, Mapping[Preference, Mapping[str, Any]]], common: bool
    ) -> tuple[str, ...]:
        """Return the prompts that all points have.

        Raises:
            DataError: Some point lacks one, and ``common`` is false; or none is left.
        """
        every = [(name, w, table) for name, points in cells.items() for w, table in points.items()]
        all_ids = dict.fromkeys(prompt for _, _, table in every for prompt in table)
        kept = tuple(prompt for prompt in all_ids if all(prompt in table for _, _, table in every))
        lost = [prompt for prompt in all_ids if prompt not in set(kept)]
        if lost and not common:
            name, w, _ = next(entry for entry in every if lost[0] not in entry[2])
            row = next(row for row in self.rows if row.prompt == lost[0])
            raise DataError(
                f"{row.where}: {row.policy!r} answers prompt {lost[0]!r:.80}, but {name!r} at {w} does not ({len(lost)} of "
                f"{len(all_ids)} prompts are missing somewhere); score all policies on the same prompts, or keep the "
                f"{len(kept)} common ones (--common-prompts)"
            )
        if not kept:
            raise DataError(
                f"{self.rows[0].where}: no prompt is answered by all policies at all their preferences; prompts are matched by "
                "the column 'prompt', so give equal prompts equal ids"
            )
        return kept

    def _policy(
        self,
        name: str,
        points: Mapping[Preference, Mapping[str, Mapping[str, ScoreRow]]],
        prompts: tuple[str, ...],
    ) -> PolicyScores:
        first = next(iter(next(iter(points.values())).values()))
        S = len(first)
        for table in points.values():
            for prompt in prompts:
                if len(table[prompt]) != S:
                    row = next(iter(table[prompt].values()))
                    raise DataError(
                        f"{row.where}: {name!r} has {len(table[prompt])} answers to prompt {prompt!r:.80} and {S} to others; "
                        "give every prompt equally many"
                    )
        scores = np.array(
            [[[r.scores for r in table[p].values()] for p in prompts] for table in points.values()]
        )
        where = next(iter(first.values())).where
        return PolicyScores(name, self.objectives, tuple(points), prompts, scores, where)
