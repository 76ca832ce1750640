"""The parts: what the field publishes under a name and what here is a setting of methods; :data:`PARTS` is where one is added."""

from __future__ import annotations

from dataclasses import dataclass


@dataclass(frozen=True)
class Part:
    """What a user must know to find a part.

    Attributes:
        title: Its usual name.
        paper: Where it is defined.
        does: What it does.
        used: The methods that have it.
        setting: The setting that turns it on.
    """

    title: str
    paper: str
    does: str
    used: str
    setting: str


PARTS: dict[str, Part] = {
    "pal": Part(
        "PAL",
        "arXiv 2406.08469",
        "finds objectives in the votes of several people, and a person's weights over them",
        "any, as scorers; presets of a server",
        "score: {objective: NAME, prototype: FOLDER}, from paretune pal fit",
    ),
}
