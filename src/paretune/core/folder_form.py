"""How a folder that this product wrote is told from one that holds anything of somebody else."""

from __future__ import annotations

import hashlib
import json
import os
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from fnmatch import fnmatchcase
from pathlib import Path
from typing import Any

from paretune.core.errors import ModelError
from paretune.core.swap import is_holder


@dataclass(frozen=True)
class FolderForm:
    """What a folder of one form holds.

    Attributes:
        marker: Name of a JSON file that every such folder has.
        keys: Keys of this file; a file of this name without them is somebody else's.
        files: Patterns of the paths of all other files, such as ``adapter-*/adapter.json``. Those that the marker lists under
            ``files`` count as well, but for a text that no longer has the mark that stands under ``marks``.
        needs_marker: Whether a folder without the marker, or with a damaged one, is somebody else's although all its files have
            such names. False for folders of a run, whose names no one else would give.
    """

    marker: str
    keys: tuple[str, ...]
    files: tuple[str, ...] = ()
    needs_marker: bool = True

    def foreign(self, folder: Path) -> list[str]:
        """Return what in ``folder`` is not of this form: paths, sorted, then texts that were edited."""
        found = sorted(_entries(folder))
        if not found:
            return []
        values = _values(folder / self.marker)
        theirs = isinstance(values, dict) and not set(self.keys) <= set(values)
        if theirs or (self.needs_marker and not isinstance(values, dict)):
            return found
        listed = values.get("files") if isinstance(values, dict) else None
        named = {str(name) for name in listed} if isinstance(listed, (list, dict)) else set()
        marks = values.get("marks") if isinstance(values, dict) else None
        edited = _edited(folder, marks) if isinstance(marks, dict) else set()
        strange = [
            path
            for path in found
            if path != self.marker and path not in named and not any(_matches(path, p) for p in self.files)
        ]
        return strange + [f"{path} as it was edited" for path in sorted(edited)]


TEXTS = (".md", ".json", ".jinja", ".txt")
"""Endings of the files of an export that people edit."""

EXPORT = FolderForm("paretune.json", ("written_by", "files"))
"""The form of what is exported for other programs: their own files, and a list of them."""


def write_marker(folder: Path, marks: bool = True) -> None:
    """Write the list of all files in ``folder``, by which an export is known as ours when it is exported again.

    With ``marks`` texts have a mark, the SHA-256 of their bytes: one that was edited since is its editor's, and is not replaced.
    A cache has none, so that what was damaged there is made again.
    """
    files = sorted(_entries(folder))
    listed: dict[str, Any] = {"written_by": "paretune", "files": files}
    if marks:
        listed["marks"] = {name: _mark(folder / name) for name in files if name.endswith(TEXTS)}
    (folder / EXPORT.marker).write_text(json.dumps(listed, indent=2) + "\n", encoding="utf-8")


def _mark(file: Path) -> str:
    """Return the SHA-256 of a file's bytes; an empty text where it cannot be read."""
    try:
        return hashlib.sha256(file.read_bytes()).hexdigest()
    except OSError:
        return ""


def _edited(folder: Path, marks: Mapping[str, object]) -> set[str]:
    """Return the files that no longer have their mark; a file that is gone is not among them."""
    return {
        name for name, mark in marks.items() if (folder / name).is_file() and _mark(folder / name) != mark
    }


def refuse_foreign(folder: Path, form: FolderForm | None) -> None:
    """Raise a ModelError where ``folder``, about to be replaced, holds anything that is not of ``form``.

    None is the form of nothing: only an empty folder may be replaced.
    """
    if not folder.is_dir():
        if folder.exists():
            raise ModelError(f"{folder}: is a file; give a folder")
        return
    foreign = form.foreign(folder) if form else sorted(_entries(folder))
    if foreign:
        more = f" and {len(foreign) - 3} more" if len(foreign) > 3 else ""
        raise ModelError(
            f"{folder}: holds other files ({', '.join(foreign[:3])}{more}), which would be lost; give a new or empty folder, or "
            "move them away"
        )


def _entries(folder: Path, inside: str = "") -> Iterator[str]:
    """Yield the paths of all files in a folder, and of the folders that hold nothing; links are not followed."""
    try:
        entries = list(os.scandir(folder))
    except FileNotFoundError:
        return
    for entry in entries:
        if not entry.is_dir(follow_symlinks=False):
            yield inside + entry.name
        elif not is_holder(entry.name):
            below = list(_entries(Path(entry.path), f"{inside}{entry.name}/"))
            yield from below or [f"{inside}{entry.name}/"]


def _values(marker: Path) -> Any:
    """Return what a marker holds; None where it is missing or no JSON."""
    try:
        return json.loads(marker.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError):
        return None


def _matches(path: str, pattern: str) -> bool:
    """Return whether a path matches a pattern part by part; an empty folder matches where a file in it would."""
    parts, wanted = path.split("/"), pattern.split("/")
    if parts[-1] == "":
        parts, wanted = parts[:-1], wanted[: len(parts) - 1]
    return len(parts) == len(wanted) and all(map(fnmatchcase, parts, wanted))
