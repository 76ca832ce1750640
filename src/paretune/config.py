"""The configuration of a run: one YAML file, ``key=value`` overrides, every key checked."""

from __future__ import annotations

import dataclasses
import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, TypeVar

import yaml
from pydantic import BaseModel, ConfigDict, Field, TypeAdapter, ValidationError

from paretune.deployment import ServeConfig
from paretune.endpoint import Endpoint
from paretune.errors import ConfigError, suggest
from paretune.generate import Sampling
from paretune.loop import Training
from paretune.methods import METHODS
from paretune.methods.dpo import DPOConfig
from paretune.methods.dpo_lw import DPOLWConfig
from paretune.methods.mod import MODConfig
from paretune.methods.modpo import MODPOConfig
from paretune.methods.morlhf import GDPOConfig, MORLHFConfig
from paretune.methods.panacea import PanaceaConfig
from paretune.methods.paretohqd import ParetoHqDConfig
from paretune.methods.ric import WITHOUT_TOKENS, RiCConfig
from paretune.methods.sipo import SIPOConfig
from paretune.preference import Preference, preference_grid

MethodConfig = (
    DPOConfig
    | MODConfig
    | MODPOConfig
    | PanaceaConfig
    | DPOLWConfig
    | ParetoHqDConfig
    | RiCConfig
    | SIPOConfig
    | MORLHFConfig
)
METHOD_CONFIGS: dict[str, type[MethodConfig]] = {
    "dpo-soup": DPOConfig,
    "mod": MODConfig,
    "modpo": MODPOConfig,
    "panacea": PanaceaConfig,
    "dpo-lw": DPOLWConfig,
    "paretohqd": ParetoHqDConfig,
    "ric": RiCConfig,
    "sipo": SIPOConfig,
    "morlhf": MORLHFConfig,
    "gdpo": GDPOConfig,
}

STAGED = ("ric", "paretohqd", "sipo")
"""Methods with answers between stages of training that an endpoint can draw."""


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DataConfig(_Part):
    """Where the preference data comes from.

    Attributes:
        source: a path, the name of a known public set, ``quickstart``, ``quickstart-prompts``, a column map, or a list of
            these.
        path: local folder of a known set.
        split: the split of the source to train on.
        test: source of the held-out prompts; by default a share of ``source``.
        splits: shares of prompts for train, validation and test (test only where there is no ``test`` source).
        limit: rows used at most, 0 for all.
        sample: responses to draw from the base model for rows that have none, 0 refuses such rows.
    """

    source: Any = "quickstart"
    path: str | None = None
    split: str | None = None
    test: Any = None
    splits: dict[str, float] = Field(default_factory=lambda: {"train": 0.7, "validation": 0.1, "test": 0.2})
    limit: int = Field(default=0, ge=0)
    sample: int = Field(default=0, ge=0)


class EvaluateConfig(_Part):
    """How fronts are measured.

    Attributes:
        prompts: held-out prompts used at most, 0 for all.
        samples: responses a prompt and preference.
        preferences: number of evenly spaced preferences (as ``preferences`` of the run) at which policies that serve any
            preference are measured; 0 takes those of the run, at which anchors always are.
        reference_point: of hypervolumes, by objective; by default a margin below the worst mean of the run.
        extrapolations: preferences off the simplex, such as ``concise=1.2,warm=-0.2``, at which policies that serve any
            preference are measured too; reports mark them, and no figure of the front counts them.
        shown: prompts whose answers the report shows.
        resamples: of prompts, for intervals and paired tests; at least 1000 for a 95 % interval.
    """

    prompts: int = Field(default=0, ge=0)
    samples: int = Field(default=1, ge=1)
    preferences: int = Field(default=0, ge=0)
    reference_point: dict[str, float] | None = None
    extrapolations: list[str] = Field(default_factory=list)
    shown: int = Field(default=6, ge=1)
    resamples: int = Field(default=2000, ge=1)


class Resources(_Part):
    """What one task of a sweep takes of a cluster.

    Attributes:
        cpus: processor cores.
        gpus: accelerators; a fraction lets tasks share one.
    """

    cpus: float = Field(default=1, gt=0)
    gpus: float = Field(default=0, ge=0)


class SweepConfig(_Part):
    """How ``paretune sweep`` divides a run into tasks.

    Attributes:
        seeds: of training; each method is trained with each, as ``NAME-seed-SEED``. None: once, with the run's seed.
        resources: of a task, on a cluster.
        retries: how often a task that failed is tried again.
        choose: ``grid``: the run's preferences; ``adaptive``: of methods with an adapter a preference, the corners first, then
            where the measured front has its largest gap.
        points: preferences an adaptive choice ends at, corners included; 0 for as many as the grid has.
        together: preferences of one method that are chosen, and trained, at once.
    """

    seeds: list[int] = Field(default_factory=list)
    resources: Resources = Resources()
    retries: int = Field(default=2, ge=0)
    choose: Literal["grid", "adaptive"] = "grid"
    points: int = Field(default=0, ge=0)
    together: int = Field(default=1, ge=1)


class RunConfig(_Part):
    """All settings of a run.

    Attributes:
        name: shown in the report.
        folder: run folder; by default ``runs/<name>``.
        model: embedded name, hub name, folder or GGUF file.
        dtype: ``auto``, ``float32`` or ``bfloat16``.
        device: torch device; by default an accelerator when there is one.
        processes: how many the run must be started as (``torchrun --nproc_per_node N``); by default as many as were started.
        sharding: ``none``, or ``fsdp``: the base model's weights are divided among the processes, for a model that does not fit.
        seed: of sampling, splits and training.
        data, score, train, sampling, evaluate: the stages; ``score`` lists scorers, see `paretune.score.build`.
        objectives: names in order; by default those of the data, then those of the scorers.
        methods: method name -> its settings, and under ``train`` what differs for it from the ``train`` of the run. Under a
            name of your own, ``method`` says which it is: one method in several settings, side by side in one report.
        preferences: number of evenly spaced preferences between two objectives (grid divisions + 1), or a list of
            ``helpful=0.7,harmless=0.3``; what anchors are trained for and fronts are measured at.
        trackers: accelerate's trackers.
        serve: how ``paretune serve`` serves the run, see `paretune.deployment.ServeConfig`.
        sweep: how ``paretune sweep`` divides it.
        endpoint: a server that draws the responses of ``data.sample``, and held-out answers of exported policies, in place of
            this machine, and answers between stages of training where it is told to, see `paretune.endpoint.Endpoint`.
    """

    name: str = "run"
    folder: str = ""
    model: str = "smollm2-135m"
    dtype: str = "auto"
    device: str | None = None
    processes: int | None = Field(default=None, ge=1)
    sharding: Literal["none", "fsdp"] = "none"
    seed: int = 0
    data: DataConfig = DataConfig()
    score: list[dict[str, Any]] = Field(default_factory=list)
    objectives: list[str] = Field(default_factory=list)
    train: Training = Training()
    sampling: Sampling = Sampling()
    methods: dict[str, dict[str, Any]] = {"dpo-soup": {}, "modpo": {}}
    preferences: int | list[str] = 5
    evaluate: EvaluateConfig = EvaluateConfig()
    trackers: list[str] = Field(default_factory=list)
    serve: ServeConfig = ServeConfig()
    sweep: SweepConfig = SweepConfig()
    endpoint: Endpoint | None = None

    @property
    def run_folder(self) -> Path:
        """Where the run lives."""
        return Path(self.folder or f"runs/{self.name}")

    def kind(self, name: str) -> str:
        """Return which method an entry of ``methods`` is; a name that is not among them stands for itself."""
        return str(self.methods.get(name, {}).get("method", name))

    def method(self, name: str) -> MethodConfig:
        """Return the typed settings of one method."""
        values = {key: value for key, value in self.methods[name].items() if key not in ("method", "train")}
        return parse_dataclass(METHOD_CONFIGS[self.kind(name)], values, f"methods.{name}")

    def training(self, name: str | None = None) -> Training:
        """Return how a method's adapters are trained, with the run's seed; None or no method of the run: by its ``train``."""
        own = self.methods.get(name or "", {}).get("train", {})
        where = f"methods.{name}.train"
        if not isinstance(own, Mapping):
            raise ConfigError(f"{where}: expected settings such as {{steps: 50}}, got {own!r}")
        values = {**dataclasses.asdict(self.train), "seed": self.seed, **own}
        return parse_dataclass(Training, values, where)

    def endpoint_of(self, name: str) -> Endpoint | None:
        """Return the endpoint where it draws the answers between the stages of this method, else None."""
        return self.endpoint if self.endpoint and name in self.endpoint.stages else None

    def grid(self, objectives: Sequence[str]) -> list[Preference]:
        """Return the preferences of this run over ``objectives``."""
        if isinstance(self.preferences, int):
            return _grid("preferences", self.preferences, objectives)
        return [Preference.parse(text, objectives) for text in self.preferences]

    def extrapolations(self, objectives: Sequence[str]) -> list[Preference]:
        """Return the preferences off the simplex at which policies that serve any preference are measured too."""
        asked = [
            Preference.parse(text, objectives, allow_extrapolation=True)
            for text in self.evaluate.extrapolations
        ]
        for preference in asked:
            if not preference.extrapolated:
                raise ConfigError(
                    f"evaluate.extrapolations: {preference} is on the simplex; list it under preferences"
                )
        return asked

    def fine_grid(self, objectives: Sequence[str]) -> list[Preference]:
        """Return the preferences at which policies that serve any preference are measured."""
        if not self.evaluate.preferences:
            return self.grid(objectives)
        return _grid("evaluate.preferences", self.evaluate.preferences, objectives)


def _grid(key: str, count: int, objectives: Sequence[str]) -> list[Preference]:
    if count < 2:
        raise ConfigError(f"{key} must be at least 2 (the corners), got {count}")
    return preference_grid(list(objectives), count - 1)


T = TypeVar("T")


def parse_dataclass(kind: type[T], values: Mapping[str, Any], where: str) -> T:
    """Build a settings dataclass from a mapping; an unknown key or a wrong type is a ConfigError that says where."""
    names = [field.name for field in dataclasses.fields(kind)]  # type: ignore[arg-type]
    for key in values:
        if key not in names:
            raise ConfigError(f"unknown key {where}.{key}; {suggest(str(key), names)}")
    try:
        return TypeAdapter(kind).validate_python(dict(values))
    except ValidationError as error:
        raise ConfigError(_readable(error, where)) from error


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


def _readable(error: ValidationError, where: str) -> str:
    """Return pydantic's findings as one line each: key, what was given, what was expected."""
    lines = []
    for finding in error.errors():
        key = ".".join(str(part) for part in finding["loc"]) or where
        lines.append(
            f"{key}: {finding['msg'].removeprefix('Value error, ')} (got {finding.get('input')!r:.80})"
        )
    return f"{where}: " + "; ".join(lines)
