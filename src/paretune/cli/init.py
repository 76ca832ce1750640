"""``paretune init``: three questions, or options in their place, and a config with sizes that this machine can do."""

from __future__ import annotations

import sys
from collections.abc import Sequence
from pathlib import Path

import typer

from paretune.cli.data import column_map
from paretune.core.errors import ConfigError
from paretune.core.files import write_text
from paretune.models.embedded import EMBEDDED
from paretune.runs.draft import Subject, draft, look, scorers
from paretune.runs.shipped import names


def init(
    data: str | None, objectives: Sequence[str], model: str | None, out: Path | None, minutes: float
) -> Path:
    """Write a first config and return its path; what is not given is asked at a terminal.

    Args:
        data: A file or folder, a known set, or a YAML column map.
        objectives: ``NAME`` of the data, or ``NAME={rule: ...}``; empty takes those of the data.
        model: The base model.
        out: The new file; by default the name of the data with ``.yaml``.
        minutes: Time that the run may take on this machine.

    Raises:
        ConfigError: The file exists already, or the data are not named and there is no terminal to ask at.
        DataError: The data cannot be read.
    """
    asks = sys.stdin.isatty()
    if out is not None:
        _check_new(out)
    if data is None:
        if not asks:
            raise ConfigError(
                "which data? There is no terminal to ask at; give paretune init DATA: a file or folder, a known set or a column map"
            )
        data = typer.prompt(
            "Your data (a file or folder, a known set, or a column map)", default="quickstart"
        )
    name = _name(data)
    target = out or Path(f"{name}.yaml")
    _check_new(target)
    source = column_map(data) if data.endswith((".yaml", ".yml")) else data
    subject = look(source, next((text for text in objectives if "=" not in text), None))
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


def _check_new(target: Path) -> None:
    if target.exists():
        raise ConfigError(f"{target}: exists already and is not overwritten; name another file with --out")


def _name(data: str) -> str:
    """Return a run's name for data.

    >>> _name("downloads/My data.jsonl.gz"), _name("hh-rlhf")
    ('My-data', 'hh-rlhf')
    >>> _name("quickstart")  # the folder of that run is taken
    'my-quickstart'
    """
    stem = Path(data).name.split(".")[0]
    name = "".join(c if c.isalnum() or c in "-_" else "-" for c in stem).strip("-") or "run"
    return f"my-{name}" if name in names() else name


def _show(subject: Subject) -> None:
    facts = subject.facts
    typer.echo(
        f"{subject.shown}: {facts.prompts} different prompts, {facts.responses} responses, "
        f"objectives: {', '.join(subject.objectives) or 'none'}"
    )
