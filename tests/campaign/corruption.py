"""Corruption: one file of a finished run is damaged; the next command heals it, or names it in one message and exits with 2.

Every kind of file that any method's run folder (or its cache) has is tried with every damage. ``run`` must make the result of an
undisturbed run again, or refuse; if its message says what to delete, that is done, and then it must. ``generate``, ``export``,
``choose`` and ``serve`` must give the same answer as before the damage, or refuse.
"""

from __future__ import annotations

import json
import random
import re
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from campaign.damage import DAMAGES, mend
from campaign.folders import content, differences, in_words, snapshot
from campaign.trial import Bench, Fault, Trial, done, picked, refused, squeezed
from campaign.warm import Ended
from campaign.worlds import World, cache_in, world

KIND = "corruption"
PREFERENCE = "good=0.5,kind=0.5"
ASK = [
    {"messages": [{"role": "user", "content": "red sun"}], "seed": 1, "max_tokens": 6, "preference": weights}
    for weights in ({"good": 0.5, "kind": 0.5}, {"good": 0.1, "kind": 0.9})
]
"""Two requests; the second is below the minimum weight of the config."""


@dataclass(frozen=True)
class Target:
    """A file that the run of a method has.

    Attributes:
        method: The method.
        where: The top folder, ``run`` or ``cache``.
        kind: The first part and the name of the path, which stand for all such files.
    """

    method: str
    where: str
    kind: str

    def files(self, folder: Path) -> list[Path]:
        """Return the files of this kind in the copy of a finished run."""
        return [path for path in every_file(folder / self.where) if kind_of(path, folder) == self.kind]


FILES: Mapping[str, Sequence[str]] = {
    "dpo-soup": (
        "README.md", "adapters/adapter.json", "adapters/adapter.safetensors", "adapters/history.json", "adapters/stage.json",
        "cache/logps.sqlite", "cache/scores.sqlite", "config.yaml", "data/README.md", "data/answers.jsonl.gz",
        "data/test.jsonl.gz", "data/train.jsonl.gz", "data/validation.jsonl.gz",
        "front.json", "front.png", "fronts/*.json", "locks/progress.json", "locks/run.json",
        "policies/adapter.json", "policies/adapter.safetensors", "policies/policy.json",
        "report.html", "scores.jsonl", "scores/standardisation.json", "stages.json", "versions.json",
    ),
    "paretohqd": ("answers/answers.jsonl.gz", "answers/stage.json", "cache/*.json", "selections/*.json"),
    "ric": ("samples/counts.json", "samples/generated.jsonl.gz", "samples/stage.json", "policies/policy.json"),
    "sipo": ("sipo/*-improved.json", "sipo/responses.json", "sipo/stage.json", "cache/*.json"),
    "spa": ("spa/responses.json", "spa/stage.json"),
    "vas": (
        "answers/responses.json", "policies/policy.json", "policies/values.json", "policies/values.safetensors",
        "values/history.json", "values/stage.json", "values/values.json", "values/values.safetensors",
    ),
    "mod": ("policies/policy.json",),
    "modpo": ("policies/policy.json", "front.json"),
}  # fmt: skip
"""method -> the kinds of files of its run that are damaged; a test checks that no kind of file is missing here."""
CACHED = ("hashes/*",)
READ_BY: Mapping[str, Sequence[str]] = {
    "generate": ("policies/",),
    "export": ("policies/", "front.json"),
    "choose": ("front.json", "data/"),
    "serve": ("policies/", "front.json", "config.yaml"),
}
"""command -> the beginnings of the kinds of files that it reads."""


def trials(count: int | None, chance: random.Random) -> Sequence[Trial]:
    """Return every kind of file with every damage, for each command that may read it."""
    made = {trial.name: trial for trial in _all()}
    return [made[name] for name in picked(list(made), count, chance)]


def _all() -> Iterator[Trial]:
    targets = [Target(method, "run", kind) for method, kinds in FILES.items() for kind in kinds]
    targets += [Target("dpo-soup", "cache", kind) for kind in CACHED]
    for target in targets:
        for damage in DAMAGES:
            for command in ("run", *READ_BY):
                reads = command == "run" or target.kind.startswith(tuple(READ_BY[command]))
                if target.where == "cache" and command != "run":
                    reads = command == "generate"
                if reads:
                    name = f"{command}:{target.method}:{target.kind}:{damage}"
                    yield Trial(KIND, name, _bound(target, damage, command))


def _bound(target: Target, damage: str, command: str) -> object:
    return lambda bench: damaged(bench, target, damage, command)


def every_file(folder: Path) -> list[Path]:
    """Return all files below a folder, in order."""
    return sorted(path for path in folder.rglob("*") if path.is_file())


def kind_of(path: Path, folder: Path) -> str:
    """Return what stands for a file and all like it: the first part of its path and its name without numbers and keys."""
    parts = path.relative_to(folder).parts[1:]
    name = re.sub(r"[0-9a-f]{16}", "*", parts[-1])
    name = re.sub(r"^paretohqd-.*", "*.json", name)
    name = re.sub(r"^\d+-", "*-", name)
    return f"{parts[0]}/{name}" if len(parts) > 1 else name


def damaged(bench: Bench, target: Target, damage: str, command: str) -> str | None:
    """Damage one file and give the next command."""
    made = world(bench, target.method)
    folder = made.finished(bench.folder)
    files = target.files(folder)
    if not files:
        raise Fault(f"no file of this kind in a run of {target.method}")
    file = bench.chance.choice(files)
    before = content(file)
    DAMAGES[damage](file, bench.chance)
    options = {"env": cache_in(folder), "as_a_user": damage == "unreadable"}
    ended = give(bench, command, made, folder, options)
    names = [file.name, str(file.relative_to(folder)), file.parent.name, file.relative_to(folder).parts[1]]
    if damage == "deleted" and file.name == "policy.json":
        names += ["nothing to serve", "no policy in it"]  # without this file the folder is no policy
    said = f"{file.relative_to(folder)}: "
    try:
        if ended.code != 0 or ended.timed_out:
            refused(ended, names)
            if command == "run":
                cure(bench, ended, made, folder, file, options)
            return "refused"
        done(ended)
        if command == "run":
            same_run(made, folder)
            return "healed" if file.is_file() and content(file) == before else "the same without it"
        if answer_of(command, folder, ended) != undamaged(bench, command, made):
            raise Fault("exit 0 and another answer")
        return "the same answer"
    except Fault as fault:
        raise Fault(said + str(fault)) from None


def cure(
    bench: Bench, ended: Ended, made: World, folder: Path, file: Path, options: Mapping[str, object]
) -> None:
    """Do what the message says, if it says what to delete, and run again.

    Raises:
        Fault: The run does not come back.
    """
    text = squeezed(ended.err)
    if "delete" not in text.lower():
        return
    named = [path for path in (file, *file.parents) if folder in path.parents]
    told = [
        path
        for path in named
        if re.search(rf"delete(?:thefolder|thefile)?[^.]{{0,40}}{re.escape(relative(path, folder))}", text)
    ]
    within = file.parent if "deletethefolder" in text or "deleteitsfolder" in text else file
    place = told[0] if told else within
    mend(place)
    again = give(bench, "run", made, folder, options)
    what = f"it said {ended.last_line!r}; after {place.relative_to(folder)} was deleted the run"
    done(again, what)
    same_run(made, folder)


def relative(path: Path, folder: Path) -> str:
    """Return a path below a folder, as messages write it and without white space."""
    return squeezed(str(path.relative_to(folder)))


def same_run(made: World, folder: Path) -> None:
    """Check that a run folder is that of the undisturbed run.

    Raises:
        Fault: Something differs.
    """
    found = [line for line in differences(made.result, snapshot(folder / "run")) if not expected(line)]
    if found:
        raise Fault(f"exit 0 and another result: {in_words(found)}")


def expected(line: str) -> bool:
    """Return whether a difference is none of the result: a cache may keep or lack an entry that nobody asks for."""
    return re.match(r"(differs|lost|more): cache/", line) is not None


def give(bench: Bench, command: str, made: World, folder: Path, options: Mapping[str, object]) -> Ended:
    """Give the command in a folder with a copy of the run."""
    policy = f"run/policies/{made.method}"
    if command == "run":
        return bench.warm("run", "config.yaml", cwd=folder, **options)
    if command == "generate":
        asked = ("-p", PREFERENCE, "-p", "good=1,kind=0", "--max-new-tokens", 6)
        return bench.warm("generate", policy, "red sun", *asked, cwd=folder, **options)
    if command == "export":
        return bench.warm("export", "run", "exported", "--grid", 3, cwd=folder, **options)
    if command == "choose":
        return bench.warm("choose", "run", "good >= 0.1", "--json", cwd=folder, **options)
    return bench.warm("serve", "run", "--port", 0, "--no-store", cwd=folder, serve=True, ask=ASK, **options)


def answer_of(command: str, folder: Path, ended: Ended) -> str:
    """Return all that a command gave."""
    if command == "export":
        return json.dumps({name: raw.hex() for name, raw in snapshot(folder / "exported").items()})
    return ended.answer if command == "serve" else ended.out


def undamaged(bench: Bench, command: str, made: World) -> str:
    """Return what the command gives without damage; made once."""
    file = made.folder / f"{command}.answer"
    if not file.is_file():
        folder = made.finished(bench.folder / "undamaged")
        ended = give(bench, command, made, folder, {"env": cache_in(folder)})
        done(ended, f"{command} without damage")
        file.write_text(answer_of(command, folder, ended))
    return file.read_text()
