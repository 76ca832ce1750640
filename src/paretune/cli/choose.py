"""``paretune choose``: floors, knee and dial of a run's front, as tables or JSON."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from paretune.choosing.dial import dial_stops
from paretune.choosing.dual import dual
from paretune.choosing.floors import choose, knee_preference, parse_floors
from paretune.choosing.utility import choose_by
from paretune.core.errors import ParetuneError
from paretune.core.preference import Preference
from paretune.core.scalarise import SCALARISATIONS
from paretune.data.dataset import ScoredDataset
from paretune.fronts.indicators import has_knee
from paretune.fronts.record import FILE
from paretune.fronts.surface import Surface
from paretune.policies.shared import RUN
from paretune.reports.wording import decimals, number
from paretune.reports.wording import preference as in_words

if TYPE_CHECKING:
    from rich.console import Group

SAMPLES = ("data/train.jsonl.gz", "data/validation.jsonl.gz")
"""The files in which a run keeps the scored responses that it trains on."""
DRAWN = "samples/train*"
"""The folder of a run that is there where the base model sampled responses to its training prompts."""
STEPS = 5
"""The default number of steps of a dial."""


def choose_facts(
    run: Path,
    policy: str | None = None,
    floor: str | None = None,
    knee: bool = False,
    dial: int = 0,
    between: str | None = None,
    by: str | None = None,
    weights: str | None = None,
) -> dict[str, Any]:
    """Return the preferences that meet floors, at the knee or along a dial, as JSON values; by default knee and dial.

    Args:
        run: A run's folder, or its ``front.json``.
        policy: The policy's name; may be left out where there is one only.
        floor: Minimum scores such as ``"warm >= 0.5 and concise >= -6"``.
        knee: Whether to return the knee of the front.
        dial: The number of equal steps in expected scores, at least 2; 0 for none.
        between: The objectives between which the dial runs, ``"warm,concise"``; needed for more than two objectives.
        by: The scalarisation whose best preference is chosen, ``"min"``, ``"quantile=0.1"``, or ``"all"``.
        weights: What each objective counts in it, ``"warm=0.3,concise=0.7"``; by default all the same.

    Raises:
        ParetuneError: There is no such run, policy or objective, floors cannot be read, or the dial has one step.
    """
    file = run if run.suffix == ".json" else run / FILE
    if not file.is_file():
        raise ParetuneError(
            f"{run}: no {file.name}; expected the folder of a finished run, such as runs/quickstart, or its {FILE}"
        )
    surface = Surface.read(file, policy).for_choosing
    if weights is not None and by is None:
        raise ParetuneError(
            f"--weights {weights!r}: are for --by, such as --by min; leave them out, or add it"
        )
    if floor is None and not knee and not dial and by is None:
        knee, dial = True, STEPS if len(surface.objectives) <= 2 or between else 0
    facts: dict[str, Any] = {
        "policy": surface.policy,
        "objectives": list(surface.objectives),
        "anchored": surface.anchored,
        "scale": dict(zip(surface.objectives, surface.scale.tolist(), strict=True)),
        "measured": len(surface.preferences),
    }
    if floor is not None:
        floors = parse_floors(floor, surface.objectives)
        facts["choice"] = choose(surface, floors).to_dict()
        facts["dual"] = _dual(file.parent, surface, floors)
    if knee:
        facts["knee"] = {
            **_row(surface, knee_preference(surface)),
            "bulges": has_knee(surface.for_choosing.means),
        }
    if by is not None:
        names = surface.objectives
        asked = Preference.uniform(names) if weights is None else Preference.parse(weights, names)
        facts["weights"] = asked.as_dict()
        facts["by"] = [found.to_dict() for found in choose_by(surface, asked, by)]
    if dial or between:
        start, end = _ends(between, surface)
        found = dial_stops(surface, dial or STEPS, start, end)
        facts["dial"] = [
            {"position": position, **_row(surface, preference)} for position, preference in found.stops
        ]
        facts["dial_by"] = {"by": found.by, "why": found.why}
    return facts


def render(facts: Mapping[str, Any]) -> Group:
    """Return :func:`choose_facts` as rich tables, for the terminal."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    objectives, parts = facts["objectives"], []
    rows: list[tuple[str, Mapping[str, Any]]] = []
    if "choice" in facts:
        rows.append(("floors", facts["choice"]))
    if "knee" in facts:
        rows.append(("knee" if facts["knee"]["bulges"] else "no knee", facts["knee"]))
    rows += [(each["by"], each) for each in facts.get("by", ())]
    rows += [(f"dial {step['position']:.2f}", step) for step in facts.get("dial", ())]
    table = Table(title=f"{facts['policy']}: preferences and the scores to expect", title_justify="left")
    for column in ("", "preference", *objectives):
        table.add_column(column, justify="left" if column in ("", "preference") else "right")
    places = {
        name: decimals([row["expected"][bound][name] for _, row in rows for bound in ("mean", "low", "high")])
        for name in objectives
    }
    for label, row in rows:
        expected = row["expected"]
        cells = [_bounded(expected, name, places[name]) for name in objectives]
        table.add_row(label, in_words(row["preference"]) + ("" if expected["measured"] else " *"), *cells)
    parts.append(table)
    if any(row["expected"]["low"][name] is not None for _, row in rows for name in objectives):
        parts.append(
            Text("The 95 % intervals hold for all preferences at once, so also for the one you choose.")
        )
    else:
        parts.append(
            Text(
                "How far these scores may be off is unknown: the run has no intervals that hold after a choice."
            )
        )
    if any(not row["expected"]["measured"] for _, row in rows):
        parts.append(
            Text(f"* not measured itself, but interpolated between {facts['measured']} measured preferences")
        )
    if not facts.get("knee", {}).get("bulges", True):
        parts.append(
            Text(
                "No knee: the front is straight or bends inwards, so no point stands out; shown is the one that bulges most."
            )
        )
    if why := facts.get("dial_by", {}).get("why"):
        parts.append(Text(f"The dial: {why}."))
    parts += [Text(line) for line in _by_in_words(facts)]
    if facts["anchored"]:
        parts.append(
            Text("This policy answers only with the preferences it was measured at, with none between.")
        )
    if "choice" in facts:
        parts += [Text(line) for line in _choice_in_words(facts["choice"])]
        if facts["dual"] is not None:
            parts.append(Text(_dual_in_words(facts["dual"])))
    return Group(*parts)


def _row(surface: Surface, preference: Preference) -> dict[str, Any]:
    return {"preference": preference.as_dict(), "expected": surface.expected(preference).to_dict()}


def _ends(between: str | None, surface: Surface) -> tuple[str | None, str | None]:
    if between is None:
        return None, None
    names = [name.strip() for name in between.split(",")]
    if len(names) != 2:
        raise ParetuneError(
            f"--between {between!r}: expected two objectives such as {','.join(surface.objectives[:2])}"
        )
    return names[0], names[1]


def _dual(folder: Path, surface: Surface, floors: Mapping[str, float]) -> dict[str, Any] | None:
    """Return how scored responses to the training prompts can be reweighted to meet the floors; None where the run keeps none.

    They are the base model's own where the run sampled them, and else those of the data (``sampled``).
    """
    samples: list[np.ndarray] = []
    kept = [name for name in SAMPLES if (folder / name).exists()]
    lost = [name for name in SAMPLES if not (folder / name).is_file()]
    if lost and (folder / RUN).is_file():
        raise ParetuneError(
            f"{folder / lost[0]}: there is no such file, and the scores of the training prompts stand in it; give the command of "
            "the run again, which makes it anew"
        )
    for name in kept:
        data = ScoredDataset.read(folder / name)
        if set(surface.objectives) <= set(data.objectives):
            data = data.select(surface.objectives)
            samples += [data.matrix(row) for row in data.rows]
    samples = [scores for scores in samples if len(scores) > 1 and np.isfinite(scores).all()]
    if not samples:
        return None
    # Prompts with another number of samples would need their own weights.
    count = Counter(map(len, samples)).most_common(1)[0][0]
    scores = np.stack([table for table in samples if len(table) == count])
    sampled = any(folder.glob(DRAWN))
    return {
        "prompts": len(scores),
        "samples": count,
        "sampled": sampled,
        **dual(scores, surface.objectives, floors).to_dict(),
    }


def _bounded(expected: Mapping[str, Any], name: str, places: int) -> str:
    mean, low, high = (number(expected[bound][name], places) for bound in ("mean", "low", "high"))
    return mean if expected["low"][name] is None else f"{mean} [{low}, {high}]"


def _choice_in_words(choice: Mapping[str, Any]) -> list[str]:
    if not choice["reachable"]:
        return [f"The floors are {choice['nearest']}."]
    margins = ", ".join(f"{name} by {value:.0%}" for name, value in choice["margin"].items())
    sure = "" if choice["sure"] else " Not surely: the lower ends of the intervals do not meet all floors."
    return [f"The floors are met, in shares of each objective's range: {margins}.{sure}"]


def _by_in_words(facts: Mapping[str, Any]) -> list[str]:
    """Say what the forms were given, and what each would lose where the policy is asked for the weights themselves."""
    if not facts.get("by"):
        return []
    lost = ", ".join(
        f"{each['by']} {each['regret']:.3f}" for each in facts["by"] if each["regret"] is not None
    )
    told = f"By scalarisation, with the weights {in_words(facts['weights'])}, on scores scaled to the range of the front: "
    told += "; ".join(f"{each['by']}, {SCALARISATIONS[each['by']].words}" for each in facts["by"]) + "."
    return [told, f"Lost by asking for these weights instead, in ranges: {lost}."] if lost else [told]


def _dual_in_words(dual: Mapping[str, Any]) -> str:
    whose = {True: "The base model's own answers", False: "The responses of the data"}[dual["sampled"]]
    of = f"{whose} ({dual['samples']} to each of {dual['prompts']} training prompts)"
    if not dual["reachable"]:
        nearest = ", ".join(f"{name} >= {value:.3g}" for name, value in dual["nearest_floors"].items())
        return f"{of} cannot be reweighted to meet them; nearest is {nearest}."
    if dual["preference"] is None:
        return f"{of} meet them without steering."
    far = f"{dual['divergence']:.2f} nats from the base model"
    return f"{of} meet them when reweighted towards {in_words(dual['preference'])}, at {far}."
