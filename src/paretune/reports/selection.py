"""What the page's script shows on selection: preferences, points and answers as JSON values."""

from __future__ import annotations

import math
from collections.abc import Mapping
from typing import Any

from paretune.fronts.record import FrontRecord, Point
from paretune.reports.beside import Answers, Told
from paretune.reports.wording import chance, interval, leading, log_ratio, number, percent, places, preference

Picks = Mapping[tuple[int, int], int]
"""(policy, point) -> the number of its preference."""


def picks_of(record: FrontRecord) -> tuple[dict[tuple[int, int], int], list[dict[str, float]]]:
    """Return (policy, point) -> number among the different preferences, and these, by falling first weight."""
    objectives = record.objectives
    keys = {
        (i, n): tuple(round(point.preference[objective], 9) for objective in objectives)
        for i, policy in enumerate(record.policies)
        for n, point in enumerate(policy.points)
    }
    different = sorted(set(keys.values()), reverse=True)
    shared = [dict(zip(objectives, key, strict=True)) for key in different]
    return {point: different.index(key) for point, key in keys.items()}, shared


def at(record: FrontRecord, picks: Picks, k: int) -> list[int | None]:
    """Return the number of each policy's point at preference ``k``, None where it has none."""
    return [
        next((n for n in range(len(policy.points)) if picks[i, n] == k), None)
        for i, policy in enumerate(record.policies)
    ]


def selection(
    record: FrontRecord, picks: Picks, shared: list[dict[str, float]], answers: Answers
) -> dict[str, Any]:
    """Return what the script shows: figures of points as text already, scores of single answers as numbers.

    Texts stand once however many points share them, as those of a corner do.
    """
    shown, texts = places(record), dict[str, int]()

    def point(given: Point, told: Told) -> dict[str, Any]:
        return {
            "scores": [interval(given.score(m), shown[m]) for m in range(len(shown))],
            "words": number(given.words, 0),
            "front": chance(given.on_front),
            "distance": interval(given.log_ratio, 1),
            "collapse": percent(given.collapse_rate),
            "answers": [texts.setdefault(text, len(texts)) for text in told.texts],
            "own": [
                [*map(_plain, _scores(told, p, len(shown))), len(text.split())]
                for p, text in enumerate(told.texts)
            ],
        }

    def at_preference(i: int, k: int) -> dict[str, Any] | None:
        n = at(record, picks, k)[i]
        return None if n is None else point(record.policies[i].points[n], answers.points[i, n])

    base = point(record.base, answers.base)
    policies = [
        {
            "name": policy.name,
            "title": policy.label,
            "points": [at_preference(i, k) for k in range(len(shared))],
        }
        for i, policy in enumerate(record.policies)
    ]
    return {
        "name": record.name,
        "objectives": record.objectives,
        "digits": shown,
        "distance": f"{log_ratio(record)}, nats",
        "mean": f"mean of {record.num_prompts} prompts",
        "trained": bool(record.stages),
        "leading": record.policies.index(leading(record)) if record.policies else None,
        "preferences": [
            {"text": preference(weights), "weights": list(weights.values())} for weights in shared
        ],
        "prompts": answers.prompts,
        "texts": list(texts),
        "base": base,
        "policies": policies,
    }


def _scores(told: Told, p: int, M: int) -> tuple[float, ...]:
    return (math.nan,) * M if told.scores is None else told.scores[p]


def _plain(value: float) -> float | None:
    """Return a score in few digits; None where there is none."""
    return float(f"{value:.5g}") if math.isfinite(value) else None


def record_of(record: FrontRecord) -> dict[str, Any]:
    """Return a record without its answers as JSON values, which can be read as a record again."""
    facts = record.model_dump(mode="json", exclude_unset=True)
    facts["prompts"] = []
    points = [
        point
        for policy in facts["policies"]
        for point in (*policy["points"], *policy.get("extrapolations", ()))
    ]
    for each in (facts["base"], *points):
        each["responses"] = []
        each.pop("response_scores", None)
    return facts
