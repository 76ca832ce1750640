"""Another objective for a finished run: one more adapter is trained, and those of the other objectives are reused."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import yaml

from paretune.core.errors import ConfigError
from paretune.core.files import write_text
from paretune.core.preference import Preference
from paretune.methods import METHODS
from paretune.runs.config import RunConfig
from paretune.runs.keys import override
from paretune.runs.parse import parse_config
from paretune.runs.run import run, to_yaml
from paretune.scoring.scorer import build_scorer

RESTORE = "run its config once more with `paretune run` into this folder, which writes it anew"
"""The cure for a run's config that is lost; what is finished is found again."""


def add_objective(
    folder: Path,
    objective: str,
    scorer: Mapping[str, Any],
    overrides: Sequence[str] = (),
    forecast: bool = False,
) -> Path:
    """Run a finished run again with one more objective, in its folder; return the path of the report.

    The config before is kept as ``config-before-OBJECTIVE.yaml``.

    Args:
        folder: The run's folder.
        objective: Name of the new objective, which comes last.
        scorer: Its entry under ``score``, without the objective.
        overrides: Changes of other settings, such as ``preferences=4``.
        forecast: Whether to say first how long it will take, see :func:`paretune.runs.run.run`.

    Raises:
        ConfigError: see :func:`extended`.
    """
    config = extended(folder, objective, scorer, overrides)
    name = re.sub(r"[^\w-]", "-", objective)
    write_text(folder / f"config-before-{name}.yaml", to_yaml(parse_config(settings_of(folder))))
    return run(config, forecast)


def settings_of(folder: Path) -> dict[str, Any]:
    """Return the values of a run's config.

    Raises:
        ConfigError: no run in the folder, or its config is damaged or empty.
    """
    file = folder / "config.yaml"
    if not file.is_file():
        raise ConfigError(f"{folder}: no config.yaml; expected the folder of a run, such as runs/quickstart")
    try:
        values = yaml.safe_load(file.read_text(encoding="utf-8"))
    except (OSError, ValueError, yaml.YAMLError, RecursionError) as error:
        raise ConfigError(
            f"{file}: cannot read the run's config ({' '.join(str(error).split())}); {RESTORE}"
        ) from error
    if not isinstance(values, dict) or not isinstance(values.get("train"), dict):
        state = "is empty" if values is None else "does not hold the settings of a run"
        raise ConfigError(f"{file}: {state}; {RESTORE}")
    values["train"].pop("seed", None)  # earlier versions wrote that of the run here too
    return values | {"folder": str(folder)}


def extended(
    folder: Path, objective: str, scorer: Mapping[str, Any], overrides: Sequence[str] = ()
) -> RunConfig:
    """Return the config of a run with one more objective. A list of preferences gets the one-hot one of the new objective.

    Raises:
        ConfigError: no run in the folder, a method that would train all objectives anew, an objective that is there, a scorer
            that cannot be, or a stated reference point without a value for the new objective.
    """
    file, values = folder / "config.yaml", settings_of(folder)
    before = parse_config(values, str(file))
    growing = [name for name, method in METHODS.items() if method.grows]
    for name in before.methods:
        if not before.entry(name).method.grows:
            raise ConfigError(
                f"{file}: {name} would train for all objectives anew, so nothing is added to it; only {', '.join(growing)} grow. "
                "Write a config with the new objective and use `paretune run`"
            )
    if objective in [*before.objectives, *(str(spec.get("objective")) for spec in before.score)]:
        raise ConfigError(f"{file}: the objective {objective!r} is there already; choose another name")
    Preference.checked([objective])
    spec = {"objective": objective, **scorer}
    if spec.get("head") != "fit":
        build_scorer(spec)
    values["score"].append(spec)
    if before.objectives:
        values["objectives"].append(objective)
    if isinstance(before.preferences, list):
        values["preferences"].append(f"{objective}=1")
    for text in overrides:
        override(values, text)
    config = parse_config(values, str(file))
    stated = config.evaluate.reference_point
    if stated is not None and objective not in stated:
        raise ConfigError(
            f"{file}: evaluate.reference_point has no value for {objective!r}; add evaluate.reference_point.{objective}=VALUE"
        )
    return config
