"""Judging policies on held-out prompts: scores, sense and distance from the base model, all with intervals."""

from __future__ import annotations

import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from paretune.core.errors import DataError
from paretune.core.preference import Preference
from paretune.core.sampling import Sampling
from paretune.data.rows import Prompt
from paretune.fronts.front import Front
from paretune.generation.generate import Response, response_logps
from paretune.models.distributed import ProcessGroup
from paretune.models.language_model import LanguageModel
from paretune.models.packing import TokenGroup
from paretune.policies.policy import Policy
from paretune.scoring.cache import ScoreCache
from paretune.scoring.repetition import is_collapsed
from paretune.scoring.scorer import Scorer, score_texts

RESAMPLES = 2000
"""Of prompts, by default, for intervals and paired tests."""

TOGETHER = 16
"""Responses to one prompt in a packed group: a group is never cut, so this bounds the largest forward."""


Draw = Callable[[Sequence[Prompt], Sequence[Preference], Sampling, Sequence[int]], list[Response]]
"""Prompts, preferences, how, and seeds, one each a row -> responses."""


@dataclass(frozen=True, eq=False)
class Point:
    """What a policy answered at one preference: P prompts, S samples each, and how it was judged.

    Attributes:
        scores: ``[P, S, M]`` raw scores, higher is better.
        logps, base_logps: ``[P, S]`` log-probability of each response under the policy and the base model, in nats.
        lengths: ``[P, S]`` tokens, end of turn included.
        truncated, collapsed: ``[P, S]`` cut by the token limit; degenerated (see :func:`paretune.scoring.repetition.is_collapsed`).
        conflict: ``[P, S]`` where policies were mixed, how far they disagree: mean of -log Z over tokens, in nats; else 0.
        responses: text of each sample, ``[P][S]``.
        seconds: share of the time taken to sample and score.
    """

    scores: np.ndarray
    logps: np.ndarray
    base_logps: np.ndarray
    lengths: np.ndarray
    truncated: np.ndarray
    collapsed: np.ndarray
    conflict: np.ndarray
    responses: list[list[str]]
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values."""
        return {
            key: value.tolist() if isinstance(value, np.ndarray) else value
            for key, value in vars(self).items()
        }

    @classmethod
    def from_dict(cls, value: Mapping[str, Any]) -> Point:
        """Read what :meth:`to_dict` made."""
        return cls(
            scores=np.array(value["scores"]),
            logps=np.array(value["logps"]),
            base_logps=np.array(value["base_logps"]),
            lengths=np.array(value["lengths"]),
            truncated=np.array(value["truncated"]),
            collapsed=np.array(value["collapsed"]),
            conflict=np.array(value.get("conflict", np.zeros_like(value["lengths"]))),
            responses=value["responses"],
            seconds=value["seconds"],
        )


@dataclass(frozen=True, eq=False)
class Evaluation:
    """One policy at N preferences on P held-out prompts.

    Attributes:
        name: of the policy.
        objectives: M names.
        preferences: N preferences asked for.
        used: the preferences really served (anchors snap).
        prompts: P ids.
        points: one a preference.
    """

    name: str
    objectives: tuple[str, ...]
    preferences: list[Preference]
    used: list[Preference]
    prompts: tuple[str, ...]
    points: list[Point]

    @property
    def front(self) -> Front:
        """Mean scores ``[N, P, M]`` over the samples of each prompt."""
        weights = np.stack([preference.over(self.objectives).array() for preference in self.preferences])
        return Front(
            self.name,
            self.objectives,
            weights,
            np.stack([point.scores.mean(1) for point in self.points]),
            self.prompts,
            any(preference.extrapolated for preference in self.preferences),
        )


def evaluate(
    policy: Policy,
    preferences: Sequence[Preference],
    prompts: Sequence[Prompt],
    prompt_ids: Sequence[str],
    scorers: Sequence[Scorer],
    sampling: Sampling,
    samples: int = 1,
    seed: int = 0,
    cache: ScoreCache | None = None,
    known: dict[str, Point] | None = None,
    team: ProcessGroup = ProcessGroup(),  # noqa: B008 - it is frozen
    draw: Draw | None = None,
) -> Evaluation:
    """Sample every prompt at every preference in common batches, and judge the answers.

    Sample s of prompt p has the same random numbers at every preference and for every policy, so differences between
    policies are not differences of luck.

    Args:
        policy: what is judged.
        preferences: N preferences.
        prompts: P held-out conversations.
        prompt_ids: their P ids, by which fronts are matched.
        scorers: one an objective, in any order.
        sampling: length, temperature, top-p.
        samples: S, responses a prompt and preference.
        seed: of the sampling.
        cache: of scores, by content.
        known: points judged before on the same prompts and settings, by what the policy computes there; new ones are
            added. Two methods that share a model at some preference then share its answers.
        team: the processes that divide the rows among them; all must call this alike.
        draw: makes the responses in place of the policy; all processes call it.

    Raises:
        DataError: no prompt, or objectives without a scorer.
    """
    if not prompts:
        raise DataError("no held-out prompt to evaluate on; enlarge the test split")
    by_objective = {scorer.objective: scorer for scorer in scorers}
    lacking = [objective for objective in policy.objectives if objective not in by_objective]
    if lacking:
        raise DataError(
            f"no scorer for the objective {lacking[0]!r}; the front cannot be measured without one"
        )
    known = {} if known is None else known
    keys = [policy.effective(preference) for preference in preferences]
    todo = {
        key: preference
        for key, preference in reversed(list(zip(keys, preferences, strict=True)))
        if key not in known
    }
    if todo:
        ordered = [by_objective[objective] for objective in policy.objectives]
        points = _judge_points(
            policy, list(todo.values()), prompts, ordered, sampling, samples, seed, cache, team, draw
        )
        known.update(zip(todo, points, strict=True))
    return Evaluation(
        policy.name,
        policy.objectives,
        list(preferences),
        policy.used(preferences),
        tuple(prompt_ids),
        [known[key] for key in keys],
    )


def _judge_points(
    policy: Policy,
    preferences: Sequence[Preference],
    prompts: Sequence[Prompt],
    scorers: Sequence[Scorer],
    sampling: Sampling,
    samples: int,
    seed: int,
    cache: ScoreCache | None,
    team: ProcessGroup,
    draw: Draw | None,
) -> list[Point]:
    """Sample and judge at each preference; every row of the common batches follows its own."""
    start = time.perf_counter()
    N, P, S = len(preferences), len(prompts), samples
    rows = [(n, p, s) for n in range(N) for p in range(P) for s in range(S)]
    asked = [prompts[p] for _, p, _ in rows]
    per_row = [preferences[n] for n, _, _ in rows]
    seeds = [seed + p * S + s for _, p, s in rows]
    if draw is None:
        responses = team.divide(lambda a, w, s: policy.generate(a, w, sampling, s), asked, per_row, seeds)
    else:
        responses = draw(asked, per_row, sampling, seeds)
    texts, truncated = [r.text for r in responses], [r.truncated for r in responses]
    scores = team.once(
        lambda: np.stack([score_texts(scorer, asked, texts, truncated, cache) for scorer in scorers], axis=1)
    )
    base_logps = _base_logps(policy.lm, asked, responses, team)
    # The same numbers, not the same up to rounding: the base model is at no distance from itself.
    logps = base_logps if policy.mix == "base" else np.array([response.logp for response in responses])
    columns = {
        "scores": scores,
        "logps": logps,
        "base_logps": base_logps,
        "lengths": np.array([len(r.tokens) for r in responses]),
        "truncated": np.array(truncated),
        "collapsed": np.array([is_collapsed(r.tokens) for r in responses]),
        "conflict": np.array([-sum(r.normalisers) / len(r.tokens) for r in responses]),
    }
    shaped = {name: values.reshape(N, P, S, *values.shape[1:]) for name, values in columns.items()}
    answers = np.array(texts, dtype=object).reshape(N, P, S).tolist()
    seconds = (time.perf_counter() - start) / N
    return [
        Point(**{name: values[n] for name, values in shaped.items()}, responses=answers[n], seconds=seconds)
        for n in range(N)
    ]


def _base_logps(
    lm: LanguageModel, prompts: Sequence[Prompt], responses: Sequence[Response], team: ProcessGroup
) -> np.ndarray:
    """Return the log-probabilities of the responses under the base model, in nats ``[B]``; equal prompts are read once."""
    rows: dict[Prompt, list[int]] = {}
    for row, prompt in enumerate(prompts):
        rows.setdefault(prompt, []).append(row)
    shared = [
        (prompt, mine[i : i + TOGETHER])
        for prompt, mine in rows.items()
        for i in range(0, len(mine), TOGETHER)
    ]
    groups: list[TokenGroup] = [
        (lm.encode_prompt(prompt), [responses[row].tokens for row in mine]) for prompt, mine in shared
    ]
    values = np.empty(len(responses))
    for (_, mine), found in zip(shared, response_logps(lm, groups, team=team), strict=True):
        values[mine] = found.numpy()
    return values
