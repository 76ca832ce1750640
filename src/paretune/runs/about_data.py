"""What a config's data sources say about themselves, for model cards: names on the hub, and languages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from paretune.data.known import KNOWN
from paretune.data.load import HUB
from paretune.data.shipped import SHIPPED
from paretune.reports.card import About

_ENGLISH = ("en",)


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
