"""The model card of a run: what was trained, towards what, how well, and how to use it."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

from paretune.core.files import write_text
from paretune.core.preference import Preference
from paretune.reports.wording import (
    Run,
    called,
    duration,
    interval,
    number,
    off_simplex,
    percent,
    places,
    summary,
    title,
    verdict,
    weight,
)


def write_card(run: Run, file: str | Path) -> None:
    """Write a model card in Markdown with a YAML head, to stand beside ``front.png`` and ``policies/``.

    Args:
        run: content of ``front.json``: scores higher is better; None or NaN where a figure is undefined.
        file: where to write, usually ``README.md`` in the folder of the run.

    Raises:
        ParetuneError: the file cannot be written.
    """
    import yaml

    head = yaml.safe_dump(_head(run), sort_keys=False, allow_unicode=True)
    parts = [
        f"---\n{head}---",
        f"# {_cell(run['name'])}\n\n{_cell(summary(run))}\n\n![The measured front](front.png)",
        _objectives(run),
        _policies(run),
        _front(run),
        _verdicts(run),
        _data(run),
        _use(run),
        _limits(run),
    ]
    write_text(file, "\n\n".join(part for part in parts if part) + "\n")


def _head(run: Run) -> dict[str, Any]:
    head: dict[str, Any] = {"base_model": run["model"], "library_name": "paretune"}
    if run.get("licence"):
        head["license"] = run["licence"]
    head["pipeline_tag"] = "text-generation"
    head["tags"] = ["paretune", "multi-objective", "lora", *(policy["name"] for policy in run["policies"])]
    return head


def _cell(value: object) -> str:
    """Return text that is plain text in Markdown: no table cell, tag or line ends early."""
    text = " ".join(str(value).split())
    for character, safe in (("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("|", "&#124;")):
        text = text.replace(character, safe)
    return text


def _table(columns: Sequence[str], rows: Sequence[Sequence[object]], numbers: Sequence[int] = ()) -> str:
    rule = ["---:" if k in numbers else "---" for k in range(len(columns))]
    lines = [map(_cell, columns), rule, *(map(_cell, row) for row in rows)]
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


def _objectives(run: Run) -> str:
    meanings = run.get("objectives_info", {})
    rows = [[objective, "higher", meanings.get(objective) or "not stated"] for objective in run["objectives"]]
    return f"## Objectives\n\n{_table(['objective', 'better is', 'what it measures'], rows)}"


def _policies(run: Run) -> str:
    rows = []
    for policy in run["policies"]:
        cost = policy.get("cost", {})
        rows.append([
            title(policy),
            f"policies/{policy['name']}",
            policy.get("enters", ""),
            number(cost.get("runs"), 0),
            duration(cost.get("seconds")),
            policy.get("paper", ""),
        ])  # fmt: skip
    columns = ["method", "folder", "where the preference enters", "training runs", "training time", "paper"]
    return f"## Policies\n\n{_table(columns, rows, (3, 4))}"


def _front(run: Run) -> str:
    objectives, shown = run["objectives"], places(run)
    columns = ["", " / ".join(objectives), *objectives, "words", "KL from base, nats", "collapsed"]

    def row(name: str, weights: str, point: Run) -> list[str]:
        scores = [
            interval({"value": point["mean"][m], "low": point["low"][m], "high": point["high"][m]}, shown[m])
            for m in range(len(objectives))
        ]
        divergence = interval(point["kl"], 1) if point.get("kl") else "-"
        return [
            name,
            weights,
            *scores,
            number(point.get("words"), 0),
            divergence,
            percent(point.get("collapse_rate")),
        ]

    rows = [row("base model", "-", run["base"])]
    for policy in run["policies"]:
        for point in policy["points"]:
            weights = " / ".join(weight(point["preference"][objective]) for objective in objectives)
            rows.append(row(title(policy), weights, point))
    for i, point in off_simplex(run):
        weights = " / ".join(weight(point["preference"][objective]) for objective in objectives)
        rows.append(row(f"{title(run['policies'][i])}, extrapolated", weights, point))
    return (
        f"## Front\n\nMean scores on {run['num_prompts']} held-out prompts, in brackets the 95 % interval "
        "over prompts.\n\n"
        f"{_table(columns, rows, range(2, len(columns)))}"
    )


def _verdicts(run: Run) -> str:
    shown = places(run)
    point = ", ".join(
        f"{objective} {number(value, shown[m])}"
        for m, (objective, value) in enumerate(zip(run["objectives"], run["reference_point"], strict=True))
    )
    rows = [[title(policy), interval(policy["figures"]["hypervolume"])] for policy in run["policies"]]
    rows.append(["coin toss between single-objective models", interval(run["chord"]["hypervolume"])])
    rows.append(["base model", interval(run["base"]["hypervolume"])])
    text = f"## Hypervolume\n\nReference point: {_cell(point)}.\n\n{_table(['', 'hypervolume'], rows, (1,))}"
    tests = [
        [
            called(run, each["first"]),
            called(run, each["second"]),
            interval(each["difference"]),
            verdict(run, each),
        ]
        for each in run["comparisons"]
    ]
    if tests:
        text += f"\n\n{_table(['first', 'second', 'first - second', 'verdict'], tests, (2,))}"
    return text


def _data(run: Run) -> str:
    data = run.get("data")
    if not data:
        return ""
    splits = ", ".join(f"{name} {count:,}" for name, count in run.get("splits", {}).items())
    text = f"## Data\n\n{data['rows']:,} training rows with {data['responses']:,} responses"
    text += f"; prompts in each split: {_cell(splits)}." if splits else "."
    return f"{text} Licence: {_cell(run.get('licence') or 'not stated')}."


def _use(run: Run) -> str:
    policy = run["policies"][0]
    points = policy["points"]
    chosen = points[policy["knee"]]["preference"]
    text = str(Preference.of(chosen))
    return (
        "## Use\n\nFrom this folder, in Python:\n\n```python\n"
        "from paretune.policies.policy import load_policy\n"
        "from paretune.core.preference import Preference\n"
        "from paretune.data.rows import Message\n\n"
        f"policy = load_policy({'policies/' + policy['name']!r})\n"
        'prompt = (Message("user", "How do I keep basil alive indoors?"),)\n'
        f"preference = Preference.parse({text!r})\n"
        "print(policy.generate([prompt], [preference])[0].text)\n```"
    )


def _limits(run: Run) -> str:
    meanings = "; ".join(f"{name}: {told}" for name, told in run.get("objectives_info", {}).items() if told)
    sampling = ", ".join(f"{key.replace('_', ' ')} {value}" for key, value in run.get("sampling", {}).items())
    lines = [
        "A score is what its scorer measures, not what its name promises"
        + (f" ({_cell(meanings)})." if meanings else "."),
        "Intervals count the luck of the prompts, not that of the training seed.",
        f"Measured with {_cell(sampling)}; other sampling gives other scores." if sampling else "",
        "Judged on prompts of the same kind as the training data; elsewhere the front is unknown.",
        "No safety evaluation is part of this run beyond the objectives above.",
        f"Made with paretune {_cell(run['version'])} on {_cell(run['created'])}; "
        "`report.html` beside this file shows everything.",
    ]
    return "## Limits\n\n" + "\n".join(f"- {line}" for line in lines if line)
