"""What a scorer's numbers mean, in words for people."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import PurePath
from typing import Any


def meaning(spec: Mapping[str, Any]) -> str:
    """Return what a point more means under a scorer of ``score:`` in a config; of other scorers, their settings.

    >>> meaning({"objective": "concise", "rule": "length", "per": 10, "enough": 15})
    '+1 for every 10 words fewer, down to 15 words'
    >>> meaning({"objective": "safe", "model": "owner/reward", "index": 1})
    'model owner/reward, index 1'
    >>> meaning({"objective": "kind", "judge": "rubrics/kind.md", "model": "big", "direction": "lower"})
    'the grade of big by the rubric kind.md, lower is better'
    >>> meaning({"objective": "kind", "head": "fit"})
    'log-odds of being preferred among answers to one prompt, by a head fitted to comparisons'
    """
    options = {"direction": "higher", **_DEFAULTS.get(str(spec.get("rule")), {}), **spec}
    lower = options["direction"] == "lower"
    match options.get("rule"):
        case "length":
            unit, per = str(options["unit"]), f"{float(options['per']):g}"
            each = f"every {unit.removesuffix('s')}" if per == "1" else f"every {per} {unit}"
            if not lower:
                return f"+1 for {each} more"
            enough, least = float(options["enough"]), float(options["least"])
            floor = f", down to {enough:g} {unit}" if enough else ""
            return f"+1 for {each} fewer{floor}" + (
                f"; below {least:g}, −1 for {each} fewer" if least else ""
            )
        case "sentiment":
            value = {
                "sum": "the sum over sentences of how {} each sounds, from −1 to +1 (VADER)",
                "mean": "how {} its sentences sound on average, from −1 to +1 (VADER)",
                "compound": "how {} the whole text sounds, from −1 to +1 (VADER)",
            }.get(str(options["how"]))
            if value is None:
                return _settings(spec)
            value = value.format("negative" if lower else "positive")
            most = float(options["enough"])
            return value if most == 1 else f"{value}; more than {most:g} counts as {most:g}"
        case "readability":
            return f"+1 for every step of {options['formula']} that the text is {'easier' if lower else 'harder'}"
        case "regex":
            sign = "−1" if lower else "+1"
            often = "every time that" if options["how"] == "count" else "a text in which"
            return f"{sign} for {often} {options.get('pattern')} occurs"
    if "judge" in spec:
        better = "lower" if lower else "higher"
        return f"the grade of {options.get('model')} by the rubric {PurePath(str(spec['judge'])).name}, {better} is better"
    for kind, who in (("head", "a head"), ("reward", "a reward model")):
        if kind in spec:
            rid = ", its length taken out" if spec.get("length") == "removed" else ""
            return f"log-odds of being preferred among answers to one prompt, by {who} fitted to comparisons{rid}"
    return _settings(spec)


_DEFAULTS: dict[str, dict[str, Any]] = {
    "length": {"direction": "lower", "unit": "words", "per": 1.0, "enough": 0.0, "least": 0.0},
    "sentiment": {"how": "mean", "enough": 1.0},
    "readability": {"direction": "lower", "formula": "automated_readability_index"},
    "regex": {"how": "match"},
}
"""The defaults of the rules in :mod:`paretune.scoring.rules`."""


def _settings(spec: Mapping[str, Any]) -> str:
    return ", ".join(f"{key} {value}" for key, value in spec.items() if key != "objective")
