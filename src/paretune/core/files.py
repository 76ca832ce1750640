"""Files written so that a killed process leaves either the old content or the new, never half of it."""

from __future__ import annotations

import errno
import gzip
import hashlib
import json
import os
import shutil
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any

from paretune.core.errors import ParetuneError


@contextmanager
def atomic_path(target: str | Path) -> Iterator[Path]:
    """Yield a temporary path beside ``target`` (a file or a folder) and rename it onto ``target`` on success.

    On any exception the temporary path is removed and ``target`` stays as it was. A folder replaces an older folder.

    Raises:
        ParetuneError: The disk is full, or the folder cannot be written; the message names the target.
    """
    target = Path(target)
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        holder = Path(tempfile.mkdtemp(prefix=f".{target.name}.", dir=target.parent))
    except OSError as error:
        raise _unwritable(target, error) from error
    try:
        temporary = holder / target.name
        yield temporary
        if temporary.is_dir() and target.is_dir():
            target.rename(holder / "old")
        temporary.replace(target)
    except OSError as error:
        raise _unwritable(target, error) from error
    finally:
        shutil.rmtree(holder, ignore_errors=True)


def _unwritable(target: Path, error: OSError) -> ParetuneError:
    if error.errno == errno.ENOSPC:
        return ParetuneError(
            f"{target}: the disk is full; nothing was written. Free some space and run the command again."
        )
    return ParetuneError(f"{target}: cannot write ({error.strerror or error}); nothing was written.")


def write_text(target: str | Path, text: str) -> None:
    """Write ``text`` as UTF-8, atomically; a name ending in ``.gz`` is compressed (byte-identical for equal text)."""
    raw = text.encode("utf-8")
    if str(target).endswith(".gz"):
        raw = gzip.compress(raw, mtime=0)
    write_bytes(target, raw)


def write_bytes(target: str | Path, raw: bytes) -> None:
    """Write ``raw``, atomically."""
    with atomic_path(target) as temporary, temporary.open("wb") as file:
        file.write(raw)
        file.flush()
        os.fsync(file.fileno())


def write_json(target: str | Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically; NaN is refused (it is not JSON)."""
    write_text(target, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


def read_json(path: str | Path) -> Any:
    """Read a JSON file; a missing or damaged one is a ParetuneError that names it."""
    path = Path(path)
    try:
        return json.loads(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise ParetuneError(f"{path}: cannot read ({error.strerror or error})") from error
    except ValueError as error:
        raise ParetuneError(
            f"{path}: not valid JSON ({error}); delete the file to have it made again"
        ) from error


def fingerprint(*parts: object) -> str:
    """Return 16 hex digits that identify ``parts`` (JSON values, or bytes) across processes and machines."""
    return fingerprint_of(parts)


def fingerprint_of(parts: Iterable[object]) -> str:
    """Return the :func:`fingerprint` of an iterable of parts."""
    digest = hashlib.sha256()
    for part in parts:
        raw = (
            part
            if isinstance(part, bytes)
            else json.dumps(part, sort_keys=True, ensure_ascii=False).encode("utf-8")
        )
        digest.update(len(raw).to_bytes(8, "little"))
        digest.update(raw)
    return digest.hexdigest()[:16]


def file_digest(file: Path) -> str:
    """Return the SHA-256 of a file's content in hexadecimal digits."""
    digest = hashlib.sha256()
    with file.open("rb") as stream:
        while block := stream.read(1 << 22):
            digest.update(block)
    return digest.hexdigest()


def cache_folder() -> Path:
    """Return the folder for converted models and cached log-probabilities: ``$PARETUNE_CACHE`` or the user's cache."""
    explicit = os.environ.get("PARETUNE_CACHE")
    if explicit:
        return Path(explicit).expanduser()
    return Path(os.environ.get("XDG_CACHE_HOME", "~/.cache")).expanduser() / "paretune"


def scratch_file() -> IO[bytes]:
    """Return an open file without a name in the cache folder, gone when it is closed or the process ends.

    Raises:
        ParetuneError: The folder cannot be written.
    """
    folder = cache_folder() / "scratch"
    try:
        folder.mkdir(parents=True, exist_ok=True)
        return tempfile.TemporaryFile(dir=folder)
    except OSError as error:
        raise ParetuneError(
            f"{folder}: cannot write ({error.strerror or error}); set PARETUNE_CACHE to a folder with room for the data"
        ) from error
