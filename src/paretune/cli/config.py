"""Commands on configs: ``paretune config schema``."""

from __future__ import annotations

import json

import typer

config = typer.Typer(help="Show what a config may hold.", no_args_is_help=True)


@config.callback()
def _group() -> None:
    """Keep the name of the command although it is the only one."""


@config.command("schema")
def schema_command() -> None:
    """Print the JSON schema of a config, by which an editor completes and checks it."""
    from paretune.runs.schema import config_schema

    typer.echo(json.dumps(config_schema(), indent=2))
