"""The configs that ship with the package, by name, and the quickstart at its smoke size."""

from __future__ import annotations

import logging
from importlib.resources import files
from pathlib import Path

from paretune.core.errors import ConfigError, suggest

logger = logging.getLogger(__name__)

SUFFIX = ".yaml"
SMOKE = (
    "name=quickstart-smoke",
    "data.limit=10",
    "data.splits={train: 0.75, validation: 0.25}",
    "preferences=3",
    "evaluate.prompts=2",
    "evaluate.preferences=3",
    "evaluate.resamples=100",
    "train.steps=2",
    "methods.panacea.train.steps=2",
    "train.batch_pairs=1",
    "train.validate_every=2",
    "sampling.max_new_tokens=32",
)
"""Overrides that bring ``quickstart`` through every stage in minutes: two training steps per adapter, a handful of prompts."""


def folder() -> Path:
    """Return the folder of the configs that ship with the package, and of their schema."""
    return Path(str(files("paretune.runs") / "configs"))


def names() -> list[str]:
    """Return the names under which ``paretune run`` finds a config that ships with the package."""
    return sorted(file.stem for file in folder().glob(f"*{SUFFIX}"))


def find_config(path: str | Path) -> Path:
    """Return the config to read: the user's own file, or else the one that ships under this name, with or without ``.yaml``.

    Raises:
        ConfigError: There is neither.
    """
    path = Path(path)
    if "\0" in str(path) or (path.exists() and not path.is_dir()):  # no file has such a name; reading says so
        return path
    if path.name == str(path):  # a name alone: a path with folders is the user's own
        shipped = folder() / (path.name.removesuffix(SUFFIX) + SUFFIX)
        if shipped.is_file():
            logger.info(
                "%s: no file of this name here; the config that ships with paretune is read: %s",
                path,
                shipped,
            )
            return shipped
    if path.is_dir():
        raise ConfigError(
            f"{path}: expected a YAML file, got a folder; the settings of a finished run are in its config.yaml"
        )
    raise ConfigError(
        f"{path}: cannot read the config (no such file), and no config of this name ships with paretune; "
        f"{suggest(path.stem, names())}, or a YAML file of your own (`paretune init` writes one)"
    )
