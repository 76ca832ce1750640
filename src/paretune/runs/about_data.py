"""What a config's data sources say about themselves, for model cards: names on the hub, and languages."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from typing import Any

from paretune.data.known import KNOWN
from paretune.data.shipped import SHIPPED
from paretune.reports.card import About

_ENGLISH = ("en",)


def about_data(*sources: Any) -> About:
    """Return the data sets of a run by their names on the hub, and ``en`` where all of them are known to be English.

    Args:
        sources: Entries of ``data`` in a config, such as ``hh-rlhf``, ``{hub: owner/name}``, a path, or a list of these.
    """
    names = [name for source in sources for name in _names(source)]
    hubs = dict.fromkeys(KNOWN[name].hub if name in KNOWN else name.partition(":")[2] for name in names)
    english = names and all(name in KNOWN or name in SHIPPED for name in names)
    return About(datasets=tuple(filter(None, hubs)), languages=_ENGLISH if english else ())


def _names(source: Any) -> Iterator[str]:
    """Yield the known names and ``hub:owner/name`` of a source; anything else, such as a path, as an empty text."""
    if isinstance(source, list | tuple):
        for part in source:
            yield from _names(part)
    elif isinstance(source, Mapping):
        hub = source.get("hub")
        yield str(source["name"]) if "name" in source else f"hub:{hub}" if hub else ""
    elif source is not None:
        text = str(source)
        yield text if text in KNOWN or text in SHIPPED or text.startswith("hub:") else ""
