"""Principles under ``score``: one entry for a file of them becomes an entry for each (MORLAIF, arXiv 2406.07295).

    score:
      - {principles: principles.yaml, model: NAME, sort: greedy, head: fit}

stands for, with a principle ``kind`` in the file, ::

      - {objective: kind, head: fit, labels: {judge: principles.yaml, model: NAME, sort: greedy}}

A judge labels the training responses by each principle, in both orders, and a head of its own learns each. Without ``head`` the
judge itself is the scorer.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from paretune.core.errors import ConfigError
from paretune.scoring.ranking import Sort, most_comparisons
from paretune.scoring.rubric import principles_in
from paretune.scoring.scorer import checked_spec, kinds_of

KEY = "principles"


def with_principles(entries: Any) -> Any:
    """Return the entries of ``score`` with one for each principle in place of an entry for a file; anything else is as it was.

    Raises:
        ConfigError: There is no such file or it has no principles, or an entry states what each principle has of its own.
    """
    if not isinstance(entries, list):
        return entries
    found: list[Any] = []
    for number, entry in enumerate(entries):
        if not isinstance(entry, Mapping) or KEY not in entry:
            found.append(entry)
            continue
        try:
            found += _entries(entry)
        except ConfigError as error:
            raise ConfigError(f"score[{number}]: {error}") from error
    return found


def _entries(entry: Mapping[str, Any]) -> list[dict[str, Any]]:
    file = entry[KEY]
    if not isinstance(file, str) or not file:
        raise ConfigError(f"principles: {file!r:.60}: expected the name of a file, such as principles.yaml")
    for key in ("objective", "judge", "labels"):
        if key in entry:
            raise ConfigError(
                f"{key}: stands beside principles, which gives it for each of its principles; leave it out"
            )
    head = entry.get("head")
    if head not in (None, "fit"):
        raise ConfigError(
            f"head: {head!r}: expected fit, which fits one for each principle; to use fitted ones, give an entry for each"
        )
    judge = {"judge": file} | {key: value for key, value in entry.items() if key not in (KEY, "head")}
    if head is None:
        return [{"objective": name, **judge} for name in principles_in(file)]
    return [{"objective": name, "head": "fit", "labels": dict(judge)} for name in principles_in(file)]


def judge_of(spec: Mapping[str, Any]) -> dict[str, Any] | None:
    """Return the entry of the judge that labels or grades for an entry of ``score``; None where no judge is asked."""
    if "labels" in spec:
        return {"objective": spec.get("objective"), **spec["labels"]}
    return dict(spec) if kinds_of(spec) == ["judge"] else None


def check_labels(spec: Mapping[str, Any]) -> None:
    """Check ``labels`` of an entry of ``score``: a judge that compares or ranks, for a head that is fitted.

    Raises:
        ConfigError: They are something else.
    """
    if "labels" not in spec:
        return
    labels = spec["labels"]
    expected = (
        "expected a judge that compares, such as {judge: kind.md, model: NAME, pairs: 3} or with sort: greedy"
    )
    if not isinstance(labels, Mapping) or "judge" not in labels:
        raise ConfigError(f"scorer of {spec.get('objective')!r}: labels: {labels!r:.60}: {expected}")
    judge = judge_of(spec) or {}
    try:
        if "objective" in labels:
            raise ConfigError("objective: is that of the head; leave it out")
        checked_spec(judge)
    except ConfigError as error:
        raise ConfigError(f"labels: {error}") from error
    if not compares(judge):
        raise ConfigError(
            f"scorer of {spec.get('objective')!r}: labels: its judge compares no pairs; {expected}"
        )


def compares(judge: Mapping[str, Any]) -> bool:
    """Return whether the entry of a judge compares responses in place of grading them."""
    return bool(judge.get("pairs")) or judge.get("sort", "none") != "none"


def pairs_asked(judge: Mapping[str, Any], responses: float) -> float:
    """Return the largest number of pairs that a judge is asked about, of a prompt with so many responses."""
    every = responses * (responses - 1) / 2
    if judge.get("sort", "none") == "none":
        return min(float(judge.get("pairs", 0)), every)
    # The sort, and the triples by which it is seen whether the judge contradicts itself.
    sort = Sort(judge["sort"])
    return min(every, most_comparisons(round(responses), sort) + 3.0)
