"""A YAML file and overrides into the settings of a run."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml
from pydantic import BaseModel, ValidationError

from paretune.core.errors import ConfigError, suggest
from paretune.core.sampling import Sampling
from paretune.core.settings import _readable, parse_dataclass
from paretune.generation.endpoint import Endpoint
from paretune.methods import METHODS
from paretune.methods.ric.method import WITHOUT_TOKENS, RiCConfig
from paretune.methods.sipo.method import SIPOConfig
from paretune.runs.config import STAGED, DataConfig, EvaluateConfig, RunConfig, SweepConfig
from paretune.serving.config import ServeConfig
from paretune.training.loop import Training


def load_config(path: str | Path, overrides: Sequence[str] = ()) -> RunConfig:
    """Read a YAML file and apply ``key=value`` overrides such as ``train.steps=50`` or ``methods.modpo.beta=0.2``.

    Raises:
        ConfigError: no such file, bad YAML, an unknown key (the nearest name is given), a value of the wrong type.
    """
    path = Path(path)
    try:
        values = yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ConfigError(f"{path}: cannot read the config ({error.strerror})") from error
    except yaml.YAMLError as error:
        raise ConfigError(f"{path}: not valid YAML: {error}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: expected a mapping of settings, got {type(values).__name__}")
    for override in overrides:
        _override(values, override)
    return parse_config(values, str(path))


def parse_config(values: Mapping[str, Any], where: str = "config") -> RunConfig:
    """Check a mapping of settings and return the typed configuration."""
    values = dict(values)
    _check_keys(RunConfig, values, "")
    parts: dict[str, type[BaseModel]] = {
        "data": DataConfig,
        "evaluate": EvaluateConfig,
        "serve": ServeConfig,
        "sweep": SweepConfig,
    }
    for key, kind in parts.items():
        if isinstance(values.get(key), dict):
            _check_keys(kind, values[key], f"{key}.")
    for key, settings in (("train", Training), ("sampling", Sampling), ("endpoint", Endpoint)):
        if isinstance(values.get(key), dict):
            if key == "train" and "seed" in values[key]:
                raise ConfigError("unknown key train.seed; seed is that of the whole run, training included")
            values[key] = parse_dataclass(settings, values[key], key)
    try:
        config = RunConfig.model_validate(values)
    except ValidationError as error:
        raise ConfigError(_readable(error, where)) from error
    for name in config.methods:
        method = config.kind(name)
        if method not in METHODS:
            cure = "" if "method" in config.methods[name] else "; under a name of your own, add method: NAME"
            raise ConfigError(f"unknown method {method!r}; {suggest(method, METHODS)}{cure}")
        if name in METHODS and method != name:
            raise ConfigError(
                f"methods.{name}.method: {method!r} under the name of another method; choose a name of your own"
            )
        if not re.fullmatch(r"\w[\w-]*", name):
            raise ConfigError(
                f"methods: {name!r} is to name a folder of the run; use letters, digits, hyphens and underscores"
            )
        if "endpoint" in config.methods[name]:
            raise ConfigError(
                f"methods.{name}.endpoint: a run has one endpoint, under endpoint:. What morlhf and gdpo sample while they train "
                "comes from weights that only this process has, with a preference of its own in every row, so no endpoint can draw "
                f"it; answers between stages are drawn for those methods that endpoint.stages lists ({', '.join(STAGED)})"
            )
        config.method(name)
        config.training(name)
    for name in config.endpoint.policies if config.endpoint else ():
        if name not in config.methods:
            raise ConfigError(f"endpoint.policies: no method {name!r}; {suggest(name, config.methods)}")
    for name in config.endpoint.stages if config.endpoint else ():
        _check_stages(config, name)
    return config


def _check_stages(config: RunConfig, name: str) -> None:
    """Raise a ConfigError unless an endpoint can draw the answers between the stages of method ``name``."""
    if name not in config.methods:
        raise ConfigError(f"endpoint.stages: no method {name!r}; {suggest(name, config.methods)}")
    if config.kind(name) not in STAGED:
        raise ConfigError(
            f"endpoint.stages: {name} has no answers between its stages that an endpoint could draw; expected methods among "
            f"{', '.join(STAGED)}"
        )
    own = config.method(name)
    if isinstance(own, RiCConfig) and own.iterations and own.form == "tokens":
        raise ConfigError(f"endpoint.stages: {WITHOUT_TOKENS}")
    if isinstance(own, SIPOConfig) and own.refine and own.reviewer != "base":
        raise ConfigError(
            f"endpoint.stages: the reviews of {name} come from a mixture of its policies, which no server mixes; set "
            f"methods.{name}.reviewer=base, or leave it out"
        )


def _check_keys(kind: type[BaseModel], values: Mapping[str, Any], prefix: str) -> None:
    for key in values:
        if key not in kind.model_fields:
            raise ConfigError(f"unknown key {prefix}{key}; {suggest(str(key), kind.model_fields)}")


def _override(values: dict[str, Any], text: str) -> None:
    path, sign, value = text.partition("=")
    if not sign or not path:
        raise ConfigError(
            f"cannot read the override {text!r}; expected key=value, for example train.steps=50"
        )
    *parents, leaf = path.split(".")
    place = values
    for parent in parents:
        place = place.setdefault(parent, {})
        if not isinstance(place, dict):
            raise ConfigError(f"cannot set {path}: {parent} is not a group of settings")
    place[leaf] = yaml.safe_load(value)
