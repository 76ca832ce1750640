"""From what a folder holds to what a server offers: the default preference within the bounds, and facts for clients."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from paretune.choosing.bounds import Bounds
from paretune.core.preference import Preference, nearest
from paretune.policies.catalogue import Source
from paretune.serving.backend import Served


def serve_source(source: Source, floors: Mapping[str, float], stated: Preference | None) -> Served:
    """Return what a source serves.

    Args:
        source: A policy or exported LoRAs on disk.
        floors: Bounds of the deployment, objective -> minimum weight.
        stated: Preference of requests that give none; by default the centre of the bounds, or for anchors the nearest
            one within the bounds. An exported LoRA alone has only its own.
    """
    bounds = Bounds.of(floors, source.objectives)
    default = stated.over(source.objectives) if stated else bounds.centre
    if len(source.anchors) == 1:
        default = source.anchors[0]
    elif source.anchors and stated is None and not bounds.admits(source.used(default)):
        within = [anchor for anchor in source.anchors if bounds.admits(anchor)]
        default = nearest(default, within) if within else default
    facts: dict[str, Any] = {
        "kind": source.kind,
        "base_model": source.base_name,
        "anchored": bool(source.anchors),
        "exportable": source.exportable,
    }
    if source.title:
        facts["title"] = source.title
    if source.anchors:
        facts["anchors"] = [anchor.as_dict() for anchor in source.anchors]
    if source.trained:
        facts["trained"] = [preference.as_dict() for preference in source.trained]
    return Served(source.name, source.objectives, default, source.used, source.surface, facts)
