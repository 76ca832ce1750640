"""A YAML file and overrides into the settings of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from paretune.core.errors import ConfigError
from paretune.core.settings import parse
from paretune.core.settings_words import shown
from paretune.core.yaml_text import parse_yaml, read_yaml
from paretune.runs.checks import check_config
from paretune.runs.config import RunConfig
from paretune.runs.shipped import find_config


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a YAML file and apply ``key=value`` overrides such as ``train.steps=50`` or ``methods.modpo.beta=0.2``.

    Where there is no such file, a name such as ``quickstart`` is that of a config that ships with the package.

    Raises:
        ConfigError: No such file, bad YAML, an unknown key (the nearest name is given), a value of the wrong type.
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
    return parse_config(values, str(path))


def parse_config(values: Mapping[str, Any], source: str = "config") -> RunConfig:
    """Check a mapping of settings and return the typed configuration.

    Raises:
        ConfigError: An unknown key, or a value that cannot be; the message begins with ``source``, the name of the file.
    """
    try:
        train = values.get("train")
        if isinstance(train, Mapping) and "seed" in train:
            raise ConfigError("unknown key train.seed; seed is that of the whole run, training included")
        config = parse(RunConfig, values)
        check_config(config)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from error
    return config


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
