"""The JSON schema of a whole config, for editors: every setting with its type, default and description.

The schema is made from the classes of settings themselves; descriptions are the ``Attributes`` of their docstrings. To make
it torch is loaded, so it ships as a file.
"""

from __future__ import annotations

import inspect
import re
from typing import Any

from pydantic import TypeAdapter
from pydantic.json_schema import GenerateJsonSchema

from paretune.core.settings import flat_fields
from paretune.methods import METHODS
from paretune.methods.base import Method
from paretune.runs.config import RunConfig
from paretune.scoring.rules import RULES
from paretune.scoring.scorer import KINDS, NAME_MODELS
from paretune.training.loop import Training

Schema = dict[str, Any]

DIALECT = "http://json-schema.org/draft-07/schema#"
"""The dialect that editors support best."""


def config_schema() -> Schema:
    """Return the schema of :class:`paretune.runs.config.RunConfig`, with the settings of every method and scorer."""
    root = _schema_of(RunConfig)
    definitions: Schema = root.pop("$defs")
    training = _schema_of(Training)
    definitions["Training"] = training
    of_run = {key: value for key, value in training["properties"].items() if key != "seed"}
    root["properties"]["train"] = {**training, "properties": of_run}
    for name, method in METHODS.items():
        definitions[f"method-{name}"] = _method_schema(name, method)
    for name, make in RULES.items():
        definitions[f"rule-{name}"] = _scorer_schema("rule", make, name)
    for kind, made in KINDS.items():
        definitions[f"scorer-{kind}"] = _scorer_schema(kind, made)
    definitions["scorer"], definitions["scorer-principles"] = (
        _scorer(),
        _principles(definitions["scorer-judge"]),
    )
    root["properties"]["methods"] |= _methods()
    root["properties"]["score"]["items"] = _scorers()
    return {"$schema": DIALECT, "title": "paretune", **root, "$defs": dict(sorted(definitions.items()))}


def _methods() -> Schema:
    """Return what ``methods`` holds: settings under a method's own name, or under a name of the user's with ``method``."""
    named = {name: {"$ref": f"#/$defs/method-{name}"} for name in METHODS}
    other = {
        "type": "object",
        "required": ["method"],
        "properties": {
            "method": {"enum": list(METHODS), "description": "The method that these settings are for."}
        },
        "allOf": [_where("method", name, schema) for name, schema in named.items()],
    }
    return {"properties": named, "additionalProperties": other}


def _method_schema(name: str, method: Method[Any]) -> Schema:
    schema = _schema_of(method.config)
    schema.pop("$defs", None)  # flat groups are lifted, and no method composes settings otherwise
    card = method.card
    schema["description"] = f"{card.title} ({card.paper}). Needs {card.needs}. Training runs: {card.runs}."
    for key, known in (
        {name: (value,) for name, value in method.fixed.items()} | dict(method.choices)
    ).items():
        schema["properties"][key] |= {"enum": list(known), "default": known[0]}
    schema["properties"]["method"] = {"const": name, "description": "Name of the method."}
    train = "How its adapters are trained, where that differs from the run's train."
    schema["properties"]["train"] = {"allOf": [{"$ref": "#/$defs/Training"}], "description": train}
    return schema


def _scorers() -> Schema:
    """Return one entry of ``score``: an objective, exactly one kind of scorer and its options, or a file of principles."""
    return {
        "type": "object",
        "if": {"required": ["principles"]},
        "then": {"$ref": "#/$defs/scorer-principles"},
        "else": {"$ref": "#/$defs/scorer"},
    }


def _scorer() -> Schema:
    """Return one entry of ``score`` that is one scorer."""
    kinds = ["rule", *KINDS]
    return {
        "type": "object",
        "required": ["objective"],
        "properties": {
            "objective": {"type": "string", "description": "Name of what it rates."},
            "rule": {"enum": list(RULES)},
        },
        "oneOf": [_of_kind(kind) for kind in kinds],
        "allOf": [
            *(_where("rule", name, {"$ref": f"#/$defs/rule-{name}"}) for name in RULES),
            *({"if": _of_kind(kind), "then": {"$ref": f"#/$defs/scorer-{kind}"}} for kind in KINDS),
        ],
    }


def _principles(judge: Schema) -> Schema:
    """Return the entry for a file of principles: the settings of a judge, with the file in place of rubric and objective."""
    own = ("objective", "judge")
    kept = {key: value for key, value in judge["properties"].items() if key not in own}
    file = {"type": "string", "description": "YAML file of principles, each of which is an objective."}
    head = {
        "enum": ["fit"],
        "description": "Fit a head for each on the judge's labels; without it the judge scores.",
    }
    return {
        **judge,
        "required": ["principles", *(key for key in judge["required"] if key not in own)],
        "properties": {"principles": file, "head": head, **kept},
        "description": "One scorer for each principle of a file (MORLAIF, arXiv 2406.07295).",
    }


def _of_kind(kind: str) -> Schema:
    """Return what tells the entries of a kind; ``model`` beside a server or a judge is theirs."""
    others = [{"required": [other]} for other in NAME_MODELS] if kind == "model" else []
    return {"required": [kind], **({"not": {"anyOf": others}} if others else {})}


def _scorer_schema(kind: str, make: Any, rule: str = "") -> Schema:
    """Return the settings of one scorer: the parameters of the function that makes it."""
    schema = _untitled(TypeAdapter(make).json_schema()) | {"additionalProperties": False}
    doc = inspect.getdoc(make) or ""
    for key, text in (_described_in(doc, "Args") | _described_in(doc, "Attributes")).items():
        if key in schema["properties"]:
            schema["properties"][key]["description"] = text
    if rule:
        properties = {"rule": {"const": rule}}
    else:  # the second parameter is what stands under the name of the kind
        subject = list(schema["properties"])[1]
        properties = {kind: schema["properties"].pop(subject)}
        schema["required"] = [kind if key == subject else key for key in schema["required"]]
    return {**schema, "description": _summary(make), "properties": {**schema["properties"], **properties}}


def _where(key: str, value: str, schema: Schema) -> Schema:
    return {"if": {"properties": {key: {"const": value}}, "required": [key]}, "then": schema}


def _schema_of(kind: type) -> Schema:
    return _untitled(TypeAdapter(kind).json_schema(schema_generator=_Described))


class _Described(GenerateJsonSchema):
    """A generator that adds descriptions, closes every group of settings to unknown keys, and lifts flat groups."""

    def dataclass_schema(self, schema: Any) -> Schema:
        return _described(schema["cls"], super().dataclass_schema(schema))

    def model_schema(self, schema: Any) -> Schema:
        return _described(schema["cls"], super().model_schema(schema))


def _described(kind: type, schema: Schema) -> Schema:
    texts, properties = attributes(kind), dict(schema["properties"])
    for key, value in properties.items():
        properties[key] = {**value, "description": texts[key]} if key in texts else value
    for name, (flat, default) in flat_fields(kind).items():
        del properties[name]
        group = _schema_of(type(default))["properties"]
        lifted = {
            key: {**group[inner], "default": getattr(default, inner)}
            for key, inner in flat.keys(default).items()
        }
        properties |= lifted
    return {**schema, "description": _summary(kind), "additionalProperties": False, "properties": properties}


def attributes(kind: type) -> dict[str, str]:
    """Return name -> description of each setting, from the ``Attributes`` of the docstrings of a class and its parents."""
    descriptions: dict[str, str] = {}
    for parent in reversed(kind.__mro__):
        descriptions |= _described_in(inspect.cleandoc(parent.__dict__.get("__doc__") or ""), "Attributes")
    return descriptions


def _described_in(text: str, heading: str) -> dict[str, str]:
    """Return name -> description of what a section of a docstring lists."""
    _, _, section = text.partition(f"\n{heading}:\n")
    section = re.split(r"\n(?=\S)", section)[0]
    found = re.findall(r"^    (\w[\w, ]*): (.*(?:\n     +.*)*)", section, re.MULTILINE)
    return {name: _plain(description) for names, description in found for name in names.split(", ")}


def _summary(of: Any) -> str:
    return _plain((inspect.getdoc(of) or "").split("\n\n")[0])


def _plain(text: str) -> str:
    """Return a docstring's text for a reader of a config: in one line, without marks of code and roles."""
    text = re.sub(r":\w+:`[~.]?([^`]*)`", r"\1", " ".join(text.split()))
    return text.replace("`", "")


def _untitled(schema: Any) -> Any:
    """Return a schema without the titles that only repeat keys."""
    if isinstance(schema, list):
        return [_untitled(part) for part in schema]
    if not isinstance(schema, dict):
        return schema
    return {
        key: _untitled(value) for key, value in schema.items() if key != "title" or isinstance(value, dict)
    }
