"""Records that paretune 0.1 wrote, in the words of today."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from paretune.core.errors import ParetuneError
from paretune.core.files import read_json

_UNKNOWN = {"value": None, "low": None, "high": None}
_MIXTURE = ", coin toss"


def upgraded(facts: Mapping[str, Any], folder: Path) -> dict[str, Any]:
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
