"""A YAML file and overrides into the settings of a run."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from paretune.core.errors import ConfigError, suggest
from paretune.core.settings import parse
from paretune.methods import METHODS
from paretune.runs.config import RunConfig
from paretune.runs.shipped import find_config


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a YAML file and apply ``key=value`` overrides such as ``train.steps=50`` or ``methods.modpo.beta=0.2``.

    Where there is no such file, a name such as ``quickstart`` is that of a config that ships with the package.

    Raises:
        ConfigError: No such file, bad YAML, an unknown key (the nearest name is given), a value of the wrong type.
    """
    path = find_config(path)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot read the config ({error.strerror})") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected a mapping of settings, got {type(values).__name__}")
    for text in overrides:
        override(values, text)
    return parse_config(values, str(path))


def parse_config(values: Mapping[str, Any], source: str = "config") -> RunConfig:
    """Check a mapping of settings and return the typed configuration.

    Raises:
        ConfigError: An unknown key, or a value that cannot be; ``source`` names the file in the message.
    """
    train = values.get("train")
    if isinstance(train, Mapping) and "seed" in train:
        raise ConfigError("unknown key train.seed; seed is that of the whole run, training included")
    config = parse(RunConfig, values, source=source)
    for name in config.methods:
        _check_entry(config, name)
    if config.endpoint:
        for name in config.endpoint.policies:
            if name not in config.methods:
                raise ConfigError(f"endpoint.policies: no method {name!r}; {suggest(name, config.methods)}")
        for name in config.endpoint.stages:
            _check_stages(config, name)
    return config


def _check_entry(config: RunConfig, name: str) -> None:
    """Raise a ConfigError unless the entry ``name`` of ``methods`` is a method under settings that can be."""
    values, method = config.methods[name], config.kind(name)
    if method not in METHODS:
        cure = "" if "method" in values else "; under a name of your own, add method: NAME"
        raise ConfigError(f"unknown method {method!r}; {suggest(method, METHODS)}{cure}")
    if name in METHODS and method != name:
        raise ConfigError(
            f"methods.{name}.method: {method!r} under the name of another method; choose a name of your own"
        )
    if not re.fullmatch(r"\w[\w-]*", name):
        raise ConfigError(
            f"methods: {name!r} names a folder of the run; use letters, digits, hyphens and underscores"
        )
    if "endpoint" in values:
        raise ConfigError(
            f"methods.{name}.endpoint: a run has one endpoint, under endpoint:. It can sample answers between stages of training, "
            f"for the methods that endpoint.stages lists (of {_staged()}); answers that a method samples while it trains come from "
            "parameters that only this process has, with another preference in every row, so no endpoint can sample them"
        )
    config.entry(name)


def _check_stages(config: RunConfig, name: str) -> None:
    """Raise a ConfigError unless an endpoint can sample the answers between the stages of the entry ``name``."""
    if name not in config.methods:
        raise ConfigError(f"endpoint.stages: no method {name!r}; {suggest(name, config.methods)}")
    entry = config.entry(name)
    if not entry.method.staged:
        raise ConfigError(
            f"endpoint.stages: {name} has no answers between its stages that an endpoint could sample; expected methods among "
            f"{_staged()}"
        )
    if entry.traits.refusal:
        raise ConfigError(f"endpoint.stages: {name}: {entry.traits.refusal}")


def _staged() -> str:
    return ", ".join(name for name, method in METHODS.items() if method.staged)


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
        group = group.setdefault(parent, {})
        if not isinstance(group, dict):
            raise ConfigError(f"cannot set {path}: {parent} is not a group of settings")
    try:
        group[leaf] = yaml.safe_load(value)
    except yaml.YAMLError as error:
        raise ConfigError(
            f"the override {text!r}: {value!r} is not valid YAML ({' '.join(str(error).split())}); "
            "close brackets and quotes, or quote the text"
        ) from error
