"""Several sources as one data set, such as one file of pairs for each objective, whose labels do not say what they compare."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paretune.core.errors import ConfigError
from paretune.data.dataset import ScoredDataset, concatenate
from paretune.data.load import HUB, load_named

PREFERRED = "preferred"
"""The objective of labels that name none, where nothing else names it."""


@dataclass(frozen=True)
class NamedSource:
    """A source of data, with the objective that its labels mean.

    Attributes:
        source: A file or folder, a known set, ``hub:owner/name``, or a column map.
        shown: The source as it was given.
        objective: The objective of labels that name none; empty where it is not stated.
    """

    source: Any
    shown: str
    objective: str = ""

    @property
    def stem(self) -> str:
        """The name of the file, folder or repository, in the letters that the name of an objective may have.

        >>> NamedSource("downloads/Helpful base.jsonl.gz", "").stem, NamedSource("hub:team/polite@v1", "").stem
        ('Helpful-base', 'polite')
        """
        spec = self.source
        place = str(
            spec if isinstance(spec, str) else spec.get("path") or spec.get("hub") or spec.get("name")
        )
        if place.startswith(HUB):
            place = place.partition("@")[0]
        return re.sub(r"[^\w-]+", "-", Path(place).name.split(".")[0]).strip("-")


def load_together(sources: Sequence[NamedSource]) -> tuple[list[Any], ScoredDataset]:
    """Return the sources as a config lists them, and their data as one.

    Labels that name no objective get the stated one; of several sources else the name of their file, and of a single one
    ``preferred``.

    Raises:
        DataError: A source cannot be read.
        ConfigError: Two sources would get the same objective by the names of their files.
    """
    specs, parts = [], list[ScoredDataset]()
    derived: dict[str, NamedSource] = {}
    for source in sources:
        alone = len(sources) == 1
        name = source.objective or (PREFERRED if alone else source.stem or PREFERRED)
        spec, dataset = load_named(source.source, name)
        if spec is not source.source and not source.objective and not alone:
            other = derived.setdefault(name, source)
            if other is not source:
                raise ConfigError(
                    f"{other.shown} and {source.shown}: the labels of both name no objective, and both would be {name!r} by their "
                    f"names; say what each compares: {name}={other.shown} OBJECTIVE={source.shown}"
                )
        specs.append(spec)
        parts.append(dataset)
    return specs, parts[0] if len(parts) == 1 else concatenate(parts)
