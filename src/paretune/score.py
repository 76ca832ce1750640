"""Scorers: anything that rates a response to a prompt for one objective, higher is better.

A scorer that fails raises ScoreError; it never returns a stand-in value. Raw scores are stored in the data
set as the scorer gave them; ``Standardisation`` is fixed once on the reference policy's responses and kept
apart from them.
"""

from __future__ import annotations

import functools
import inspect
from array import array
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

import numpy as np

from paretune import bt, encode
from paretune.dataset import ScoredDataset
from paretune.errors import ConfigError, ScoreError, suggest
from paretune.files import fingerprint
from paretune.progress import progress
from paretune.rows import Prompt
from paretune.rules import (
    FunctionScorer,
    RowScoreError,
    checked,
    choice,
    from_function,
    python_function,
    rule_length,
    rule_readability,
    rule_regex,
    rule_sentiment,
    sign_of,
)
from paretune.score_cache import ScoreCache

if TYPE_CHECKING:
    from paretune.lm import LanguageModel

_ROWS_PER_CALL = 512  # scored and cached together: what a killed run loses at most


class Scorer(Protocol):
    """Rates responses for one objective, each row by itself."""

    @property
    def objective(self) -> str:
        """The objective's name."""

    @property
    def fingerprint(self) -> str:
        """Identifies rule, parameters and weights: equal fingerprints promise equal scores."""

    def __call__(
        self, prompts: Sequence[Prompt], responses: Sequence[str], truncated: Sequence[bool]
    ) -> np.ndarray:
        """Return [n] finite float64, higher is better, or raise ScoreError."""


def sequence_classifier(
    objective: str,
    name_or_folder: str,
    index: int = 0,
    direction: str = "higher",
    batch_size: int = 16,
    max_length: int | None = None,
    device: str | None = None,
) -> FunctionScorer:
    """Score with logit ``index`` of a sequence-classification model, negated for direction "lower".

    The model (folder or hub name, safetensors) is loaded at the first call that needs it; see
    ``encode.rewards`` for the text it reads. The scores do not depend on ``batch_size`` or on the order of
    the rows (up to rounding).

    Raises:
        ModelError: no such model, or it has no trained head.
    """
    sign = sign_of(direction)
    length = 1 if max_length is None else max_length
    for name, value, least in (("index", index, 0), ("batch_size", batch_size, 1), ("max_length", length, 1)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ConfigError(f"{name}: {value!r}: expected a whole number of at least {least}")
    folder = encode.locate(name_or_folder)

    @functools.cache
    def loaded() -> encode.Frozen:
        return encode.load_classifier(folder, device)

    def function(
        prompts: Sequence[Prompt], responses: Sequence[str], truncated: Sequence[bool]
    ) -> np.ndarray:
        return sign * encode.rewards(loaded(), prompts, responses, index, batch_size, max_length)

    identity = ["classifier", encode.content_fingerprint(folder), index, direction, max_length]
    return from_function(objective, fingerprint(identity), function)


def bradley_terry(
    objective: str, folder: str, batch_size: int = 32, device: str | None = None
) -> FunctionScorer:
    """Score with a head fitted by ``bt.fit_head``: the log-odds scale of the Bradley-Terry model.

    Raises:
        ModelError: the folder holds no head, or its encoder is gone or has other weights.
    """
    head = bt.load_head(folder)

    @functools.cache
    def loaded() -> encode.Frozen:
        return bt.load_encoder_of(head, device)

    def function(
        prompts: Sequence[Prompt], responses: Sequence[str], truncated: Sequence[bool]
    ) -> np.ndarray:
        return bt.features(loaded(), prompts, responses, batch_size).astype(np.float64) @ head.weight

    identity = ["head", head.report.encoder_fingerprint, head.weight.tolist()]
    return from_function(objective, fingerprint(identity), function)


def implicit_reward(
    objective: str,
    folder: str,
    base: str = "smollm2-135m",
    beta: float | None = None,
    dtype: str = "auto",
    device: str | None = None,
) -> FunctionScorer:
    """Score with the reward that a preference-trained adapter implies: beta (log pi - log pi_ref), in units of reward.

    The log-probabilities are sums over the response's tokens, end of turn included unless it was cut (Rafailov et al.
    2023, arXiv 2305.18290, Eq. 5; the prompt's constant is left out, so scores compare responses to one prompt).

    Args:
        objective: name of what is rated.
        folder: an adapter written by a run, such as ``RUN/adapters/dpo-warm/adapter``.
        base: the base model it was trained on.
        beta: strength of the KL penalty it was trained with; by default the one stored with it.
        dtype, device: as in ``paretune.lm.load``.

    Raises:
        ModelError: no such adapter, or one of another base model.
        ConfigError: beta is neither given nor stored.
    """
    from paretune.adapter import Adapter

    adapter = Adapter.load(folder)
    stored = adapter.info.get("beta")
    strength = beta if beta is not None else stored
    if isinstance(strength, bool) or not isinstance(strength, (int, float)) or not strength > 0:
        raise ConfigError(f"beta: {strength!r}: expected a number above 0, as {folder} was trained with")

    @functools.cache
    def loaded() -> LanguageModel:
        from paretune.lm import load

        return load(base, dtype, device)

    def function(
        prompts: Sequence[Prompt], responses: Sequence[str], truncated: Sequence[bool]
    ) -> np.ndarray:
        from paretune.generate import attached, response_logps

        lm = loaded()
        groups = [
            (lm.encode_prompt(prompt), [lm.encode_response(response, cut)])
            for prompt, response, cut in zip(prompts, responses, truncated, strict=True)
        ]
        reference = response_logps(lm, groups)
        with attached(lm, adapter) as steering:
            policy = response_logps(lm, groups, steering, adapter.gates())
        ratios = [float(p[0]) - float(r[0]) for p, r in zip(policy, reference, strict=True)]
        return strength * np.array(ratios, dtype=np.float64)

    identity = ["implicit", adapter.fingerprint, adapter.base, float(strength), dtype]
    return from_function(objective, fingerprint(identity), function)


RULES: dict[str, Callable[..., FunctionScorer]] = {
    "length": rule_length,
    "sentiment": rule_sentiment,
    "readability": rule_readability,
    "regex": rule_regex,
}
KINDS: dict[str, Callable[..., FunctionScorer]] = {
    "model": sequence_classifier,
    "head": bradley_terry,
    "implicit": implicit_reward,
    "function": python_function,
}


def build(spec: Mapping[str, Any]) -> FunctionScorer:
    """Make a scorer from a configuration: ``objective``, one of rule/model/head/implicit/function, and its options.

    Example: ``build({"objective": "concise", "rule": "length", "unit": "words"})``.

    Raises:
        ConfigError: unknown key or value (the nearest name is given), a missing one, or not exactly one kind.
    """
    kinds = [kind for kind in ("rule", *KINDS) if kind in spec]
    objective = spec.get("objective")
    if not isinstance(objective, str) or not objective:
        raise ConfigError(f"scorer {dict(spec)}: expected 'objective', the name of what it rates")
    if len(kinds) != 1:
        raise ConfigError(
            f"scorer of {objective!r}: expected exactly one of rule, {', '.join(KINDS)}; "
            f"got {', '.join(kinds) or 'none'}"
        )
    kind = kinds[0]
    subject = spec[kind]
    if kind == "rule":
        make = RULES[choice(f"scorer of {objective!r}: rule", subject, RULES)]
        given: tuple[object, ...] = (objective,)
    else:
        make = KINDS[kind]
        given = (objective, subject)
        if not isinstance(subject, str) or not subject:
            raise ConfigError(f"scorer of {objective!r}: {kind}: {subject!r}: expected a name")
    options = {k: v for k, v in spec.items() if k not in ("objective", kind)}
    parameters = list(inspect.signature(make).parameters.values())[len(given) :]
    for key in options:
        if key not in (names := [p.name for p in parameters]):
            raise ConfigError(
                f"scorer of {objective!r}: unknown key {key!r}: {suggest(key, ['objective', kind, *names])}"
            )
    for parameter in parameters:
        if parameter.default is parameter.empty and parameter.name not in options:
            raise ConfigError(f"scorer of {objective!r}: {subject} needs the key {parameter.name!r}")
    try:
        return make(*given, **options)
    except ConfigError as error:
        raise ConfigError(f"scorer of {objective!r}: {error}") from error


# Scoring


def score_texts(
    scorer: Scorer,
    prompts: Sequence[Prompt],
    responses: Sequence[str],
    truncated: Sequence[bool] | None = None,
    cache: ScoreCache | None = None,
    sources: Sequence[str] | None = None,
) -> np.ndarray:
    """Return the scorer's raw scores [n] float64, each different (prompt, response, truncated) scored once.

    ``truncated``: the response was cut by the token limit (default: none was). ``sources`` name the rows in
    errors.

    Raises:
        ScoreError: the scorer failed; names the objective and the row. What was scored before is in the
        cache.
    """
    count = len(responses)
    truncated = [False] * count if truncated is None else truncated
    if len(prompts) != count or len(truncated) != count or (sources is not None and len(sources) != count):
        raise ScoreError(
            f"objective {scorer.objective!r}: {len(prompts)} prompts, {count} responses, {len(truncated)} "
            f"truncation marks, {'no' if sources is None else len(sources)} sources; expected equally many"
        )
    keys = [
        fingerprint(scorer.fingerprint, [[m.role, m.content] for m in p], r, bool(t))
        for p, r, t in zip(prompts, responses, truncated, strict=True)
    ]
    known = cache.get(sorted(set(keys))) if cache is not None and count else {}
    first = {key: i for i, key in reversed(list(enumerate(keys))) if key not in known}
    todo = sorted(first.values())
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
            new = {keys[i]: float(s) for i, s in zip(rows, scores, strict=True)}
            if cache is not None:
                cache.put(new)
            known.update(new)
            advance(len(rows))
    return np.array([known[key] for key in keys], dtype=np.float64)


def score_dataset(
    dataset: ScoredDataset, scorers: Sequence[Scorer], cache: ScoreCache | None = None
) -> ScoredDataset:
    """Return the data set with every scorer's raw scores of every response; old scores of its name go.

    Raises:
        ScoreError: two scorers for one objective, or a scorer failed (the row is named).
    """
    names = [scorer.objective for scorer in scorers]
    if len(set(names)) != len(names):
        raise ScoreError(
            f"scorers for {', '.join(names)}: expected one an objective; rename or drop the repeated one"
        )
    flat = [
        (row.prompt, text, cut, f"{row.source or f'row {number}'}, response {k}")
        for number, row in enumerate(dataset.rows)
        for k, (text, cut) in enumerate(zip(row.responses, row.truncated, strict=True))
    ]
    prompts, responses = [item[0] for item in flat], [item[1] for item in flat]
    truncated, sources = [item[2] for item in flat], [item[3] for item in flat]
    for scorer in scorers:
        scores = iter(score_texts(scorer, prompts, responses, truncated, cache, sources).tolist())
        dataset = dataset.with_scores(
            scorer.objective, [[next(scores) for _ in row.responses] for row in dataset.rows]
        )
    return dataset


# Standardisation


@dataclass(frozen=True, eq=False)
class Standardisation:
    """Mean and deviation of each objective's raw scores on the reference policy's responses, fixed once."""

    objectives: tuple[str, ...]
    mean: np.ndarray  # [M]
    std: np.ndarray  # [M], positive; of the responses given, without Bessel's correction

    @classmethod
    def of(cls, dataset: ScoredDataset) -> Standardisation:
        """Measure a data set of reference responses, every one scored for every objective.

        Raises:
            ScoreError: a score is missing (the row is named), or an objective does not vary.
        """
        kept, responses = array("d"), 0
        for row in dataset.rows:
            scores = dataset.matrix(row)
            missing = np.argwhere(np.isnan(scores))
            if missing.size:
                k, m = missing[0]
                raise ScoreError(
                    f"{row.source or row.key}, response {k}: no score for {dataset.objectives[m]!r}; "
                    "the standardisation needs every reference response scored"
                )
            kept.frombytes(scores.tobytes())
            responses += len(scores)
        if not responses:
            raise ScoreError(
                "standardisation: the data set has no responses; sample the reference policy first"
            )
        stacked = np.asarray(kept).reshape(responses, len(dataset.objectives))
        mean, std = stacked.mean(axis=0), stacked.std(axis=0)
        for m, name in enumerate(dataset.objectives):
            if std[m] <= 1e-12 * np.abs(stacked[:, m]).max():
                raise ScoreError(
                    f"objective {name!r}: all {len(stacked)} reference responses score {mean[m]:g}; a "
                    "constant score cannot be standardised: check the scorer, or sample more varied responses"
                )
        return cls(dataset.objectives, mean, std)

    def apply(self, scores: np.ndarray) -> np.ndarray:
        """Return (scores - mean) / std for raw scores [..., M]; NaN stays NaN."""
        scores = np.asarray(scores, dtype=np.float64)
        if scores.ndim == 0 or scores.shape[-1] != len(self.objectives):
            raise ScoreError(
                f"scores of shape {scores.shape}: expected [..., {len(self.objectives)}], one an objective"
            )
        return (scores - self.mean) / self.std

    def to_dict(self) -> dict[str, Any]:
        """Return JSON-able values; ``from_dict`` restores them exactly."""
        return {"objectives": list(self.objectives), "mean": self.mean.tolist(), "std": self.std.tolist()}

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Standardisation:
        """Restore what ``to_dict`` gave."""
        try:
            objectives = tuple(str(o) for o in values["objectives"])
            mean, std = (np.array(values[key], dtype=np.float64) for key in ("mean", "std"))
        except (KeyError, TypeError, ValueError) as error:
            raise ConfigError(
                f"standardisation {dict(values)}: expected objectives, mean and std ({error})"
            ) from error
        if (
            mean.shape != (len(objectives),)
            or std.shape != mean.shape
            or not (np.isfinite(mean).all() and (std > 0).all())
        ):
            raise ConfigError(
                f"standardisation {dict(values)}: expected one finite mean and positive std an objective"
            )
        return cls(objectives, mean, std)
