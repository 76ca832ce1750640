"""The sections of the report that are tables: figures, paired tests, sense, data, cost."""

from __future__ import annotations

import math
import re
from html import escape

from paretune.fronts.indicators import STEERABLE
from paretune.reports.page import badge, bounded, plain_badge, section, table
from paretune.reports.plots import SHAPES, box_plot, strip
from paretune.reports.wording import (
    NOTHING,
    Run,
    called,
    decimals,
    duration,
    known,
    number,
    off_simplex,
    percent,
    places,
    preference,
    verdict,
    weight,
    winner,
)

COLLAPSE_FLAG = 0.05
"""Above this share of collapsed responses a point is flagged."""
UNLIKELY_FLAG = 1.0
"""So many nats a token less likely under the base model than its own samples, a point is flagged."""


def hypervolumes(run: Run) -> str:
    """Return the table of hypervolumes and of the other figures of each front."""
    objectives = run["objectives"]
    rows: list[tuple[str, str, Run, Run]] = [
        (badge(run, i), f"pol{i % len(SHAPES)}", policy["figures"]["hypervolume"], policy["figures"])
        for i, policy in enumerate(run["policies"])
    ]
    rows.append((plain_badge("chord", "coin toss"), "quiet", run["chord"]["hypervolume"], {}))
    rows.append((plain_badge("base", "base model"), "quiet", run["base"]["hypervolume"], {}))
    bounds = [row[2][key] for row in rows for key in ("value", "low", "high") if known(row[2].get(key))]
    low, high, shown = min(bounds, default=0.0), max(bounds, default=1.0), decimals(bounds)
    figures = ["hull_hypervolume", *(f"controllability:{objective}" for objective in objectives)]
    figures += ["inner_product", "sparsity", "spacing"]
    columns = ["", "hypervolume", "", "with mixtures", *(f"control: {escape(o)}" for o in objectives)]
    columns += ["inner product", "sparsity", "spacing"]
    cells = []
    for name, kind, figure, more in rows:
        others = [
            bounded(more[f], shown if f == "hull_hypervolume" else None) if f in more else NOTHING
            for f in figures
        ]
        cells.append([name, bounded(figure, shown), strip(figure, low, high, kind), *others])
    point = ", ".join(
        f"{escape(objective)} {number(value, places(run)[m])}"
        for m, (objective, value) in enumerate(zip(objectives, run["reference_point"], strict=True))
    )
    return section(
        "hypervolume",
        "Hypervolume and other figures",
        table(columns, cells, range(3, 3 + len(figures))),
        f"Reference point: {point}. Control is the rank correlation of weight and score, 1 at best; "
        "for sparsity and spacing lower is more even.",
    )


def comparisons(run: Run) -> str:
    """Return the table of paired tests."""
    if not run["comparisons"]:
        return ""
    bounds = [c["difference"][key] for c in run["comparisons"] for key in ("value", "low", "high")]
    bounds = [bound for bound in bounds if known(bound)]
    low, high, shown = min([0.0, *bounds]), max([0.0, *bounds]), decimals([0.0, *bounds])
    names = [policy["name"] for policy in run["policies"]]
    rows = []
    for each in run["comparisons"]:
        above = winner(each)
        kind = f"pol{names.index(above) % len(SHAPES)}" if above in names else "quiet"
        told = escape(verdict(run, each))
        rows.append([
            f"{escape(called(run, each['first']))} − {escape(called(run, each['second']))}",
            bounded(each["difference"], shown),
            strip(each["difference"], low, high, kind, zero=True),
            f'<span class="plain">{told}</span>' if above is None else f"<b>{told}</b>",
            number(each.get("p_value")),
        ])  # fmt: skip
    return section(
        "comparisons",
        "Who is above whom",
        table(["difference of hypervolumes", "", "", "verdict", "p"], rows, (4,)),
        "Paired over the same prompts. An interval that holds 0 shows no difference, nor equality.",
    )


def remarks(run: Run, point: Run) -> list[str]:
    """Return what is wrong with the text of a point: collapse, or far less likely under the base model."""
    found = []
    collapse, base, own = point.get("collapse_rate"), run["base"].get("base_logp"), point.get("base_logp")
    if known(collapse) and collapse > COLLAPSE_FLAG:
        found.append(f"collapses: {percent(collapse)} of answers")
    if known(base) and known(own) and base - own > UNLIKELY_FLAG:
        found.append(f"strange text: {number(base - own, 1)} nats a token below base")
    return found


def sense(run: Run) -> str:
    """Return the table that says whether the answers still make sense at each point."""
    base = run["base"]
    shown = places(run)

    def row(name: str, told: str, point: Run) -> list[str]:
        own, reference = point.get("base_logp"), base.get("base_logp")
        gap = own - reference if known(own) and known(reference) else None
        flags = [f'<span class="flag">⚠ {escape(text)}</span>' for text in remarks(run, point)]
        if point.get("used") and point.get("preference") and _apart(point["used"], point["preference"]):
            flags.append(f"served by {escape(preference(point['used']))}")
        return [
            name,
            told,
            *(number(value, shown[m]) for m, value in enumerate(point["mean"])),
            percent(point.get("collapse_rate")),
            percent(point.get("cut_rate")),
            bounded(point["kl"], 1) if point.get("kl") else NOTHING,
            number(own, 2),
            NOTHING if gap is None else ("+" if gap > 0 else "") + number(gap, 2),
            number(point.get("words"), 0),
            "<br>".join(flags) or '<span class="plain">ok</span>',
        ]

    rows = [row(plain_badge("base", "base model"), NOTHING, base)]
    objectives = run["objectives"]
    for i, policy in enumerate(run["policies"]):
        for point in policy["points"]:
            told = " / ".join(weight(point["preference"][objective]) for objective in objectives)
            rows.append(row(badge(run, i), told, point))
    for i, point in off_simplex(run):
        told = " / ".join(weight(point["preference"][objective]) for objective in objectives)
        rows.append(row(badge(run, i), f"{told}<br>extrapolated, in no figure", point))
    columns = ["", " / ".join(map(escape, objectives)), *map(escape, objectives), "collapsed", "cut off"]
    columns += [
        "KL from base, nats a response",
        "log-probability under base, nats a token",
        "against the base's own",
    ]
    columns += ["words", "remark"]
    return section(
        "sense",
        "Does it still make sense?",
        table(columns, rows, range(2, len(columns) - 1)),
        f"Flagged: more than {percent(COLLAPSE_FLAG)} of answers collapsed (under 5 tokens, or mostly "
        f"repetition), or text more than {number(UNLIKELY_FLAG)} nat a token less likely than the base "
        "model's own.",
    )


def _apart(used: Run, asked: Run) -> bool:
    return any(abs(used.get(name, 0.0) - share) > 1e-6 for name, share in asked.items())


def steerability(run: Run) -> str:
    """Return how large the singular values that follow the preference are, by layer, for policies that have some."""
    rows = []
    for i, policy in enumerate(run["policies"]):
        ratios = policy.get("steerability") or {}
        layers: dict[int, list[float]] = {}
        for path, ratio in ratios.items():
            found = re.search(r"\.(\d+)\.", path)
            # Where nothing is shared, all that there is follows the preference.
            place = math.inf if ratio is None else math.log10(ratio) if ratio > 0 else -math.inf
            layers.setdefault(int(found[1]) if found else 0, []).append(place)
        if not ratios:
            continue
        every = sorted(value for values in layers.values() for value in values)
        middle = every[len(every) // 2]
        means = {layer: sum(values) / len(values) for layer, values in sorted(layers.items())}
        bars = "".join(
            f'<span class="layer" style="--v:{min(1.0, max(0.0, (mean + 3) / 4)):.3f}" '
            f'title="layer {layer}: {mean:+.2f}"></span>'
            for layer, mean in means.items()
        )
        verdict_ = (
            "steerable"
            if middle >= math.log10(STEERABLE)
            else '<span class="flag">⚠ not steerable</span>: the preference hardly changes the weights'
        )
        told = number(middle, 2) if math.isfinite(middle) else "nothing is shared" if middle > 0 else NOTHING
        rows.append([badge(run, i), f'<span class="layers">{bars}</span>', told, verdict_])
    if not rows:
        return ""
    columns = ["", "by layer, first to last", "median", ""]
    return section(
        "steerability",
        "Steerability",
        table(columns, rows, (2,)),
        "log10 of the singular values that follow the preference over those that do not, at the uniform preference; a bar "
        f"runs from -3 to 1. Below {math.log10(STEERABLE):.1f} the preference has next to no effect.",
    )


def mixing(run: Run) -> str:
    """Return how far the mixed policies disagree, and how far their mixture is from their soup, at each preference."""
    rows = []
    for i, policy in enumerate(run["policies"]):
        for point, distance in zip(policy["points"], policy.get("soup_kl") or [], strict=False):
            rows.append([
                badge(run, i),
                preference(point["preference"]),
                bounded(point["conflict"], 3),
                bounded(distance, 3),
            ])  # fmt: skip
    if not rows:
        return ""
    return section(
        "mixing",
        "Mixing at decoding",
        table(
            ["", "preference", "conflict, nats a token", "distance from the soup, nats a token"], rows, (2, 3)
        ),
        "Conflict is what the step normaliser says: 0 where the single-objective models agree on the next token. The distance "
        "is KL(mixture || soup of the same adapters): small, and the soup, which costs one model, will do.",
    )


def made_data(run: Run) -> str:
    """Return what methods that make data of their own kept of it: answers to goals, and improved responses."""
    rows = []
    for i, policy in enumerate(run["policies"]):
        for n, online in enumerate(policy.get("online") or [], 1):
            gaps = ", ".join(f"{escape(name)} {number(gap, 2)}" for name, gap in online["gap"].items())
            kept = f"{online['drawn']} answers to goals drawn, {online['kept']} kept to train on"
            told = f"asked and obtained scores differ by {gaps} deviations on average" if gaps else NOTHING
            rows.append([badge(run, i), f"iteration {n}", kept, told])
        kept = policy.get("retention")
        if kept:
            told = (
                f"{kept['sampled']} responses drawn, {kept['rewritten']} rewritten (kept: {kept['kept']}), {kept['cut']} cut, "
                f"{kept['unread']} reviews without a suggestion"
            )
            of = f"{kept['conflicts']} of {kept['pairs']} pairs conflict, {kept['taken']} taken, {kept['survivors']} improved"
            rows.append([badge(run, i), f"round {kept['round']}", of, told])
    if not rows:
        return ""
    return section(
        "made",
        "Data the methods made",
        table(["", "", "kept", ""], rows),
        "The distance between the scores asked for and those obtained is what a prompt can steer at best; a self-improvement "
        "rests on the pairs for which a response better than both was found.",
    )


def training_data(run: Run) -> str:
    """Return what the training data are: counts, scores, conflicts."""
    data = run.get("data")
    if not data:
        return ""
    objectives = data["objectives"]
    splits = ", ".join(f"{escape(name)} {count:,}" for name, count in run.get("splits", {}).items())
    facts = [
        ("rows", f"{data['rows']:,}"),
        ("different prompts", f"{data['prompts']:,}"),
        ("responses", f"{data['responses']:,}"),
        ("repeated prompts", f"{data['repeated_prompts']:,}"),
        ("identical responses", f"{data['identical_responses']:,}"),
        ("cut responses", percent(data["truncated_share"])),
        ("words a response, median", number(data["response_words"]["p50"], 0)),
    ]
    counts = "".join(f"<div><dt>{name}</dt><dd>{value}</dd></div>" for name, value in facts)
    rows = []
    for each in objectives:
        five = (each["low"], *each["quartiles"], each["high"])
        drawn = box_plot(five[0], five[1:4], five[4]) if all(map(known, five)) else NOTHING
        figures = [number(value) for value in (*five, each["mean"], each["std"])]
        rows.append(
            [escape(each["objective"]), drawn, *figures, f"{each['missing']:,}", f"{each['comparisons']:,}"]
        )
    columns = ["objective", "", "min", "25 %", "50 %", "75 %", "max", "mean", "std", "missing", "comparisons"]
    scores = table(columns, rows, range(2, len(columns)))
    heat = ""
    if len(objectives) > 1:
        names = [escape(each["objective"]) for each in objectives]
        cells = [
            [name, *(_heat(share, i == j) for j, share in enumerate(line))]
            for i, (name, line) in enumerate(zip(names, data["conflicts"], strict=True))
        ]
        matrix = table(["", *names], cells)
        heat = f"<h3>Pairs on which two objectives disagree</h3><div class=tight>{matrix}</div>"
    return section(
        "data",
        "Training data",
        f'<dl class="facts">{counts}</dl>{scores}{heat}',
        f"Prompts in each split: {splits}." if splits else "",
    )


def _heat(share: float | None, diagonal: bool) -> str:
    if diagonal or not known(share):
        return NOTHING
    return f'<span class="heat" style="--v:{share:.3f}">{percent(share)}</span>'


def cost(run: Run) -> str:
    """Return what training and judging cost, and the stages of the run."""
    stages = run.get("stages", [])
    longest = max((stage["seconds"] for stage in stages), default=0.0) or 1.0
    rows = [
        [
            escape(stage["name"]),
            duration(stage["seconds"]),
            f'<span class="meter" style="--v:{stage["seconds"] / longest:.3f}"></span>',
            "reused" if stage["reused"] else "computed",
        ]
        for stage in stages
    ]
    costs = []
    for i, policy in enumerate(run["policies"]):
        cost = policy.get("cost", {})
        costs.append([
            badge(run, i),
            number(cost.get("runs"), 0),
            number(cost.get("adapters"), 0),
            duration(cost.get("seconds")),
            number(cost.get("tokens"), 0),
            number(cost.get("passes"), 0),
            duration(policy.get("seconds")),
            number(policy.get("tokens"), 0),
            escape(str(policy.get("enters", ""))),
            escape(str(policy.get("paper", ""))),
        ])  # fmt: skip
    columns = ["", "training runs", "adapters", "training", "tokens trained", "passes a token", "judging"]
    columns += ["tokens sampled"]
    columns += ["where the preference enters", "paper"]
    total = duration(sum(stage["seconds"] for stage in stages if not stage["reused"]))
    lead = f"This run computed for {total}"
    reused = sum(bool(stage["reused"]) for stage in stages)
    lead += f" and reused {reused} of {len(stages)} stages" if reused else ""
    lead += f"; {run['scoring_forwards']:,} forward passes scored data." if "scoring_forwards" in run else "."
    lead = lead if stages else ""
    listed = (
        f"<h3>Stages</h3><div class=tight>{table(['stage', 'time', '', ''], rows, (1,))}</div>"
        if rows
        else ""
    )
    return section("cost", "Cost", table(columns, costs, range(1, 8)) + listed, lead)


READING = section(
    "reading",
    "How to read this page",
    '<ul class="reading">'
    "<li><b>Front.</b> A preference weighs the objectives; each point shows what a policy scores when "
    "served with one, and the front is the points that no other beats on every objective at once.</li>"
    "<li><b>Hypervolume.</b> The area (or volume) between the front and the reference point: one number "
    "that grows when any point moves up or the front gets wider, and that means nothing without its "
    "reference point.</li>"
    "<li><b>Interval.</b> Other prompts would give other scores; in brackets is where the number would fall "
    "for 95 of 100 such draws of prompts, and it says nothing about training again with another seed.</li>"
    "<li><b>Coin toss.</b> Tossing a coin for each answer between the single-objective models reaches "
    "every point on the dashed line for free, so a method earns its keep only above that line. More points of one "
    "line have more hypervolume: each method is tested against the coin toss at its own preferences.</li>"
    "<li><b>No difference shown.</b> The interval of the difference holds zero: these prompts cannot tell "
    "the two apart, more of them might.</li></ul>",
)


def settings(run: Run) -> str:
    """Return the settings of the run."""
    facts = {
        "run": run["name"],
        "model": run["model"],
        "objectives": ", ".join(run["objectives"]),
        "held-out prompts": run["num_prompts"],
        **{key.replace("_", " "): value for key, value in run.get("sampling", {}).items()},
        "paretune": run["version"],
        "date": run["created"],
        "licence": run.get("licence") or "not stated",
    }
    body = "".join(
        f"<div><dt>{escape(key)}</dt><dd>{escape(str(value))}</dd></div>" for key, value in facts.items()
    )
    return section("settings", "Settings", f'<dl class="facts">{body}</dl>')
