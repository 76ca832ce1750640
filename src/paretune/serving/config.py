"""How a run is served: one config, from which the limits, the engine and the default sampling follow."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from annotated_types import Ge, Gt, Le
from pydantic import BaseModel, ConfigDict, Field, ValidationError

from paretune.core.bounds import Count, Positive
from paretune.core.errors import ConfigError
from paretune.core.sampling import Sampling
from paretune.core.settings import explained


@dataclass(frozen=True)
class EngineLimits:
    """Limits of the engine.

    Attributes:
        max_rows: Largest number of rows in one forward; a job of a mixed policy takes one per copy.
        max_waiting: Largest number of jobs in the queue.
        max_prompt_tokens: Largest number of tokens of one prompt; None is the number of positions of the model.
        max_cached_tokens: Largest number of rows times positions in the KV cache; jobs wait until they fit.
        prefill_tokens: Prompt tokens read between two tokens of running rows. More reads prompts faster, less delays
            running answers less.

    Raises:
        ConfigError: A limit is below 1.
    """

    max_rows: int = 32
    max_waiting: int = 256
    max_prompt_tokens: int | None = None
    max_cached_tokens: int = 32_768
    prefill_tokens: int = 256

    def __post_init__(self) -> None:
        for limit, value in vars(self).items():
            if value is not None and value < 1:
                raise ConfigError(f"{limit} must be at least 1, got {value}")


class ServeConfig(BaseModel):
    """How a run is served: the section ``serve`` of its config, which options of ``paretune serve`` override.

    Attributes:
        policies: Names of the served policies, the default first; by default all.
        preference: Preference of requests that give none, such as ``helpful=0.7,harmless=0.3``; by default the centre of
            the bounds.
        floors: Bounds of the deployment, objective -> minimum weight of every request.
        max_tokens: Largest number of tokens of one answer.
        max_prompt_tokens: Largest number of tokens of one prompt.
        max_rows: Largest number of rows decoded together.
        queue: Largest number of requests that wait.
        timeout: Seconds until an answer times out, waiting included.
        default_tokens: Length limit of requests that give none; by default that of the measured front, at most
            ``max_tokens``.
        temperature: Temperature of requests that give none; by default that of the measured front, so that its scores hold.
        top_p: Top-p of requests that give none; by default that of the measured front.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)
    policies: list[str] = Field(default_factory=list)
    preference: str | None = None
    floors: dict[str, float] = Field(default_factory=dict)
    max_tokens: Count = 512
    max_prompt_tokens: Count = 2048
    max_rows: Count = EngineLimits.max_rows
    queue: Count = EngineLimits.max_waiting
    timeout: Positive = 120.0
    default_tokens: Count | None = None
    temperature: Annotated[float, Ge(0), Le(100)] | None = None
    top_p: Annotated[float, Gt(0), Le(1)] | None = None

    @property
    def sampling(self) -> Sampling:
        """Sampling of requests that state none."""
        stated = {
            "max_new_tokens": self.default_tokens,
            "temperature": self.temperature,
            "top_p": self.top_p,
        }
        return Sampling(**{name: value for name, value in stated.items() if value is not None})  # type: ignore[arg-type]

    @property
    def engine_limits(self) -> EngineLimits:
        """Limits of the engine in this process."""
        return EngineLimits(self.max_rows, self.queue, self.max_prompt_tokens)

    @classmethod
    def read(cls, run: Path | None, options: Mapping[str, Any]) -> ServeConfig:
        """Return the settings of a run, each from the first place that states it.

        The places are ``options``, the section ``serve`` of the run's ``config.yaml``, and the sampling that its front was
        measured with.

        Args:
            run: The run folder, a policy's folder or exported LoRAs; None where a server elsewhere generates the text.
            options: Options of the command line by field name; None and entries of other names are ignored.

        Raises:
            ConfigError: The file cannot be read, a key is unknown, or a value is out of range.
        """
        from paretune.policies.catalogue import default_sampling

        section = {} if run is None else _section(run)
        measured = {} if run is None else default_sampling(run)
        given = {name: options[name] for name in cls.model_fields if options.get(name) is not None}
        for name, value in measured.items():
            if section.get(name) is None:
                section[name] = value
        try:
            return cls.model_validate({**section, **given})
        except ValidationError as error:
            lines = explained(error, cls)
            raise ConfigError("; ".join(_placed(line, run, set(given)) for line in lines)) from error


def _section(run: Path) -> dict[str, Any]:
    """Return the section ``serve`` of a run's ``config.yaml``; empty where there is none."""
    import yaml

    file = run / "config.yaml"
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8")) if file.is_file() else {}
    except (OSError, UnicodeDecodeError, yaml.YAMLError) as error:
        raise ConfigError(f"{file}: cannot read the config ({error})") from error
    section = (values.get("serve") or {}) if isinstance(values, dict) else {}
    if not isinstance(section, dict):
        raise ConfigError(f"{file}: serve: {section!r}: expected keys such as max_tokens with their values")
    return dict(section)


def _placed(line: str, run: Path | None, options: set[str]) -> str:
    """Return one finding with the option or the key of the file that it is about."""
    key = re.split(r"[^\w]", line, maxsplit=1)[0]
    if key in options:
        return f"--{key.replace('_', '-')}{line.removeprefix(key)}"
    file = f"{run / 'config.yaml'}: " if run is not None else ""
    return (
        f"{file}unknown key serve.{line.removeprefix('unknown key ')}"
        if key == "unknown"
        else f"{file}serve.{line}"
    )
