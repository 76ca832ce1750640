"""The last step of a write: what is complete takes the place of what was there, and a kill never leaves neither."""

from __future__ import annotations

import ctypes
import errno
import json
import os
import re
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path

from paretune.core.owners import Owner, this_process, try_lock

_HOLDER = re.compile(r"\..*\.paretune-([0-9a-f]{8})-(\d+)-(\d+)-\w+")
_COMMIT = "commit.json"
_CURRENT_FOLDER, _EXCHANGE = -100, 2  # of renameat2(2)
_NO_EXCHANGE = (errno.ENOSYS, errno.EINVAL, errno.EOPNOTSUPP, errno.EXDEV, errno.EPERM)
_DAY = 24 * 3600.0


@contextmanager
def holder_beside(target: Path) -> Iterator[Path]:
    """Yield an empty folder beside ``target``; its name says whose it is, and it is removed at the end.

    Where the process is killed, :func:`sweep` removes it later.
    """
    owner = this_process()
    name = os.fsencode(target.name)[:80].decode(errors="ignore")
    prefix = f".{name}.paretune-{owner.host}-{owner.pid}-{owner.started}-"
    holder = Path(tempfile.mkdtemp(prefix=prefix, dir=target.parent))
    descriptor = None
    try:
        with suppress(OSError):  # Windows opens no folders
            descriptor = os.open(holder, os.O_RDONLY)
            try_lock(descriptor)  # tells processes in other containers that this one lives
        yield holder
    finally:
        try:
            discard(holder)
        finally:
            if descriptor is not None:
                os.close(descriptor)


def discard(folder: Path) -> None:
    """Remove a folder with all it holds, as far as that can be done.

    Raises:
        KeyboardInterrupt: The user stopped it.
    """
    try:
        shutil.rmtree(folder, ignore_errors=True)
    except OSError as error:
        # A stop inside rmtree comes out as an error of the descriptor that it closed at that moment.
        if isinstance(error.__context__, KeyboardInterrupt):
            raise KeyboardInterrupt from error


def sweep(folder: Path, depth: int = 0) -> int:
    """Remove what writes of killed processes left in ``folder`` and down to ``depth`` below it; return how many there were.

    A swap that the process was killed in is completed. Nothing is touched that a running process may hold.
    """
    count, below = 0, []
    with suppress(OSError), os.scandir(folder) as entries:
        for entry in entries:
            if not entry.is_dir(follow_symlinks=False):
                continue
            if match := _HOLDER.fullmatch(entry.name):
                count += _swept(Path(entry.path), Owner(match[1], int(match[2]), int(match[3])))
            else:
                below.append(Path(entry.path))
    return count + (sum(sweep(each, depth - 1) for each in below) if depth else 0)


def is_holder(name: str) -> bool:
    """Return whether ``name`` is that of a folder of :func:`holder_beside`."""
    return _HOLDER.fullmatch(name) is not None


def _swept(holder: Path, owner: Owner) -> bool:
    if owner.runs:
        return False
    with suppress(OSError):
        if not owner.here and time.time() - holder.stat().st_mtime < _DAY:
            return False
        descriptor = os.open(holder, os.O_RDONLY)
        try:
            locked = try_lock(descriptor)
            if locked is False or (locked is None and not owner.here):
                return False
            _complete(holder)
            discard(holder)
        finally:
            os.close(descriptor)
    return not holder.exists()


def replace_folder(new: Path, target: Path, holder: Path) -> None:
    """Put the folder ``new``, in ``holder``, in the place of the folder ``target``.

    The two are exchanged in one step where the file system can do that. Where it cannot, what is about to be done is noted in
    the holder first, so that :func:`sweep` completes it after a kill.
    """
    if _exchanged(new, target):
        return
    files = sorted(path.relative_to(target).as_posix() for path in target.rglob("*"))
    write_through(holder / _COMMIT, json.dumps({"name": target.name, "files": files}).encode())
    sync(holder)
    old = holder / "old folder"
    try:
        target.rename(old)
    except OSError as error:
        if error.errno != errno.EXDEV:
            raise
        shutil.rmtree(target)  # a folder in a lower layer of overlayfs can be removed, but not renamed
    try:
        new.rename(target)
    except OSError:
        if old.is_dir():
            old.rename(target)
        raise


def _exchanged(new: Path, target: Path) -> bool:
    """Exchange two folders in one step; return False where the system cannot."""
    call = getattr(ctypes.CDLL(None, use_errno=True), "renameat2", None) if os.name == "posix" else None
    if call is None:
        return False
    if call(_CURRENT_FOLDER, os.fsencode(new), _CURRENT_FOLDER, os.fsencode(target), _EXCHANGE) == 0:
        return True
    code = ctypes.get_errno()
    if code in _NO_EXCHANGE:
        return False
    raise OSError(code, os.strerror(code), str(target))


def _complete(holder: Path) -> None:
    """Complete the swap that a killed process had noted in ``holder``, unless something else has come into its place since."""
    try:
        commit = json.loads((holder / _COMMIT).read_text(encoding="utf-8"))
        name, files = str(commit["name"]), set(commit["files"])
    except (OSError, ValueError, KeyError, TypeError):
        return
    new, target = holder / name, holder.parent / name
    if not new.is_dir():
        return
    if target.is_dir():
        if any(path.relative_to(target).as_posix() not in files for path in target.rglob("*")):
            return
        shutil.rmtree(target)
    if not target.exists():
        new.rename(target)


def settle(path: Path) -> None:
    """Bring a new file or folder to the disk with all it holds, and give its files the modes of any new file.

    Some libraries write files that only their owner may read.
    """
    probe = path.with_name("probe" if path.name != "probe" else "other probe")
    os.close(os.open(probe, os.O_CREAT | os.O_EXCL | os.O_WRONLY, 0o666))
    mode = stat.S_IMODE(probe.stat().st_mode)
    probe.unlink()
    for each in [*path.rglob("*"), path]:
        if each.is_file() and not each.is_symlink():
            each.chmod(mode)
        if not each.is_symlink():
            sync(each)


def sync(path: Path) -> None:
    """Wait until a file or a folder is on the disk; nothing happens where the file system cannot say so."""
    try:
        descriptor = os.open(path, os.O_RDONLY)
    except OSError:
        return
    try:
        os.fsync(descriptor)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.EBADF, errno.EROFS, errno.EOPNOTSUPP):
            raise
    finally:
        os.close(descriptor)


def write_through(file: Path, raw: bytes) -> None:
    """Write a file and wait until it is on the disk."""
    with file.open("wb") as opened:
        opened.write(raw)
        opened.flush()
        os.fsync(opened.fileno())
