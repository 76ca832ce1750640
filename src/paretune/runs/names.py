"""The names in a config that become folders of the run."""

from __future__ import annotations

from collections.abc import Iterable

from paretune.core.errors import ConfigError
from paretune.core.names import path_component
from paretune.fronts.score_table import BASE, CORNERS
from paretune.runs.config import RunConfig


def check_names(config: RunConfig) -> None:
    """Raise a ConfigError unless the names of run, methods and objectives can each be the name of one folder."""
    if not config.folder:
        path_component(config.name, "name")
    for name in config.methods:
        path_component(name, "methods:")
        if name in (BASE, CORNERS):
            raise ConfigError(
                f"methods: {name!r} is what the base model and the single-objective models are called ({BASE}, {CORNERS}); "
                "choose another name"
            )
    check_objectives([*config.objectives, *(str(s["objective"]) for s in config.score if "objective" in s)])


def check_objectives(names: Iterable[str]) -> None:
    """Raise a ConfigError unless each name of an objective can be the name of a folder."""
    for name in names:
        path_component(name, "objective")
