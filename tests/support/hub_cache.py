"""The cache of the model hub as its own library lays it out, filled by hand: what a machine without the hub has."""

from __future__ import annotations

import hashlib
import os
import shutil
from pathlib import Path


def fill(cache: Path, name: str, folder: Path) -> Path:
    """Put all files of a folder into the cache as a repository's new main commit; return the folder of the commit."""
    commit = hashlib.sha1(f"{name}{folder}".encode()).hexdigest()
    repository = cache / f"models--{name.replace('/', '--')}"
    (repository / "refs").mkdir(parents=True, exist_ok=True)
    (repository / "refs/main").write_text(commit)
    return Path(shutil.copytree(folder, repository / "snapshots" / commit))


def offline(cache: Path) -> dict[str, str]:
    """Return the environment of a process that has this cache and no hub."""
    alone = {"HF_HUB_CACHE": str(cache), "HF_HOME": str(cache.parent / "home"), "HF_HUB_OFFLINE": "1"}
    return {**os.environ, **alone}
