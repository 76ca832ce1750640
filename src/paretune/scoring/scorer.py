"""A scorer rates a response to a prompt for one objective; higher is better.

A scorer that fails raises ScoreError; it never returns a stand-in value. The data set keeps raw scores as the scorer gave
them; ``Standardisation`` is fixed once on the reference policy's responses and kept apart from them.

To add a kind of scorer, write a function in ``scoring/neural.py`` and add a line to ``KINDS``.
"""

from __future__ import annotations

import inspect
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from typing import Any, Protocol

import numpy as np

from paretune.core.errors import ConfigError, ScoreError, suggest
from paretune.core.files import fingerprint
from paretune.core.progress import progress
from paretune.core.thought import without_thought
from paretune.data.dataset import ScoredDataset
from paretune.data.rows import Prompt
from paretune.scoring.cache import ScoreCache
from paretune.scoring.endpoint_scorer import ScoringServer
from paretune.scoring.function_scorer import (
    FunctionScorer,
    RowScoreError,
    UnscoredError,
    checked,
    choice,
)
from paretune.scoring.judge import Judge
from paretune.scoring.neural import RewardModel, bradley_terry, implicit_reward, prototype
from paretune.scoring.python_function import function_name, python_function
from paretune.scoring.reward_model import reward_model
from paretune.scoring.rules import RULES

_ROWS_PER_CALL = 512  # scored and cached together; a killed run loses at most these


class Scorer(Protocol):
    """A scorer rates responses for one objective, each row by itself."""

    @property
    def objective(self) -> str:
        """Name of the objective."""

    @property
    def fingerprint(self) -> str:
        """Identity of rule, options and model weights: equal fingerprints mean equal scores."""

    @property
    def across_prompts(self) -> bool:
        """Whether scores of responses to different prompts can be compared."""

    @property
    def thinking(self) -> bool:
        """Whether it is given the thought before an answer too; else it is given the answer alone."""

    def __call__(
        self, prompts: Sequence[Prompt], responses: Sequence[str], truncated: Sequence[bool]
    ) -> np.ndarray:
        """Return ``[n]`` finite float64, higher is better, or raise a ScoreError."""


class ScorerSettings(Protocol):
    """The settings of a scorer with many of them."""

    def scorer(self) -> FunctionScorer:
        """Return the scorer."""


KINDS: dict[str, Callable[..., FunctionScorer | ScorerSettings]] = {
    "model": RewardModel,
    "head": bradley_terry,
    "reward": reward_model,
    "prototype": prototype,
    "implicit": implicit_reward,
    "function": python_function,
    "endpoint": ScoringServer,
    "judge": Judge,
}
"""Key of a config -> function, or class of settings, that makes the scorer from the objective, the key's value and the options."""
NAME_MODELS = ("endpoint", "judge")
"""Kinds with an option ``model``, which is then no kind of its own."""


def build_scorer(
    spec: Mapping[str, Any], device: str | None = None, dtype: str | None = None
) -> FunctionScorer:
    """Return the scorer of a config entry: ``objective``, ``rule`` or a key of ``KINDS``, and the options of that scorer.

    With ``thinking: true`` it scores the thought before an answer too (:mod:`paretune.core.thought`).

    Args:
        spec: The entry.
        device, dtype: Torch device and number format of its model, where it has one and the entry does not state them.

    Example: ``build_scorer({"objective": "concise", "rule": "length", "unit": "words"})``.

    Raises:
        ConfigError: A key or value is unknown (the nearest name is given), a key is missing, or there is not exactly one
            kind of scorer.
    """
    objective = checked_spec(spec)
    make, given, options = _parts(spec)
    takes = inspect.signature(make).parameters
    for key, value in (("device", device), ("dtype", dtype)):
        if value is not None and key in takes and options.get(key) is None:
            options[key] = value
    try:
        made = make(*given, **options)
        scorer = made if isinstance(made, FunctionScorer) else made.scorer()
    except ConfigError as error:
        raise ConfigError(f"scorer of {objective!r}: {error}") from error
    if not spec.get("thinking", False):
        return scorer
    return replace(scorer, thinking=True, fingerprint=fingerprint(scorer.fingerprint, "thinking"))


def checked_spec(spec: Mapping[str, Any]) -> str:
    """Return the objective of a config entry that states a scorer, checked as far as that needs no file, model or user's code.

    Raises:
        ConfigError: See :func:`build_scorer`; the options of a rule and of a server are checked whole.
    """
    kinds = kinds_of(spec)
    objective = spec.get("objective")
    if not isinstance(objective, str) or not objective:
        raise ConfigError(
            f"scorer {dict(spec)}: expected 'objective', the name of the objective that it rates"
        )
    if len(kinds) != 1:
        raise ConfigError(
            f"scorer of {objective!r}: expected exactly one of rule, {', '.join(KINDS)}; "
            f"got {', '.join(kinds) or 'none'}"
        )
    kind, subject = kinds[0], spec[kinds[0]]
    if kind == "rule":
        choice(f"scorer of {objective!r}: rule", subject, RULES)
    elif not isinstance(subject, str) or not subject:
        raise ConfigError(f"scorer of {objective!r}: {kind}: {subject!r}: expected a name")
    if not isinstance(spec.get("thinking", False), bool):
        raise ConfigError(
            f"scorer of {objective!r}: thinking: {spec['thinking']!r}: expected true or false (whether thought is scored)"
        )
    make, given, options = _parts(spec)
    parameters = list(inspect.signature(make).parameters.values())[len(given) :]
    for key in options:
        if key not in (names := [p.name for p in parameters]):
            raise ConfigError(
                f"scorer of {objective!r}: unknown key {key!r}: {suggest(str(key), ['objective', kind, 'thinking', *names])}"
            )
    for parameter in parameters:
        if parameter.default is parameter.empty and parameter.name not in options:
            raise ConfigError(f"scorer of {objective!r}: {subject} needs the key {parameter.name!r}")
    if kind in ("rule", *NAME_MODELS):  # made of its settings alone
        try:
            make(*given, **options)
        except ConfigError as error:
            raise ConfigError(f"scorer of {objective!r}: {error}") from error
    if kind == "function":
        function_name(subject)
    return objective


def kinds_of(spec: Mapping[str, Any]) -> list[str]:
    """Return the kinds of scorer that an entry states; there should be one."""
    kinds = [kind for kind in ("rule", *KINDS) if kind in spec]
    return [kind for kind in kinds if kind != "model" or not set(NAME_MODELS) & set(kinds)]


def _parts(
    spec: Mapping[str, Any],
) -> tuple[Callable[..., FunctionScorer | ScorerSettings], tuple[object, ...], dict[str, Any]]:
    """Return the function that makes the scorer of an entry, what it is given by position, and by name."""
    (kind,) = kinds_of(spec)
    options = {key: value for key, value in spec.items() if key not in ("objective", kind, "thinking")}
    if kind == "rule":
        return RULES[spec[kind]], (spec["objective"],), options
    return KINDS[kind], (spec["objective"], spec[kind]), options


# Scoring


def score_texts(
    scorer: Scorer,
    prompts: Sequence[Prompt],
    responses: Sequence[str],
    truncated: Sequence[bool] | None = None,
    cache: ScoreCache | None = None,
    sources: Sequence[str] | None = None,
    leave_out: bool = False,
) -> np.ndarray:
    """Return the scorer's raw scores ``[n]`` float64; equal rows (prompt, response, truncation) are scored once.

    What a response thinks is left out, unless the scorer wants it; of one that was cut in its thought nothing is left.

    Args:
        scorer: The scorer.
        prompts: n prompts.
        responses: n responses.
        truncated: Whether each response was cut by the token limit; by default none was.
        cache: Scores on disk, read and added to; None keeps none.
        sources: Names of the rows in errors.
        leave_out: Whether rows without a score are NaN, where the scorer's settings leave such rows out.

    Raises:
        ScoreError: The scorer failed; the message names the objective and the row. Scores before the failure are in the cache.
            Where single rows got none, all others are scored first, and the message counts them.
    """
    count = len(responses)
    truncated = [False] * count if truncated is None else truncated
    if len(prompts) != count or len(truncated) != count or (sources is not None and len(sources) != count):
        raise ScoreError(
            f"objective {scorer.objective!r}: {len(prompts)} prompts, {count} responses, {len(truncated)} "
            f"truncation marks, {'no' if sources is None else len(sources)} sources; expected equally many"
        )
    if not scorer.thinking:
        responses = [without_thought(response) for response in responses]
    keys = [
        fingerprint(scorer.fingerprint, [[m.role, m.content] for m in p], r, bool(t))
        for p, r, t in zip(prompts, responses, truncated, strict=True)
    ]
    known = cache.get(sorted(set(keys))) if cache is not None and count else {}
    first = {key: i for i, key in reversed(list(enumerate(keys))) if key not in known}
    todo = sorted(first.values())
    unscored: dict[int, str] = {}
    stopped, cure = False, ""
    with progress(f"scoring {scorer.objective}", len(todo)) as advance:
        for start in range(0, len(todo), _ROWS_PER_CALL):
            rows = todo[start : start + _ROWS_PER_CALL]
            try:
                raw = scorer(
                    [prompts[i] for i in rows],
                    [responses[i] for i in rows],
                    [bool(truncated[i]) for i in rows],
                )
                scores = checked(raw, len(rows), scorer.objective)
            except RowScoreError as error:
                i = rows[error.row]
                raise ScoreError(f"{sources[i] if sources else f'row {i}'}: {error.reason}") from error
            except UnscoredError as error:
                scores, stopped, cure = error.scores, error.final, error.cure
                unscored |= {rows[row]: reason for row, reason in error.reasons.items()}
            new = {keys[i]: float(s) for i, s in zip(rows, scores, strict=True) if not np.isnan(s)}
            if cache is not None:
                cache.put(new)
            known.update(new)
            if stopped:
                break
            advance(len(rows))
    if unscored and (stopped or not (leave_out and _leaves_out(scorer))):
        raise ScoreError(_failures(scorer.objective, unscored, len(todo), sources, cure))
    return np.array([known.get(key, np.nan) for key in keys], dtype=np.float64)


def _leaves_out(scorer: Scorer) -> bool:
    return isinstance(scorer, FunctionScorer) and scorer.leaves_out


def _failures(
    objective: str, unscored: Mapping[int, str], asked: int, sources: Sequence[str] | None, cure: str
) -> str:
    """Return the message on rows that got no score: how many, the first three, and what to do."""
    shown = "; ".join(
        f"{sources[row] if sources else f'row {row}'}: {unscored[row]}" for row in sorted(unscored)[:3]
    )
    more = f"; and {len(unscored) - 3} more" if len(unscored) > 3 else ""
    return f"objective {objective!r}: {len(unscored)} of {asked} responses got no score: {shown}{more}. The others are kept; {cure}"


def release(scorers: Sequence[Scorer | None]) -> None:
    """Give back the memory of the models of scorers; the next score loads them again."""
    for scorer in scorers:
        if isinstance(scorer, FunctionScorer):
            scorer.release()


def score_dataset(
    dataset: ScoredDataset,
    scorers: Sequence[Scorer],
    cache: ScoreCache | None = None,
    leave_out: bool = False,
) -> ScoredDataset:
    """Return the data set with each scorer's raw scores of every response, in place of older scores of its objective.

    With ``leave_out`` a response without a score is NaN, where the scorer's settings leave such rows out.

    Raises:
        ScoreError: Two scorers rate one objective, or a scorer failed (the row is named).
    """
    names = [scorer.objective for scorer in scorers]
    if len(set(names)) != len(names):
        raise ScoreError(
            f"scorers for {', '.join(names)}: expected one per objective; rename or drop the repeated one"
        )
    flat = [
        (row.prompt, text, cut, f"{row.source or f'row {number}'}, response {k}")
        for number, row in enumerate(dataset.rows)
        for k, (text, cut) in enumerate(zip(row.responses, row.truncated, strict=True))
    ]
    prompts, responses = [item[0] for item in flat], [item[1] for item in flat]
    truncated, sources = [item[2] for item in flat], [item[3] for item in flat]
    for scorer in scorers:
        scores = iter(score_texts(scorer, prompts, responses, truncated, cache, sources, leave_out).tolist())
        dataset = dataset.with_scores(
            scorer.objective, [[next(scores) for _ in row.responses] for row in dataset.rows]
        )
    return dataset
