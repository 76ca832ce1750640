"""Several runs in one server: what each is called, what of it is served, and under which settings."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

from paretune.core.errors import ConfigError, suggest
from paretune.policies.catalogue import Source, find_sources
from paretune.policies.shared import policy_folder
from paretune.serving.config import ServeConfig
from paretune.serving.run_facts import RunFacts, run_folder


@dataclass(frozen=True)
class ServedRun:
    """A run whose policies a server offers.

    Attributes:
        name: Name of the run: that of its folder, with as many of the folders above as tell it from the others.
        facts: What is known of it.
        config: Its settings; limits of the server are those of the first run.
    """

    name: str
    facts: RunFacts = field(hash=False)
    config: ServeConfig = field(hash=False)


def run_names(places: Sequence[Path]) -> list[str]:
    """Return what runs are called: each by the last parts of its path that no other run has.

    Raises:
        ConfigError: A run is given twice, or a name has a sign that names of models cannot have.
    """
    parts = [_parts(place) for place in places]
    for place, found in zip(places, parts, strict=True):
        if parts.count(found) > 1:
            raise ConfigError(f"{place}: this run is given twice; give each run once")
    names = []
    for found in parts:
        count = next(n for n in range(1, len(found) + 1) if sum(p[-n:] == found[-n:] for p in parts) == 1)
        name = "/".join(found[-count:])
        if len(places) > 1 and (not name.isprintable() or "@" in name or len(name) > 100):
            raise ConfigError(
                f"{name!r:.120}: several runs are told apart by their folders' names, of at most 100 printable characters without "
                "'@'; rename the folder"
            )
        names.append(name)
    return names


def _parts(place: Path) -> tuple[str, ...]:
    if not place.exists():  # a policy on the hub
        return tuple(str(place).partition("@")[0].split("/"))
    return tuple(part for part in (run_folder(place) or place).resolve().parts if part != "/")


def qualified(source: Source, run: str) -> Source:
    """Return a source under the name ``run/policy``, in its front too."""
    name = f"{run}/{source.name}"
    return replace(source, name=name, surface=source.surface and replace(source.surface, policy=name))


def run_configs(places: Sequence[Path], options: Mapping[str, Any]) -> list[ServeConfig]:
    """Return the settings of each run; policies and floors of the command line go to the runs that have them.

    Args:
        places: Run folders, the default first.
        options: Options of the command line by field name, see :meth:`ServeConfig.read`.

    Raises:
        ConfigError: Settings are wrong, or no run has a policy or an objective that the options name.
    """
    if len(places) == 1:
        return [ServeConfig.read(policy_folder(places[0]), options)]
    names = run_names(places)
    found = [find_sources(place) for place in places]
    wanted, floors = options.get("policies") or [], options.get("floors")
    known = [source.name for sources in found for source in sources]
    for policy in wanted:
        if not any(
            _is_of(policy, name, source)
            for name, sources in zip(names, found, strict=True)
            for source in sources
        ):
            raise ConfigError(f"--policy {policy}: no run has it; {suggest(policy, known)}")
    scored = [{name for source in sources for name in source.objectives} for sources in found]
    for objective in floors or ():
        if not any(objective in one for one in scored):
            raise ConfigError(
                f"--floor {objective}: no run has this objective; {suggest(objective, set().union(*scored))}"
            )
    configs = []
    for place, name, sources, objectives in zip(places, names, found, scored, strict=True):
        own = dict(options)
        if wanted:
            own["policies"] = [s.name for policy in wanted for s in sources if _is_of(policy, name, s)]
            if not own["policies"]:
                raise ConfigError(
                    f"{place}: none of the policies that --policy names is in this run; leave the run out"
                )
        if floors is not None:
            own["floors"] = {key: floor for key, floor in floors.items() if key in objectives}
        configs.append(ServeConfig.read(policy_folder(place), own))
    return configs


def _is_of(policy: str, run: str, source: Source) -> bool:
    return policy in (source.name, f"{run}/{source.name}")
