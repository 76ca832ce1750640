"""What can be known of a config before anything is read: everything that would stop the run later is said at once."""

from __future__ import annotations

import json
import math
import re
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from paretune.choosing.bounds import Bounds
from paretune.core.errors import ConfigError, ModelError, ParetuneError, suggest
from paretune.core.preference import Preference
from paretune.data.dataset import ScoredDataset
from paretune.data.places import is_object
from paretune.fronts.indicators import MOST_OBJECTIVES
from paretune.fronts.score_table import SEED_MARK
from paretune.methods import METHODS
from paretune.models.devices import device_named
from paretune.planning.shapes import ALL_LINEAR, KNOWN
from paretune.runs.config import EvaluateConfig, RunConfig
from paretune.runs.names import check_names
from paretune.runs.principles import check_labels
from paretune.runs.sizes import check_sizes
from paretune.scoring.scorer import checked_spec
from paretune.training.rl.goal import RLSettings
from paretune.training.rl.task import check_forwards

PARTS = ("train", "validation", "test")
MOST_POINTS = 10_000
"""Largest number of preferences of a run; each is a model to train, or a point to measure on every held-out prompt."""


SHARDED_QUANTISED = (
    "sharding: fsdp divides matrices of floats, and those of a quantised model are none; set sharding: none, as a model in 4 bits "
    "takes a quarter of the memory in every process, or quantization: none"
)


def check_config(config: RunConfig) -> None:
    """Raise a ConfigError for whatever in a config would stop its run, and can be known without data and without a model.

    The message begins with the key.
    """
    _check_names(config)
    check_names(config)
    _check_data(config)
    known = _objectives(config)
    for name in config.methods:
        _check_entry(config, name)
    _check_preferences(config, known)
    _check_evaluation(config, known)
    _check_sweep_and_endpoint(config)
    _check_serving(config, known)
    if known is not None:
        _check_methods(config, known)
    _check_targets(config)
    check_sizes(config)


@contextmanager
def _under(key: str) -> Iterator[None]:
    """Put a key before the message of what fails inside."""
    try:
        yield
    except ParetuneError as error:
        raise ConfigError(f"{key}: {error}") from error


def _check_names(config: RunConfig) -> None:
    for key, text in (("name", config.name), ("folder", config.folder), ("model", config.model)):
        if "\0" in text or len(text.encode("utf-8", "replace")) > 4000:
            raise ConfigError(f"{key}: {text!r:.60} is no name that a file can have")
    for key, text in (("name", config.name), ("model", config.model)):
        if not text.strip():
            raise ConfigError(f"{key}: is empty; give a name, or leave the key out")
    if config.device is not None:
        try:
            device_named(config.device)
        except ModelError as error:  # it begins with the key
            raise ConfigError(str(error)) from error
    if config.sharding != "none" and config.quantization in ("nf4", "int8"):
        raise ConfigError(SHARDED_QUANTISED)
    _check_template(config.chat_template)
    if not config.methods:
        raise ConfigError(f"methods: is empty; name at least one of {', '.join(METHODS)}")
    trackers = _trackers()
    for tracker in config.trackers:
        if tracker not in trackers:
            raise ConfigError(f"trackers: unknown tracker {tracker!r}; {suggest(tracker, trackers)}")


def _check_template(arguments: Mapping[str, Any]) -> None:
    for key, value in arguments.items():
        if not isinstance(key, str) or not key.isidentifier():
            raise ConfigError(
                f"chat_template: {key!r:.60} is no name of an argument; write for example {{enable_thinking: false}}"
            )
        try:
            json.dumps(value, allow_nan=False)
        except (TypeError, ValueError) as error:
            raise ConfigError(
                f"chat_template.{key}: {value!r:.60}: expected true, false, a number, text, or lists and mappings of these"
            ) from error


def _trackers() -> list[str]:
    from accelerate.tracking import LOGGER_TYPE_TO_CLASS

    return sorted(LOGGER_TYPE_TO_CLASS)


def _check_data(config: RunConfig) -> None:
    for key, source in (("data.source", config.data.source), ("data.test", config.data.test)):
        _check_source(key, source, optional=key == "data.test")
    splits = config.data.splits
    for name, share in splits.items():
        if name not in PARTS:
            raise ConfigError(f"data.splits: unknown part {name!r}; {suggest(name, PARTS)}")
        if not 0 < share <= 1:
            raise ConfigError(f"data.splits.{name} must be above 0 and at most 1, got {share:g}")
    needed = PARTS[:2] if config.data.test is not None else PARTS
    lacking = [name for name in needed if name not in splits]
    if lacking:
        cure = " (or name a source of held-out prompts under data.test)" if lacking == ["test"] else ""
        raise ConfigError(
            f"data.splits: no share of {lacking[0]}; give one for each of {', '.join(needed)}{cure}"
        )
    total = math.fsum(splits[name] for name in needed)
    if total > 1 + 1e-9:
        raise ConfigError(
            f"data.splits: the shares of {', '.join(needed)} sum to {total:g}; expected at most 1"
        )


def _check_source(key: str, source: Any, optional: bool = False) -> None:
    if source is None and optional:
        return
    sources = source if isinstance(source, list) else [source]
    for number, entry in enumerate(sources):
        place = f"{key}[{number}]" if isinstance(source, list) else key
        if isinstance(entry, ScoredDataset) or is_object(entry):
            continue
        if not (isinstance(entry, (str, dict, Path)) and entry) or (isinstance(entry, str) and "\0" in entry):
            raise ConfigError(
                f"{place}: expected a file, a folder, a known set or a column map, or a list of these, got {entry!r:.60}"
            )
    if not sources:
        raise ConfigError(f"{key}: is an empty list; name at least one source")


def _objectives(config: RunConfig) -> list[str] | None:
    """Return the names of the run's objectives as far as the config states them, None where it does not.

    Each needs a scorer, so without ``objectives`` they are those of ``score``, whatever the data hold.
    """
    scored: list[str] = []
    for number, spec in enumerate(config.score):
        with _under(f"score[{number}]"):
            objective = checked_spec(spec)
            check_labels(spec)
            Preference.checked([objective])
        if objective in scored:
            raise ConfigError(f"score[{number}]: a second scorer of {objective!r}; an objective has one")
        scored.append(objective)
    if not config.objectives:
        return scored or None
    with _under("objectives"):
        Preference.checked(config.objectives)
    for objective in config.objectives if scored else ():
        if objective not in scored:
            raise ConfigError(
                f"objectives: no scorer for {objective!r}; {suggest(objective, scored)}, or add one under score: "
                "(it judges the held-out answers)"
            )
    return list(config.objectives)


def _check_preferences(config: RunConfig, known: Sequence[str] | None) -> None:
    if known is not None and len(known) < 2:
        raise ConfigError(
            f"a front needs at least two objectives, got {', '.join(known)}; add a scorer under score:"
        )
    if known is not None and len(known) > MOST_OBJECTIVES:
        raise ConfigError(
            f"{len(known)} objectives; expected at most {MOST_OBJECTIVES}, as no front of more is measured (its hypervolume); name "
            "fewer under objectives:, or score fewer"
        )
    several = list(known) if known is not None else ["a", "b"]
    for key, count in (
        ("preferences", config.preferences),
        ("evaluate.preferences", config.evaluate.preferences),
    ):
        if isinstance(count, int) and not (key.startswith("evaluate") and count == 0):
            if count < 2:
                raise ConfigError(f"{key} must be at least 2 (the corners), got {count}")
            points = math.comb(count + len(several) - 2, len(several) - 1)
            if points > MOST_POINTS:
                raise ConfigError(
                    f"{key}: {count} makes {points:.3g} preferences of {len(several)} objectives; expected at most {MOST_POINTS:,}"
                )
    if isinstance(config.preferences, list):
        _check_each("preferences", config.preferences, lambda text: Preference.parse(text, known))
        if not config.preferences:
            raise ConfigError("preferences: is an empty list; give a number such as 5, or list some")


def _check_each(key: str, texts: Sequence[str], read: Callable[[str], Preference]) -> None:
    seen: list[Preference] = []
    for number, text in enumerate(texts):
        with _under(f"{key}[{number}]"):
            preference = read(text)
            if preference in seen:
                raise ConfigError(f"{text!r} is given twice; keep one of them")
        seen.append(preference)


def _check_evaluation(config: RunConfig, known: Sequence[str] | None) -> None:
    evaluate: EvaluateConfig = config.evaluate
    if evaluate.prompts == 1:
        raise ConfigError(
            "evaluate.prompts must be at least 2, or 0 for all, got 1: one prompt gives no interval"
        )
    _check_each(
        "evaluate.extrapolations",
        evaluate.extrapolations,
        lambda text: Preference.parse(text, known, allow_extrapolation=True),
    )
    if known is not None:
        config.extrapolations(known)
    stated = evaluate.reference_point
    if stated is None or known is None:
        return
    for name in stated:
        if name not in known:
            raise ConfigError(f"evaluate.reference_point: unknown objective {name!r}; {suggest(name, known)}")
    for name in known:
        if name not in stated:
            raise ConfigError(
                f"evaluate.reference_point has no value for {name!r}; add evaluate.reference_point.{name}=VALUE"
            )


def _check_sweep_and_endpoint(config: RunConfig) -> None:
    seeds = config.sweep.seeds
    if len(set(seeds)) < len(seeds):
        raise ConfigError(f"sweep.seeds: {seeds} holds a seed twice")
    if config.endpoint is None:
        return
    for name in config.endpoint.policies:
        if name not in config.methods:
            raise ConfigError(f"endpoint.policies: no method {name!r}; {suggest(name, config.methods)}")
    for name in config.endpoint.stages:
        _check_stages(config, name)
    with _under("endpoint"):
        _check_template(config.endpoint.chat_template)


def _check_serving(config: RunConfig, known: Sequence[str] | None) -> None:
    served = [
        *config.methods,
        *(f"{name}{SEED_MARK}{seed}" for name in config.methods for seed in config.sweep.seeds),
    ]
    for number, name in enumerate(config.serve.policies):
        if name not in served and not (config.run_folder / "policies" / name).is_dir():
            raise ConfigError(
                f"serve.policies[{number}]: the run makes no policy {name!r}; {suggest(name, served)}"
            )
    if known is None:
        return
    with _under("serve.floors"):
        bounds = Bounds.of(config.serve.floors, known)
    if config.serve.preference is not None:
        with _under("serve.preference"):
            bounds.check(Preference.parse(config.serve.preference, known))


def _check_methods(config: RunConfig, known: Sequence[str]) -> None:
    """Let each method check its settings against objectives and preferences."""
    preferences = config.grid(known)
    for name in config.methods:
        entry = config.entry(name)
        with _under(f"methods.{name}"):
            entry.method.check(entry.settings, known, preferences)


def _check_entry(config: RunConfig, name: str) -> None:
    """Raise a ConfigError unless the entry ``name`` of ``methods`` is a method under settings that can be."""
    values, method = config.methods[name], config.kind(name)
    if method not in METHODS:
        cure = "" if "method" in values else "; under a name of your own, add method: NAME"
        raise ConfigError(f"methods: unknown method {method!r}; {suggest(method, METHODS)}{cure}")
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
            f"methods.{name}.endpoint: a run has one endpoint, under endpoint:. It can sample the answers that methods train on, "
            f"for those that endpoint.stages lists (of {_staged()})"
        )
    entry = config.entry(name)
    if isinstance(entry.settings, RLSettings):
        with _under(f"methods.{name}.train"):
            check_forwards(entry.training)


def _check_targets(config: RunConfig) -> None:
    """Raise a ConfigError where a target names no layer of a model that is known without reading it."""
    shape = KNOWN.get(config.model.lower())
    if shape is None:
        return
    for key, training in config.trainings():
        for target in training.targets:
            leaf = target.partition("@")[0].rpartition(".")[2]
            if leaf not in (ALL_LINEAR, *shape.linears):
                raise ConfigError(
                    f"{key}.targets: {config.model} has no linear layer {leaf!r}; {suggest(leaf, shape.linears)}, or {ALL_LINEAR}"
                )


def _check_stages(config: RunConfig, name: str) -> None:
    """Raise a ConfigError unless an endpoint can sample the answers that are trained on by the entry ``name``."""
    if name not in config.methods:
        raise ConfigError(f"endpoint.stages: no method {name!r}; {suggest(name, config.methods)}")
    entry = config.entry(name)
    if not entry.method.staged:
        raise ConfigError(
            f"endpoint.stages: {name} trains on no answers that an endpoint could sample; expected methods among "
            f"{_staged()}"
        )
    if entry.traits.refusal:
        raise ConfigError(f"endpoint.stages: {name}: {entry.traits.refusal}")


def _staged() -> str:
    return ", ".join(name for name, method in METHODS.items() if method.staged)
