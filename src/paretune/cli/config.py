"""Commands on configs: ``paretune config schema`` and ``paretune config reference``."""

from __future__ import annotations

import json

import typer

config = typer.Typer(help="Show what a config may hold.", no_args_is_help=True)


@config.command("schema")
def schema_command() -> None:
    """Print the JSON schema of a config, by which an editor completes and checks it."""
    from paretune.runs.keys import schema

    try:
        made = schema()
    except (
        ValueError
    ):  # a developer's shell has emptied the file that it ships as, to write it anew: made from the code
        from paretune.runs.schema import config_schema

        made = config_schema()
    typer.echo(json.dumps(made, indent=2))


@config.command("reference")
def reference_command() -> None:
    """Print every setting with its type, default and meaning, as Markdown."""
    from paretune.runs.reference import config_reference

    typer.echo(config_reference(), nl=False)
