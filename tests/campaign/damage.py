"""Seven ways to damage a file."""

from __future__ import annotations

import gzip
import json
import random
import shutil
import sqlite3
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

WRONG = ({}, [], None, 5, "text", {"format": 99}, [[]], {"key": None})


def truncated(path: Path, chance: random.Random) -> None:
    """Keep the first part."""
    raw = path.read_bytes()
    path.write_bytes(raw[: chance.randrange(1, len(raw)) if len(raw) > 1 else 0])


def emptied(path: Path, chance: random.Random) -> None:
    """Keep nothing."""
    path.write_bytes(b"")


def deleted(path: Path, chance: random.Random) -> None:
    """Remove it."""
    path.unlink()


def flipped(path: Path, chance: random.Random) -> None:
    """Flip one bit."""
    raw = bytearray(path.read_bytes())
    if raw:
        place = chance.randrange(len(raw))
        raw[place] ^= 1 << chance.randrange(8)
    path.write_bytes(bytes(raw))


def of_wrong_form(path: Path, chance: random.Random) -> None:
    """Write something that is valid for its kind of file but not what it should say."""
    if path.suffix == ".safetensors":
        import numpy as np
        from safetensors.numpy import load_file, save_file

        tensors = load_file(path)
        name = chance.choice(sorted(tensors))
        change = chance.choice(("missing", "shape", "dtype", "nan", "other"))
        if change == "missing":
            del tensors[name]
        elif change == "shape":
            tensors[name] = np.zeros((3, 5), np.float32)
        elif change == "dtype":
            tensors[name] = tensors[name].astype(np.float64)
        elif change == "nan":
            tensors[name] = np.full_like(tensors[name], np.nan)
        else:
            tensors = {"other": np.zeros(2, np.float32)}
        save_file(tensors, path)
    elif path.suffix == ".sqlite":
        path.unlink()
        with sqlite3.connect(path) as connection:
            connection.execute("CREATE TABLE other (a TEXT)")
        connection.close()
    elif path.suffix == ".gz":
        path.write_bytes(gzip.compress(b'{"prompt": 5}\n[]\n' if chance.random() < 0.5 else b"{}\n"))
    elif path.suffix == ".json":
        path.write_text(json.dumps(_other(json.loads(path.read_text()), chance)))
    elif path.suffix == ".yaml":
        path.write_text(chance.choice(("{}\n", "[1, 2]\n", "5\n", "folder: run\n")))
    else:
        path.write_text("{}\n")


def _other(value: Any, chance: random.Random) -> Any:
    """Return JSON of another form: all of it, or one value within it."""
    if chance.random() < 0.4 or not isinstance(value, (dict, list)) or not value:
        return chance.choice([wrong for wrong in WRONG if wrong != value])
    if isinstance(value, dict):
        key = chance.choice(sorted(value))
        if chance.random() < 0.3:
            return {name: part for name, part in value.items() if name != key}
        return {**value, key: _other(value[key], chance)}
    place = chance.randrange(len(value))
    return [*value[:place], _other(value[place], chance), *value[place + 1 :]]


def a_folder(path: Path, chance: random.Random) -> None:
    """Put a folder in its place."""
    path.unlink()
    path.mkdir()


def unreadable(path: Path, chance: random.Random) -> None:
    """Take all rights to it."""
    path.chmod(0)


DAMAGES: Mapping[str, Callable[[Path, random.Random], None]] = {
    "truncated": truncated,
    "emptied": emptied,
    "deleted": deleted,
    "flipped": flipped,
    "of-wrong-form": of_wrong_form,
    "a-folder": a_folder,
    "unreadable": unreadable,
}


def mend(path: Path) -> None:
    """Remove what lies at a path, as a message says to do."""
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)
