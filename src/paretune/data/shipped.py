"""The preference data that ship with the package, by name."""

from __future__ import annotations

from importlib.resources import files
from pathlib import Path

SHIPPED = {
    "quickstart": "answers.jsonl.gz",
    "quickstart-written": "written.jsonl",
    "quickstart-prompts": "prompts.jsonl",
}
"""Prompts with four responses of the embedded model each; some of them with three responses that were written for this package
(concise, warm and brief, warm); prompts held out from all of these."""


def shipped_file(name: str = "quickstart") -> Path:
    """Return the file of a source that ships with the package, in the canonical form."""
    return Path(str(files("paretune.data") / "quickstart" / SHIPPED[name]))
