"""Two folders of results compared: every file, bit for bit, but for what tells how long and in how many goes it was made."""

from __future__ import annotations

import gzip
import json
import re
import sqlite3
from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from paretune.core.meter import FIGURES

TIMES = {"seconds", "reused", "created", "scoring_seconds", "spent", "rest", "said", "total", *FIGURES}
"""Keys of JSON that differ between two undisturbed runs: times, tokens and memory of a process."""
STRAY = re.compile(r"^\..+\.\w{6,}$|\.lock$|\.tmp$|\.parts$|-journal$|-wal$|-shm$")
"""Names of temporary files and locks."""
DATA = re.compile(r'(<script type="application/json"[^>]*>)(.*?)(</script>)', re.DOTALL)
"""JSON within a page."""


def snapshot(folder: Path) -> dict[str, bytes]:
    """Return path -> content of every file, without times; a folder without files has its path with a slash."""
    found: dict[str, bytes] = {}
    for path in sorted(folder.rglob("*")):
        name = path.relative_to(folder).as_posix()
        if path.is_file():
            found[name] = content(path)
        elif path.is_dir() and not any(path.iterdir()):
            found[f"{name}/"] = b""
    return found


def content(path: Path) -> bytes:
    """Return what a file says, without times."""
    raw = path.read_bytes()
    try:
        if path.parent.name == "locks":  # it tells who worked last; whether anybody does must be equal
            return json.dumps({"working": json.loads(raw).get("working")}).encode()
        if path.suffix == ".json":
            return json.dumps(timeless(json.loads(raw)), sort_keys=True).encode()
        if path.suffix == ".gz":
            return gzip.decompress(raw)
        if path.suffix == ".sqlite":
            with sqlite3.connect(f"file:{path}?mode=ro", uri=True) as connection:
                return "\n".join(sorted(connection.iterdump())).encode()
        if path.suffix in (".html", ".md"):
            return without_times(raw)
    except (ValueError, OSError, EOFError, sqlite3.Error):
        pass  # a damaged file is compared as it is
    return raw


def timeless(value: Any) -> Any:
    """Return JSON without the keys that tell times."""
    if isinstance(value, Mapping):
        return {key: timeless(part) for key, part in value.items() if key not in TIMES}
    return [timeless(part) for part in value] if isinstance(value, list) else value


def without_times(page: bytes) -> bytes:
    """Return a page without its rows of stages and its numbers of seconds; JSON within it as in files of its own."""
    text = page.decode("utf-8", "replace")
    text = DATA.sub(
        lambda data: data[1] + json.dumps(timeless(json.loads(data[2])), sort_keys=True) + data[3], text
    )
    text = re.sub(
        r"<tr>(?:(?!</tr>).)*(?:\d (?:s|min|h)\b|reused)(?:(?!</tr>).)*</tr>", "", text, flags=re.DOTALL
    )
    text = re.sub(r" and reused \d+ of \d+ stages", "", text)
    return re.sub(r"\b\d+(?:\.\d+)? (?:s|seconds|min|minutes|h|hours)\b", "TIME", text).encode()


def differences(wanted: Mapping[str, bytes], found: Mapping[str, bytes]) -> list[str]:
    """Return what differs between two snapshots, the strays first."""
    more = [name for name in found if name not in wanted]
    strays = [f"stray {name}" for name in more if any(STRAY.search(part) for part in name.split("/"))]
    others = [f"more: {name}" for name in more if f"stray {name}" not in strays]
    lost = [f"lost: {name}" for name in wanted if name not in found]
    changed = [
        f"differs: {name}{places(wanted[name], found[name])}"
        for name in wanted
        if name in found and wanted[name] != found[name]
    ]
    return strays + lost + changed + others


def places(wanted: bytes, found: bytes) -> str:
    """Return where two JSON texts differ, for a message; nothing for other files."""
    try:
        at = list(_places(json.loads(wanted), json.loads(found), ""))
    except ValueError:
        return ""
    return f" at {', '.join(at[:4])}" + (f" and {len(at) - 4} more" if len(at) > 4 else "")


def _places(wanted: Any, found: Any, at: str) -> Iterator[str]:
    if isinstance(wanted, dict) and isinstance(found, dict) and wanted.keys() == found.keys():
        for key in wanted:
            yield from _places(wanted[key], found[key], f"{at}.{key}" if at else key)
    elif isinstance(wanted, list) and isinstance(found, list) and len(wanted) == len(found):
        for number, (one, other) in enumerate(zip(wanted, found, strict=True)):
            yield from _places(one, other, f"{at}[{number}]")
    elif wanted != found:
        yield f"{at or 'its top'} ({str(wanted)[:30]} / {str(found)[:30]})"


def in_words(found: list[str], most: int = 6) -> str:
    """Return differences in one line."""
    return "; ".join(found[:most]) + (f"; and {len(found) - most} more" if len(found) > most else "")
