"""A record as plain rows, one mapping each, for data frames, CSV and other tools."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, get_args

from paretune.core.errors import ParetuneError, suggest
from paretune.core.files import parse_json
from paretune.fronts.score_records import ROLES, WEIGHT
from paretune.fronts.score_table import BASE, FILE

if TYPE_CHECKING:
    from paretune.fronts.record import FrontRecord, MeasuredPolicy, Point

What = Literal["points", "prompts", "tests", "figures"]
"""What rows say, see :func:`rows_of`."""


def rows_of(record: FrontRecord, what: What = "points", folder: Path | None = None) -> list[dict[str, Any]]:
    """Return rows of a record; a number that is undefined is NaN, one that was not measured None.

    - ``points``: one for each policy, preference and objective, with the mean score and its bounds (those of an interval over
      prompts; ``band_`` holds all points at once, and so also one that is chosen for its scores). The base model is there as
      ``base``.
    - ``prompts``: one for each answer to each prompt, with the score on each objective, as ``scores.jsonl`` has them.
    - ``tests``: one for each paired test, judged together.
    - ``figures``: one for each policy and indicator, such as the hypervolume.

    Args:
        record: The record of a run.
        what: What the rows say.
        folder: The run's folder, for ``prompts``.

    Raises:
        ParetuneError: Another word, or no scores of single answers are there.
    """
    if what == "points":
        return list(_points(record))
    if what == "prompts":
        return list(_answers(record, folder))
    if what == "tests":
        return [_test(test.model_dump()) for test in record.comparisons]
    if what == "figures":
        return [
            {
                "policy": policy.name,
                "figure": name,
                "value": figure.value,
                "low": figure.low,
                "high": figure.high,
            }
            for policy in record.policies
            for name, figure in policy.figures.items()
        ]
    raise ParetuneError(f"rows of {what!r}: {suggest(str(what), get_args(What))}")


def _points(record: FrontRecord) -> Iterator[dict[str, Any]]:
    if record.base.mean[0] == record.base.mean[0]:  # NaN where it was not measured
        yield from _of_point(record, BASE, "base model", record.base)
    for policy in record.policies:
        for n, point in enumerate(policy.points):
            rests = policy.non_dominated[n]
            yield from _of_point(record, policy.name, policy.label, point, n, non_dominated=rests)
        yield from _beyond(record, policy)


def _beyond(record: FrontRecord, policy: MeasuredPolicy) -> Iterator[dict[str, Any]]:
    for n, point in enumerate(policy.extrapolations, start=len(policy.points)):
        yield from _of_point(record, policy.name, policy.label, point, point=n, extrapolated=True)


def _of_point(
    record: FrontRecord,
    name: str,
    title: str,
    at: Point,
    point: int = 0,
    non_dominated: bool | None = None,
    extrapolated: bool = False,
) -> Iterator[dict[str, Any]]:
    weights = {f"{WEIGHT}{objective}": weight for objective, weight in at.preference.items()}
    for m, objective in enumerate(record.objectives):
        yield {
            "policy": name,
            "title": title,
            "point": point,
            **weights,
            "objective": objective,
            "mean": at.mean[m],
            "low": at.low[m],
            "high": at.high[m],
            "band_low": at.band_low[m] if at.band_low else None,
            "band_high": at.band_high[m] if at.band_high else None,
            "shrunk": at.shrunk[m] if at.shrunk else None,
            "on_front": at.on_front,
            "non_dominated": non_dominated,
            "extrapolated": extrapolated,
            "words": at.words,
            "cut_rate": at.cut_rate,
            "collapse_rate": at.collapse_rate,
        }


def _answers(record: FrontRecord, folder: Path | None) -> Iterator[dict[str, Any]]:
    file = None if folder is None else folder / FILE
    if file is None or not file.is_file():
        raise ParetuneError(
            f"{file or 'a record without a folder'}: no scores of single answers; read the front.json in the folder of a run of "
            "this version (paretune run writes them; what is trained is reused)"
        )
    with file.open(encoding="utf-8") as lines:
        for number, line in enumerate(lines, start=1):
            row = parse_json(line, f"{file}:{number}")
            try:
                yield _flat(row)
            except (KeyError, TypeError, AttributeError) as error:
                raise ParetuneError(
                    f"{file}:{number}: not as a run writes it ({error!r:.60}); delete the file, and run paretune run again"
                ) from error


def _flat(row: Mapping[str, Any]) -> dict[str, Any]:
    """Return a line of ``scores.jsonl`` with a column for each weight and score."""
    weights = {f"{WEIGHT}{objective}": weight for objective, weight in row["preference"].items()}
    scores = {f"score_{name}" if name in ROLES else name: score for name, score in row["scores"].items()}
    scorer = json.dumps(row["scorer"], sort_keys=True, ensure_ascii=False)
    plain = {name: row[name] for name in ("policy", "prompt", "sample")}
    return {**plain, **weights, **scores, "scorer": scorer}


def _test(test: Mapping[str, Any]) -> dict[str, Any]:
    """Return a paired test without what is a list."""
    first, second = test["seeds"]
    kept = (
        "first",
        "second",
        "verdict",
        "difference",
        "low",
        "high",
        "level",
        "p_value",
        "adjusted",
        "detectable",
    )
    plain = {name: test[name] for name in (*kept, "enough_prompts", "prompts")}
    return {**plain, "preferences": len(test["preferences"]), "seeds_first": first, "seeds_second": second}
