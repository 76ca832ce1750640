"""What a server knows of the run that it serves beside its policies: its folder, its settings and the first held-out prompts."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from paretune.core.errors import ConfigError
from paretune.fronts.record import FILE, FrontRecord
from paretune.policies.policy_file import FILE as POLICY

CONFIG = "config.yaml"
VERSIONS = "versions.json"
STORE = "store.sqlite"
"""The store of votes, presets and audit records, which ``paretune serve`` makes in the folder that it serves."""
MARKS = (FILE, VERSIONS)
"""Files that show that ``paretune run`` made a folder, beside its config."""


@dataclass(frozen=True)
class RunFacts:
    """Facts of a run for people.

    Attributes:
        folder: Folder of the run as it was given; None where something else is served.
        prompts: Texts of the first held-out prompts.
        num_prompts: The number of held-out prompts that the front's scores are means over; 0 where there is no front.
        meanings: Objective -> what a point more on it means, in words.
        score: Entries of the config's section ``score``, one per scorer.
        device: Torch device of the scorers' models, where an entry states none.
    """

    folder: Path | None = None
    prompts: tuple[str, ...] = ()
    num_prompts: int = 0
    meanings: Mapping[str, str] = field(default_factory=dict)
    score: tuple[Mapping[str, Any], ...] = ()
    device: str | None = None

    @property
    def objectives(self) -> tuple[str, ...]:
        """Objectives that the run measures or scores, whether a policy is served that has them or not."""
        scored = (str(entry["objective"]) for entry in self.score if "objective" in entry)
        return tuple(dict.fromkeys((*self.meanings, *scored)))

    @classmethod
    def of(cls, place: Path) -> RunFacts:
        """Read the facts of a run from its folder, or from the folder of one of its policies.

        Raises:
            ParetuneError: The config or the record of the front cannot be read.
        """
        run = run_folder(place)
        if run is None:
            return cls()
        record = FrontRecord.read(run / FILE) if (run / FILE).is_file() else None
        entries = settings(run).get("score")
        score = [entry for entry in entries if isinstance(entry, dict)] if isinstance(entries, list) else []
        if record is None:
            return cls(run, score=tuple(score))
        return cls(run, record.prompts, record.num_prompts, record.objectives_info, tuple(score))


def run_folder(place: Path) -> Path | None:
    """Return the run that a folder is, or that it is a policy's folder of; None where it is neither."""
    for folder in (place, place.parent.parent):
        pulled = (folder / POLICY).is_file()  # beside it may lie the figures of its front, but no run
        if not pulled and ((folder / CONFIG).is_file() or any((folder / mark).is_file() for mark in MARKS)):
            return folder
    return None


def settings(run: Path) -> dict[str, Any]:
    """Return the settings in a run's config; empty where there is no config, or nothing in it.

    Raises:
        ConfigError: The file cannot be read, gives a key twice, or does not hold settings.
    """
    from paretune.core.yaml_text import read_yaml

    file = run / CONFIG
    values = read_yaml(file) if file.is_file() else None
    if values is not None and not isinstance(values, dict):
        raise ConfigError(f"{file}: expected a mapping of settings, got {type(values).__name__}")
    return values or {}
