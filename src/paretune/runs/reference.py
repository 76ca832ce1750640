"""The reference of a config as a page: every setting with its type, default and meaning, from the schema of configs."""

from __future__ import annotations

import json
from collections.abc import Iterator, Mapping
from typing import Any

from paretune.runs.keys import schema

Schema = Mapping[str, Any]

HEAD = """\
# Settings of a config

Every key that a config may hold. `paretune run CONFIG key=value` changes one of them, with dots for groups: `train.steps=50`,
`methods.modpo.beta=0.2`. An unknown key, a value of the wrong type and one out of range are refused, with the nearest name.
Editors complete a config by `paretune config schema`. This page is made by `paretune config reference > docs/config.md`.
"""
GROUPS = ("data", "train", "sampling", "evaluate", "serve", "sweep", "endpoint")
"""Groups of settings, each with a section."""


def config_reference() -> str:
    """Return the page in Markdown."""
    whole = schema()
    properties = whole["properties"]
    lines = [HEAD]
    lines += _section(
        "The run", "", {k: v for k, v in properties.items() if k not in (*GROUPS, "score", "methods")}
    )
    for name in GROUPS:
        group = _resolved(properties[name], whole)
        lines += _section(f"`{name}`", str(group.get("description", "")), group["properties"])
        for key, part in group["properties"].items():
            if "properties" in (inner := _resolved(part, whole)):
                lines += _section(
                    f"`{name}.{key}`", str(inner.get("description", "")), inner["properties"], 3
                )
    lines += _section(
        "`score`",
        "A list with one entry for each objective: its name under `objective`, one of `rule`, "
        f"{', '.join(f'`{kind}`' for kind in _kinds(whole))}, and the options of that scorer. Higher scores are better; a cost has "
        "`direction: lower`.",
        {},
    )
    for kind, text in (("rule", "rule: {}"), ("scorer", "{}: NAME")):
        for name, part in _defined(whole, kind):
            own = {k: v for k, v in part["properties"].items() if k not in ("objective", "rule", name)}
            lines += _section(f"`{text.format(name)}`", str(part["description"]), own, 3, part["required"])
    lines += _section(
        "`methods`",
        "Method -> its settings, `{}` for the defaults. Under a name of your own, `method: NAME` states the method; under `train` "
        "stands what differs from the `train` of the run.",
        {},
    )
    for name, part in _defined(whole, "method"):
        own = {k: v for k, v in part["properties"].items() if k not in ("method", "train")}
        lines += _section(f"`{name}`", str(part["description"]), own, 3)
    return "\n".join(lines).rstrip() + "\n"


def _kinds(whole: Schema) -> list[str]:
    return [name for name, _ in _defined(whole, "scorer")]


def _defined(whole: Schema, kind: str) -> Iterator[tuple[str, Schema]]:
    for key, part in whole["$defs"].items():
        if key.startswith(f"{kind}-"):
            yield key.removeprefix(f"{kind}-"), part


def _section(
    title: str, text: str, settings: Mapping[str, Schema], level: int = 2, required: Any = ()
) -> list[str]:
    lines = [f"{'#' * level} {title}", ""]
    if text:
        lines += [_plain(text), ""]
    if settings:
        lines += ["| key | type | default | meaning |", "|---|---|---|---|"]
        for key, part in settings.items():
            default = "required" if key in required else _default(part)
            lines.append(
                f"| `{key}` | {_cell(_type(part))} | {default} | {_cell(_plain(str(part.get('description', ''))))} |"
            )
        lines.append("")
    return lines


def _resolved(part: Schema, whole: Schema) -> Schema:
    for choice in (part, *part.get("anyOf", ())):
        if "$ref" in choice:
            found: Schema = whole["$defs"][choice["$ref"].rpartition("/")[2]]
            return found
    return part


def _type(part: Schema) -> str:
    """Return the type of a setting in words, with its bounds."""
    if "enum" in part:
        return ", ".join(f"`{value}`" for value in part["enum"])
    if "anyOf" in part:
        return " or ".join(dict.fromkeys(_type(choice) for choice in part["anyOf"]))
    if "$ref" in part:
        return "settings"
    kind = part.get("type")
    if kind == "array":
        items = part.get("items", {})
        return f"list of {_type(items)}" if items else "list"
    words = {"integer": "whole number", "number": "number", "string": "text", "boolean": "true or false"}
    words |= {"null": "null", "object": "mapping"}
    return f"{words.get(str(kind), 'any')}{_bounds(part)}"


def _bounds(part: Schema) -> str:
    bounds = [
        f"{words} {part[key]:g}"
        for key, words in (
            ("minimum", "at least"),
            ("exclusiveMinimum", "above"),
            ("maximum", "at most"),
            ("exclusiveMaximum", "below"),
        )
        if key in part and abs(part[key]) < 10**9
    ]
    return f", {', '.join(bounds)}" if bounds else ""


def _default(part: Schema) -> str:
    if "default" not in part:
        return ""
    value = part["default"]
    return "" if value == "" else f"`{json.dumps(value, ensure_ascii=False)}`"


def _cell(text: str) -> str:
    return text.replace("|", "\\|")


def _plain(text: str) -> str:
    """Return a text in which nothing is taken for HTML."""
    return text.replace("<", "&lt;").replace(">", "&gt;").replace("-&gt;", "->")
