"""Scorers without a model: rules on the text, and any Python function.

A scorer that fails raises ScoreError; it never returns a stand-in value.
"""

from __future__ import annotations

import functools
import importlib
import importlib.metadata
import inspect
import math
import re
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from paretune.core.errors import ConfigError, ScoreError, suggest
from paretune.core.files import fingerprint
from paretune.data.rows import Prompt

# Formulas of textstat that need no syllable dictionary, which textstat would download; all grow with
# difficulty.
READABILITY_FORMULAS = (
    "automated_readability_index",
    "coleman_liau_index",
    "lix",
    "mcalpine_eflaw",
    "rix",
)

ScoreFunction = Callable[[Sequence[Prompt], Sequence[str], Sequence[bool]], "Sequence[float] | np.ndarray"]


class RowScoreError(ScoreError):
    """A ScoreError about one row: ``row`` counts from 0 within the call that failed."""

    def __init__(self, row: int, reason: str) -> None:
        super().__init__(f"row {row}: {reason}")
        self.row = row
        self.reason = reason


@dataclass(frozen=True, slots=True)
class FunctionScorer:
    """A scorer made of a function; what the function returns is checked."""

    objective: str
    fingerprint: str
    function: ScoreFunction

    def __call__(
        self, prompts: Sequence[Prompt], responses: Sequence[str], truncated: Sequence[bool]
    ) -> np.ndarray:
        """Return [n] finite float64, higher is better, or raise ScoreError."""
        return checked(self.function(prompts, responses, truncated), len(responses), self.objective)


def checked(values: Sequence[float] | np.ndarray, count: int, objective: str) -> np.ndarray:
    """Return a scorer's values as [count] finite float64; raises RowScoreError or ScoreError."""
    try:
        scores = np.asarray(values, dtype=np.float64)
    except (TypeError, ValueError) as error:
        raise ScoreError(
            f"objective {objective!r}: the scorer returned something that is not numbers ({error})"
        ) from error
    if scores.shape != (count,):
        raise ScoreError(
            f"objective {objective!r}: the scorer returned shape {scores.shape} for {count} responses, "
            f"expected ({count},): one number a response"
        )
    bad = np.flatnonzero(~np.isfinite(scores))
    if bad.size:
        raise RowScoreError(
            int(bad[0]),
            f"objective {objective!r}: the scorer returned {scores[bad[0]]}, expected a finite number",
        )
    return scores


def from_function(objective: str, fingerprint: str, function: ScoreFunction) -> FunctionScorer:
    """Return a scorer that calls ``function(prompts, responses, truncated) -> [n]``.

    ``fingerprint`` must change whenever the function would score differently: cached scores are found by it.
    """
    if not objective:
        raise ConfigError("a scorer needs the name of its objective, got an empty one")
    return FunctionScorer(objective, fingerprint, function)


def _rule(objective: str, parts: Sequence[object], rate: Callable[[str], float]) -> FunctionScorer:
    """A scorer that rates each response by itself with ``rate``; ``parts`` identify rule and parameters."""

    def function(
        prompts: Sequence[Prompt], responses: Sequence[str], truncated: Sequence[bool]
    ) -> list[float]:
        scores = []
        for row, response in enumerate(responses):
            try:
                scores.append(float(rate(response)))
            except ScoreError as error:
                raise RowScoreError(row, f"objective {objective!r}: {error}") from error
        return scores

    return from_function(objective, fingerprint(list(parts)), function)


def choice(name: str, given: object, options: Iterable[str]) -> str:
    """Return ``given`` if it is among ``options``, else raise ConfigError with the nearest one."""
    options = tuple(options)
    if not isinstance(given, str) or given not in options:
        raise ConfigError(f"{name}: {given!r}: {suggest(str(given), options)}")
    return given


def sign_of(direction: str) -> int:
    """Return +1 for "higher" is better, -1 for "lower"; anything else is a ConfigError."""
    return 1 if choice("direction", direction, ("higher", "lower")) == "higher" else -1


def split_sentences(text: str) -> list[str]:
    """Split a text into sentences by a fixed rule, so that scores can be recomputed anywhere.

    List markers at line starts are dropped. A sentence ends at a line break, or at ``.``, ``!``, ``?`` or an
    ellipsis (with a closing quote or bracket) before white space; abbreviations are not known. A piece
    without a letter or digit (such as a smiley) belongs to the sentence before it.
    """
    text = re.sub(r"(?m)^[ \t]*(?:[-*•]|\d+[.)])[ \t]+", "", text)
    sentences: list[str] = []
    for piece in re.split(r"(?<=[.!?…])[ \t]+|(?<=[.!?…][\"'”’)\]])[ \t]+|\s*\n\s*", text):
        piece = piece.strip()
        if not piece:
            continue
        if sentences and not re.search(r"\w", piece):
            sentences[-1] += " " + piece
        else:
            sentences.append(piece)
    return sentences


LENGTH_UNITS: dict[str, Callable[[str], int]] = {
    "words": lambda text: len(text.split()),
    "characters": len,
    "sentences": lambda text: len(split_sentences(text)),
}


def rule_length(
    objective: str, unit: str = "words", direction: str = "lower", per: float = 1.0, enough: float = 0.0
) -> FunctionScorer:
    """Score length: ``-count / per`` for direction "lower" (concise), ``count / per`` for "higher" (long).

    ``unit``: words (white-space separated), characters or sentences (``split_sentences``). ``enough``: for "lower" a
    count below it scores as this count, so that nothing is gained by saying next to nothing.
    """
    count = LENGTH_UNITS[choice("unit", unit, LENGTH_UNITS)]
    sign = sign_of(direction)
    if isinstance(per, bool) or not isinstance(per, (int, float)) or not (0 < per < math.inf):
        raise ConfigError(f"per: {per!r}: expected a positive number, the count that makes one point")
    if isinstance(enough, bool) or not isinstance(enough, (int, float)) or not (0 <= enough < math.inf):
        raise ConfigError(f"enough: {enough!r}: expected a count of at least 0")
    if enough and direction != "lower":
        raise ConfigError(
            f"enough: {enough!r} is for direction lower; {direction} rewards more at any length"
        )
    identity = ["length", unit, direction, float(per), float(enough)]
    return _rule(objective, identity, lambda text: sign * max(count(text), enough) / per)


SENTIMENT_SUMMARIES: dict[str, Callable[[Sequence[float]], float]] = {
    "sum": math.fsum,
    "mean": lambda compounds: math.fsum(compounds) / len(compounds) if compounds else 0.0,
}


def rule_sentiment(objective: str, how: str = "mean", direction: str = "higher") -> FunctionScorer:
    """Score how positive a response sounds with VADER's compound value (Hutto and Gilbert 2014, in -1..1).

    ``how``: "mean" or "sum" of the compounds of its sentences (``split_sentences``), or "compound" of the
    whole text, which saturates near 1 for long friendly texts. A text without words is neutral: 0 is its true
    value.
    """
    choice("how", how, ("compound", *SENTIMENT_SUMMARIES))
    sign = sign_of(direction)

    @functools.cache
    def analyser() -> Any:
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

        return SentimentIntensityAnalyzer()

    def compound(text: str) -> float:
        return float(analyser().polarity_scores(text)["compound"])

    def rate(text: str) -> float:
        if how == "compound":
            return sign * compound(text)
        return sign * SENTIMENT_SUMMARIES[how]([compound(sentence) for sentence in split_sentences(text)])

    version = importlib.metadata.version("vaderSentiment")
    return _rule(objective, ["sentiment", how, direction, version], rate)


def rule_readability(
    objective: str,
    formula: str = "automated_readability_index",
    direction: str = "lower",
    empty: float | None = None,
) -> FunctionScorer:
    """Score by a readability formula of textstat: minus its value for "lower" (easy), its value for "higher".

    Only formulas that run offline are offered (``READABILITY_FORMULAS``). A response without a word has no
    readability: it gets the score ``empty``, or is an error where none is given.
    """
    choice("formula", formula, READABILITY_FORMULAS)
    sign = sign_of(direction)
    if empty is not None and (
        isinstance(empty, bool) or not isinstance(empty, (int, float)) or not math.isfinite(empty)
    ):
        raise ConfigError(
            f"empty: {empty!r}: expected a finite number, the score of a response without words"
        )

    def rate(text: str) -> float:
        if not re.search(r"\w", text):
            if empty is None:
                raise ScoreError(
                    f"{text[:20]!r} has no word for {formula}; give such texts a score with the key 'empty'"
                )
            return float(empty)
        import textstat

        return sign * float(getattr(textstat, formula)(text))

    version = importlib.metadata.version("textstat")
    return _rule(objective, ["readability", formula, direction, empty, version], rate)


def rule_regex(objective: str, pattern: str, how: str = "match", direction: str = "higher") -> FunctionScorer:
    """Score by a regular expression: "match" gives 1 where it occurs and 0 elsewhere, "count" how often.

    Direction "lower" negates. Flags are written in the pattern, as in ``(?i)sorry``.
    """
    choice("how", how, ("match", "count"))
    sign = sign_of(direction)
    try:
        compiled = re.compile(pattern)
    except (re.error, TypeError) as error:
        raise ConfigError(f"pattern: {pattern!r} is not a regular expression ({error})") from error

    def rate(text: str) -> float:
        count = sum(1 for _ in compiled.finditer(text))
        return sign * (count if how == "count" else min(count, 1))

    return _rule(objective, ["regex", pattern, how, direction], rate)


def python_function(objective: str, function: str) -> FunctionScorer:
    """Score with a Python function named ``module:function`` (the working folder is searched too).

    The function receives the prompts (each a list of ``{"role", "content"}``) and the responses (list of str)
    of some rows and returns one finite float a row, higher is better, each row judged by itself. The
    fingerprint holds the module's source file: editing it makes its cached scores void, editing what it
    imports does not.

    Raises:
        ConfigError: no such module or function.
        ScoreError: when called, it raised or returned something else; names the function and the row.
    """
    call, source = _import_function(function)

    def one(prompts: Sequence[Prompt], responses: Sequence[str]) -> Any:
        return call([[{"role": m.role, "content": m.content} for m in p] for p in prompts], list(responses))

    def run(prompts: Sequence[Prompt], responses: Sequence[str], truncated: Sequence[bool]) -> np.ndarray:
        try:
            values = one(prompts, responses)
        except Exception as error:
            # The user's code may raise anything; calling it row by row finds the one to name.
            for row in range(len(responses)):
                try:
                    one(prompts[row : row + 1], responses[row : row + 1])
                except Exception as again:
                    raise RowScoreError(row, _failure(function, again)) from again
            raise ScoreError(
                f"{_failure(function, error)} (on {len(responses)} rows together, on none alone)"
            ) from error
        try:
            return checked(values, len(responses), objective)
        except RowScoreError as error:
            raise RowScoreError(error.row, f"function {function!r}: {error.reason}") from error
        except ScoreError as error:
            raise ScoreError(f"function {function!r}: {error}") from error

    return from_function(objective, fingerprint(["function", function], source), run)


def _failure(function: str, error: Exception) -> str:
    return f"function {function!r} raised {type(error).__name__}: {error}"


def _import_function(name: str) -> tuple[Callable[..., Any], bytes]:
    module_name, separator, attribute = name.partition(":")
    if not (separator and module_name and attribute):
        raise ConfigError(f"function: {name!r}: expected module:function, for example my_scores:politeness")
    here = str(Path.cwd())
    added = here not in sys.path
    if added:
        sys.path.append(here)  # last: a file of the working folder must not hide an installed module
    try:
        module = importlib.import_module(module_name)
    except (ImportError, SyntaxError) as error:
        raise ConfigError(
            f"function: {name!r}: module {module_name!r} cannot be imported ({error}); "
            "run from its folder, install it, or put its folder on PYTHONPATH"
        ) from error
    finally:
        if added and here in sys.path:
            sys.path.remove(here)
    call = vars(module).get(attribute)
    if not callable(call):
        names = [k for k, v in vars(module).items() if inspect.isfunction(v)]
        raise ConfigError(
            f"function: {name!r}: {module_name} has no function {attribute!r}: {suggest(attribute, names)}"
        )
    file = getattr(module, "__file__", None)
    return call, Path(file).read_bytes() if file else b""
