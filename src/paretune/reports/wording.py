"""The numbers of a record in words: what the page, the picture and the model card say alike."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

from paretune.fronts.front import Interval
from paretune.fronts.record import FrontRecord, MeasuredPolicy, PairedTest, Point

NOTHING = "-"
"""The text for a number that does not exist."""
MIXTURE = "mixture of corners"
"""The baseline in the report's words; a comparison's name of it begins alike."""
MOST_NAMED = 4
"""The most pairs of policies that are named one by one; of more it is counted how often each is below."""


def known(value: float | None) -> bool:
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


def interval(figure: Interval, places: int | None = None) -> str:
    """Return ``value [low, high]``; the value alone where the bounds are undefined."""
    value = number(figure.value, places)
    if not (known(figure.low) and known(figure.high)):
        return value
    return f"{value} [{number(figure.low, places)}, {number(figure.high, places)}]"


def off_simplex(record: FrontRecord) -> list[tuple[int, Point]]:
    """Return each point measured off the simplex with the number of its policy."""
    return [(i, point) for i, policy in enumerate(record.policies) for point in policy.extrapolations]


def percent(share: float | None) -> str:
    """Return a share as a percentage with one decimal at most."""
    if share is None or not math.isfinite(share):
        return NOTHING
    return f"{100 * share:.1f}".removesuffix(".0") + " %"


def duration(seconds: float | None) -> str:
    """Return seconds in a readable unit.

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


def weights(record: FrontRecord, point: Point) -> str:
    """Return a point's weights in the order of the objectives, as ``0.75 / 0.25``."""
    return " / ".join(weight(point.preference[objective]) for objective in record.objectives)


def preference(weights: Mapping[str, float]) -> str:
    """Return ``concise 0.75, warm 0.25``."""
    return ", ".join(f"{objective} {weight(value)}" for objective, value in weights.items())


def places(record: FrontRecord) -> list[int]:
    """Return the decimals in which scores on each objective are shown ``[M]``."""
    points = [point.mean for policy in record.policies for point in policy.points]
    return [decimals(column) for column in zip(*points, record.base.mean, strict=True)]


def listing(items: Sequence[str], last: str = "and") -> str:
    """Return ``a, b and c``."""
    return items[0] if len(items) == 1 else f"{', '.join(items[:-1])} {last} {items[-1]}"


def called(record: FrontRecord, name: str) -> str:
    """Return what a front of a comparison is called: a policy's title, the base model or the mixture of corners."""
    titles = {policy.name: policy.label for policy in record.policies}
    if name in titles:
        return titles[name]
    return "base model" if name == "base" else MIXTURE if name.startswith("mixture of ") else name


def winner(test: PairedTest) -> str | None:
    """Return the name of the front that a comparison puts above, None where no difference is shown."""
    return test.verdict.removesuffix(" above") if test.verdict.endswith(" above") else None


def verdict(record: FrontRecord, test: PairedTest) -> str:
    """Return ``MODPO above`` or ``no difference shown``."""
    above = winner(test)
    return test.verdict if above is None else f"{called(record, above)} above"


def summary(record: FrontRecord) -> str:
    """Return one sentence: how far each preference moves the scores, and which policy is above which."""
    named = record.policies
    if len(named) * len(record.objectives) > 4:
        named = (max(named, key=_hypervolume),)
    parts = ["; ".join(_moves(record, policy) for policy in named), standing(record, "base model")]
    parts.append(_among(record))
    text = "; ".join(part for part in parts if part)
    return text[:1].upper() + text[1:] + "."


def _hypervolume(policy: MeasuredPolicy) -> float:
    value = policy.figures["hypervolume"].value
    return value if known(value) and value else -math.inf


def _moves(record: FrontRecord, policy: MeasuredPolicy) -> str:
    """Return what raising each weight from its least to its most does to that objective."""
    shown = places(record)
    moved, still = [], []
    for m, objective in enumerate(record.objectives):
        points = sorted(policy.points, key=lambda point: point.preference[objective])
        first, last = points[0], points[-1]
        start, end = number(first.mean[m], shown[m]), number(last.mean[m], shown[m])
        if len(points) == 1:
            moved.append(f"{objective} is at {end}")
        elif _overlap(first, last, m):
            still.append(objective)
        else:
            wrong = " the wrong way," if last.mean[m] < first.mean[m] else ""
            moved.append(f"{objective} goes{wrong} from {start} to {end}")
    if still:
        moved.append(f"no movement is shown on {listing(still, 'or')}")
    return f"with {policy.label}, {listing(moved)}"


def _overlap(first: Point, second: Point, m: int) -> bool:
    bounds = (first.low[m], first.high[m], second.low[m], second.high[m])
    return all(map(known, bounds)) and bounds[0] <= bounds[3] and bounds[2] <= bounds[1]


def standing(record: FrontRecord, other: str) -> str:
    """Return which policies are above, below or not shown to differ from ``base model`` or :data:`MIXTURE`."""
    groups: dict[str, list[str]] = {"above": [], "below": [], "same": []}
    for test in record.comparisons:
        if called(record, test.second) == other:
            above = winner(test)
            group = "same" if above is None else "above" if above == test.first else "below"
            groups[group].append(called(record, test.first))
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


def _among(record: FrontRecord) -> str:
    names = {policy.name for policy in record.policies}
    pairs = [test for test in record.comparisons if test.first in names and test.second in names]
    if not pairs:
        return ""
    apart = list(_apart(pairs))
    if not apart:
        return f"between {'them' if len(pairs) == 1 else 'any two of them'} no difference is shown"
    if len(apart) <= MOST_NAMED:
        facts = [f"{called(record, above)} is above {called(record, below)}" for above, below in apart]
    else:
        facts = [
            f"{called(record, below)} is below {count} other{'s' * (count > 1)}"
            for below, count in Counter(below for _, below in apart).most_common()
        ]
    rest = "" if len(apart) == len(pairs) else ", between the others no difference is shown"
    return listing(facts) + rest


def _apart(pairs: Iterable[PairedTest]) -> Iterator[tuple[str, str]]:
    """Yield (above, below) for each pair that a test tells apart."""
    for pair in pairs:
        above = winner(pair)
        if above is not None:
            yield above, pair.second if above == pair.first else pair.first
