"""How far a run is: said on standard error where no terminal is, and kept in a file that ``paretune status`` reads."""

from __future__ import annotations

import threading
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from typing_extensions import NotRequired, TypedDict

from paretune.core.errors import ParetuneError
from paretune.core.files import write_json
from paretune.core.meter import Meter, Spent, figures, metered, spent_of, summed
from paretune.core.progress import MINUTE, Steps, at_terminal, in_words, listener, listening, say
from paretune.core.said import REST, Said, in_all

FILE = Path("locks") / "progress.json"
"""How far the last run in a run folder came."""
PROFILE = "stages.json"
"""What each stage of the last run in a run folder spent."""
SECONDS = 5.0
"""Seconds between two writings of the file while nothing but steps happen."""
OWN = frozenset({"start", "labels", "score", "report"})
"""Parts of a plan with a stage of the same name; training and fronts have stages of their own too, all others have none."""
EACH_TIME = frozenset({"start", "report"})
"""Those of them that every process does in full; of the others, caches may hold what an earlier one did."""
PRIOR = 20.0
"""Seconds for which the plan is believed before what was measured counts."""
FRONT = "front: "
"""What the names of parts that measure a policy begin with."""
TRAIN = "train: "
"""What the names of parts that train adapters begin with."""
TRAINED = "adapters/"
"""What the names of stages of training begin with."""


@dataclass(frozen=True)
class Planned:
    """A part of the plan of a run.

    Attributes:
        name: Name of the part, such as ``train: dpo`` or ``front: mod``.
        seconds: Time that it is expected to take.
        stages: Number of stages of training in it; 0 for other parts.
    """

    name: str
    seconds: float
    stages: int = 0


class DoneStage(TypedDict):
    """A finished stage in the file; ``reused`` where an earlier run finished it, ``spent`` where that is known."""

    name: str
    seconds: float
    reused: bool
    spent: NotRequired[Spent | None]


class Now(TypedDict):
    """What is worked on: the stage, what is counted in it, and its figures where they are known (seconds; steps a second)."""

    stage: str
    seconds: float
    what: str | None
    step: int | None
    steps: int | None
    loss: float | None
    rate: float | None
    left: float | None


class Written(TypedDict):
    """What the file says.

    Attributes:
        name: Name of the run.
        began, updated: Times of this process.
        state: ``running``, ``finished``, ``stopped`` (by Ctrl-C) or ``failed``; a killed run still says ``running``.
        error: The message of a failure.
        planned: Parts of the plan that are not begun, with their seconds.
        done: Finished stages.
        now: What is worked on.
        left: Seconds left of the whole run, by the plan and the pace so far; None without a plan.
    """

    name: str
    began: str
    updated: str
    state: str
    error: str | None
    planned: list[tuple[str, float]]
    done: list[DoneStage]
    now: Now | None
    left: float | None


def _add(known: DoneStage, seconds: float, spent: Spent | None) -> None:
    """Count another time that a stage was worked on, as the tasks of a sweep do point by point."""
    if known["reused"]:
        known["seconds"], known["reused"], known["spent"] = seconds, False, spent
    else:
        known["seconds"] += seconds
        known["spent"] = summed([known.get("spent"), spent])


class WorkLog:
    """The listener of a run.

    Attributes:
        name: Name of the run.
        folder: The run folder; None writes no file.
        done: Finished stages, in order.
    """

    def __init__(self, name: str, folder: Path | None) -> None:
        self.name, self.folder = name, folder
        self.done: list[DoneStage] = []
        self._began = datetime.now().astimezone().isoformat("T", "seconds")
        self._parts: list[Planned] = []
        self._at = 0
        self._end: int | None = None
        self._stages: list[tuple[str, float]] = []
        self._inside: list[Steps] = []
        self._planned_seconds = self._taken = 0.0
        self._stages_of: dict[int, list[str]] = {}
        self._shares: dict[str, float] = {}
        self._meter: Meter | None = None
        # Somebody has worked in this folder before, and left what is not done again.
        self._continued = folder is not None and (folder / FILE).is_file()
        self._started, self._said = time.monotonic(), time.monotonic()
        self._state, self._error = "running", ""
        self._lock = threading.RLock()

    def plan(self, parts: Sequence[Planned]) -> None:
        """Take over what is expected; a part of several trainings counts as many parts."""
        self._parts = [
            Planned(part.name, part.seconds / max(1, part.stages), min(1, part.stages))
            for part in parts
            for _ in range(max(1, part.stages))
        ]

    # What is heard

    def stage_began(self, name: str, share: float = 1.0) -> None:
        """Say the stage."""
        with self._lock:
            self._reach(name)
            self._shares[name] = share
            self._stages.append((name, time.monotonic()))
            self._said = time.monotonic()
            if not at_terminal():
                say(f"{self._clock()} {name}{self._whole()}")
        self._write()

    def stage_ended(self, name: str, seconds: float, reused: bool, spent: Spent | None = None) -> None:
        """Count the stage as done."""
        with self._lock:
            if self._stages and self._stages[-1][0] == name:
                self._stages.pop()
            known = next((stage for stage in self.done if stage["name"] == name), None)
            if known is not None and not reused:
                _add(known, seconds, spent)
            if known is None:
                self.done.append({"name": name, "seconds": seconds, "reused": reused, "spent": spent})
                if (at := self._find(name, everywhere=True)) is not None:
                    self._stages_of.setdefault(at, []).append(name)
                if reused and not at_terminal():
                    say(f"{self._clock()} {name}: found finished")
                if name.startswith((TRAINED, "front/")) and self._reach(name):
                    self._pass(seconds, reused)
        self._write()

    def method_began(self, name: str) -> None:
        """Look up where the parts of the method end; one whose adapters all stand under another's name has none."""
        with self._lock:
            own = f"{TRAIN}{name}"
            ends = [
                at + 1
                for at, part in enumerate(self._parts)
                if part.name == own or part.name.startswith(f"{own}, ")
            ]
            self._end = ends[-1] if ends else None

    def method_ended(self) -> None:
        """Go on behind its parts, also where it trained fewer or more adapters than were planned."""
        with self._lock:
            self._at, self._end = self._at if self._end is None else self._end, None

    def steps_began(self, what: str, total: int, done: int) -> None:
        """Begin to count steps."""
        with self._lock:
            at = self._stages[-1][0] if self._stages and not self._inside else ""
            if at.startswith(TRAINED) and done:
                self._shares[at] = 1 - done / total  # from a checkpoint on
            self._inside.append(Steps(what, total, done))

    def steps_done(self, count: int, loss: float | None) -> None:
        """Count steps."""
        with self._lock:
            if self._inside:
                self._inside[-1].add(count, loss)

    def steps_ended(self) -> None:
        """Stop to count."""
        with self._lock:
            if self._inside:
                self._inside.pop()

    @property
    def _steps(self) -> Steps | None:
        """The outermost steps: training that samples within a step is told by its own steps."""
        return self._inside[0] if self._inside else None

    # Where in the plan

    def _find(self, name: str, everywhere: bool = False) -> int | None:
        """Return the number of the part of the plan that a stage belongs to: one still ahead, or ``everywhere`` one behind too.

        Stages of training have no names in the plan, so the next such part ahead is theirs, if it is one of the method at work. All
        heads are one part.
        """
        kind, _, rest = name.partition("/")
        title = f"{FRONT}{rest}" if kind in ("front", "audits") else name
        for at, part in enumerate(self._parts):
            if name.startswith(TRAINED):
                if part.stages and self._at <= at < (len(self._parts) if self._end is None else self._end):
                    return at
            elif part.name in (title, kind) and not part.stages and (everywhere or at >= self._at):
                return at
        return None

    def _reach(self, name: str) -> bool:
        """Go on to the part of the plan that a stage belongs to, and return whether there is one."""
        at = self._find(name)
        if at is not None:
            self._at = at
        return at is not None

    def _pass(self, seconds: float, reused: bool) -> None:
        """Leave the part of the plan that is done; what it took shows the pace of this machine."""
        if not reused:
            self._planned_seconds += self._parts[self._at].seconds
            self._taken += seconds
        self._at += 1

    @property
    def left(self) -> float | None:
        """Seconds left of the run, by the plan and by the pace so far; None without a plan."""
        if not self._parts:
            return None
        pace = (PRIOR + self._taken) / (PRIOR + self._planned_seconds)
        rest = sum(part.seconds for part in self._parts[self._at + 1 :]) * pace
        if self._at >= len(self._parts):
            return rest
        whole = self._parts[self._at].seconds * pace
        steps = self._steps
        if steps is not None and steps.left is not None and self._parts[self._at].stages:
            return rest + steps.left
        gone = time.monotonic() - self._stages[-1][1] if self._stages else 0.0
        return rest + max(0.0, whole - gone)

    def compared(self) -> list[Said]:
        """Return each part of the plan with the time that was said of it, and that it took; empty without a plan.

        What an earlier process did is no part of either. The last part is all that has no stage of its own; it is compared where no
        process has worked in the folder before.
        """
        with self._lock:
            if not self._parts:
                return []
            done = {stage["name"]: stage for stage in self.done}
            found, said_of_rest, matched = [], 0.0, 0.0
            for at, part in enumerate(self._parts):
                stages = [done[name] for name in self._stages_of.get(at, ())]
                own = part.stages > 0 or part.name.startswith(FRONT)
                if not stages and not own and part.name not in OWN:
                    said_of_rest += part.seconds
                    continue
                here, taken = bool(stages) and not stages[0]["reused"], None
                if here:
                    seconds = sum(stage["seconds"] for stage in stages if not stage["reused"])
                    matched += seconds
                    taken = seconds if own or part.name in EACH_TIME or not self._continued else None
                name = stages[0]["name"] if stages else part.name
                found.append(Said(name, part.seconds * (self._shares.get(name, 1.0) if here else 1.0), taken))
            rest = None if self._continued or self._meter is None else self._meter.whole.seconds - matched
            return [*found, Said(REST, said_of_rest, rest)]

    # What is said

    def _clock(self) -> str:
        seconds = int(time.monotonic() - self._started)
        return f"[{seconds // 3600}:{seconds // 60 % 60:02}:{seconds % 60:02}]"

    def _whole(self) -> str:
        left = self.left
        return "" if left is None else f"; whole run: about {in_words(left)} left"

    def _tell(self) -> None:
        if not self._stages and self._steps is None:
            return
        steps = "" if self._steps is None else str(self._steps)
        named = self._stages[-1][0] if self._stages else ""
        if steps.partition(":")[0] == named.partition("/")[2] and named:
            steps = steps.partition(": ")[2]
        say(f"{self._clock()} {': '.join(filter(None, (named, steps)))}{self._whole()}")

    def now(self) -> Now | None:
        """Return what is worked on."""
        if not self._stages and self._steps is None:
            return None
        name, began = self._stages[-1] if self._stages else ("", self._started)
        steps = self._steps
        return {
            "stage": name or (steps.what if steps else ""),
            "seconds": time.monotonic() - began,
            "what": steps.what if steps else None,
            "step": steps.done if steps else None,
            "steps": steps.total if steps else None,
            "loss": steps.loss if steps else None,
            "rate": steps.rate if steps else None,
            "left": steps.left if steps else None,
        }

    def written(self) -> Written:
        """Return what the file says now."""
        with self._lock:
            running = self._state == "running"
            names = self._parts[self._at + bool(self._stages) :] if self._state != "finished" else []
            return {
                "name": self.name,
                "began": self._began,
                "updated": datetime.now().astimezone().isoformat("T", "seconds"),
                "state": self._state,
                "error": self._error or None,
                "planned": [(part.name, part.seconds) for part in names],
                "done": list(self.done),
                "now": None if self._state == "finished" else self.now(),
                "left": self.left if running else None,
            }

    def _write(self) -> None:
        if self.folder is None:
            return
        file = self.folder / FILE
        with suppress(OSError):
            file.rmdir()  # an empty folder in its place, which a repaired disk may leave
        with suppress(ParetuneError, OSError):  # a full disk stops the run elsewhere, with its own message
            write_json(file, self.written())

    def _keep_telling(self, ended: threading.Event) -> None:
        """Write and say how far the run is, in a thread of its own: one step may take longer than a minute."""
        while not ended.wait(SECONDS):
            self._write()
            if not at_terminal() and time.monotonic() - self._said >= MINUTE:
                self._said = time.monotonic()
                with self._lock:
                    self._tell()

    @contextmanager
    def working(self) -> Iterator[None]:
        """Listen inside the context, and write down how it ended."""
        ended = threading.Event()
        teller = threading.Thread(target=self._keep_telling, args=(ended,), daemon=True)
        teller.start()
        try:
            with listening(self), metered() as meter:
                self._meter = meter
                yield
            self._write_profile(meter)
            self._state, self._stages = "finished", []
        except KeyboardInterrupt:
            self._state = "stopped"
            self._say_kept()
            raise
        except BaseException as error:
            self._state, self._error = "failed", f"{error}" or type(error).__name__
            raise
        finally:
            ended.set()
            teller.join()
            self._write()

    def _write_profile(self, meter: Meter) -> None:
        """Write what each stage spent, what this process spent outside of them, and what it spent in all."""
        if self.folder is None:
            return
        write_json(
            self.folder / PROFILE,
            {
                "stages": [
                    {
                        "name": each["name"],
                        **figures(each["seconds"], each.get("spent")),
                        "reused": each["reused"],
                    }
                    for each in self.done
                ],
                "rest": figures(meter.seconds, meter.spent),
                "total": figures(meter.whole.seconds, spent_of(meter.whole)),
                **self._beforehand(),
            },
        )

    def _beforehand(self) -> dict[str, object]:
        """Return what was said beforehand for the file; nothing without a plan."""
        parts = self.compared()
        rows = [
            {"name": part.name, "said": part.said, "taken": part.taken, "ratio": part.ratio}
            for part in [*parts, in_all(parts)]
        ]
        return {"said": rows} if parts else {}

    def _say_kept(self) -> None:
        """Say what a run that is stopped leaves, and how it goes on."""
        finished = f"{len(self.done)} finished stage{' is' if len(self.done) == 1 else 's are'}"
        at = self._stages[-1][0] if self._stages else ""
        if at.startswith(TRAINED):
            at = f", and {at} to its last checkpoint"
        elif at:
            at = f"; {at} is done again, but for answers and scores that are kept"
        where = f" in {self.folder}" if self.folder else ""
        state = f" (paretune status {self.folder} shows it)" if self.folder else ""
        say(f"stopped: {finished} kept{where}{at}. The same command goes on from there{state}")


def said_beforehand() -> list[Said]:
    """Return what was said of the run that goes on now, see :meth:`WorkLog.compared`; empty outside of a run or without a plan."""
    log = listener()
    return log.compared() if isinstance(log, WorkLog) else []
