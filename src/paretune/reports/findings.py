"""The sections of the report that are tables: figures, sense, data, cost."""

from __future__ import annotations

import math
import re
from collections.abc import Iterable, Mapping
from html import escape

from paretune.core.meter import figures
from paretune.core.said import IN_ALL, Said, in_all
from paretune.fronts.front import Interval
from paretune.fronts.indicators import INDICATORS, STEERABLE
from paretune.fronts.record import FrontRecord, MeasuredPolicy, Point, Stage
from paretune.reports.page import badge, bounded, plain_badge, section, table
from paretune.reports.plots import SHAPES, strip
from paretune.reports.wording import (
    MIXTURE,
    NO_EFFECT,
    NOTHING,
    chance,
    decimals,
    duration,
    following,
    has_base,
    has_mixture,
    known,
    listing,
    log_ratio,
    number,
    off_simplex,
    percent,
    places,
    preference,
    turning,
    weights,
)

COLLAPSE_FLAG = 0.05
"""A point is flagged where a larger share of its answers collapsed."""
CUT_FLAG = 0.2
"""Share of answers that the token limit may cut before their scores say more of the limit than of the policy."""
UNLIKELY_FLAG = 1.0
"""A point is flagged where its text is so many nats per token less likely under the base model than the base model's own."""


def hypervolumes(record: FrontRecord) -> str:
    """Return the table of hypervolumes and of the other indicators of each front."""
    rows: list[tuple[str, str, Interval, Mapping[str, Interval]]] = [
        (badge(record, i), f"pol{i % len(SHAPES)}", policy.figures["hypervolume"], policy.figures)
        for i, policy in enumerate(record.policies)
    ]
    if has_mixture(record):
        rows.append((plain_badge("mixture", MIXTURE), "quiet", record.mixture.hypervolume, {}))
    if has_base(record):
        rows.append((plain_badge("base", "base model"), "quiet", record.base.hypervolume, {}))
    bounds = _bounds(figure for _, _, figure, _ in rows)
    low, high, shown = min(bounds, default=0.0), max(bounds, default=1.0), decimals(bounds)
    columns = {"": "", "hypervolume": "hypervolume", "strip": ""}
    for key, indicator in INDICATORS.items():
        names = indicator.names(key, record.objectives)
        if key != "hypervolume" and any(
            name in policy.figures for name in names for policy in record.policies
        ):
            heads = record.objectives if indicator.per_objective else [""]
            columns |= {
                n: f"{indicator.title} {escape(h)}".strip() for n, h in zip(names, heads, strict=True)
            }
    figures = list(columns)[3:]
    cells = []
    for name, kind, figure, more in rows:
        others = [
            bounded(more[f], shown if f == "hull_hypervolume" else None) if f in more else NOTHING
            for f in figures
        ]
        cells.append([name, bounded(figure, shown), strip(figure, low, high, kind), *others])
    return section(
        "hypervolume",
        "Hypervolume and other figures",
        table(list(columns.values()), cells, range(3, len(columns))),
        f"{_reference_point(record)} Hypervolumes are corrected for luck, which makes the best of several measured points look "
        "too good; their intervals say what these prompts leave open, and no verdict rests on them. The other figures are of the "
        f"points as measured. {_indicators_in_words(figures)}",
    )


def _reference_point(record: FrontRecord) -> str:
    point = ", ".join(
        f"{escape(objective)} {number(value, places(record)[m])}"
        for m, (objective, value) in enumerate(zip(record.objectives, record.reference_point, strict=True))
    )
    return f"Reference point: {point}."


def _indicators_in_words(figures: Iterable[str]) -> str:
    """Return a sentence for each indicator among ``figures``, and which of them are better lower."""
    keys = dict.fromkeys(figure.partition(":")[0] for figure in figures)
    lower = [INDICATORS[key].title for key in keys if INDICATORS[key].better == "lower"]
    words = [INDICATORS[key].words for key in keys]
    if lower:
        words.append(f"Higher is better, except for {listing(lower)}.")
    return " ".join(words)


def _bounds(figures: Iterable[Interval]) -> list[float]:
    return [bound for f in figures for bound in (f.value, f.low, f.high) if known(bound)]


def remarks(record: FrontRecord, point: Point) -> list[str]:
    """Return what to know of the text of a point: interpolated, cut, collapsing, or far less likely under the base model."""
    problems = []
    if point.interpolated:
        problems.append("interpolated: a soup of the adapters around this preference")
    if known(point.collapse_rate) and point.collapse_rate > COLLAPSE_FLAG:
        problems.append(f"collapses: {percent(point.collapse_rate)} of answers")
    if known(point.cut_rate) and point.cut_rate > CUT_FLAG:
        problems.append(f"cut: {percent(point.cut_rate)} of answers end at the token limit")
    gap = record.base.base_logp - point.base_logp
    if known(gap) and gap > UNLIKELY_FLAG:
        problems.append(f"strange text: {number(gap, 1)} nats per token below base")
    if (twin := _twin(record, point)) is not None:
        problems.append(f"the same answers as at {preference(twin.used)}: these weights change nothing")
    return problems


def _twin(record: FrontRecord, point: Point) -> Point | None:
    """Return another point of the policy that serves another preference and measured the same to the last digit."""
    points = next((p.points for p in record.policies if any(point is other for other in p.points)), ())
    others = (other for other in points if _differ(other.used, point.used) and other.mean == point.mean)
    # What is read off the answers; bands, shrunk means and movements depend on the preference as well.
    answers = {
        "mean",
        "collapse_rate",
        "cut_rate",
        "log_ratio",
        "conflict",
        "base_logp",
        "words",
        "responses",
    }
    measured = point.model_dump_json(include=answers)
    return next((other for other in others if other.model_dump_json(include=answers) == measured), None)


def sense(record: FrontRecord) -> str:
    """Return the table that shows whether the answers still make sense at each point."""
    objectives, shown = record.objectives, places(record)

    def row(name: str, weights: str, point: Point) -> list[str]:
        gap = point.base_logp - record.base.base_logp
        flags = [f'<span class="flag">⚠ {escape(text)}</span>' for text in remarks(record, point)]
        if _differ(point.used, point.preference):
            flags.append(f"served by {escape(preference(point.used))}")
        return [
            name,
            weights,
            *(number(value, shown[m]) for m, value in enumerate(point.mean)),
            percent(point.collapse_rate),
            percent(point.cut_rate),
            chance(point.on_front),
            bounded(point.log_ratio, 1),
            number(point.base_logp, 2),
            ("+" if gap > 0 else "") + number(gap, 2) if known(gap) else NOTHING,
            number(point.words, 0),
            "<br>".join(flags) or '<span class="plain">ok</span>',
        ]

    rows = [row(plain_badge("base", "base model"), NOTHING, record.base)] if has_base(record) else []
    for i, policy in enumerate(record.policies):
        rows += [row(badge(record, i), weights(record, point), point) for point in policy.points]
    for i, point in off_simplex(record):
        rows.append(row(badge(record, i), f"{weights(record, point)}<br>extrapolated, in no figure", point))
    columns = ["", " / ".join(map(escape, objectives)), *map(escape, objectives), "collapsed", "cut off"]
    columns += [
        "on the front",
        f"{log_ratio(record)}, nats per answer",
        "log-probability under base, nats per token",
        "against the base's own",
    ]
    columns += ["words", "remark"]
    if not any(known(point.words) for policy in record.policies for point in policy.points):
        return ""
    return section(
        "sense",
        "Does it still make sense?",
        table(columns, rows, range(2, len(columns) - 1)),
        f"Flagged: more than {percent(COLLAPSE_FLAG)} of answers collapsed (under 5 tokens, or mostly "
        f"repetition), or text more than {number(UNLIKELY_FLAG)} nat per token less likely than the base "
        "model's own. On the front is the chance that no other point of the policy is better on every objective by a tenth of a "
        f"deviation. {_distance_in_words(record)}",
    )


def _distance_in_words(record: FrontRecord) -> str:
    if log_ratio(record).startswith("KL"):
        return "KL from base is estimated from these answers."
    return (
        "The log-ratio is the log-probability of an answer less that under the base model; it would be KL from base if answers "
        "were sampled at temperature 1 and top-p 1, and here it is too large."
    )


def _differ(used: Mapping[str, float], asked: Mapping[str, float]) -> bool:
    return any(abs(used.get(name, 0.0) - share) > 1e-6 for name, share in asked.items())


def steerability(record: FrontRecord) -> str:
    """Return how large the singular values that follow the preference are, by layer, for policies that have some."""
    rows = [
        [badge(record, i), *_steerability_cells(record, policy)]
        for i, policy in enumerate(record.policies)
        if any(ratio is not None for ratio in policy.steerability.values())
    ]  # of adapters that share nothing there is nothing to compare
    if not rows:
        return ""
    return section(
        "steerability",
        "Steerability",
        table(["", "by layer, first to last", "median", ""], rows, (2,)),
        "log10 of the singular values that follow the preference over those that do not, at the uniform preference; a bar "
        f"runs from -3 to 1. Below {math.log10(STEERABLE):.1f} the preference hardly changes the weights. Steerable is said by the "
        "answers alone: of an objective whose scores at its largest and at its smallest weight are told apart, judged with all "
        "policies and objectives of this page together.",
    )


def _steerability_cells(record: FrontRecord, policy: MeasuredPolicy) -> list[str]:
    layers: dict[int, list[float]] = {}
    for path, ratio in policy.steerability.items():
        layer = re.search(r"\.(\d+)\.", path)
        # Where nothing is shared, everything follows the preference.
        size = math.inf if ratio is None else math.log10(ratio) if ratio > 0 else -math.inf
        layers.setdefault(int(layer[1]) if layer else 0, []).append(size)
    sizes = sorted(size for values in layers.values() for size in values)
    median = sizes[len(sizes) // 2]
    means = {layer: sum(values) / len(values) for layer, values in sorted(layers.items())}
    effect = _steerable(record, policy)
    if not math.isfinite(median) and median > 0:
        return ["", "nothing is shared", effect]
    bars = "".join(
        f'<span class="layer" style="--v:{min(1.0, max(0.0, (mean + 3) / 4)):.3f}" '
        f'title="layer {layer}: {mean:+.2f}"></span>'
        for layer, mean in means.items()
    )
    if median < math.log10(STEERABLE):
        effect += '; <span class="flag">⚠ the preference hardly changes the weights</span>'
    return [f'<span class="layers">{bars}</span>', number(median, 2), effect]


def _steerable(record: FrontRecord, policy: MeasuredPolicy) -> str:
    """Return whether answers at the ends of the dial show that a policy can be steered; the weights alone show nothing."""
    right, wrong, still = following(policy)
    if not right and not wrong:
        why = f"{NO_EFFECT} by {record.num_prompts} prompts" if still else "its ends were not compared"
        return f'<span class="plain">not shown</span>: {why}'
    if wrong:
        return f'<span class="flag">⚠ {escape(turning(policy))}</span>'
    return f"{'steerable in part' if still else 'steerable'}: {escape(turning(policy))}"


def mixing(record: FrontRecord) -> str:
    """Return how far mixed policies disagree, and how far they are from the soup of their adapters, at each preference."""
    rows = [
        [badge(record, i), preference(point.preference), bounded(point.conflict, 3), bounded(distance, 3)]
        for i, policy in enumerate(record.policies)
        for point, distance in zip(policy.points, policy.soup_kl, strict=False)
    ]
    if not rows:
        return ""
    return section(
        "mixing",
        "Mixing while decoding",
        table(
            ["", "preference", "conflict, nats per token", "distance from the soup, nats per token"],
            rows,
            (2, 3),
        ),
        "Conflict is 0 where the single-objective models agree on the next token. The distance is KL(mixed policy || soup of "
        "the same adapters). Where it is small, the soup will do, and it runs one model.",
    )


def cost(record: FrontRecord) -> str:
    """Return what training and judging cost, and the stages of the run; nothing where no cost is known."""
    if not record.stages and not any(policy.cost or known(policy.seconds) for policy in record.policies):
        return ""
    rows = []
    for i, policy in enumerate(record.policies):
        spent = policy.cost
        rows.append([
            badge(record, i),
            number(spent.runs if spent else None, 0),
            number(spent.adapters if spent else None, 0),
            duration(spent.seconds if spent else None),
            number(spent.tokens if spent else None, 0),
            number(spent.sampled if spent else None, 0),
            number(spent.passes if spent else None, 0),
            duration(policy.seconds),
            number(policy.tokens, 0),
            escape(policy.enters),
            escape(policy.paper),
        ])  # fmt: skip
    columns = [
        "",
        "training runs",
        "adapters",
        "training",
        "tokens trained",
        "sampled to train",
        "passes per token",
    ]
    columns += ["judging", "tokens sampled", "where the preference enters", "paper"]
    return section(
        "cost", "Cost", table(columns, rows, range(1, 9)) + _stages(record) + _said(record), _computed(record)
    )


def _stages(record: FrontRecord) -> str:
    if not record.stages:
        return ""
    stages: dict[str, list[Stage]] = {}
    for stage in record.stages:
        stages.setdefault(stage.name, []).append(stage)
    rest = [record.rest] if record.rest else []
    longest = max(stage.seconds for stage in (*record.stages, *rest)) or 1.0
    rows = []
    for uses in stages.values():
        # A stage that several methods share is in the record once for each of them; the first use has its time.
        first, again = uses[0], len(uses) - 1
        kind = "reused" if first.reused else "computed"
        if again and not first.reused:
            kind = f"computed, then reused {again} time{'s' * (again > 1)}"
        rows.append([escape(first.name), *_stage_cells(first, longest), kind])
    if record.rest:
        rows.append(["all else, such as loading and scores of data", *_stage_cells(record.rest, longest), ""])
    columns = ["stage", "time", "", "CPU time", "tokens read", "tokens sampled", "tokens a second"]
    columns += ["peak memory so far, MB", ""]
    return f"<h3>Stages</h3><div class=tight>{table(columns, rows, (1, *range(3, 8)))}</div>"


def _said(record: FrontRecord) -> str:
    """Return the times that were said beforehand beside those taken; nothing where none were said."""
    parts = [Said(part.name, part.said, part.taken) for part in record.said]
    if not parts:
        return ""
    rows = [
        [
            f"<b>{escape(part.name)}</b>" if part.name == IN_ALL else escape(part.name),
            duration(part.said),
            duration(part.taken),
            number(part.ratio, 2),
        ]
        for part in [*parts, in_all(parts)]
    ]
    return (
        "<h3>Said beforehand, and taken</h3><p>By the plan of this run on this machine, and by the clock. Compared is what this "
        "run itself did, in full or from a checkpoint on. A dash stands where it found the part finished, may have found it in "
        "part, or had not ended it when it wrote this page.</p>"
        f"<div class=tight>{table(['part', 'said', 'taken', 'taken by said'], rows, (1, 2, 3))}</div>"
    )


def _stage_cells(stage: Stage, longest: float) -> list[str]:
    """Return what a stage spent when it was made, with its time as a bar beside that of the ``longest``."""
    spent = figures(stage.seconds, stage.spent)
    peak = spent["peak_bytes"]
    return [
        duration(stage.seconds),
        f'<span class="meter" style="--v:{stage.seconds / longest:.3f}"></span>',
        duration(spent["cpu_seconds"]),
        number(spent["tokens_read"], 0),
        number(spent["tokens_sampled"], 0),
        number(spent["tokens_per_second"], 0),
        number(None if peak is None else peak / 1e6, 0),
    ]


def _computed(record: FrontRecord) -> str:
    """Return in one sentence how long the run computed and what it reused."""
    if not record.stages:
        return ""
    total = duration(sum(stage.seconds for stage in record.stages if not stage.reused))
    reused = sum(stage.reused for stage in record.stages)
    text = f"This run computed for {total}"
    text += f" and reused {reused} of {len(record.stages)} stages" if reused else ""
    if record.scoring_forwards is not None:
        text += f"; {record.scoring_forwards:,} forward passes scored data"
    return f"{text}."


READING = section(
    "reading",
    "How to read this page",
    '<ul class="reading">'
    "<li><b>Front.</b> A preference weighs the objectives. Each point shows what a policy scores at one preference, and the "
    "front is the points that no other beats on every objective at once.</li>"
    "<li><b>Above.</b> Averaged over all tastes, people get answers that score higher. A taste weighs the objectives, and is "
    "served at the nearest preference that both policies have. Differences are in deviations of an answer's score: 0.2 is a fifth "
    "of what answers differ by among each other.</li>"
    "<li><b>No difference shown.</b> These prompts cannot tell the two apart, which does not make them equal. Beside it stands "
    "the difference that could have been seen four times in five, and how many prompts would show one as small as observed, if "
    "that is the true one.</li>"
    "<li><b>On the front.</b> Scores are measured with luck, so whether a point is on the front is a chance. The fainter a "
    "point, the smaller it is.</li>"
    "<li><b>Hypervolume.</b> The area (or volume) between the front and the reference point. It grows when any point moves up "
    "or the front gets wider, and it means nothing without its reference point. It is a figure and no verdict.</li>"
    "<li><b>Interval.</b> Other prompts would give other scores. The brackets show where the number would fall for 95 of 100 "
    "such draws of prompts. For a point that you choose because it looks best, <code>paretune choose</code> has intervals that "
    "hold after the choice.</li>"
    "<li><b>Mixture of corners.</b> A corner is a single-objective model. Drawing one of them by chance for each answer reaches "
    "every point on the dashed line for free, so a method is worth its cost only above that line.</li>"
    "</ul>",
)


def settings(record: FrontRecord) -> str:
    """Return the settings of the run."""
    facts = {
        "run": record.name,
        "model": record.model,
        "objectives": ", ".join(record.objectives),
        "held-out prompts": record.num_prompts,
        **{key.replace("_", " "): value for key, value in record.sampling.items()},
        "paretune": record.version,
        "date": record.created,
        "licence": record.licence or "not stated",
    }
    body = "".join(
        f"<div><dt>{escape(key)}</dt><dd>{escape(str(value))}</dd></div>" for key, value in facts.items()
    )
    return section("settings", "Settings", f'<dl class="facts">{body}</dl>')
