"""LoRAs of policies at the preferences that are asked for: folded when they are first needed, in a folder of bounded size."""

from __future__ import annotations

import os
import shutil
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock

import numpy as np

from paretune.choosing.bounds import Bounds, BoundsError
from paretune.core.errors import ConfigError
from paretune.core.files import file_digest, fingerprint
from paretune.core.folder_form import EXPORT
from paretune.core.names import path_component
from paretune.core.owners import Owner, this_process, try_lock
from paretune.core.preference import Preference
from paretune.policies.catalogue import Source
from paretune.policies.policy_file import FILE

LOCK = ".lock"
"""File that a process locks while it adds or deletes LoRAs."""
MARKS = ".marks"
"""Folder with an empty file ``LORA/HOST-PID-STARTED`` for each LoRA and each process that has given it out."""
PATIENCE = 120.0
"""Seconds to wait for another process; to fold a LoRA takes a few."""
LATELY = 24 * 3600.0
"""Seconds for which the mark of a process on another machine holds: whether that one still runs is not known here."""


def on_grid(preference: Preference, parts: int, bounds: Bounds) -> Preference:
    """Return the nearest preference whose weights are multiples of ``1 / parts``, within bounds.

    Each weight is rounded down, and what is left goes to the weights that lost most; a minimum weight is rounded up.

    Args:
        preference: Weights on M objectives, within the bounds.
        parts: Number of steps from 0 to 1.
        bounds: Minimum weights on the same objectives.

    Raises:
        BoundsError: The grid has no preference within the bounds.
    """
    wanted = preference.array() * parts
    least = np.ceil(np.array(bounds.minimums) * parts - 1e-9).astype(int)
    if least.sum() > parts:
        raise BoundsError(
            f"no preference in steps of 1/{parts} keeps the minimum weights {bounds.as_dict()}; take smaller steps"
        )
    counts = np.maximum(np.floor(wanted + 1e-9).astype(int), least)
    while (excess := int(counts.sum()) - parts) != 0:
        room = counts - wanted if excess > 0 else wanted - counts
        room = np.where(counts > least, room, -np.inf) if excess > 0 else room
        counts[int(np.argmax(room))] += -1 if excess > 0 else 1
    return Preference(preference.objectives, tuple((counts / parts).tolist()))


class LoraCache:
    """LoRAs in a folder, at most ``most`` of them. The one that was not used for longest goes first.

    A LoRA that was given out stays while the process runs that gave it out: whoever serves it reads its file again at any time.
    Several processes may share the folder. One at a time adds or deletes, and a mark says who has given out what.

    Attributes:
        folder: Where the LoRAs lie; other files there are left alone.
        most: Largest number of LoRAs.
    """

    def __init__(self, folder: Path, most: int) -> None:
        self.folder, self.most = folder, most
        self._identities: dict[Path, str] = {}
        self._lock = Lock()

    def get(self, source: Source, preference: Preference) -> Path:
        """Return the folder of the LoRA of a policy at a preference.

        Raises:
            ConfigError: All LoRAs of the folder are in use, and there are as many as there may be; or another process does not
                let go of the folder.
            ModelError: The policy is no single LoRA, or cannot be read.
        """
        from paretune.policies.folding import fold

        with self._lock, self._alone():
            name = self._name(source, preference)
            place = self.folder / name
            if not (place / EXPORT.marker).is_file():
                self._make_room(name)
                fold(source.folder, preference, place)
            os.utime(place)
            self._mark(name)
            return place

    @contextmanager
    def _alone(self) -> Iterator[None]:
        """Keep other processes from changing the folder; where the file system has no locks, marks alone guard what is used."""
        self.folder.mkdir(parents=True, exist_ok=True)
        descriptor = os.open(self.folder / LOCK, os.O_RDWR | os.O_CREAT, 0o666)
        try:
            until = time.monotonic() + PATIENCE
            while try_lock(descriptor) is False:
                if time.monotonic() > until:
                    raise ConfigError(
                        f"{self.folder}: another process has changed this cache for {PATIENCE:g} seconds; end it, or give this "
                        "one another folder"
                    )
                time.sleep(0.02)
            yield
        finally:
            os.close(descriptor)

    def _mark(self, name: str) -> None:
        """Note that this process has given out a LoRA."""
        mark = self.folder / MARKS / name / "-".join(map(str, this_process()))
        mark.parent.mkdir(parents=True, exist_ok=True)
        mark.touch()

    def _is_used(self, name: str) -> bool:
        """Return whether a process that may still run has given out a LoRA; marks of others are deleted."""
        marks = self.folder / MARKS / name
        used = False
        for mark in marks.iterdir() if marks.is_dir() else ():
            host, pid, started = (*mark.name.split("-"), "", "")[:3]
            if not (pid.isdecimal() and started.isdecimal()):
                continue
            owner = Owner(host, int(pid), int(started))
            holds = owner.runs if owner.here else time.time() - mark.stat().st_mtime < LATELY
            if not holds:
                mark.unlink(missing_ok=True)
            used |= holds
        return used

    def _name(self, source: Source, preference: Preference) -> str:
        """Return the name of a folder, which tells policies of one name and their weights apart."""
        if source.folder not in self._identities:
            files = [source.folder / FILE, *sorted(source.folder.glob("adapter-*/*"))]
            self._identities[source.folder] = fingerprint([file_digest(file) for file in files])[:16]
        weights = "-".join(f"{weight:.6g}" for weight in preference.weights)
        return path_component(f"{source.name}-{self._identities[source.folder]}-{weights}", "the policy")

    def _make_room(self, name: str) -> None:
        """Delete LoRAs that nobody uses until there is room for one more."""
        held = self._held()
        if len(held) < self.most:
            return
        free = [place for place in held if not self._is_used(place.name)]
        while len(held) >= self.most:
            if not free:
                raise ConfigError(
                    f"{self.folder}: all {len(held)} LoRAs of this cache are in use, so there is no place for {name}; allow more, "
                    "or take larger steps between preferences"
                )
            shutil.rmtree(free[0])
            shutil.rmtree(self.folder / MARKS / free[0].name, ignore_errors=True)
            held.remove(free.pop(0))

    def _held(self) -> list[Path]:
        """Return the LoRAs of the folder, the one that was not used for longest first."""
        if not self.folder.is_dir():
            return []
        places = [place for place in self.folder.iterdir() if place.is_dir() and not place.is_symlink()]
        ours = [place for place in places if (place / EXPORT.marker).is_file() and not EXPORT.foreign(place)]
        return sorted(ours, key=lambda place: place.stat().st_mtime_ns)
