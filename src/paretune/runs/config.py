"""The configuration of a run: one YAML file, ``key=value`` overrides, every key checked."""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from annotated_types import Ge, Le
from pydantic import BaseModel, ConfigDict, Field, field_validator

from paretune.core.bounds import Count, Natural, NotNegative, Positive, Seed
from paretune.core.errors import ConfigError
from paretune.core.preference import Preference, preference_grid
from paretune.core.sampling import Sampling
from paretune.core.settings import parse
from paretune.data.dataset import ScoredDataset
from paretune.data.places import is_object
from paretune.generation.endpoint import Endpoint
from paretune.methods import METHODS
from paretune.methods.base import DPOConfig, Method, Traits
from paretune.models.quantised import Quantization
from paretune.serving.config import ServeConfig
from paretune.training.loop import Training
from paretune.training.token_tables import TooLong


class _Part(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class DataConfig(_Part):
    """The source of the preference data.

    Attributes:
        source: Path, name of a known public set, ``quickstart``, ``quickstart-written``, ``quickstart-prompts``, a column map,
            ``hub:owner/name``, or a list of these. In Python also a data set of the ``datasets`` library or a
            ``ScoredDataset``, which the run keeps in its folder.
        path: Local folder of a known set.
        split: Split of the source to train on.
        test: Source of the held-out prompts; by default a share of ``source``.
        splits: Shares of prompts for train, validation and test (test only where there is no ``test`` source); by default 0.7, 0.1
            and 0.2, or 0.9 and 0.1 beside a ``test`` source.
        limit: Largest number of rows that are used, 0 for all.
        sample: Number of responses to sample from the base model for rows that have none; 0 refuses such rows where
            something is trained.
        too_long: What happens to texts beyond ``train.max_tokens``, and to texts and answers beyond the positions of the model:
            ``drop`` leaves them out, ``cut`` cuts responses at their end, ``prompt-left`` cuts prompts at their beginning (the
            oldest turns first, then words of the last one; a system message stays), ``refuse`` stops the run. It is said how many
            they are.
    """

    source: Any = "quickstart"
    path: str | None = None
    split: str | None = None
    test: Any = None
    splits: dict[str, float] = Field(default_factory=lambda given: _shares(given.get("test") is not None))
    limit: Natural = 0
    sample: Natural = 0
    too_long: TooLong = "drop"


def _shares(held_out: bool) -> dict[str, float]:
    """Return the default shares of prompts; ``held_out``: the held-out prompts have a source of their own."""
    return {"train": 0.9, "validation": 0.1} if held_out else {"train": 0.7, "validation": 0.1, "test": 0.2}


class EvaluateConfig(_Part):
    """How fronts are measured.

    Attributes:
        prompts: Largest number of held-out prompts that are used, at least 2; 0 for all.
        samples: Number of answers per prompt and preference.
        preferences: Number of evenly spaced preferences (as ``preferences`` of the run) at which policies that serve any
            preference are measured; 0 takes those of the run, at which anchors are always measured.
        reference_point: Reference point of hypervolumes, by objective; by default a margin below the worst mean of the run.
        extrapolations: Preferences off the simplex, such as ``concise=1.2,warm=-0.2``, at which policies that serve any
            preference are measured too; reports mark them, and no figure of the front counts them.
        shown: Number of prompts whose answers the report shows.
        resamples: Number of resamples of the prompts, for intervals of means; at least 1000 for a 95 % interval.
    """

    prompts: Natural = 0
    samples: Count = 1
    preferences: Natural = 0
    reference_point: dict[str, float] | None = None
    extrapolations: list[str] = Field(default_factory=list)
    shown: Count = 6
    resamples: Annotated[int, Ge(20), Le(1_000_000)] = 2000


class Resources(_Part):
    """What one task of a sweep takes of a cluster.

    Attributes:
        cpus: Number of processor cores.
        gpus: Number of accelerators; a fraction lets tasks share one.
    """

    cpus: Positive = 1
    gpus: NotNegative = 0


class SweepConfig(_Part):
    """How ``paretune sweep`` divides a run into tasks.

    Attributes:
        seeds: Seeds of training; each method is trained with each, as ``NAME-seed-SEED``. An empty list trains once, with the
            run's seed.
        resources: Resources of a task, on a cluster.
        retries: Number of further tries of a task that failed.
        choose: Choice of preferences. ``grid``: those of the run. ``adaptive``, for methods with one adapter per preference: the
            corners first, then where the measured front has its largest gap.
        points: Number of preferences at which an adaptive choice ends, corners included; 0 for as many as the grid has.
        together: Number of preferences of one method that are chosen, and trained, at once.
    """

    seeds: list[Seed] = Field(default_factory=list)
    resources: Resources = Resources()
    retries: Natural = 2
    choose: Literal["grid", "adaptive"] = "grid"
    points: Natural = 0
    together: Count = 1


class RunConfig(_Part):
    """All settings of a run.

    Attributes:
        name: Name of the run, shown in the report.
        folder: Run folder; by default ``runs/<name>``.
        model: Embedded name, hub name, folder or GGUF file of the base model.
        dtype: Number format of the base model: ``auto``, ``float32`` or ``bfloat16``.
        quantization: How the base model's frozen matrices are held: ``nf4`` or ``int8`` in 4 or 8 bits by bitsandbytes
            (``pip install 'paretune[quantization]'``), ``none`` in the number format, ``auto`` as the model's folder holds them.
        device: Torch device; by default an accelerator where there is one.
        attention: Attention over packed batches: ``auto``, the best that the device has; ``blocks``, one call for each text;
            ``products``, in bfloat16, for a CPU that is fast at these; ``varlen``, FlashAttention; ``flex``, FlexAttention;
            ``sdpa``, one call under a mask.
        chat_template: Arguments of the model's chat template, such as ``{enable_thinking: false}``; every prompt is written with
            them, in the run and wherever its policies are used.
        processes: Number of processes that you launch (``torchrun --nproc_per_node N``); with another number the run stops at
            once. By default any number.
        sharding: Place of the base model's parameters: ``none``, in every process; ``fsdp``, divided among the processes, for a
            model that does not fit.
        seed: Seed of sampling, splits and training.
        data: Preference data. In Python a data set of the ``datasets`` library, a ``ScoredDataset``, or a list of these, stands
            for ``{source: ...}``.
        score: Scorers, one per objective, see `paretune.scoring.scorer.build_scorer`.
        objectives: Names of the objectives, in order; by default those of the data, then those of the scorers.
        train: Settings of training.
        sampling: Settings of sampling.
        methods: Method name -> its settings, and under ``train`` what differs for it from the ``train`` of the run. Under a
            name of your own, ``method`` states the method: one method in several settings, side by side in one report.
        preferences: Number of evenly spaced preferences between two objectives (grid divisions + 1), or a list of
            ``helpful=0.7,harmless=0.3``; anchors are trained at them, and fronts are measured at them.
        evaluate: Settings of the measurement of fronts.
        trackers: Names of accelerate's trackers.
        serve: Settings of ``paretune serve``, see `paretune.serving.config.ServeConfig`.
        sweep: Settings of ``paretune sweep``.
        endpoint: Server that samples, in place of this machine, the responses of ``data.sample``, held-out answers of exported
            policies, and answers between stages of training where it lists the method, see
            `paretune.generation.endpoint.Endpoint`.
    """

    name: str = "run"
    folder: str = ""
    model: str = "smollm2-135m"
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    quantization: Quantization = "auto"
    device: str | None = None
    attention: Literal["auto", "blocks", "products", "sdpa", "flex", "varlen"] = "auto"
    chat_template: dict[str, Any] = Field(default_factory=dict)
    processes: Count | None = None
    sharding: Literal["none", "fsdp"] = "none"
    seed: Seed = 0
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

    @field_validator("data", mode="before")
    @classmethod
    def _of_source(cls, value: Any) -> Any:
        entries = value if isinstance(value, list) and value else [value]
        return {"source": value} if all(map(_is_data, entries)) else value

    @property
    def run_folder(self) -> Path:
        """Where the run lives, as an absolute path: what runs in between may change the working folder."""
        return Path(self.folder or f"runs/{self.name}").absolute()

    def kind(self, name: str) -> str:
        """Return which method an entry of ``methods`` is; a name that is not among them stands for itself."""
        return str(self.methods.get(name, {}).get("method", name))

    def entry(self, name: str) -> Entry:
        """Return an entry of ``methods`` with its typed settings.

        Raises:
            ConfigError: An unknown key, or a value of the wrong type or range.
        """
        values = {key: value for key, value in self.methods[name].items() if key not in ("method", "train")}
        method = METHODS[self.kind(name)]
        return Entry(name, method, method.settings(values, f"methods.{name}"), self.training(name))

    def training(self, name: str | None = None) -> Training:
        """Return how an entry's adapters are trained, with the run's seed; for None, by the ``train`` of the run."""
        changes = self.methods[name].get("train", {}) if name else {}
        where = f"methods.{name}.train"
        if not isinstance(changes, Mapping):
            raise ConfigError(f"{where}: expected settings such as {{steps: 50}}, got {changes!r}")
        return parse(Training, {**dataclasses.asdict(self.train), "seed": self.seed, **changes}, where)

    def trainings(self) -> list[tuple[str, Training]]:
        """Return each key that states how adapters are trained, with what follows from it: that of the run, and of each entry."""
        entries = [(f"methods.{name}.train", self.training(name)) for name in self.methods]
        return [("train", self.training()), *entries]

    @property
    def untrained(self) -> bool:
        """Whether no adapter is trained, so that the corners are those of the first policy and responses are not needed."""
        return all(self.entry(name).traits.adapters == "none" for name in self.methods)

    def corners(self) -> tuple[DPOConfig, Training]:
        """Return how the single-objective models are trained, between which the mixture chooses.

        They are those of the first soup of the run; without one, DPO with the beta of the first method that states it on DPO's
        scale.
        """
        entries = [self.entry(name) for name in self.methods]
        for entry in entries:
            if entry.method.lends_corners and entry.traits.corners is not None:
                return entry.traits.corners, entry.training
        betas = (entry.traits.beta for entry in entries if entry.traits.beta is not None)
        return DPOConfig(beta=next(betas, DPOConfig().beta)), self.training()

    def endpoint_of(self, name: str) -> Endpoint | None:
        """Return the endpoint where it samples the answers between the stages of this method, else None."""
        return self.server if self.server and name in self.server.stages else None

    @property
    def server(self) -> Endpoint | None:
        """The endpoint, which writes prompts with the run's arguments of the chat template where it states none of its own."""
        if self.endpoint is None or self.endpoint.chat_template or not self.chat_template:
            return self.endpoint
        return dataclasses.replace(self.endpoint, chat_template=self.chat_template)

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


@dataclasses.dataclass(frozen=True)
class Entry:
    """One entry of ``methods``.

    Attributes:
        name: Name of the entry, and of the policy that it trains.
        method: The method.
        settings: Its typed settings.
        training: How its adapters are trained.
    """

    name: str
    method: Method[Any]
    settings: Any
    training: Training

    @property
    def traits(self) -> Traits:
        """What the method is under these settings."""
        return self.method.traits(self.settings)


def _is_data(value: Any) -> bool:
    return isinstance(value, ScoredDataset) or is_object(value)


def _grid(key: str, count: int, objectives: Sequence[str]) -> list[Preference]:
    if count < 2:
        raise ConfigError(f"{key} must be at least 2 (the corners), got {count}")
    return preference_grid(list(objectives), count - 1)
