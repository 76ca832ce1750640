"""What the trials run: each method on the tiny random model, and its undisturbed result, made once."""

from __future__ import annotations

import shutil
import threading
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path

import yaml

from campaign.folders import snapshot
from campaign.trial import Bench, done

_LOCKS: dict[str, threading.Lock] = {}
_GUARD = threading.Lock()

PREPARE = """
from pathlib import Path
from methods.test_every_method import config_of
from paretune.runs.run import to_yaml
from support.world import make_dataset
folder = Path({folder!r})
folder.mkdir(parents=True, exist_ok=True)
make_dataset(150).write(folder / "many.jsonl")
(folder / "made.yaml").write_text(to_yaml(config_of({method!r}, folder)))
"""


@dataclass(frozen=True)
class World:
    """A method's run, undisturbed.

    Attributes:
        method: The method.
        folder: The folder with ``config.yaml`` and the finished run in ``run``.
        seconds: How long the run took.
        changes: How many changes of folders it made.
    """

    method: str
    folder: Path
    seconds: float
    changes: int
    _told: dict[str, dict[str, bytes]] = field(default_factory=dict, repr=False)

    @property
    def result(self) -> dict[str, bytes]:
        """The files of the finished run."""
        if "run" not in self._told:
            self._told["run"] = snapshot(self.folder / "run")
        return self._told["run"]

    def fresh(self, folder: Path) -> Path:
        """Write the config into a folder in which nothing has run."""
        folder.mkdir(parents=True, exist_ok=True)
        shutil.copy(self.folder / "config.yaml", folder)
        return folder

    def finished(self, folder: Path) -> Path:
        """Copy config, finished run and cache into a folder."""
        self.fresh(folder)
        for name in ("run", "cache"):
            shutil.copytree(self.folder / name, folder / name)
        return folder


def methods() -> list[str]:
    """Return the names of all methods; this loads no torch."""
    from paretune.methods import METHODS

    return list(METHODS)


def cache_in(folder: Path) -> dict[str, str]:
    """Return the environment that keeps paretune's cache inside a trial's folder."""
    return {"PARETUNE_CACHE": str(folder / "cache")}


def world(bench: Bench, method: str) -> World:
    """Return the undisturbed run of a method, made at the first call."""
    with _GUARD:
        lock = _LOCKS.setdefault(method, threading.Lock())
    with lock:
        return _world(bench.shared, method, lambda: _make(bench, method))


@cache
def _worlds() -> dict[tuple[Path, str], World]:
    return {}


def _world(shared: Path, method: str, make: object) -> World:
    known = _worlds()
    if (shared, method) not in known:
        known[shared, method] = make()  # type: ignore[operator]
    return known[shared, method]


def _make(bench: Bench, method: str) -> World:
    folder = bench.shared / "worlds" / method
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    made = PREPARE.format(folder=str(folder), method=method)
    done(bench.warm(code=made, cwd=folder), "writing the tiny model")
    config = yaml.safe_load((folder / "made.yaml").read_text())
    config["folder"] = "run"
    config["serve"] = {**(config.get("serve") or {}), "floors": {"good": 0.2}}
    (folder / "config.yaml").write_text(yaml.safe_dump(config, sort_keys=False))
    ended = bench.warm(
        "run", "config.yaml", cwd=folder, env=cache_in(folder), count_to=str(folder / "changes")
    )
    done(ended, f"the undisturbed run of {method}")
    return World(method, folder, ended.seconds, int((folder / "changes").read_text()))
