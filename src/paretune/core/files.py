"""Files written so that a killed process leaves either the old content or the new, never half of it; and read with one message."""

from __future__ import annotations

import errno
import filecmp
import functools
import gzip
import hashlib
import json
import logging
import math
import os
import re
import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, TypeVar, overload

from paretune.core.errors import ParetuneError
from paretune.core.folder_form import FolderForm, refuse_foreign
from paretune.core.swap import holder_beside, replace_folder, settle, sweep, sync
from paretune.core.validator import validator

logger = logging.getLogger(__name__)

T = TypeVar("T")

_FULL = {
    errno.ENOSPC: "the disk is full; nothing was written. Free some space",
    errno.EDQUOT: "the disk quota is used up; nothing was written. Free some space",
    errno.EFBIG: "the file would be larger than this process may write (see ulimit -f); nothing was written. Raise the limit",
}
LONGEST_FILE = 255
"""Bytes of the longest name of a file that file systems take."""
_swept: set[tuple[int, str]] = set()


@contextmanager
def atomic_path(
    target: str | Path, form: FolderForm | None = None, keep_equal: bool = False
) -> Iterator[Path]:
    """Yield a temporary path beside ``target`` (a file or a folder) and put it in the place of ``target`` on success.

    On any exception the temporary path is removed and ``target`` stays as it was. What is written is on the disk when this
    returns, and has the modes of any new file. The first write into a folder removes what killed processes left there.

    Args:
        target: A file, which replaces an older one; or a folder, which replaces an empty one, or an older one of ``form``.
        form: What an older folder may hold. A folder with anything else is somebody's own, and is never replaced.
        keep_equal: Leave an older folder alone where it holds the same files, byte for byte, whatever else it holds.

    Raises:
        ModelError: ``target`` is a folder that holds anything else, or a file where a folder is written.
        ParetuneError: The disk is full, or the folder cannot be written; the message names the target.
    """
    target = Path(target)
    if target.is_symlink() and target.is_dir():
        target = target.resolve()  # the folder is replaced, and not the link to it
    try:
        if not keep_equal and (form is not None or target.is_dir()):
            refuse_foreign(target, form)
        target.parent.mkdir(parents=True, exist_ok=True)
        _sweep_once(target.parent)
        with holder_beside(target) as holder:
            temporary = holder / target.name
            yield temporary
            if keep_equal and _holds_the_same(target, temporary):
                return
            settle(temporary)
            if temporary.is_dir():
                refuse_foreign(target, form)
            if temporary.is_dir() and target.is_dir():
                replace_folder(temporary, target, holder)
            else:
                temporary.replace(target)
            sync(target.parent)
    except ParetuneError:
        raise
    except Exception as error:
        cause = _system_error(error)
        if cause is None:
            raise
        raise _unwritable(target, cause) from error


def _holds_the_same(target: Path, new: Path) -> bool:
    """Return whether ``target`` has all files of the folder ``new``, with the same bytes."""
    return new.is_dir() and all(
        (old := target / file.relative_to(new)).is_file() and filecmp.cmp(old, file, shallow=False)
        for file in new.rglob("*")
        if file.is_file()
    )


def _sweep_once(folder: Path) -> None:
    if (here := (os.getpid(), str(folder.absolute()))) not in _swept:
        _swept.add(here)
        sweep(folder)


def _system_error(error: Exception) -> OSError | None:
    """Return the error of the system that ``error`` is or was made of; libraries written in Rust name its number in the text."""
    if isinstance(error, OSError):
        return error
    number = re.search(r"\(os error (\d+)\)", str(error))
    return OSError(int(number[1]), os.strerror(int(number[1]))) if number else None


def _unwritable(target: Path, error: OSError) -> ParetuneError:
    if error.errno in _FULL:
        return ParetuneError(f"{target}: {_FULL[error.errno]} and run the command again.")
    return ParetuneError(f"{target}: cannot write ({error.strerror or error}); nothing was written.")


def new_file(target: str | Path, what: str) -> None:
    """Refuse to write where a user names a new file and something lies already: it may be the only copy of somebody's work.

    Raises:
        ParetuneError: Something lies at ``target``, or its name is too long; ``what`` says what was to be written.
    """
    path = Path(target)
    if len(os.fsencode(path.name)) > LONGEST_FILE:
        raise ParetuneError(
            f"{str(path)!r:.60}...: the name is longer than {LONGEST_FILE} bytes; choose a shorter one"
        )
    if path.is_dir():
        raise ParetuneError(f"{path}: is a folder; expected a target that is a new file")
    if os.path.lexists(path):
        raise ParetuneError(
            f"{path}: exists already, and {what} to a new file only; name another, or move it away"
        )


def write_text(target: str | Path, text: str) -> None:
    """Write ``text`` as UTF-8, atomically; a name ending in ``.gz`` is compressed (byte-identical for equal text)."""
    raw = text.encode("utf-8")
    if str(target).endswith(".gz"):
        raw = gzip.compress(raw, mtime=0)
    write_bytes(target, raw)


def write_bytes(target: str | Path, raw: bytes) -> None:
    """Write ``raw``, atomically."""
    with atomic_path(target) as temporary:
        temporary.write_bytes(raw)


def append(file: Path, raw: bytes, at: int) -> None:
    """Write ``raw`` into a file from byte ``at`` on, where the file then ends, and wait until it is on the disk.

    For a file that grows and whose valid length is kept elsewhere: a kill may leave more than that length in it.

    Raises:
        ParetuneError: The disk is full, or the file cannot be written; the message names it.
    """
    try:
        file.parent.mkdir(parents=True, exist_ok=True)
        with file.open("r+b" if file.exists() else "xb") as opened:
            opened.truncate(at)
            opened.seek(at)
            opened.write(raw)
            opened.flush()
            os.fsync(opened.fileno())
    except OSError as error:
        raise _unwritable(file, error) from error


def write_json(target: str | Path, value: Any) -> None:
    """Write ``value`` as indented JSON, atomically; NaN is refused (it is not JSON)."""
    write_text(target, json.dumps(value, indent=2, ensure_ascii=False, allow_nan=False) + "\n")


REMAKE = "delete the file to have it made again"
"""The cure for a damaged file of which nothing is lost."""


@overload
def read_json(path: str | Path) -> Any: ...
@overload
def read_json(path: str | Path, form: type[T], cure: str = ...) -> T: ...
def read_json(path: str | Path, form: Any = None, cure: str = REMAKE) -> Any:
    """Read a JSON file of a known form.

    Args:
        path: The file.
        form: Type of the value, such as ``list[float]``, a dataclass or a pydantic model; nothing is converted but lists to
            tuples and whole numbers to floats. None takes any value.
        cure: What to do where the file is damaged, for the message.

    Raises:
        ParetuneError: The file is missing, is no JSON, or holds something else; the message names it, and the cure.
    """
    path = Path(path)
    try:
        text = path.read_text(encoding="utf-8")
    except OSError as error:
        raise ParetuneError(f"{path}: cannot read ({error.strerror or error})") from error
    except ValueError as error:
        raise ParetuneError(f"{path}: not valid JSON ({error}); {cure}") from error
    return parse_json(text, str(path), form, cure)


def parse_json(text: str, where: str, form: Any = None, cure: str = REMAKE) -> Any:
    """Read JSON that stands in another file, as :func:`read_json` does; ``where`` names the place in messages."""
    try:
        value = json.loads(text, parse_constant=_no_number, parse_int=_whole, parse_float=_finite)
        if re.search(r"\\u[dD][89a-fA-F]", text):
            json.dumps(value, ensure_ascii=False).encode("utf-8")  # half a character is no text
    except ValueError as error:
        raise ParetuneError(f"{where}: not valid JSON ({_short(error)}); {cure}") from error
    except RecursionError as error:
        raise ParetuneError(f"{where}: not valid JSON (nested too deeply); {cure}") from error
    if form is None:
        return value
    from pydantic import ValidationError

    try:
        return validator(form).validate_json(text, strict=True)
    except ValidationError as error:
        first = error.errors()[0]
        key = ".".join(map(str, first["loc"])) or "the whole file"
        told = first["msg"].replace("Input should be", "expected")
        raise ParetuneError(
            f"{where}: not as expected ({key}: {told}, but it is {_short(first['input'])}); {cure}"
        ) from error


def _short(value: object) -> str:
    text = " ".join(str(value).split())
    return text if len(text) < 80 else f"{text[:70]}..."


def _no_number(text: str) -> float:
    raise ValueError(f"{text} is no JSON number")


def _whole(text: str) -> int:
    if len(text) > 19:
        raise ValueError(f"the number {_short(text)} is too large")
    return int(text)


def _finite(text: str) -> float:
    value = float(text)
    if not math.isfinite(value):
        raise ValueError(f"the number {_short(text)} is too large")
    return value


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


CACHE = "the cache folder"


def cache_folder() -> Path:
    """Return the folder for converted models and cached log-probabilities: ``$PARETUNE_CACHE``, or the user's cache folder.

    That is the place that the system has for it. A cache that an earlier version left at ``~/.cache/paretune`` is used further.

    Raises:
        ParetuneError: There is no such folder, as this user has no home; the message names the variable to set.
    """
    from platformdirs import user_cache_path  # only for those who keep something

    explicit = os.environ.get("PARETUNE_CACHE")
    if explicit:
        return home_expanded(explicit, "PARETUNE_CACHE")
    try:
        place = home_expanded(str(user_cache_path("paretune", appauthor=False)), CACHE)
    except RuntimeError as error:
        raise _homeless("~/.cache", CACHE) from error
    earlier = home_expanded(os.environ.get("XDG_CACHE_HOME") or "~/.cache", CACHE) / "paretune"
    if place == earlier or place.exists() or not earlier.exists():
        return place
    _say_earlier(earlier, place)
    return earlier


@functools.cache  # once per process
def _say_earlier(earlier: Path, place: Path) -> None:
    logger.warning(
        "the cache of an earlier version is used: %s; move it to %s, or set PARETUNE_CACHE", earlier, place
    )


def home_expanded(path: str, what: str) -> Path:
    """Return an absolute path in which ``~`` and ``~USER`` stand for a home folder, see :func:`expanded`."""
    return expanded(path, what).absolute()


def expanded(path: str | Path, what: str) -> Path:
    """Return a path in which ``~`` and ``~USER`` stand for a home folder.

    Raises:
        ParetuneError: There is no such home folder; ``what`` names the path in the message.
    """
    try:
        return Path(path).expanduser()
    except RuntimeError as error:
        raise _homeless(path, what) from error


def _homeless(path: str | Path, what: str) -> ParetuneError:
    cure = "set PARETUNE_CACHE to a folder that can be written" if what == CACHE else "give a full path"
    return ParetuneError(f"{what}: {str(path)!r}: there is no such home folder; {cure}")


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
