"""``paretune init``: three questions, or options in their place, and a config with sizes that this machine can do."""

from __future__ import annotations

import shlex
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import typer

from paretune.cli.data import named_sources
from paretune.core.errors import ConfigError
from paretune.core.files import write_text
from paretune.models.embedded import EMBEDDED
from paretune.runs.draft import Subject, draft, look, scorers
from paretune.runs.named_sources import NamedSource
from paretune.runs.shipped import names

LONGEST = 60
"""Characters of the longest name that is made of those of several sources."""


def init(
    data: Sequence[str], objectives: Sequence[str], model: str | None, out: Path | None, minutes: float
) -> Path:
    """Write a first config and return its path; what is not given is asked at a terminal.

    Args:
        data: Files or folders, known sets, names on the hub or YAML column maps, each also as ``OBJECTIVE=SOURCE``.
        objectives: ``NAME`` of the data, or ``NAME={rule: ...}``; empty takes those of the data. For a single source whose labels
            name no objective, the first name is theirs.
        model: The base model.
        out: The new file, which names the run too; by default the name of the data with ``.yaml``, behind ``my-`` where this is a
            column map among the data.
        minutes: Time that the run may take on this machine.

    Raises:
        ConfigError: The file exists already, or the data are not named and there is no terminal to ask at.
        DataError: The data cannot be read.
    """
    asks = sys.stdin.isatty()
    if out is not None:
        _check_new(out)
    if not data:
        if not asks:
            raise ConfigError(
                "which data? There is no terminal to ask at; give paretune init DATA: files or folders, a known set, "
                "hub:owner/name or a column map"
            )
        asked = typer.prompt(
            "Your data (a file or folder, or one for each objective; a known set, hub:owner/name, a column map)",
            default="quickstart",
        )
        data = [asked] if Path(asked).exists() else shlex.split(asked)
    sources = named_sources(data)
    name = _name(sources if out is None else [NamedSource(out.name, "")])
    target = out or Path(f"{name}.yaml")
    if out is None and _is_one_of(target, sources):  # a column map has the name that its config would have
        name = f"my-{name}"
        target = Path(f"{name}.yaml")
    _check_new(target)
    if len(sources) == 1 and not sources[0].objective:
        named = next((text for text in objectives if "=" not in text), "")
        sources = [replace(sources[0], objective=named)]
    subject = look(*sources)
    if asks:
        _show(subject)
    if not objectives and asks:
        suggested = " ".join(scorers(subject, []))
        objectives = str(typer.prompt("Objectives, two or more", default=suggested)).replace(",", " ").split()
    scored = scorers(subject, objectives)
    if model is None:
        model = (
            typer.prompt("Base model (a hub name, a folder or a GGUF file)", default=EMBEDDED)
            if asks
            else EMBEDDED
        )
    text = draft(subject, scored, model, name, minutes)
    _check_new(target)
    write_text(target, text)
    return target


def _is_one_of(target: Path, sources: Sequence[NamedSource]) -> bool:
    """Return whether a file is itself one of the sources."""
    places = [Path(source.shown) for source in sources]
    return target.is_file() and any(place.is_file() and target.samefile(place) for place in places)


def _check_new(target: Path) -> None:
    if target.exists():
        raise ConfigError(f"{target}: exists already and is not overwritten; name another file with --out")


def _name(sources: Sequence[NamedSource]) -> str:
    """Return a run's name for data: the names of the files, or of the objectives where these are stated.

    >>> _name([NamedSource("downloads/My data.jsonl.gz", "")]), _name([NamedSource("hh-rlhf", "")])
    ('My-data', 'hh-rlhf')
    >>> _name([NamedSource("a.jsonl", "", "warm"), NamedSource("kind.jsonl", "")])
    'warm-kind'
    >>> _name([NamedSource("quickstart", "")])  # the folder of that run is taken
    'my-quickstart'
    """
    stems = [source.stem if len(sources) == 1 else source.objective or source.stem for source in sources]
    name = "-".join(dict.fromkeys(filter(None, stems)))[:LONGEST].strip("-") or "run"
    return f"my-{name}" if name in names() else name


def _show(subject: Subject) -> None:
    facts = subject.facts
    typer.echo(
        f"{subject.shown}: {facts.prompts} different prompts, {facts.responses} responses, "
        f"objectives: {', '.join(subject.objectives) or 'none'}"
    )
