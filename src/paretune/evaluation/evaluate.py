"""Policies judged on held-out prompts: scores, sense, and distance from the base model."""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field

import numpy as np

from paretune.core.errors import DataError
from paretune.core.preference import Preference
from paretune.core.sampling import Sampling
from paretune.data.rows import Prompt
from paretune.evaluation.judged import Evaluation, Judged
from paretune.generation.generate import Response, response_logps
from paretune.models.distributed import ProcessGroup
from paretune.models.language_model import LanguageModel
from paretune.models.packing import TokenGroup
from paretune.policies.policy import Policy, is_interpolated
from paretune.scoring.cache import ScoreCache
from paretune.scoring.repetition import is_collapsed
from paretune.scoring.scorer import Scorer, score_texts

TOGETHER = 16
"""The most answers to one prompt in a packed group: a group is never cut, so this bounds the largest forward."""


Draw = Callable[[Sequence[Prompt], Sequence[Preference], Sampling, Sequence[int]], list[Response]]
"""From B prompts, B preferences, the sampling and B seeds to B responses."""


@dataclass(frozen=True, eq=False)
class HeldOut:
    """What every policy of a run is judged on, and how.

    Sample s of prompt p has the same random numbers at every preference and for every policy, so that answers share a part of
    their luck.

    Attributes:
        prompts: P held-out conversations.
        ids: Their P ids, by which fronts are matched.
        scorers: One per objective, in any order.
        sampling: Length, temperature and top-p.
        samples: S, the number of answers to each prompt at each preference.
        seed: The seed of the sampling.
        cache: The cache of scores by content; None scores everything anew.
        team: The processes that divide the rows among them; all must call :func:`evaluate` alike.
    """

    prompts: Sequence[Prompt]
    ids: Sequence[str]
    scorers: Sequence[Scorer]
    sampling: Sampling
    samples: int = 1
    seed: int = 0
    cache: ScoreCache | None = None
    team: ProcessGroup = field(default_factory=ProcessGroup)

    def scorers_of(self, objectives: Sequence[str]) -> list[Scorer]:
        """Return the scorers in the order of the objectives.

        Raises:
            DataError: An objective has no scorer.
        """
        by_objective = {scorer.objective: scorer for scorer in self.scorers}
        for objective in objectives:
            if objective not in by_objective:
                raise DataError(
                    f"no scorer for the objective {objective!r}; the front cannot be measured without one"
                )
        return [by_objective[objective] for objective in objectives]


def evaluate(
    policy: Policy,
    preferences: Sequence[Preference],
    held_out: HeldOut,
    known: dict[str, Judged] | None = None,
    draw: Draw | None = None,
) -> Evaluation:
    """Sample every held-out prompt at every preference in common batches, and judge the answers.

    Args:
        policy: The policy that is judged.
        preferences: N preferences.
        held_out: Prompts, scorers and sampling.
        known: Points judged before on the same ``held_out``, by what the policy computes there; new ones are added. Two
            methods that share a model at some preference then share its answers.
        draw: Makes the responses in place of the policy; all processes call it.

    Raises:
        DataError: There is no prompt, or an objective has no scorer.
    """
    if not held_out.prompts:
        raise DataError("no held-out prompt to evaluate on; enlarge the test split")
    held_out.scorers_of(policy.objectives)
    known = {} if known is None else known
    keys = [policy.effective(preference) for preference in preferences]
    todo = {
        key: preference
        for key, preference in reversed(list(zip(keys, preferences, strict=True)))
        if key not in known
    }
    if todo:
        known.update(zip(todo, _judge(policy, list(todo.values()), held_out, draw), strict=True))
    return Evaluation(
        policy.name,
        policy.objectives,
        list(preferences),
        policy.used(preferences),
        tuple(held_out.ids),
        [known[key] for key in keys],
        tuple(is_interpolated(policy, preference) for preference in preferences),
    )


def _judge(
    policy: Policy, preferences: Sequence[Preference], held_out: HeldOut, draw: Draw | None
) -> list[Judged]:
    """Sample and judge at each preference; every row of the common batches follows its own."""
    start = time.perf_counter()
    N, P, S = len(preferences), len(held_out.prompts), held_out.samples
    sampling, team = held_out.sampling, held_out.team
    rows = [(n, p, s) for n in range(N) for p in range(P) for s in range(S)]
    prompts = [held_out.prompts[p] for _, p, _ in rows]
    per_row = [preferences[n] for n, _, _ in rows]
    seeds = [held_out.seed + p * S + s for _, p, s in rows]
    if draw is None:
        responses = team.divide(lambda x, w, s: policy.generate(x, w, sampling, s), prompts, per_row, seeds)
    else:
        responses = draw(prompts, per_row, sampling, seeds)
    texts, truncated = [r.text for r in responses], [r.truncated for r in responses]
    scorers, cache = held_out.scorers_of(policy.objectives), held_out.cache
    scores = team.once(
        lambda: np.stack(
            [score_texts(scorer, prompts, texts, truncated, cache, leave_out=True) for scorer in scorers],
            axis=1,
        )
    )
    base_logps = _base_logps(policy.lm, prompts, responses, team)
    # Without an update the same numbers, not the same up to rounding: the base model is at no distance from itself.
    logps = base_logps if policy.kind == "base" else np.array([response.logp for response in responses])
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
        Judged(**{name: values[n] for name, values in shaped.items()}, responses=answers[n], seconds=seconds)
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
        (prompt, numbers[i : i + TOGETHER])
        for prompt, numbers in rows.items()
        for i in range(0, len(numbers), TOGETHER)
    ]
    groups: list[TokenGroup] = [
        (lm.encode_prompt(prompt), [responses[row].tokens for row in numbers]) for prompt, numbers in shared
    ]
    values = np.empty(len(responses))
    for (_, numbers), logps in zip(shared, response_logps(lm, groups, team=team), strict=True):
        values[numbers] = logps.numpy()
    return values
