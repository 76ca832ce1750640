"""Preferences and scores written into prompts, as Rewards-in-Context reads them (Yang et al. 2024, arXiv 2402.10207).

In training a prompt carries the scores that its response obtained, in use the scores that a preference asks for. Scores are
standardised: their unit is the standard deviation over the offline responses, and higher is better.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import cached_property
from typing import Any, Literal, get_args

import numpy as np

from paretune.core.errors import ConfigError, DataError, PreferenceError, TrainingError, suggest
from paretune.core.preference import Preference
from paretune.data.rows import Prompt
from paretune.fronts.indicators import layers

Map = Literal["l2", "linf", "linear", "lambda"]
"""A map from weights to places in the range of scores, see :func:`places`."""
Form = Literal["digits", "levels", "tokens"]
"""The form of written scores: ``<rm1_score> 1.2`` as in the paper, ``<helpful: 7/10>`` as text, or the latter as one token."""
Reference = Literal["data", "gaussian"]
"""The range that preferences span: that of the offline scores, or the extremes of normal draws as in the released code."""
Filter = Literal["released", "pareto"]
"""The rule by which the online stage selects responses to train on, see :func:`mors`."""

SEPARATOR = "  "
"""The text between the prompt and the first tag: two spaces, as released."""
LEVELS = 10
"""The highest level of the forms ``levels`` and ``tokens``; the lowest is 0."""
SERVED_DRAWS = 50_000
"""The number of normal draws whose extremes are the range at inference in the released code."""
GOAL_DRAWS = 100_000
"""The number of normal draws whose extremes are the range of goals in the released code."""

_CONSTANT = 1e-12  # a deviation below this share of the largest score is rounding


@dataclass(frozen=True)
class Prompting:
    """The rule by which a preference becomes tags in the prompt: all that serving needs beside the adapter, as JSON values.

    Attributes:
        objectives: M names, in the order of the tags.
        mean, std: Mean and deviation of the raw offline scores (without Bessel's correction); a deviation of 0 makes every score
            0.
        low, high: The range onto which places in [0, 1] are stretched, in standardised units.
        least, most: The observed range of the offline scores, which no wanted score leaves.
        map: The map from weights to places, see :func:`places`.
        lam: Lambda of the map ``lambda``, above 1.
        floor: The smallest place; 0 asks for the worst score of an objective without weight.
        form: The form of the tags.
        decimals: The decimals of numbers in the form ``digits``.

    Raises:
        ConfigError: There are not M numbers for M objectives, a range is empty, or a value is out of its range.
    """

    objectives: tuple[str, ...]
    mean: tuple[float, ...]
    std: tuple[float, ...]
    low: tuple[float, ...]
    high: tuple[float, ...]
    least: tuple[float, ...]
    most: tuple[float, ...]
    map: Map = "l2"
    lam: float = 2.0
    floor: float = 0.0
    form: Form = "digits"
    decimals: int = 1

    def __post_init__(self) -> None:
        object.__setattr__(self, "objectives", tuple(self.objectives))
        for name in ("mean", "std", "low", "high", "least", "most"):
            values = tuple(float(value) for value in getattr(self, name))
            if len(values) != len(self.objectives) or not all(map(math.isfinite, values)):
                raise ConfigError(
                    f"prompting: {name} {list(values)}; expected a finite number for each of {', '.join(self.objectives)}"
                )
            object.__setattr__(self, name, values)
        if min(self.std, default=0.0) < 0:
            raise ConfigError(f"prompting: std {list(self.std)}; expected numbers of at least 0")
        for least, most in ((self.low, self.high), (self.least, self.most)):
            if any(a > b for a, b in zip(least, most, strict=True)):
                raise ConfigError(
                    f"prompting: the range from {list(least)} to {list(most)} is empty; expected low <= high"
                )
        check_asking(self.map, self.lam, self.floor, self.form)
        if not 0 <= self.decimals <= 6:
            raise ConfigError(f"prompting: decimals {self.decimals!r}; expected a number from 0 to 6")

    @classmethod
    def of(
        cls,
        objectives: Sequence[str],
        scores: np.ndarray,
        reference: Reference = "data",
        seed: int = 0,
        *,
        map: Map = "l2",
        lam: float = 2.0,
        floor: float = 0.0,
        form: Form = "digits",
    ) -> Prompting:
        """Make the rule from raw offline scores ``[N, M]``; ``seed`` is for the ``gaussian`` reference.

        Raises:
            TrainingError: There is no score, or one is not finite.
            ConfigError: A setting is out of its range.
        """
        raw = _finite(scores)
        mean, std = raw.mean(axis=0), raw.std(axis=0)
        std[std <= _CONSTANT * np.abs(raw).max(axis=0)] = 0.0
        if reference not in get_args(Reference):
            raise ConfigError(
                f"unknown reference {reference!r}; {suggest(str(reference), get_args(Reference))}"
            )
        zero = (0.0,) * len(objectives)
        made = cls(
            tuple(objectives), tuple(mean), tuple(std), zero, zero, zero, zero, map, lam, floor, "digits"
        )
        # The extremes of what prompts show, so that rounding a wanted score never leaves the range.
        shown = np.array([made.shown(row) for row in made.standardise(raw)])
        least, most = tuple(shown.min(axis=0)), tuple(shown.max(axis=0))
        low, high = least, most
        if reference == "gaussian":
            drawn = gaussian_range(len(objectives), SERVED_DRAWS, seed)
            low, high = tuple(drawn[0]), tuple(drawn[1])
        return replace(made, low=low, high=high, least=least, most=most, form=form)

    def to_dict(self) -> dict[str, Any]:
        """Return JSON values; :meth:`from_dict` restores them exactly."""
        return {
            name: list(value) if isinstance(value, tuple) else value for name, value in asdict(self).items()
        }

    @classmethod
    def from_dict(cls, values: Mapping[str, Any]) -> Prompting:
        """Read what :meth:`to_dict` returned.

        Raises:
            ConfigError: A key is missing or unknown, or a value is refused.
        """
        try:
            return cls(**values)
        except ConfigError:
            raise
        except (TypeError, ValueError) as error:
            raise ConfigError(f"prompting {dict(values)}: not what to_dict writes ({error})") from error

    @property
    def inert(self) -> tuple[str, ...]:
        """The objectives of which only one score can be requested, so that their weights change nothing by themselves."""
        return tuple(
            name for name, a, b in zip(self.objectives, self.least, self.most, strict=True) if a == b
        )

    @property
    def tags(self) -> tuple[str, ...]:
        """The texts that the model reads as one token each, by objective and then level; only in the form ``tokens``."""
        if self.form != "tokens":
            return ()
        return tuple(_tag(name, level) for name in self.objectives for level in range(LEVELS + 1))

    def standardise(self, scores: np.ndarray) -> np.ndarray:
        """Return (scores - mean) / std for raw scores ``[..., M]``, 0 where std is 0; NaN stays NaN."""
        raw = np.asarray(scores, dtype=np.float64)
        if raw.ndim == 0 or raw.shape[-1] != len(self.objectives):
            raise DataError(
                f"scores of shape {list(raw.shape)}; expected [..., {len(self.objectives)}], one per objective"
            )
        std = np.array(self.std)
        centred = np.where(std > 0, raw - np.array(self.mean), np.where(np.isnan(raw), np.nan, 0.0))
        return centred / np.where(std > 0, std, 1.0)

    def shown(self, values: Sequence[float] | np.ndarray) -> tuple[float, ...]:
        """Return standardised scores ``[M]`` as a prompt shows them: rounded, or at the nearest level; never -0.0."""
        return tuple(self._number(m, mark) for m, mark in enumerate(self._marks(values)))

    def targets(self, preference: Preference) -> tuple[float, ...]:
        """Return the M scores that a preference asks for, standardised, as the prompt shows them.

        Raises:
            PreferenceError: An objective is unknown, or a weight is negative.
        """
        asked = preference.over(self.objectives)
        if asked.extrapolated:
            raise PreferenceError(
                f"{asked} has a negative weight, and no score stands for it in a prompt; give weights of at least 0 (a soup or "
                "Panacea can extrapolate)"
            )
        z = np.maximum(places(asked.array(), self.map, self.lam), self.floor)
        wanted = (1 - z) * np.array(self.low) + z * np.array(self.high)
        return self.shown(np.clip(wanted, self.least, self.most))

    def prompt(self, prompt: Prompt, values: Sequence[float] | np.ndarray) -> Prompt:
        """Return ``prompt`` with standardised scores ``[M]`` as tags at the end of its last user turn.

        Raises:
            DataError: The prompt holds a tag already, or the scores are not M finite numbers.
        """
        for message in prompt:
            if tag := self._any_tag.search(message.content):
                raise DataError(
                    f"the prompt already holds the tag {tag[0]!r}, which stands for wanted scores; remove it, or write it "
                    "otherwise"
                )
        return with_last_turn(prompt, lambda text: text + self._text(values))

    def read(self, text: str) -> tuple[float, ...]:
        """Return the M scores that the tags at the end of ``text`` show.

        Raises:
            DataError: ``text`` does not end with the tags of these objectives.
        """
        match = self._tags.search(text)
        if match is None:
            raise DataError(f"{text[-60:]!r} does not end with tags such as {self._text(self.most)!r}")
        return tuple(self._number(m, mark) for m, mark in enumerate(match.groups()))

    def strip(self, prompt: Prompt) -> Prompt:
        """Return the prompt that :meth:`prompt` was given, byte for byte.

        Raises:
            DataError: The last user turn does not end with the tags.
        """

        def without(text: str) -> str:
            self.read(text)
            return self._tags.sub("", text)

        return with_last_turn(prompt, without)

    # A mark is the text of one score: "1.2", or "7".

    def _marks(self, values: Sequence[float] | np.ndarray) -> list[str]:
        numbers = [float(value) for value in values]
        if len(numbers) != len(self.objectives) or not all(map(math.isfinite, numbers)):
            raise DataError(
                f"scores {numbers}; expected a finite one for each of {', '.join(self.objectives)}"
            )
        if self.form == "digits":
            # Adding 0.0 turns -0.0, which would print its sign, into 0.0.
            return [f"{round(number, self.decimals) + 0.0:.{self.decimals}f}" for number in numbers]
        return [str(self._level(m, number)) for m, number in enumerate(numbers)]

    def _level(self, m: int, number: float) -> int:
        width = self.high[m] - self.low[m]
        share = (number - self.low[m]) / width if width > 0 else 1.0
        return round(LEVELS * min(max(share, 0.0), 1.0))

    def _number(self, m: int, mark: str) -> float:
        if self.form == "digits":
            return float(mark)
        share = int(mark) / LEVELS
        return (1 - share) * self.low[m] + share * self.high[m] + 0.0

    def _text(self, values: Sequence[float] | np.ndarray) -> str:
        marks = self._marks(values)
        if self.form == "digits":
            return SEPARATOR + " ".join(f"<rm{m}_score> {mark}" for m, mark in enumerate(marks, 1))
        return SEPARATOR + " ".join(
            _tag(name, mark) for name, mark in zip(self.objectives, marks, strict=True)
        )

    @cached_property
    def _tags(self) -> re.Pattern[str]:
        if self.form == "digits":
            digits = rf"\.\d{{{self.decimals}}}" if self.decimals else ""
            tags = [rf"<rm{m}_score> (-?\d+{digits})" for m in range(1, len(self.objectives) + 1)]
        else:
            tags = [rf"<{re.escape(name)}: (\d+)/{LEVELS}>" for name in self.objectives]
        return re.compile(SEPARATOR + " ".join(tags) + r"\Z")

    @cached_property
    def _any_tag(self) -> re.Pattern[str]:
        if self.form == "digits":
            return re.compile(r"<rm\d+_score>")
        return re.compile(rf"<(?:{'|'.join(map(re.escape, self.objectives))}): \d+/{LEVELS}>")


def _tag(name: str, level: str | int) -> str:
    return f"<{name}: {level}/{LEVELS}>"


def check_asking(map: Map, lam: float, floor: float, form: Form) -> None:
    """Check the settings of :class:`Prompting` that a user chooses.

    Raises:
        ConfigError: A name is unknown, or a number is out of its range.
    """
    for name, value, kind in (("map", map, Map), ("form", form, Form)):
        if value not in get_args(kind):
            raise ConfigError(f"unknown {name} {value!r}; {suggest(str(value), get_args(kind))}")
    if not (lam > 1 and math.isfinite(lam)):
        raise ConfigError(f"lam must be a finite number above 1, got {lam!r}")
    if not 0 <= floor <= 1:
        raise ConfigError(f"floor is a place between 0 and 1, got {floor!r}")


def places(weights: np.ndarray, map: Map = "l2", lam: float = 2.0) -> np.ndarray:
    """Return the places z ``[..., M]`` in [0, 1] of the wanted scores in their ranges, 1 the best, from weights ``[..., M]``.

    ``l2`` is w / ||w||_2, as in the released evaluation. ``linf`` is min(M w, 1), and 1 for the largest. ``linear`` is w.
    ``lambda`` is argmax of <w, z> over ||z||_lambda <= 1, z >= 0, which is w_i^(1/(lambda-1)) / ||w^(1/(lambda-1))||_lambda
    (ours; lambda 2 is ``l2``, and towards 1 it becomes one-hot). Weights are divided by their sum first.

    Raises:
        PreferenceError: A weight is negative or not finite, or all are 0.
        ConfigError: The map is unknown, or lambda is not above 1.

    >>> places(np.array([0.6, 0.2, 0.2]), "linf").round(3).tolist()
    [1.0, 0.6, 0.6]
    """
    check_asking(map, lam, 0.0, "digits")
    w = np.asarray(weights, dtype=np.float64)
    if w.ndim == 0 or not (np.isfinite(w).all() and (w >= 0).all() and (w.max(axis=-1, initial=0) > 0).all()):
        raise PreferenceError(f"weights {w.tolist()}; expected numbers of at least 0, not all of them 0")
    top = w.max(axis=-1, keepdims=True)
    relative = w / top  # keeps powers of small weights finite
    share = relative / relative.sum(axis=-1, keepdims=True)
    if map == "linear":
        return share
    if map == "linf":
        return np.where(w == top, 1.0, np.minimum(w.shape[-1] * share, 1.0))
    power = 2.0 if map == "l2" else lam
    bent = relative ** (1.0 / (power - 1.0))
    return bent / (bent**power).sum(axis=-1, keepdims=True) ** (1.0 / power)


def gaussian_range(num_objectives: int, draws: int, seed: int) -> tuple[np.ndarray, np.ndarray]:
    """Return the extremes ``[M]`` and ``[M]`` of standard normal draws, as the released code does (they move with the seed)."""
    drawn = np.random.default_rng(seed % 2**32).standard_normal((draws, num_objectives))
    return drawn.min(axis=0), drawn.max(axis=0)


def goals(
    count: int,
    low: Sequence[float] | np.ndarray,
    high: Sequence[float] | np.ndarray,
    rng: np.random.Generator,
) -> np.ndarray:
    """Draw the scores ``[N, M]`` that the online stage asks for, between ``low`` and ``high`` ``[M]``.

    Places are uniform in [0, 1], and all but the smallest of a row become 1 (arXiv 2402.10207, released code), so that one
    objective gives way in each goal. With M = 1 nothing is raised.
    """
    least, most = np.asarray(low, dtype=np.float64), np.asarray(high, dtype=np.float64)
    z = rng.random((count, len(least)))
    smallest = np.arange(len(least)) == z.argmin(axis=1)[:, None]
    z = np.where(smallest, z, 1.0)
    return (1 - z) * least + z * most


def mors(scores: np.ndarray, quantile: float = 0.7, rule: Filter = "released") -> np.ndarray:
    """Return which responses multi-objective rejection sampling keeps, as bool ``[N]``, from scores ``[N, M]``.

    ``released`` keeps those at or above the ``quantile`` of a column, in any column, with all ties at the threshold. ``pareto``
    (ours) keeps the first layers of non-dominated responses that fit into as many, at least the first.

    Raises:
        ConfigError: The rule is unknown, or the quantile is outside [0, 1).
        TrainingError: There is no score, or one is not finite (its column would silently select nothing).

    >>> mors(np.array([[0, 9], [1, 1], [9, 0], [2, 2]]), 0.7).tolist()
    [True, False, True, False]
    """
    if rule not in get_args(Filter):
        raise ConfigError(f"unknown filter {rule!r}; {suggest(str(rule), get_args(Filter))}")
    if not 0 <= quantile < 1:
        raise ConfigError(f"quantile must be at least 0 and below 1, got {quantile!r}")
    values = _finite(scores)
    kept = (values >= np.quantile(values, quantile, axis=0)).any(axis=1)
    if rule == "released":
        return kept
    rank = layers(values)
    fitting = np.searchsorted(np.bincount(rank).cumsum(), kept.sum(), side="right")
    return rank < max(1, int(fitting))


def _finite(scores: np.ndarray) -> np.ndarray:
    values = np.asarray(scores, dtype=np.float64)
    if values.ndim != 2 or not values.size:
        raise TrainingError(
            f"scores of shape {list(values.shape)}; expected [N, M] with at least one response"
        )
    if bad := int((~np.isfinite(values)).any(axis=1).sum()):
        raise TrainingError(
            f"{bad} of {len(values)} responses have a score that is missing or not finite; score them, or leave them out"
        )
    return values


def with_last_turn(prompt: Prompt, change: Callable[[str], str]) -> Prompt:
    """Return ``prompt`` with the text of its last user turn changed, or of its last message where there is no user turn."""
    users = [number for number, message in enumerate(prompt) if message.role == "user"]
    last = users[-1] if users else len(prompt) - 1
    turn = replace(prompt[last], content=change(prompt[last].content))
    return (*prompt[:last], turn, *prompt[last + 1 :])
