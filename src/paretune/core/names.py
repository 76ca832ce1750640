"""Names that become the name of a file or a folder."""

from __future__ import annotations

from paretune.core.errors import ConfigError

LONGEST, LONGEST_MADE = 120, 210
"""Bytes of the longest name of a user, and of one that is made of several. A file system takes 255."""


def path_component(name: str, what: str, longest: int = LONGEST) -> str:
    """Return ``name`` where it can be the name of one file or folder, neither hidden nor in another folder.

    Args:
        name: A name that a user chose, or that data hold.
        what: What it names, for the message, such as ``objective``.
        longest: Most bytes it may have.

    Raises:
        ConfigError: It is empty, ``.`` or ``..``, starts with a dot, is too long, or has a slash, a backslash, a control
            character or half a character in it.

    >>> path_component("helpful and kind", "objective")
    'helpful and kind'
    """
    reason = ""
    if not isinstance(name, str):
        reason = "it is no text"
    elif not name.strip():
        reason = "it is empty"
    elif name.startswith("."):
        reason = "it starts with a dot"
    elif any(mark in name for mark in "/\\"):
        reason = "it has a slash in it"
    elif any(not character.isprintable() for character in name):
        reason = "it has a character in it that cannot be printed"
    elif len(name.encode("utf-8", "surrogatepass")) > longest:
        reason = f"it is longer than {longest} bytes"
    if reason:
        shown = name if not isinstance(name, str) or len(name) < 60 else f"{name[:50]}..."
        raise ConfigError(
            f"{what} {shown!r}: {reason}, and it becomes the name of a folder; choose another name, such as 'helpful'"
        )
    return name
