"""The preference data that ship with the package, by name."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

SHIPPED = {"quickstart": "answers.jsonl.gz", "quickstart-prompts": "prompts.jsonl"}
"""Prompts with four responses of the embedded model each, and prompts held out from them."""


def shipped_file(name: str = "quickstart") -> Path:
    """Return the file of a source that ships with the package, in the canonical form."""
    return Path(str(files("paretune.data") / "quickstart" / SHIPPED[name]))
