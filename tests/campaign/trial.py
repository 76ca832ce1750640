"""What a trial is: a name, a seed, and what must hold; and what came of it."""

from __future__ import annotations

import random
import re
import shutil
import time
import traceback
import zlib
from collections import Counter
from collections.abc import Callable, Iterable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from campaign.warm import Ended, Warm


class Fault(Exception):  # noqa: N818 - it is a finding, not an error of this program
    """What must hold does not; the message says what was seen."""


@dataclass
class Bench:
    """Where a trial works.

    Attributes:
        folder: A new folder of this trial, removed when it held.
        shared: The folder of all trials of the campaign, for what is made once.
        warm: The process that starts commands.
        chance: The random numbers of this trial.
    """

    folder: Path
    shared: Path
    warm: Warm
    chance: random.Random


@dataclass(frozen=True)
class Trial:
    """One thing to try.

    Attributes:
        kind: The kind of the trial.
        name: The trial's name, unique in its kind.
        run: Tries it; raises `Fault` if what must hold does not. It may return a remark.
    """

    kind: str
    name: str
    run: Callable[[Bench], str | None] = field(repr=False)


@dataclass(frozen=True)
class Outcome:
    """What came of a trial."""

    kind: str
    name: str
    held: bool
    remark: str
    seconds: float

    def to_dict(self) -> dict[str, Any]:
        """Return the outcome as JSON values."""
        return asdict(self)


def picked(names: Sequence[str], count: int | None, chance: random.Random) -> list[str]:
    """Return so many of the names, in their order; all without a number."""
    if count is None or count >= len(names):
        return list(names)
    return [names[place] for place in sorted(chance.sample(range(len(names)), count))]


def distinct(names: Iterable[str]) -> list[str]:
    """Return names as they can be trials' names, each once: a repeated one gets a number."""
    seen = Counter[str]()
    made = []
    for name in map(plain, names):
        seen[name] += 1
        made.append(name if seen[name] == 1 else f"{name} ({seen[name]})")
    return made


def plain(text: object) -> str:
    """Return text that can stand in a trial's name: without quotes and other characters that a shell reads."""
    return re.sub(r"[^\w=.,:;+*() \[\]/@%-]+", "~", str(text))


def chance_of(seed: int, *names: str) -> random.Random:
    """Return the random numbers of a trial: equal for equal names, whichever other trials run."""
    return random.Random(zlib.crc32("/".join(names).encode()) + (seed << 32))


def attempt(trial: Trial, seed: int, shared: Path, warm: Warm) -> Outcome:
    """Run a trial in a new folder; keep the folder only if something did not hold."""
    folder = shared / "trials" / trial.kind / re.sub(r"[^\w=.-]+", "_", trial.name)[:120]
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    began, held = time.perf_counter(), False
    try:
        remark = trial.run(Bench(folder, shared, warm, chance_of(seed, trial.kind, trial.name))) or ""
        held = True
    except Fault as fault:
        remark = str(fault)
    except Exception:  # noqa: BLE001 - a trial that fails by itself is reported, and the others go on
        remark = "the trial itself failed: " + traceback.format_exc()[-1500:]
    if held:
        shutil.rmtree(folder, ignore_errors=True)
    return Outcome(trial.kind, trial.name, held, remark, time.perf_counter() - began)


def refused(ended: Ended, names: Sequence[str]) -> None:
    """Check that a command refused as promised: exit 2, no traceback, one message, which has one of ``names``.

    Raises:
        Fault: It did something else.
    """
    if ended.timed_out:
        raise Fault(f"still running after {ended.seconds:.0f} s")
    if "Traceback (most recent call last)" in ended.text:
        raise Fault(f"a traceback, exit {ended.code}: {ended.last_line}")
    if ended.code != 2:
        raise Fault(f"exit {ended.code} instead of 2: {ended.last_line or '(nothing said)'}")
    if len(ended.messages) > 1:
        raise Fault(f"{len(ended.messages)} messages instead of one: {ended.messages}")
    if names and not any(name in squeezed(ended.text) for name in map(squeezed, names)):
        raise Fault(f"the message names none of {', '.join(names)}: {ended.last_line}")


def squeezed(text: str) -> str:
    """Return text without white space and frames, as a terminal may have wrapped it."""
    return re.sub(r"[\s│╭╮╰╯─]+", "", text)


def done(ended: Ended, what: str = "the command") -> None:
    """Check that a command ended well.

    Raises:
        Fault: It did not.
    """
    if ended.timed_out:
        raise Fault(f"{what} was still running after {ended.seconds:.0f} s")
    if ended.code != 0 or "Traceback (most recent call last)" in ended.text:
        raise Fault(f"{what} ended with {ended.code}: {ended.last_line}")
