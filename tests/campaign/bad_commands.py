"""Bad command lines: every command with missing, unknown and surplus arguments, and every option with values that cannot be."""

from __future__ import annotations

import random
import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from campaign.trial import Bench, Fault, Trial, distinct, picked, refused
from campaign.worlds import World, cache_in, world

KIND = "bad-commands"
WHOLE = 220
LONG = "x" * 300
AT = ("-p", "good=0.5,kind=0.5")
HALF = (
    "",
    "good=2,kind=-1",
    "good=0.5",
    "nonsense=1",
    "good=nan,kind=1",
    "good=0.5,good=0.5",
    "=1",
    "good=,kind=1",
    "good+nonsense",
    ",",
    "good=1e999,kind=0",
    "good=½,kind=½",
)
"""Preferences that cannot be."""
SPECIAL: dict[str, Sequence[str]] = {
    "preference": HALF,
    "floor": ("nonsense=0.1", "good", "good=2", "good=nan", "good=0.9,kind=0.9", ""),
    "floors": ("", "good", "good >= x", "nonsense >= 1", "good >= nan", "good >= 1e999", "good > ", "good >= 1 or kind >= 1"),
    "adapter": ("good", "=x", "good=", "good=/nowhere", "nonsense=/nowhere"),
    "by": ("nonsense", ""),
    "divergence": ("nonsense", ""),
    "form": ("nonsense", ""),
    "policy": ("nonsense", "", "../policies/dpo-soup", LONG),
    "between": ("good", "good,nonsense", ",", "good,good", "good,kind,good"),
    "objective": ("nonsense", ""),
    "score": ("nonsense", "[", "{}", "{rule: nonsense}", "5", "{rule: regex, pattern: '('}"),
    "dtype": ("nonsense", "float64"),
    "device": ("nonsense", "0xh100", ""),
    "endpoint": ("nonsense", "http://127.0.0.1:9/v1", "ftp://x"),
    "upstream": ("nonsense",),
    "normalize": ("nonsense",),
    "host": ("nonsense.invalid", "999.1.1.1"),
    "overrides": ("train.steps", "=3", "train.steps=[", "name=*x", "train.stepps=3", "train.steps.x=3", "methods=5",
    "score.0.rule=length", "data=3", "train.steps=many", "a.b.c=1", "\udcff=1"),
    "run": ("/nowhere", LONG, "config.yaml", "", "a\x01b"),
    "config": ("/nowhere.yaml", ".", LONG, "run/front.json", ""),
    "source": ("/nowhere.jsonl", ".", LONG, "run/report.html", "", "nonsense"),
    "store": ("/nowhere/store.sqlite", "nonsense://x", "config.yaml", ""),
    "target": ("/proc/nowhere.jsonl", "out.nonsense", LONG + ".jsonl", "", "config.yaml/x.jsonl"),
    "folder": ("/proc/nowhere", LONG, "config.yaml/x", ""),
    "out": ("/proc/nowhere.png", LONG + ".png"),
    "jsonl": ("/proc/nowhere.jsonl", LONG),
    "path": ("/nowhere",),
    "split": ("nonsense", ""),
    "model": ("/nowhere", "", LONG),
    "api_key_file": ("/nowhere", "."),
    "manifest": ("/nowhere", "config.yaml"),
}  # fmt: skip
"""Parameter -> values that cannot be."""
TYPED = {"integer": ("many", "1.5", ""), "float": ("x", ""), "boolean": ()}
EDGES = {"integer": ("-5", "-1", str(10**30)), "float": ("nan", "inf", "-1", "1e300")}
"""Numbers that an option may take or refuse, but in words."""
SKIPPED = {"help", "install_completion", "show_completion"}


@dataclass(frozen=True)
class Line:
    """A command line; ``strict`` if it cannot be right, and must be refused by naming one of ``words``."""

    arguments: tuple[str, ...]
    words: tuple[str, ...]
    strict: bool = True

    @property
    def name(self) -> str:
        """The line, for people."""
        return " ".join(
            argument if len(argument) < 60 else f"{argument[:20]}..." for argument in self.arguments
        )


def base(made: World) -> dict[str, tuple[str, ...]]:
    """Return a right line of each command, in a folder with a finished run."""
    data, model = str(made.folder / "data.jsonl"), str(made.folder / "model")
    rubric = made.folder / "kind.md"
    if made.folder.is_dir():  # the names of the trials are asked for before there is any
        rubric.write_text("Is it kind?\n", encoding="utf-8")
    adapters = [f"--adapter={name}=run/adapters/dpo-{name}/adapter" for name in ("good", "kind")]
    return {
        "run": ("config.yaml",),
        "add-objective": ("run", "bad", "--score", "{rule: length, unit: words}"),
        "plan": ("config.yaml",),
        "sweep": ("config.yaml",),
        "front": ("config.yaml", *adapters),
        "generate": ("run/policies/dpo-soup", "red sun", *AT, "--max-new-tokens", "3"),
        "export": ("run", "out", *AT),
        "serve": ("run", "--port", "0", "--no-store"),
        "choose": ("run",),
        "data inspect": (data,),
        "data convert": (data, "out.jsonl"),
        "data sample": (data, "out.jsonl", "--model", model, "--responses", "1", "--max-new-tokens", "2", "--limit", "2"),
        "data select": (data, "--k", "2"),
        "score fit": (str(made.folder / "many.jsonl"), "--objective", "good", "--folder", "head"),
        "score rate": (data, "rated.jsonl", "--scorer", "{objective: short, rule: length, unit: words}"),
        "score check": (data, "--scorer", "{objective: short, rule: length, unit: words}"),
        "score pairs": (data, "pairs.jsonl", "--scorer", f"{{objective: kind, judge: {rubric}, model: {model}, pairs: 1}}"),
        "config schema": (),
        "methods": (),
    }  # fmt: skip


def lines(made: World) -> Iterator[Line]:
    """Return bad lines of every command."""
    import typer

    from paretune.cli.main import app

    group: Any = typer.main.get_command(app)
    for name, right in base(made).items():
        command = group
        for word in name.split():
            command = command.commands[word]
        start = tuple(name.split())
        yield Line((*start, *right, "--nonsense"), ("nonsense",))
        yield Line((*start, *right, "--nonsense", "5", "surplus"), ("nonsense",))
        if right:
            yield Line(
                start,
                (*(param.name.upper() for param in command.params), "Missing", "preference", "policies"),
            )
        position = 0
        for param in command.params:
            if param.name in SKIPPED:
                continue
            yield from _of_param(start, right, param, position)
            position += is_argument(param)
    yield Line(("nonsense",), ("nonsense",))
    yield Line(("data", "nonsense"), ("nonsense",))
    yield Line(("data",), ("Usage", "command"))
    yield Line(("--nonsense",), ("nonsense",))


def is_argument(param: Any) -> bool:
    """Return whether a parameter has no name on the command line."""
    return not param.opts[0].startswith("-")


def kind_of(param: Any) -> str:
    """Return what a parameter holds: integer, float or other; versions of typer keep it in two places."""
    described = getattr(param, "type_descriptor", None)
    if described is None:
        return str(param.type.name)
    names = re.findall(r"\b(int|float)\b", str(described.annotation))
    return {"int": "integer", "float": "float"}[names[0]] if names else "other"


def _of_param(start: tuple[str, ...], right: tuple[str, ...], param: Any, position: int) -> Iterator[Line]:
    kind = kind_of(param)
    values = [(value, True) for value in (*SPECIAL.get(param.name, ()), *TYPED.get(kind, ()))]
    values += [(value, False) for value in EDGES.get(kind, ())]
    for value, strict in values:
        if not value and param.name in (
            "run",
            "config",
            "source",
            "store",
            "target",
            "folder",
            "policy",
            "objective",
            "split",
        ):
            strict = False  # an empty path is this folder, and other empty texts are as good as none
        if value == "." and param.name == "source":
            strict = False  # a folder may hold data of one split beside others, which are then said
        words = (
            param.name,
            param.name.replace("_", "-"),
            param.name.replace("_", " "),
            *(
                [value, value[:40], "UTF-8", re.split("[=.]", value)[0], *re.findall(r"\w{4,}", value)]
                if value
                else ()
            ),
        )
        if is_argument(param):
            if position < len(right) and not right[position].startswith("-"):
                changed = (*right[:position], value, *right[position + 1 :])
            else:
                changed = (*right, value)
            yield Line((*start, *changed), words, strict)
        elif not getattr(param, "is_flag", False):
            option = max(param.opts, key=len)
            kept = _without(right, param.opts)
            yield Line((*start, *kept, f"{option}={value}"), (option, *words), strict)


def _without(right: tuple[str, ...], names: Sequence[str]) -> tuple[str, ...]:
    """Return a line without an option."""
    kept: list[str] = []
    skip = False
    for word in right:
        if skip:
            skip = False
        elif word in names:
            skip = True
        elif not any(word.startswith(f"{name}=") for name in names):
            kept.append(word)
    return tuple(kept)


def trials(count: int | None, chance: random.Random) -> Sequence[Trial]:
    """Return lines of all commands, so many."""
    names = distinct(line.name for line in lines(World("", Path("world"), 0, 0)))
    places = {name: place for place, name in enumerate(names)}
    return [Trial(KIND, name, _bound(places[name])) for name in picked(names, count or WHOLE, chance)]


def _bound(place: int) -> object:
    return lambda bench: tried(bench, place)


def tried(bench: Bench, place: int) -> str:
    """Give a bad line."""
    made = world(bench, "dpo-soup")
    line = list(lines(made))[place]
    folder = made.finished(bench.folder)
    serve = line.arguments[0] == "serve"
    ended = bench.warm(*line.arguments, cwd=folder, env=cache_in(folder), timeout=90, serve=serve)
    try:
        if ended.code == 0 and not line.strict:
            return f"{line.name}: taken"
        refused(ended, line.words)
    except Fault as fault:
        raise Fault(f"paretune {line.name}: {fault}") from None
    return f"{line.name}: {ended.last_line[:200]}"
