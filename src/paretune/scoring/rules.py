"""Scorers without a model: rules on the text of a response.

To add a rule, write a function and add a line to ``RULES``.
"""

from __future__ import annotations

import functools
import importlib.metadata
import math
import re
from collections.abc import Callable, Sequence
from typing import Any

import regex

from paretune.core.errors import ConfigError, ScoreError
from paretune.core.files import fingerprint
from paretune.data.rows import Prompt
from paretune.scoring.function_scorer import FunctionScorer, RowScoreError, choice, from_function, sign_of

# Formulas of textstat that work without its syllable dictionary, which would be downloaded; all grow with difficulty.
READABILITY_FORMULAS = (
    "automated_readability_index",
    "coleman_liau_index",
    "lix",
    "mcalpine_eflaw",
    "rix",
)

REGEX_SECONDS = 10.0
"""Longest time of an expression on one response. Some expressions take time that doubles with every character."""


def _rule(objective: str, parts: Sequence[object], rate: Callable[[str], float]) -> FunctionScorer:
    """Return a scorer that rates each response alone with ``rate``; ``parts`` identify the rule and its options."""

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


def split_sentences(text: str) -> list[str]:
    """Split a text into sentences by a fixed rule, so that scores can be reproduced anywhere.

    List markers at the start of a line are dropped. A sentence ends at a line break, or at ``.``, ``!``, ``?`` or an
    ellipsis (with a closing quote or bracket) before white space; abbreviations are not recognised. A piece without a
    letter or digit (such as a smiley) belongs to the sentence before it.
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
    objective: str,
    unit: str = "words",
    direction: str = "lower",
    per: float = 1.0,
    enough: float = 0.0,
    least: float = 0.0,
) -> FunctionScorer:
    """Score length: ``-count / per`` for direction "lower" (concise), ``count / per`` for "higher" (long).

    With ``enough`` and ``least``, "lower" is ``-(max(count, enough) + max(0, least - count)) / per``.

    Args:
        objective: Name of the objective.
        unit: ``words`` (separated by white space), ``characters`` or ``sentences`` (:func:`split_sentences`).
        direction: ``lower`` or ``higher`` is better.
        per: Count that makes one point.
        enough: For "lower", a smaller count scores as this one, so that nearly empty responses gain nothing.
        least: For "lower", the smallest count of a response that says something, at most ``enough``: each one missing costs as
            much as one too many.
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
    if isinstance(least, bool) or not isinstance(least, (int, float)) or not (0 <= least <= enough):
        raise ConfigError(
            f"least: {least!r}: expected a count from 0 to enough ({enough:g}), below which a response is too short"
        )
    identity = ["length", unit, direction, float(per), float(enough), *([float(least)] if least else [])]

    def rate(text: str) -> float:
        size = count(text)
        return sign * (max(size, enough) + max(0.0, least - size)) / per

    return _rule(objective, identity, rate)


SENTIMENT_SUMMARIES: dict[str, Callable[[Sequence[float]], float]] = {
    "sum": math.fsum,
    "mean": lambda compounds: math.fsum(compounds) / len(compounds) if compounds else 0.0,
}


def rule_sentiment(
    objective: str, how: str = "mean", direction: str = "higher", enough: float = 1.0
) -> FunctionScorer:
    """Score how positive a response sounds, by VADER's compound value in [-1, 1] (Hutto and Gilbert 2014).

    Args:
        objective: Name of the objective.
        how: ``mean`` or ``sum`` over the sentences (:func:`split_sentences`), or ``compound`` of the whole text, which
            saturates near 1 for long friendly texts. A text without words is neutral and scores 0.
        direction: ``higher`` or ``lower`` is better.
        enough: A sentence (for ``compound`` the text) that sounds more positive than this counts as this, so that superlatives
            and exclamation marks gain nothing; for "lower", one that sounds more negative than minus this. Above 0, at most 1.
    """
    choice("how", how, ("compound", *SENTIMENT_SUMMARIES))
    sign = sign_of(direction)
    if isinstance(enough, bool) or not isinstance(enough, (int, float)) or not (0 < enough <= 1):
        raise ConfigError(
            f"enough: {enough!r}: expected a number above 0 and at most 1, VADER's largest value"
        )

    @functools.cache
    def analyser() -> Any:
        from vaderSentiment.vaderSentiment import SentimentIntensityAnalyzer

        return SentimentIntensityAnalyzer()

    def value(text: str) -> float:
        return min(sign * float(analyser().polarity_scores(text)["compound"]), enough)

    def rate(text: str) -> float:
        if how == "compound":
            return value(text)
        return SENTIMENT_SUMMARIES[how]([value(sentence) for sentence in split_sentences(text)])

    version = importlib.metadata.version("vaderSentiment")
    identity = ["sentiment", how, direction, version, *([float(enough)] if enough < 1 else [])]
    return _rule(objective, identity, rate)


def rule_readability(
    objective: str,
    formula: str = "automated_readability_index",
    direction: str = "lower",
    empty: float | None = None,
) -> FunctionScorer:
    """Score by a readability formula of textstat: minus its value for direction "lower" (easy), its value for "higher".

    Args:
        objective: Name of the objective.
        formula: One of ``READABILITY_FORMULAS``, which work offline.
        direction: ``lower`` or ``higher`` is better.
        empty: Score of a response without words, which has no readability; without it, such a response is an error.
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
    """Score by a regular expression.

    Args:
        objective: Name of the objective.
        pattern: The expression, as Python's ``re`` and the package ``regex`` read it; flags are written in it, as in ``(?i)sorry``.
        how: ``match`` scores 1 where the expression occurs and 0 elsewhere, ``count`` how often it occurs.
        direction: ``higher`` or ``lower`` is better.
    """
    choice("how", how, ("match", "count"))
    sign = sign_of(direction)
    try:
        compiled = regex.compile(pattern)
    except (regex.error, TypeError) as error:
        raise ConfigError(f"pattern: {pattern!r} is not a regular expression ({error})") from error

    def rate(text: str) -> float:
        try:
            count = sum(1 for _ in compiled.finditer(text, timeout=REGEX_SECONDS))
        except TimeoutError:
            raise ScoreError(
                f"the pattern {pattern!r} was not done after {REGEX_SECONDS:.0f} s on a response of {len(text)} characters; write "
                "repetitions so that a text fits them in one way only: (a+)+ as a+"
            ) from None
        return sign * (count if how == "count" else min(count, 1))

    return _rule(objective, ["regex", pattern, how, direction], rate)


RULES: dict[str, Callable[..., FunctionScorer]] = {
    "length": rule_length,
    "sentiment": rule_sentiment,
    "readability": rule_readability,
    "regex": rule_regex,
}
"""Name in ``rule:`` of a config -> function that makes the scorer from the objective and the options."""
