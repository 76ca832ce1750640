"""The first commands: ``quickstart``, ``init`` and ``advise``."""

from __future__ import annotations

import importlib.util
import shlex
from pathlib import Path
from typing import Annotated, Optional

import typer

from paretune.cli import serving as serve_commands
from paretune.cli.options import RunDeviceOption, RunDtypeOption, with_options
from paretune.cli.output import JsonOption, tell, tell_report
from paretune.core.errors import ConfigError

SERVING = ("alembic", "fastapi", "prometheus_client", "sqlalchemy", "uvicorn")
"""Modules that ``serve`` needs."""
SOURCES = (
    "A file or folder, a known data set (hh-rlhf, ...), hub:owner/name, or a YAML column map. Several are read as one, such as a "
    "file of pairs for each objective: OBJECTIVE=FILE, or the name of the file names it."
)


def quickstart(
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Settings to change, as key=value, for example train.steps=50.")
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="A hub name, a folder or a GGUF file, in place of the embedded model."),
    ] = None,
    smoke: Annotated[
        bool,
        typer.Option(
            "--smoke", help="Every stage at the smallest size, in a few minutes; its figures mean nothing."
        ),
    ] = False,
    serve: Annotated[
        bool, typer.Option("--serve", help="Serve the policies afterwards, with the studio in the browser.")
    ] = False,
    device: RunDeviceOption = None,
    dtype: RunDtypeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train two methods between concise and warm answers, measure their fronts, and write a report; no file is needed."""
    if serve:  # what lacks is said now, and not after the training
        lacking = [name for name in SERVING if importlib.util.find_spec(name) is None]
        if lacking:
            raise ConfigError(f"--serve: no package {lacking[0]} here; {serve_commands.NEEDS}")
    from paretune.runs.keys import read_values

    changes = with_options(overrides, device, dtype)
    read_values("quickstart", changes)  # a typo is said before torch is loaded
    from paretune.cli.quickstart import quickstart as run_quickstart

    report = run_quickstart(changes, model, smoke)
    tell_report(report, as_json)
    if serve:
        serve_commands.serve([report.parent])


def init(
    data: Annotated[
        list[str] | None,
        typer.Argument(help=f"{SOURCES} Asked at a terminal."),
    ] = None,
    objective: Annotated[
        list[str] | None,
        typer.Option(
            help="An objective of the data, or NAME={rule: ...} with what scores it; repeat for several. By default the two of the "
            "data that disagree most."
        ),
    ] = None,
    model: Annotated[
        str | None,
        typer.Option(help="The base model: an embedded name, a hub name, a folder or a GGUF file."),
    ] = None,
    out: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(
            help="The new config, whose name is the run's; by default that of the data with .yaml (my-NAME.yaml for NAME.yaml). "
            "Never overwritten."
        ),
    ] = None,
    minutes: Annotated[
        float, typer.Option(help="The time that the run may take on this machine.", min=1)
    ] = 60,
) -> None:
    """Write a commented config for your own data, with sizes that this machine can do; three questions at a terminal."""
    from paretune.cli.init import init as write_config

    config = write_config(data or [], objective or [], model, out, minutes)
    shown = shlex.quote(str(config))
    typer.echo(f"Written: {config}")
    if "head: fit" in config.read_text(encoding="utf-8"):
        from paretune.scoring import encoder

        if not encoder.is_at_hand():
            typer.echo(f"First: {encoder.INSTALL}    # reads texts for the judges of head: fit")
    typer.echo(f"Next: paretune run {shown}    # its plan: paretune plan {shown}")


def advise(
    data: Annotated[list[str], typer.Argument(help=SOURCES)],
    run: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="The folder of a finished pilot run, whose effect and spread give the numbers."),
    ] = None,
    reward: Annotated[
        bool, typer.Option("--reward", help="There is a function or model that scores any answer.")
    ] = False,
    as_json: JsonOption = False,
) -> None:
    """Say which method fits your data first, and how many prompts and steps it takes; by rules, or by a pilot run."""
    from paretune.cli.advise import render
    from paretune.cli.data import named_sources
    from paretune.runs.advice import advise as advice_on

    tell(advice_on(named_sources(data), run, reward), as_json, render)
