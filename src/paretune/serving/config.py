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
from paretune.serving.run_facts import CONFIG, VERSIONS, run_folder, settings


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
        kept_tokens: Positions of earlier texts whose keys and values are kept, so that the next turn of a conversation at the same
            preference is read on from there; 0 keeps none.

    Raises:
        ConfigError: A limit is below 1, or ``kept_tokens`` below 0.
    """

    max_rows: int = 32
    max_waiting: int = 256
    max_prompt_tokens: int | None = None
    max_cached_tokens: int = 32_768
    prefill_tokens: int = 256
    kept_tokens: int = 8192

    def __post_init__(self) -> None:
        for limit, value in vars(self).items():
            least = 0 if limit == "kept_tokens" else 1
            if value is not None and value < least:
                raise ConfigError(f"{limit} must be at least {least}, got {value}")


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
        lenient: Whether fields that this server does not know are ignored, and values beyond its limits clamped, in place of an
            error; the answer states them.
        auto: Folder of a head that ``paretune auto fit`` wrote, which chooses the preference of requests that ask for ``auto``.
        rate: Requests a minute of one API key, of which it may send a minute's at once; by default any.
        kept_tokens: Positions of earlier texts whose keys and values are kept, so that the next turn of a conversation at the same
            preference is read on from there; 0 keeps none.
        share: Largest number of answers of one API key that run or wait at once; by default half of ``max_rows + queue`` where
            there are several keys.
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
    lenient: bool = False
    auto: str | None = None
    rate: Positive | None = None
    kept_tokens: Annotated[int, Ge(0)] = EngineLimits.kept_tokens
    share: Count | None = None

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
        return EngineLimits(self.max_rows, self.queue, self.max_prompt_tokens, kept_tokens=self.kept_tokens)

    @classmethod
    def read(cls, run: Path | None, options: Mapping[str, Any]) -> ServeConfig:
        """Return the settings of a run, each from the first place that states it.

        The places are ``options``, the section ``serve`` of the run's ``config.yaml``, and the sampling that its front was
        measured with.

        Args:
            run: The run folder, a policy's folder or exported LoRAs; None where a server elsewhere generates the text.
            options: Options of the command line by field name; None and entries of other names are ignored.

        Raises:
            ConfigError: The file cannot be read, a key is unknown, a value is out of range, or a run's minimum weights are
                missing, see :func:`_section`.
        """
        from paretune.policies.catalogue import default_sampling

        section = {} if run is None else _section(run, options.get("floors") is not None)
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


def _section(place: Path, floors_given: bool) -> dict[str, Any]:
    """Return the section ``serve`` of the config of a run, or of the run that a policy's folder is in; empty where there is none.

    Raises:
        ConfigError: The config cannot be read; or ``paretune run`` made the folder and minimum weights are missing from its
            config, so that the server would have fewer bounds, and the options do not state any.
    """
    run = run_folder(place)
    if run is None:
        return {}
    file = run / CONFIG
    values = settings(run)
    section = values.get("serve") or {}
    if not isinstance(section, dict):
        raise ConfigError(f"{file}: serve: {section!r}: expected keys such as max_tokens with their values")
    if (run / VERSIONS).is_file() and not floors_given and (state := _lost(file, values, section)):
        raise ConfigError(
            f"{file}: {state}, so the minimum weights that requests must keep are not known; restore the file, or state them with "
            "--floor OBJECTIVE=WEIGHT (a weight of 0 is no bound)"
        )
    return dict(section)


def _lost(file: Path, values: Mapping[str, Any], section: Mapping[str, Any]) -> str:
    """Return in which state a run's config has lost minimum weights; empty where it has all.

    A run writes sections behind ``serve``, so a file that ends within it was cut: a weight may lack, or have lost its last digits.
    """
    if not file.is_file():
        return "is missing"
    if not values:
        return "is empty"
    if "floors" not in section:
        return "has no serve.floors"
    return "ends within the section serve, as a file does that was cut" if list(values)[-1] == "serve" else ""


def _placed(line: str, run: Path | None, options: set[str]) -> str:
    """Return one finding with the option or the key of the file that it is about."""
    key = re.split(r"[^\w]", line, maxsplit=1)[0]
    if key in options:
        return f"--{key.replace('_', '-')}{line.removeprefix(key)}"
    file = f"{(run_folder(run) or run) / CONFIG}: " if run is not None else ""
    return (
        f"{file}unknown key serve.{line.removeprefix('unknown key ')}"
        if key == "unknown"
        else f"{file}serve.{line}"
    )
