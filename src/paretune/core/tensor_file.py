"""What a file of a model holds, found out without loading it; one message for each way in which it cannot be used."""

from __future__ import annotations

import json
import struct
from dataclasses import dataclass
from pathlib import Path

from paretune.core.errors import ModelError

POINTER = b"version https://git-lfs.github.com/spec/"
"""The first bytes of what git-lfs leaves in place of a file that it did not fetch."""
LONGEST_HEADER = 100_000_000
"""The most bytes that safetensors accepts as a header."""


@dataclass(frozen=True)
class TensorEntry:
    """What a safetensors file says of a tensor: its number format, such as ``F32`` or ``BF16``, and its shape."""

    form: str
    shape: tuple[int, ...]


def check_readable(file: Path, expected: str = "") -> int:
    """Return the size of a file in bytes, which is there, can be read by this user, and is not a stand-in of git-lfs.

    ``expected`` is added to the message about a missing file.

    Raises:
        ModelError: It is not so; the message names the file and the cure.
    """
    try:
        with file.open("rb") as stream:
            first = stream.read(len(POINTER))
        size = file.stat().st_size
    except FileNotFoundError as error:
        raise ModelError(f"{file}: no such file" + (f"; {expected}" if expected else "")) from error
    except PermissionError as error:
        raise ModelError(
            f"{file}: this user cannot read it ({error.strerror}); let its owner allow it, for example with chmod a+r"
        ) from error
    except OSError as error:
        raise ModelError(f"{file}: cannot be read ({error.strerror or error})") from error
    if first == POINTER:
        raise ModelError(
            f"{file}: is a pointer of git-lfs and not the file itself; run `git lfs pull` in its folder, or download it again"
        )
    if not size:
        raise ModelError(f"{file}: is empty; copy or download it again")
    return size


def tensor_formats(file: Path) -> dict[str, str]:
    """Return name -> number format, such as ``F32`` or ``BF16``, of the tensors in a safetensors file.

    Raises:
        ModelError: See :func:`tensor_entries`.
    """
    return {name: entry.form for name, entry in tensor_entries(file).items()}


def tensor_entries(file: Path) -> dict[str, TensorEntry]:
    """Return name -> format and shape of the tensors in a safetensors file, none of which is read.

    Raises:
        ModelError: The file cannot be read, is cut, or is no safetensors file; the message names it and the cure.
    """
    size = check_readable(file)
    damaged = f"{file}: is damaged or no safetensors file"
    with file.open("rb") as stream:
        start = stream.read(8)
        length = struct.unpack("<Q", start)[0] if len(start) == 8 else 0
        if not 2 <= length <= LONGEST_HEADER:
            raise ModelError(f"{damaged}; copy, download or save it again")
        raw = stream.read(length)
    if len(raw) < length:
        raise ModelError(f"{file}: is cut, it ends after {size} bytes; copy or download it again")
    try:
        header = json.loads(raw)
        entries = {name: entry for name, entry in header.items() if name != "__metadata__"}
        ends = [int(entry["data_offsets"][1]) for entry in entries.values()]
        found = {
            str(name): TensorEntry(str(entry["dtype"]), tuple(map(int, entry["shape"])))
            for name, entry in entries.items()
        }
    except (ValueError, KeyError, TypeError, AttributeError, IndexError, RecursionError) as error:
        raise ModelError(f"{damaged} ({error}); copy, download or save it again") from error
    expected = 8 + length + max(ends, default=0)
    if size < expected:
        raise ModelError(f"{file}: is cut, it has {size} of {expected} bytes; copy or download it again")
    if size > expected:
        raise ModelError(
            f"{damaged}: it has {size} bytes where its header says {expected}; copy or download it again"
        )
    return found
