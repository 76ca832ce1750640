"""What a config's data sources say about themselves, for model cards: names on the hub, and languages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from paretune.data.known import KNOWN
from paretune.data.load import HUB
from paretune.data.shipped import SHIPPED
from paretune.reports.card import About

_ENGLISH = ("en",)
IN_PYTHON = "data given in Python"
"""The name of data that lay in no file."""


def about_data(*sources: Any) -> About:
    """Return the data sets of a run by their names on the hub, and ``en`` where all of them are known to be English.

    Args:
        sources: Entries of ``data`` in a config, such as ``hh-rlhf``, ``{hub: owner/name}``, a path, or a list of these.
    """
    names = [name for source in sources for name in _names(source)]
    hubs = dict.fromkeys(
        KNOWN[name].hub if name in KNOWN else name.partition(":")[2].partition("@")[0] for name in names
    )
    english = names and all(name in KNOWN or name in SHIPPED for name in names)
    return About(datasets=tuple(filter(None, hubs)), languages=_ENGLISH if english else ())


def sources_of(*sources: Any) -> tuple[tuple[str, str], ...]:
    """Return (name, licence) of the data sets of a run; of a file the last part of its path, and no licence.

    Args:
        sources: Entries of ``data`` in a config, see :func:`about_data`.
    """
    found: dict[str, str] = {}
    for source in sources:
        for entry in source if isinstance(source, list | tuple) else [source]:
            (known, *_) = [*_names(entry), ""]
            if known in SHIPPED:
                found[f"{known}, which ships with paretune"] = "Apache-2.0"
            elif known:
                found[known.removeprefix(HUB)] = KNOWN[known].licence if known in KNOWN else ""
            elif entry is not None:
                place = str(entry.get("path") if isinstance(entry, Mapping) else entry)
                found[IN_PYTHON if Path(place).name.startswith("given-") else Path(place).name] = ""
    return tuple(found.items())


def _names(source: Any) -> Iterator[str]:
    """Yield the known names and ``hub:owner/name`` of a source; anything else, such as a path, as an empty text."""
    if isinstance(source, list | tuple):
        for part in source:
            yield from _names(part)
    elif isinstance(source, Mapping):
        hub, path = source.get("hub"), str(source.get("path"))
        place = f"{HUB}{hub}" if hub else path if path.startswith(HUB) else ""
        yield str(source["name"]) if "name" in source else place
    elif source is not None:
        text = str(source)
        yield text if text in KNOWN or text in SHIPPED or text.startswith(HUB) else ""
