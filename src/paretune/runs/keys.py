"""The keys and values of a config, checked against its schema before anything heavy is loaded: a mistake is said at once."""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from functools import cache
from pathlib import Path
from typing import Any

from paretune.core.errors import ConfigError, ParetuneError, suggest
from paretune.core.settings import check_value
from paretune.core.settings_words import shown
from paretune.core.yaml_text import parse_yaml, read_yaml
from paretune.runs.principles import with_principles
from paretune.runs.schema_types import type_of
from paretune.runs.shipped import find_config, folder
from paretune.scoring.scorer import checked_spec

SCHEMA = "schema.json"

Schema = Mapping[str, Any]


def read_values(path: str | Path, overrides: Sequence[str] = ()) -> tuple[Path, dict[str, Any]]:
    """Return the file of a config, and its values with the overrides applied; the keys are known ones.

    Raises:
        ConfigError: No such file, bad YAML, an override that cannot be read, an unknown key (the nearest name is given).
    """
    path = find_config(path)
    values = read_yaml(path)
    if not isinstance(values, dict):
        kind = "nothing" if values is None else f"{type(values).__name__} {shown(values)}"
        raise ConfigError(
            f"{path}: expected a mapping of settings, got {kind}; write for example train: {{steps: 50}}"
        )
    for text in overrides:
        override(values, text)
    try:
        check_keys(values)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error
    return path, values


def override(values: dict[str, Any], text: str) -> None:
    """Set one value of a config by ``key=value``, in place.

    Raises:
        ConfigError: the text is not of this form, or its key leads through a value.
    """
    path, sign, value = text.partition("=")
    if not sign or not path:
        raise ConfigError(
            f"cannot read the override {text!r}; expected key=value, for example train.steps=50"
        )
    *parents, leaf = path.split(".")
    group = values
    for parent in parents:
        if group.get(parent) is None:
            group[parent] = {}
        group = group[parent]
        if not isinstance(group, dict):
            raise ConfigError(f"cannot set {path}: {parent} is not a group of settings")
    try:
        group[leaf] = parse_yaml(value)
    except ConfigError as error:
        raise ConfigError(
            f"the override {text!r:.80}: {value!r:.60} is {error}; close brackets and quotes, or quote the text"
        ) from error


@cache
def schema() -> Schema:
    """Return the schema of a config that ships with the package; a test keeps it that of the code."""
    return json.loads((folder() / SCHEMA).read_text(encoding="utf-8"))  # type: ignore[no-any-return]


def check_keys(values: Mapping[str, Any]) -> None:
    """Raise a ConfigError where a key is unknown, a value is not of its type or out of bounds, or a scorer cannot be.

    What depends on several values is checked later, by the settings' classes.
    """
    whole = schema()
    properties = whole["properties"]
    for key, value in values.items():
        if key not in properties:
            raise ConfigError(f"unknown key {key}; {suggest(str(key), properties)}")
        if key == "methods" and isinstance(value, Mapping):
            for name, settings in value.items():
                if isinstance(settings, Mapping):
                    kind = whole["$defs"].get(f"method-{settings.get('method', name)}", {})
                    _check(settings, kind, f"methods.{name}", ("method", "train"))
                    _check(settings.get("train"), whole["$defs"]["Training"], f"methods.{name}.train")
        elif not (
            key == "train" and isinstance(value, Mapping) and "seed" in value
        ):  # it has words of its own
            _check(value, properties[key], str(key))
    score = with_principles(values.get("score"))
    for number, spec in enumerate(score if isinstance(score, list) else ()):
        if isinstance(spec, Mapping):
            try:
                checked_spec(spec)
            except ParetuneError as error:
                raise ConfigError(f"score[{number}]: {error}") from error


def _check(value: Any, part: Schema, where: str, unsaid: Sequence[str] = ()) -> None:
    """Check the keys and values of a group of settings, or a value; ``unsaid`` are keys that its class does not have itself."""
    stated, part = part, _group(part)
    known = part.get("properties", {})
    if not known:
        check_value(type_of(stated), value, where)
    if not isinstance(value, Mapping) or part.get("additionalProperties") is not False:
        return
    for key, inner in value.items():
        if key not in known:
            names = [name for name in known if name not in unsaid]
            raise ConfigError(f"unknown key {where}.{key}; {suggest(str(key), names)}")
        if key not in unsaid:
            _check(inner, known[key], f"{where}.{key}")


def _group(part: Schema) -> Schema:
    """Return the group of settings that a property stands for, of several types the one with keys."""
    for choice in (part, *part.get("anyOf", ()), *part.get("allOf", ())):
        if "$ref" in choice:
            return schema()["$defs"][choice["$ref"].rpartition("/")[2]]  # type: ignore[no-any-return]
        if "properties" in choice:
            return choice  # type: ignore[no-any-return]
    return {}
