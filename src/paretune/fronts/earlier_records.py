"""Records in earlier formats, in the words of today."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from paretune.core.errors import ParetuneError
from paretune.core.files import read_json

_UNKNOWN = {"value": None, "low": None, "high": None}
_MIXTURE = ", coin toss"

REASON = (
    "compared by an earlier version, whose tests favoured more points; run paretune run again to compare them"
)
"""Why a test of format 2 is not shown."""
CAUTION = (
    "This record is of an earlier version. Its comparisons are not shown, and its hypervolumes are as measured: too large by "
    "the luck of the best points. Run paretune run again; finished stages are reused."
)
_UNBOUNDED = ("hypervolume", "hull_hypervolume", "igd_plus", "sparsity", "spacing")


def upgraded(facts: Mapping[str, Any], folder: Path) -> Mapping[str, Any]:
    """Return the values of a record of format 2 to 7, or of 0.1 which has none, as those of format 8; others as they are."""
    if "format" not in facts:
        facts = _of_0_1(facts, folder)
    if facts["format"] == 2:
        facts = _of_2(facts)
    # Format 4 only adds the scores of single answers, format 5 what is known of the scorers, format 6 what was asked of judges, and
    # format 7 what turning the dial does and the times that were said beforehand, and format 8 what was sampled to train on.
    return {**facts, "format": 8} if facts["format"] in (3, 4, 5, 6, 7) else facts


def _of_2(facts: Mapping[str, Any]) -> dict[str, Any]:
    """Return format 2 as format 3; what cannot be read is left as it is.

    Its tests compared hypervolumes, and resampling gave these and other figures intervals, which did not hold. Its ``kl`` was
    a log-ratio of answers at the sampled temperature.
    """
    record = {**facts, "format": 3}
    tests = record.get("comparisons")
    if isinstance(tests, list) and all(isinstance(test, Mapping) for test in tests):
        pairs = [
            {"first": test.get("first"), "second": test.get("second"), "reason": REASON} for test in tests
        ]
        record |= {"comparisons": [], "uncompared": pairs, "cautions": [CAUTION]}
    for key in ("base", "mixture"):
        if isinstance(value := record.get(key), Mapping):
            record[key] = _unbounded(_log_ratio(value))
    if isinstance(policies := record.get("policies"), list):
        record["policies"] = [_policy_of_2(policy) for policy in policies]
    return record


def _policy_of_2(facts: Any) -> Any:
    if not isinstance(facts, Mapping):
        return facts
    policy = {**facts}
    if isinstance(figures := policy.get("figures"), Mapping):
        policy["figures"] = _unbounded(figures)
    for key in ("points", "extrapolations"):
        if isinstance(points := policy.get(key), list):
            policy[key] = [_log_ratio(point) if isinstance(point, Mapping) else point for point in points]
    return policy


def _log_ratio(point: Mapping[str, Any]) -> dict[str, Any]:
    return {"log_ratio" if key == "kl" else key: value for key, value in point.items()}


def _unbounded(figures: Mapping[str, Any]) -> dict[str, Any]:
    """Return figures, those of a maximum or of squares without bounds; one that is incomplete is left as it is."""
    return {
        key: {**figure, "low": None, "high": None}
        if key in _UNBOUNDED and isinstance(figure, Mapping) and {"low", "high"} <= figure.keys()
        else figure
        for key, figure in figures.items()
    }


def _of_0_1(facts: Mapping[str, Any], folder: Path) -> dict[str, Any]:
    """Return the values of a record without format as those of format 2; what cannot be read is left as it is.

    The mixture of corners was called ``chord``, and ``endpoints, coin toss`` in comparisons. Whether a policy is anchored was
    not recorded: the policy in the same run folder says so, else the words on where its preference enters.
    """
    record = {"format": 2, **facts}
    if "chord" in record:
        record["mixture"] = record.pop("chord")
    if isinstance(comparisons := facts.get("comparisons"), list):
        record["comparisons"] = [_comparison(each) for each in comparisons]
    if isinstance(base := facts.get("base"), Mapping):
        record["base"] = _point(base)
    if isinstance(policies := facts.get("policies"), list):
        record["policies"] = [_policy(each, folder) for each in policies]
    return record


def _policy(facts: Any, folder: Path) -> Any:
    if not isinstance(facts, Mapping):
        return facts
    policy = {"anchored": _anchored(facts, folder), **facts}
    for key in ("points", "extrapolations"):
        if isinstance(points := facts.get(key), list):
            policy[key] = [_point(point) for point in points]
    return policy


def _anchored(facts: Mapping[str, Any], folder: Path) -> bool:
    file = folder / "policies" / str(facts.get("name")) / "policy.json"
    if file.is_file():
        try:
            policy = read_json(file)
        except ParetuneError:
            return False
        return isinstance(policy, Mapping) and policy.get("mix") == "anchors"
    return "nearest" in str(facts.get("enters", ""))


def _point(facts: Any) -> Any:
    """Return a point with what the first versions of 0.1 did not measure as unknown."""
    if not isinstance(facts, Mapping):
        return facts
    return {"used": facts.get("preference"), "conflict": _UNKNOWN, **facts}


def _comparison(facts: Any) -> Any:
    if not isinstance(facts, Mapping):
        return facts
    return {
        key: value.replace(value.removesuffix(" above"), "mixture of corners")
        if isinstance(value, str) and value.removesuffix(" above").endswith(_MIXTURE)
        else value
        for key, value in facts.items()
    }
