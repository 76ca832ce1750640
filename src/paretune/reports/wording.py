"""The numbers of a record in words: what the page, the picture and the model card say alike."""

from __future__ import annotations

import math
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence

import numpy as np

from paretune.fronts.front import Interval
from paretune.fronts.indicators import has_knee
from paretune.fronts.inference import sentence
from paretune.fronts.record import Cost, FrontRecord, MeasuredPolicy, PairedTest, Point
from paretune.fronts.score_table import SEED_MARK

NOTHING = "-"
"""The text for a number that does not exist."""
MIXTURE = "mixture of corners"
"""The baseline in the report's words; a comparison's name of it begins alike."""
NO_EFFECT = "no effect of the preference is shown"
"""What is said of a policy whose scores at the ends of the dial are not told apart on any objective."""
MOST_NAMED = 4
"""The most policies, or pairs of them, that are named one by one; more are counted."""


def known(value: float | None) -> bool:
    """Return whether ``value`` is a finite number."""
    return value is not None and math.isfinite(value)


def has_base(record: FrontRecord) -> bool:
    """Return whether the base model was measured; a table of scores may lack it."""
    return known(record.base.mean[0])


def has_mixture(record: FrontRecord) -> bool:
    """Return whether the single-objective models were measured, whose mixture is the baseline."""
    return bool(record.mixture.points)


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
    """Return what a front of a comparison is called: a policy's title, the base model or the mixture of corners.

    A method of several training seeds has the title of its policies, and its name behind it.
    """
    for policy in record.policies:
        if policy.name == name:
            return policy.label
        if policy.name.startswith(f"{name}{SEED_MARK}"):
            title = policy.label.removesuffix(f" ({policy.name})")
            return name if title == policy.name else f"{title} ({name})"
    return "base model" if name == "base" else MIXTURE if name.startswith("mixture of ") else name


def log_ratio(record: FrontRecord) -> str:
    """Return what the distance from the base model is called: KL only where answers are sampled as the policy gives them."""
    plain = record.sampling.get("temperature") == 1 and record.sampling.get("top_p") == 1
    return "KL from base" if plain else "log-ratio to base"


def chance(value: float | None) -> str:
    """Return a chance as a percentage without decimals.

    >>> chance(0.984), chance(None)
    ('98 %', '-')
    """
    return NOTHING if value is None else f"{100 * value:.0f} %"


def winner(test: PairedTest) -> str | None:
    """Return the name of the front that a comparison puts above, None where no difference is shown."""
    return test.verdict.removesuffix(" above") if test.verdict.endswith(" above") else None


def verdict(record: FrontRecord, test: PairedTest) -> str:
    """Return ``MODPO above`` or ``no difference shown``."""
    above = winner(test)
    return test.verdict if above is None else f"{called(record, above)} above"


def any_faint(record: FrontRecord) -> bool:
    """Return whether a point is so unlikely to be on the front that it is drawn visibly fainter."""
    return any(opacity(point) < 0.9 for policy in record.policies for point in policy.points)


def opacity(point: Point) -> float:
    """Return how opaque a point is drawn, by its chance to be on the front; whole where the chance is unknown."""
    return 1.0 if point.on_front is None else 0.2 + 0.8 * point.on_front


def sentences(record: FrontRecord) -> list[str]:
    """Return every verdict in words, those with a difference first, and then what could not be compared."""

    def named(name: str) -> str:
        title = called(record, name)
        return f"the {title}" if title in ("base model", MIXTURE) else title

    told = [
        sentence(test, named) for test in sorted(record.comparisons, key=lambda test: winner(test) is None)
    ]
    reasons: dict[str, list[str]] = {}
    for pair in record.uncompared:
        reasons.setdefault(pair.reason, []).append(f"{named(pair.first)} and {named(pair.second)}")
    for reason, pairs in reasons.items():
        who = listing(pairs) if len(pairs) <= MOST_NAMED else f"{len(pairs)} pairs"
        told.append(f"Not compared: {who} ({reason}).")
    return [f"T{text[1:]}" if text.startswith("the ") else text for text in told]


def luck(record: FrontRecord) -> str:
    """Return a sentence on how many training seeds there are, and whether the luck of training is covered."""
    seeds = {
        called(record, name): count
        for test in record.comparisons
        for name, count in zip((test.first, test.second), test.seeds, strict=True)
        if count
    }
    if record.policies and all(_untrained(policy.cost) for policy in record.policies):
        return "Nothing here was trained, so intervals cover the choice of prompts alone."
    if not seeds:
        return "Each policy is one training run: another training seed may give other scores, which no interval here covers."
    counts = listing([f"{count} training seeds of {name}" for name, count in seeds.items()])
    names = {called(record, test.first) for test in record.comparisons}
    others = "" if names <= seeds.keys() else "the other policies are one training run each, and "
    return f"The verdicts cover the luck of training with {counts}; {others}intervals of single points do not cover it."


def _untrained(cost: Cost | None) -> bool:
    """Return whether a policy has nothing that was trained: no adapter, and no head, which is trained on what is sampled."""
    return cost is not None and not cost.adapters and not cost.sampled


def summary(record: FrontRecord) -> str:
    """Return one sentence: how far each objective moves from the base model, and which policy is above which."""
    named = record.policies
    if len(named) * len(record.objectives) > 4:
        named = (leading(record),)
    moves = "; ".join(_told(record, policy) for policy in named)
    against = "against the base model, " if has_base(record) else "over its preferences, "
    parts = [
        f"{against}{moves}" if moves else "",
        standing(record, "base model"),
        _among(record),
    ]
    text = "; ".join(part for part in parts if part)
    return text[:1].upper() + text[1:] + "."


def leading(record: FrontRecord) -> MeasuredPolicy:
    """Return the policy whose mean utility is measured highest above the base model's, or else the first."""
    against = {test.first: test.difference for test in record.comparisons if test.second == "base"}

    def difference(policy: MeasuredPolicy) -> float:
        return against.get(policy.name, against.get(policy.name.rpartition(SEED_MARK)[0], -math.inf))

    return max(record.policies, key=difference)


def _told(record: FrontRecord, policy: MeasuredPolicy) -> str:
    text = (_moves if has_base(record) else _ranges)(record, policy)
    return f"{text}, and {NO_EFFECT}" if turning(policy) == NO_EFFECT else text


def _moves(record: FrontRecord, policy: MeasuredPolicy) -> str:
    """Return how far each objective is from the base model's where its weight is largest; what no test shows is no movement."""
    shown = places(record)
    moved, still, unknown = [], [], []
    for m, objective in enumerate(record.objectives):
        point = max(policy.points, key=lambda point: point.preference[objective])
        start, end = number(record.base.mean[m], shown[m]), number(point.mean[m], shown[m])
        movement = point.movement.moved.get(objective) if point.movement else None
        if movement is None or not known(movement.low):
            unknown.append(f"{objective} at {end} (base model {start})")
        elif movement.low <= 0 <= movement.high:
            still.append(objective)
        else:
            wrong = " the wrong way," if movement.high < 0 else ""
            moved.append(f"{objective}{wrong} from {start} to {end}")
    parts = [f"moves {listing(moved)}"] if moved else []
    if still:
        parts.append(f"shows no movement on {listing(still, 'or')}")
    if unknown:
        parts.append(f"has {listing(unknown)}")
    return f"{policy.label} {listing(parts)}"


def following(policy: MeasuredPolicy) -> tuple[list[str], list[str], list[str]]:
    """Return the objectives that are shown to follow their weight, those shown to turn against it, and those not shown to move.

    A test at the ends of the dial shows it: bounds that hold for all policies and objectives of the record. All are empty where
    the ends were not compared: there is one point, or the record is of an earlier version.
    """
    right = [name for name, figure in policy.ends.items() if figure.low > 0]
    wrong = [name for name, figure in policy.ends.items() if figure.high < 0]
    return right, wrong, [name for name in policy.ends if name not in (*right, *wrong)]


def turning(policy: MeasuredPolicy) -> str:
    """Return what turning the dial from end to end is shown to do, in words; empty where its ends were not compared."""
    right, wrong, still = following(policy)
    if not right and not wrong:
        return NO_EFFECT if still else ""
    parts = [f"{listing(right)} follow{'s' * (len(right) == 1)} the preference"] if right else []
    parts += [f"{listing(wrong)} turn{'s' * (len(wrong) == 1)} against it"] if wrong else []
    parts += [f"no effect on {listing(still, 'or')} is shown"] if still else []
    return listing(parts)


def _ranges(record: FrontRecord, policy: MeasuredPolicy) -> str:
    """Return the lowest and the highest mean on each objective over the policy's preferences."""
    columns = list(zip(*(point.mean for point in policy.points), strict=True))
    ends = [
        f"{objective} from {number(min(column), digits)} to {number(max(column), digits)}"
        for objective, column, digits in zip(record.objectives, columns, places(record), strict=True)
    ]
    return f"{policy.label} has {listing(ends)}"


def knee(policy: MeasuredPolicy) -> int | None:
    """Return the number of the point at the knee, None where the front is straight or bends inwards."""
    return policy.knee if has_knee(np.array([point.mean for point in policy.points])) else None


def chosen_points(record: FrontRecord, policy: MeasuredPolicy) -> list[Point]:
    """Return the points that a reader asks about first: the one with most weight on each objective, and any knee."""
    numbers = [
        max(range(len(policy.points)), key=lambda n: policy.points[n].preference[objective])
        for objective in record.objectives
    ]
    bulge = knee(policy)
    return [policy.points[n] for n in dict.fromkeys([*numbers, *([] if bulge is None else [bulge])])]


def bought(record: FrontRecord, policy: MeasuredPolicy) -> list[str]:
    """Return a sentence on what each of :func:`chosen_points` buys, and one where there is no knee."""
    texts = [trade_off(record, point) for point in chosen_points(record, policy)]
    if len(policy.points) > 2 and knee(policy) is None:
        texts.append("no knee: this front is straight or bends inwards, so no point on it stands out")
    return [f"{text[:1].upper()}{text[1:]}." for text in texts]


def trade_off(record: FrontRecord, point: Point) -> str:
    """Return what a point buys against the base model, and what moved that nobody asked for, in words."""
    shown = places(record)
    parts = [
        f"{objective} {_change(record.base.mean[m], point.mean[m], shown[m])}{_movement(point, objective)}"
        for m, objective in enumerate(record.objectives)
    ]
    if known(point.words):
        parts.append(f"words {_change(record.base.words, point.words, 0)}{_movement(point, 'words')}")
    text = f"at {preference(point.preference)}: {', '.join(parts)}"
    if point.movement and point.movement.across.low > 0:
        size = number(point.movement.across.value, 2)
        text += f"; side effect of {size} deviations, mainly {astray(point)}"
    return text


def _change(before: float, after: float, digits: int) -> str:
    return (
        f"from {number(before, digits)} to {number(after, digits)}"
        if known(before)
        else number(after, digits)
    )


def _movement(point: Point, attribute: str) -> str:
    figure = point.movement.moved.get(attribute) if point.movement else None
    if figure is None or not known(figure.low):
        return ""
    if figure.low <= 0 <= figure.high:
        return " (no change shown)"
    sign = "+" if figure.value > 0 else ""
    return f" ({sign}{number(figure.value, 2)} deviations)"


def astray(point: Point) -> str:
    """Return the attribute with the largest part of the movement that nobody asked for, such as ``too little warm``."""
    if point.movement is None:
        return NOTHING
    moved, wanted = point.movement.moved, point.preference
    size = math.hypot(*(wanted.get(name, 0.0) for name in moved)) or 1.0
    aside = {
        name: figure.value - point.movement.along.value * wanted.get(name, 0.0) / size
        for name, figure in moved.items()
    }
    # Of equal parts, the one that is short: that another is ahead is seldom a complaint.
    name = max(aside, key=lambda name: (round(abs(aside[name]), 9), -aside[name]))
    much, little = ("many", "few") if name == "words" else ("much", "little")
    return f"too {much if aside[name] > 0 else little} {name}"


def standing(record: FrontRecord, other: str) -> str:
    """Return which policies are above, below or not shown to differ from ``base model`` or :data:`MIXTURE`."""
    groups: dict[str, list[str]] = {"above": [], "below": [], "same": []}
    for test in record.comparisons:
        if called(record, test.second) == other:
            above = winner(test)
            group = "same" if above is None else "above" if above == test.first else "below"
            groups[group].append(called(record, test.first))
    parts: list[str] = []
    for group, names in groups.items():
        if names:
            target = f"the {other}" if not parts else "it"
            if group == "same" and len(names) == sum(map(len, groups.values())) > MOST_NAMED:
                parts.append(f"for none of the {len(names)} policies is a difference from {target} shown")
            elif group == "same":
                parts.append(f"for {_counted(names, record)} no difference from {target} is shown")
            else:
                parts.append(
                    f"{_counted(names, record)} {'is' if len(names) == 1 else 'are'} {group} {target}"
                )
    return ", ".join(parts)


def _counted(names: Sequence[str], record: FrontRecord) -> str:
    """Return the names, or how many they are where they are too many to read."""
    if len(names) <= MOST_NAMED:
        return listing(names)
    return f"{len(names)} of {len({test.first for test in record.comparisons if test.second == 'base'})} policies"


def _among(record: FrontRecord) -> str:
    others = ("base model", MIXTURE)
    pairs = [test for test in record.comparisons if called(record, test.second) not in others]
    if not pairs:
        return ""
    apart = list(_apart(pairs))
    if not apart:
        return f"between {'them' if len(pairs) == 1 else 'any two of them'} no difference is shown"
    if len(apart) <= MOST_NAMED:
        lower: dict[str, list[str]] = {}
        for above, below in apart:
            lower.setdefault(called(record, below), []).append(called(record, above))
        facts = [
            f"{listing(names)} {'is' if len(names) == 1 else 'are'} above {below}"
            for below, names in lower.items()
        ]
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
