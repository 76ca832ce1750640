"""The numbers of a run in words: what the page, the picture and the model card say alike.

``run`` is everywhere the content of ``front.json``: JSON values, with None (or NaN) for what is undefined.
"""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, TypeGuard

Run = Mapping[str, Any]

NOTHING = "-"
"""Shown for a number that does not exist."""
MOST_NAMED = 4
"""Pairs of policies that are told one by one; of more it is counted how often each is below."""


def known(value: float | None) -> TypeGuard[float]:
    """Return whether ``value`` is a finite number."""
    return value is not None and math.isfinite(value)


def decimals(values: Iterable[float | None]) -> int:
    """Return how many decimals tell ``values`` apart to about a hundredth of their range; 0 to 4.

    >>> decimals([-6.1, -2.4]), decimals([120.0, 340.0]), decimals([0.51, 0.53])
    (1, 0, 4)
    """
    numbers = [value for value in values if value is not None and math.isfinite(value)]
    if not numbers:
        return 2
    span = (max(numbers) - min(numbers)) or max(abs(numbers[0]), 1e-9)
    return min(4, max(0, round(2 - math.log10(span))))


def number(value: float | None, places: int | None = None) -> str:
    """Return a number with ``places`` decimals, or with three digits; ``-`` where there is none.

    >>> number(-0.12345), number(3.14159, 1), number(float("nan"))
    ('−0.123', '3.1', '-')
    """
    if value is None or not math.isfinite(value):
        return NOTHING
    if places is not None:
        text = f"{value:,.{places}f}"
    else:
        text = f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"
    if float(text.replace(",", "")) == 0:
        text = text.lstrip("-")
    return text.replace("-", "−", 1) if text.startswith("-") else text


def interval(figure: Mapping[str, float | None], places: int | None = None) -> str:
    """Return ``value [low, high]``; without bounds the value alone."""
    value = number(figure.get("value"), places)
    low, high = figure.get("low"), figure.get("high")
    return f"{value} [{number(low, places)}, {number(high, places)}]" if known(low) and known(high) else value


def off_simplex(run: Run) -> list[tuple[int, Run]]:
    """Return the policy's index and the point of everything measured off the simplex."""
    return [
        (i, point) for i, policy in enumerate(run["policies"]) for point in policy.get("extrapolations") or ()
    ]


def percent(share: float | None) -> str:
    """Return a share as a percentage with one decimal at most."""
    if share is None or not math.isfinite(share):
        return NOTHING
    return f"{100 * share:.1f}".removesuffix(".0") + " %"


def duration(seconds: float | None) -> str:
    """Return seconds in the unit a person would choose.

    >>> duration(8.04), duration(312), duration(7500), duration(4e5)
    ('8.0 s', '5.2 min', '2.1 h', '4.6 days')
    """
    if seconds is None or not math.isfinite(seconds):
        return NOTHING
    for unit, size, limit in (("s", 1, 100), ("min", 60, 6000), ("h", 3600, 4 * 86_400)):
        if seconds < limit:
            return f"{seconds / size:.1f} {unit}"
    return f"{seconds / 86_400:.1f} days"


def weight(value: float) -> str:
    """Return a weight of a preference with up to three digits."""
    return f"{value:.3g}"


def preference(weights: Mapping[str, float]) -> str:
    """Return ``concise 0.75, warm 0.25``."""
    return ", ".join(f"{objective} {weight(value)}" for objective, value in weights.items())


def title(policy: Run) -> str:
    """Return the usual name of a policy's method, or its name in the run."""
    return str(policy.get("title") or policy["name"])


def places(run: Run) -> list[int]:
    """Return the decimals in which scores on each objective are shown ``[M]``."""
    points = [point["mean"] for policy in run["policies"] for point in policy["points"]]
    return [decimals(column) for column in zip(*points, run["base"]["mean"], strict=True)]


def listing(items: Sequence[str], last: str = "and") -> str:
    """Return ``a, b and c``."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} {last} {items[-1]}"


def called(run: Run, name: str) -> str:
    """Return what a front of a comparison is called: a policy's title, the base model or the coin toss."""
    titles = {policy["name"]: title(policy) for policy in run["policies"]}
    if name in titles:
        return titles[name]
    return "base model" if name == "base" else "coin toss" if name.endswith(", coin toss") else name


def winner(comparison: Run) -> str | None:
    """Return the name of the front a comparison puts above, None where no difference is shown."""
    verdict = str(comparison["verdict"])
    return verdict.removesuffix(" above") if verdict.endswith(" above") else None


def verdict(run: Run, comparison: Run) -> str:
    """Return ``MODPO above`` or ``no difference shown``."""
    above = winner(comparison)
    return str(comparison["verdict"]) if above is None else f"{called(run, above)} above"


def summary(run: Run) -> str:
    """Return one sentence: how far each preference moves the scores, and who is above whom."""
    policies = run["policies"]
    told = policies
    if len(policies) * len(run["objectives"]) > 4:
        told = [max(policies, key=lambda policy: policy["figures"]["hypervolume"].get("value") or -math.inf)]
    parts = ["; ".join(_moves(run, policy) for policy in told), standing(run, "base model")]
    parts.append(_among(run))
    text = "; ".join(part for part in parts if part)
    return text[:1].upper() + text[1:] + "."


def _moves(run: Run, policy: Run) -> str:
    """Say what turning each weight from its least to its most does to that objective."""
    shown = places(run)
    moved, still = [], []
    for m, objective in enumerate(run["objectives"]):
        points = sorted(policy["points"], key=lambda point: point["preference"][objective])
        first, last = points[0], points[-1]
        start, end = number(first["mean"][m], shown[m]), number(last["mean"][m], shown[m])
        if len(points) == 1:
            moved.append(f"{objective} is at {end}")
        elif _overlap(first, last, m):
            still.append(objective)
        else:
            wrong = " the wrong way," if last["mean"][m] < first["mean"][m] else ""
            moved.append(f"{objective} goes{wrong} from {start} to {end}")
    if still:
        moved.append(f"no movement is shown on {listing(still, 'or')}")
    return f"with {title(policy)}, {listing(moved)}"


def _overlap(first: Run, second: Run, m: int) -> bool:
    bounds = (first["low"][m], first["high"][m], second["low"][m], second["high"][m])
    if not all(map(known, bounds)):
        return False
    return bool(bounds[0] <= bounds[3] and bounds[2] <= bounds[1])


def standing(run: Run, other: str) -> str:
    """Say which policies are above, below or not shown to differ from ``base model`` or ``coin toss``."""
    groups: dict[str, list[str]] = {"above": [], "below": [], "same": []}
    for comparison in run["comparisons"]:
        if called(run, comparison["second"]) == other:
            above = winner(comparison)
            group = "same" if above is None else "above" if above == comparison["first"] else "below"
            groups[group].append(called(run, comparison["first"]))
    count = sum(map(len, groups.values()))
    parts: list[str] = []
    for group, names in groups.items():
        if names:
            everyone = len(names) == count and count > 1
            who = ("both" if count == 2 else f"all {count}") if everyone else listing(names)
            target = f"the {other}" if not parts else "it"
            verb = "is" if len(names) == 1 else "are"
            if group == "same":
                parts.append(f"for {who} no difference from {target} is shown")
            else:
                parts.append(f"{who} {verb} {group} {target}")
    return ", ".join(parts)


def _among(run: Run) -> str:
    names = {policy["name"] for policy in run["policies"]}
    pairs = [c for c in run["comparisons"] if c["first"] in names and c["second"] in names]
    if not pairs:
        return ""
    apart = [(above, pair) for pair in pairs if (above := winner(pair)) is not None]
    if not apart:
        return f"between {'them' if len(pairs) == 1 else 'any two of them'} no difference is shown"
    below = [pair["second"] if above == pair["first"] else pair["first"] for above, pair in apart]
    if len(apart) <= MOST_NAMED:
        told = [
            f"{called(run, above)} is above {called(run, loser)}"
            for (above, _), loser in zip(apart, below, strict=True)
        ]
    else:
        told = [
            f"{called(run, loser)} is below {count} other{'s' * (count > 1)}"
            for loser, count in Counter(below).most_common()
        ]
    rest = "" if len(apart) == len(pairs) else ", between the others no difference is shown"
    return listing(told) + rest
