"""A YAML file and overrides into the settings of a run."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from paretune.core.errors import ConfigError
from paretune.core.settings import parse
from paretune.runs.checks import check_config
from paretune.runs.config import RunConfig
from paretune.runs.keys import read_values
from paretune.runs.principles import with_principles


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a YAML file and apply ``key=value`` overrides such as ``train.steps=50`` or ``methods.modpo.beta=0.2``.

    Where there is no such file, a name such as ``quickstart`` is that of a config that ships with the package.

    Raises:
        ConfigError: No such file, bad YAML, an unknown key (the nearest name is given), a value of the wrong type.
    """
    path, values = read_values(path, overrides)
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
        if "score" in values:
            values = {**values, "score": with_principles(values["score"])}
        config = parse(RunConfig, values)
        check_config(config)
    except ConfigError as error:
        raise ConfigError(f"{source}: {error}") from error
    return config
