"""The stages of a run: folders that appear whole or not at all, and are found again while their inputs stay the same."""

from __future__ import annotations

import logging
import tempfile
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

from filelock import FileLock
from typing_extensions import NotRequired, TypedDict

from paretune.core.errors import ParetuneError, TrainingError
from paretune.core.files import atomic_path, file_digest, fingerprint, read_json, write_json
from paretune.core.folder_form import FolderForm
from paretune.core.meter import Meter, Spent
from paretune.core.names import LONGEST_MADE, path_component
from paretune.core.progress import found_finished, stage
from paretune.models.adapter import FILES
from paretune.models.distributed import ProcessGroup
from paretune.models.values import FILES as VALUE_FILES

logger = logging.getLogger(__name__)

MARKER = "stage.json"

FORM = FolderForm(
    MARKER,
    keys=("key", "seconds"),
    files=(
        *(f"adapter/{name}" for name in FILES),
        *("head/head.json", "head/head.safetensors"),
        *(f"values/{name}" for name in VALUE_FILES),
        *("history.json", "counts.json", "kl.json", "responses.json"),
        *("generated.jsonl.gz", "sampled.jsonl.gz", "answers.jsonl.gz"),
    ),
    needs_marker=False,
)
"""The form of a stage's folder: what any stage writes, and what its ``stage.json`` lists."""


class Done(TypedDict):
    """The content of ``stage.json``.

    Attributes:
        key: Fingerprint of all inputs.
        seconds: Seconds the stage took, without stages inside it.
        spent: What else it spent, likewise; stages of earlier versions do not say it.
        content: Fingerprint of what the stage reads of its inputs, where that is less than all.
        files: Path -> SHA-256 of all files the stage wrote; stages of version 0.1 have none.
        causes: What the key is made of, as name -> fingerprint, so that a stage that is made again says what changed.
        itself: Fingerprint of all this but ``seconds`` and ``spent``, so that damage to this file is noticed; earlier versions
            wrote none.
    """

    key: str
    seconds: float
    spent: NotRequired[Spent]
    content: NotRequired[str]
    files: NotRequired[dict[str, str]]
    causes: NotRequired[dict[str, str]]
    itself: NotRequired[str]


CAUSES = (
    "its data (texts, tokens, scores or margins)",
    "the settings of training",
    "the base model",
    "the number format",
)
"""What the key of a stage of training is made of, as its messages call it."""


@dataclass(frozen=True)
class StageRecord:
    """One stage of a run: its seconds, whether it was found finished, and what it spent when it was made (None: unknown)."""

    name: str
    seconds: float
    reused: bool
    spent: Spent | None = None


@dataclass
class Stages:
    """The stages in a run folder.

    Attributes:
        folder: Folder of the run.
        team: Processes of the run.
        shared: Whether other runs work in the folder at the same time, see :class:`paretune.training.lab.Lab`.
        say: Prints a message to the user.
        records: Stages that were made or found finished so far, in order.
    """

    folder: Path
    team: ProcessGroup
    shared: bool = False
    say: Callable[[str], None] = print
    records: list[StageRecord] = field(default_factory=list)
    _keys: dict[str, str] = field(default_factory=dict, init=False, repr=False)

    def own_name(self, name: str, key: str) -> str:
        """Return ``name``, or ``name-key`` where this run used it under another key.

        Two methods of a run may want one stage under different settings: each keeps its own.
        """
        keyed = name if name.endswith(f"-{key}") else f"{name}-{key}"
        if self.shared or (self.folder / keyed).is_dir():
            return keyed
        return name if self._keys.setdefault(name, key) == key else f"{name}-{key}"

    def made(
        self,
        name: str,
        key: str,
        make: Callable[[Path], None],
        together: bool = False,
        content: str = "",
        causes: Mapping[str, str] | None = None,
    ) -> Path:
        """Return the folder of stage ``name``; run ``make`` on a temporary folder first unless it is finished under ``key``.

        The folder appears whole or not at all, and a change of ``key`` (the fingerprint of all inputs) makes it anew, as does a
        file of it that is missing. Of several
        processes the first runs ``make`` and the others wait; with ``together``, and where the model's weights are divided
        among them, all run it, and what the first makes is kept.

        Args:
            name: Name of the stage and path of its folder.
            key: Fingerprint of all inputs.
            make: Writes the stage into a folder.
            together: All processes run ``make``.
            content: Fingerprint of what ``make`` reads of the inputs, where that is less than all. A finished stage beside this one
                with the same content is returned in its place.
            causes: What ``key`` is made of, as name -> fingerprint: a stage that is made again says which of them changed.

        Raises:
            ConfigError: ``name`` is no kind of stage and a name that can be that of a folder, such as ``adapters/dpo-warm``.
            ModelError: The folder is there and holds files that no stage wrote.
        """
        path_component(name.partition("/")[2] or name, f"{name}: the name", LONGEST_MADE)
        name = self.own_name(name, key)
        with self.alone(name):
            finished = self.team.once(lambda: self._finished(name, key, content))
            if finished is not None:
                self.records.append(finished)
                found_finished(finished.name, finished.seconds, finished.spent)
                return self.folder / finished.name
            with stage(name) as meter:
                return self._made(name, key, make, together, content, causes or {}, meter)

    def _made(
        self,
        name: str,
        key: str,
        make: Callable[[Path], None],
        together: bool,
        content: str,
        causes: Mapping[str, str],
        meter: Meter,
    ) -> Path:
        folder = self.folder / name
        if self.team.first:
            self._say_changed(folder, causes)
        if self.team.first or together or self.team.sharded:
            with atomic_path(folder, FORM) if self.team.first else _scratch() as temporary:
                temporary.mkdir()
                make(temporary)
                files = checksums(temporary)
                meter.stop()
                done = Done(key=key, seconds=meter.seconds, spent=meter.spent, files=files)
                if content:
                    done["content"] = content
                if causes:
                    done["causes"] = dict(causes)
                _write(temporary / MARKER, done)
        meter.stop()
        self.records.append(StageRecord(name, *self.team.tell((meter.seconds, False, meter.spent))))
        return folder

    def _finished(self, name: str, key: str, content: str) -> StageRecord | None:
        """Return the record of stage ``name`` under ``key``, or of one beside it with the same ``content``; None without either."""
        marker = self.folder / name / MARKER
        if marker.is_file():
            done = _read(marker)
            if done["key"] == key and self._whole(marker.parent, done):
                if "itself" not in done:
                    _write(marker, done)
                return StageRecord(name, done["seconds"], True, done.get("spent"))
        for other in sorted(marker.parent.parent.glob(f"*/{MARKER}")) if content else ():
            try:
                done = _read(other)
            except ParetuneError:
                continue  # it is reported where that stage itself is asked for
            if done.get("content") == content and self._whole(other.parent, done):
                found = other.parent.relative_to(self.folder).as_posix()
                return StageRecord(found, done["seconds"], True, done.get("spent"))
        return None

    def _whole(self, folder: Path, done: Done) -> bool:
        """Return whether a finished stage has all its files; a missing one is said, a changed one is an error."""
        missing = [name for name in done.get("files", _least(folder)) if not (folder / name).is_file()]
        if missing:
            self.say(f"{folder / missing[0]} is missing, so this stage is done again")
            return False
        refuse_changed(folder, done.get("files", {}))
        return True

    def _say_changed(self, folder: Path, causes: Mapping[str, str]) -> None:
        """Log what changed since a stage was finished that is now made again, where that is known."""
        marker = folder / MARKER
        if not causes or not marker.is_file():
            return
        before = _read(marker).get("causes", {})
        changed = [name for name, value in causes.items() if before.get(name, value) != value]
        if changed:
            logger.warning(
                "%s is made again, as %s changed since it was finished", folder, " and ".join(changed)
            )

    @contextmanager
    def alone(self, what: str) -> Iterator[None]:
        """Hold the lock of ``what``, so that one run at a time does it; the kernel frees the lock of a killed run."""
        if not self.shared or not self.team.first:
            yield
            return
        file = self.folder / "locks" / f"{what.replace('/', '-')}.lock"
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            lock = FileLock(file)
            lock.acquire()
        except OSError as error:
            raise ParetuneError(
                f"{file}: cannot write ({error.strerror or error}); nothing was written."
            ) from error
        try:
            yield
        finally:
            lock.release()


def _read(marker: Path) -> Done:
    """Read a ``stage.json``, or raise a ParetuneError where it is damaged."""
    cure = "delete the file to have the stage done again"
    done = read_json(marker, Done, cure)
    if done.get("itself") not in (None, _fingerprint(done)):
        raise ParetuneError(
            f"{marker}: is not what this stage wrote (a disk, a copy or somebody changed it); {cure}"
        )
    return done


def _write(marker: Path, done: Done) -> None:
    write_json(marker, {**done, "itself": _fingerprint(done)})


def _fingerprint(done: Done) -> str:
    left_out = ("seconds", "spent", "itself")
    return fingerprint({name: value for name, value in done.items() if name not in left_out})


def checksums(folder: Path) -> dict[str, str]:
    """Return relative path -> SHA-256 of the files in a folder."""
    files = sorted(file for file in folder.rglob("*") if file.is_file())
    return {file.relative_to(folder).as_posix(): file_digest(file) for file in files}


def refuse_changed(folder: Path, expected: Mapping[str, str]) -> None:
    """Raise a TrainingError where a file of a finished stage holds other bytes than those that were written.

    Files that are gone are not looked at, and neither are files that came later.
    """
    for name, digest in expected.items():
        file = folder / name
        if file.is_file() and file_digest(file) != digest:
            raise TrainingError(
                f"{file}: is not what this stage wrote (a disk, a copy or somebody changed it); delete the folder {folder} to have "
                "the stage made again, or put the file back"
            )


@contextmanager
def _scratch() -> Iterator[Path]:
    """Yield a path for a stage of which another process keeps its own."""
    with tempfile.TemporaryDirectory() as folder:
        yield Path(folder) / "stage"


def _least(folder: Path) -> list[str]:
    """Return the files that a stage without a list of them must have, by the kind of the stage."""
    least = {
        "adapters": [f"adapter/{FILES[0]}", f"adapter/{FILES[1]}", "history.json"],
        "heads": ["head/head.json", "head/head.safetensors"],
        "audits": ["kl.json"],
    }
    return least.get(folder.parent.name, [])
