"""Full disks: a command runs out of room at a random point, says so in one message and exits with 2; with room it ends as ever.

Where mounting is allowed the folder is a small tmpfs; elsewhere no file may grow beyond a size, which fails in the same calls.
"""

from __future__ import annotations

import random
import subprocess
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from functools import cache
from pathlib import Path

from campaign.folders import differences, in_words, snapshot
from campaign.trial import Bench, Fault, Trial, done, picked, refused
from campaign.worlds import World, cache_in, methods, world

KIND = "full-disk"
WHOLE = 60
PAGES = 4096
COMMANDS = ("export-lora", "export-dense", "export-grid", "data-convert", "data-sample", "score-fit")
SAYS = ("full", "too large", "no space", "No space")
"""What a message about it has."""


def trials(count: int | None, chance: random.Random) -> Sequence[Trial]:
    """Return runs of all methods and other commands that write, each on a disk of a random size."""
    every = [*methods(), *COMMANDS]
    whole = [
        f"{every[number % len(every)]}-{number // len(every)}" for number in range(max(WHOLE, count or 0))
    ]

    def trial(name: str) -> Trial:
        return Trial(KIND, name, lambda bench: tried(bench, name.rpartition("-")[0]))

    return [trial(name) for name in picked(whole, count, chance)]


def tried(bench: Bench, name: str) -> str:
    """Run on a disk that gets full, then on one with room."""
    made = world(bench, name if name in methods() else "dpo-soup")
    command = command_of(name, made)
    wanted, size = undisturbed(bench, name, made, command)
    room = int(size * bench.chance.uniform(0.02, 0.98)) // PAGES * PAGES + 2 * PAGES
    with disk(bench.folder / "disk", room) as grow:
        folder = made.fresh(bench.folder / "disk" / "work")
        limit = 0 if grow else max(200, int(largest(wanted) * bench.chance.uniform(0.05, 1)))
        cached = folder if bench.chance.random() < 0.3 else bench.folder
        first = bench.warm(*command, cwd=folder, env=cache_in(cached), file_size=limit)
        said = f"with {limit or room} bytes"
        try:
            if first.code != 0:
                refused(first, SAYS)
            if grow:
                grow()
            last = bench.warm(*command, cwd=folder, env=cache_in(cached)) if first.code != 0 else first
            done(last, "with room again, the same command")
            compare(name, wanted, folder)
        except Fault as fault:
            raise Fault(f"{said}: {fault}") from None
    return f"{said}: " + ("it fitted" if first.code == 0 else first.last_line[-120:])


def command_of(name: str, made: World) -> tuple[object, ...]:
    """Return the command of a trial; what it makes lies in ``run`` or ``out``."""
    run, data = made.folder / "run", made.folder / "data.jsonl"
    at = ("-p", "good=0.5,kind=0.5")
    return {
        "export-lora": ("export", run, "out", *at),
        "export-dense": ("export", run, "out", *at, "--format", "dense"),
        "export-grid": ("export", run, "out", "--grid", 5),
        "data-convert": ("data", "convert", data, "out/data.jsonl"),
        "data-sample": ("data", "sample", data, "out/data.jsonl", "--model", made.folder / "model", "--responses", 2,
        "--max-new-tokens", 4),
        "score-fit": ("score", "fit", made.folder / "many.jsonl", "--objective", "good", "--folder", "out"),
    }.get(name, ("run", "config.yaml"))  # fmt: skip


def undisturbed(
    bench: Bench, name: str, made: World, command: Sequence[object]
) -> tuple[dict[str, bytes], int]:
    """Return what the command makes with room, and its bytes on a disk."""
    if command[0] == "run":
        return made.result, room_of(made.folder / "run")
    folder = made.fresh(bench.folder / "undisturbed")
    done(bench.warm(*command, cwd=folder, env=cache_in(bench.folder)), f"{name} with room")
    return snapshot(folder), room_of(folder)


def compare(name: str, wanted: dict[str, bytes], folder: Path) -> None:
    """Check the result.

    Raises:
        Fault: It differs.
    """
    found = snapshot(folder / "run" if name in methods() else folder)
    found = {path: raw for path, raw in found.items() if not path.startswith("cache/") or name in methods()}
    if lines := differences(wanted, found):
        raise Fault(f"with room again another result: {in_words(lines)}")


def room_of(folder: Path) -> int:
    """Return the bytes of the pages that a folder's files and folders take."""
    return sum(
        -(-path.stat().st_size // PAGES) * PAGES if path.is_file() else PAGES for path in folder.rglob("*")
    )


def largest(files: dict[str, bytes]) -> int:
    """Return the size of the largest file."""
    return max(map(len, files.values()))


@cache
def mounting() -> bool:
    """Return whether this process may mount a tmpfs."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        mounted = _mount(Path(folder), 1 << 16)
        if mounted:
            subprocess.run(["umount", folder], check=True)
        return mounted


def _mount(folder: Path, size: int) -> bool:
    try:
        return not subprocess.run(
            ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)],
            capture_output=True,
            check=False,
        ).returncode
    except OSError:
        return False


@contextmanager
def disk(folder: Path, size: int) -> Iterator[Callable[[], None] | None]:
    """Make ``folder`` a disk of ``size`` bytes and yield what makes it large; None where mounting is not allowed."""
    folder.mkdir()
    if not mounting():
        yield None
        return
    if not _mount(folder, size):
        raise RuntimeError(f"cannot mount a tmpfs of {size} bytes")
    try:
        yield lambda: subprocess.run(["mount", "-o", "remount,size=1g", str(folder)], check=True)  # type: ignore[return-value, func-returns-value]
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)
