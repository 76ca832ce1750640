"""The command line, called in this process."""

from __future__ import annotations

import sys
from functools import cache
from pathlib import Path

import pytest
import typer.main

from paretune.cli.main import main

# A process of the command line builds its commands once; so does this one, though it runs many command lines.
vars(typer.main)["get_command"] = cache(typer.main.get_command)


def call(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], *arguments: object
) -> tuple[int, str, str]:
    """Run ``paretune ARGUMENTS`` in this process; return exit code, output and error text."""
    monkeypatch.setattr(sys, "argv", ["paretune", *map(str, arguments)])
    monkeypatch.setenv("COLUMNS", "200")
    code = 0
    try:
        main()
    except SystemExit as stop:
        code = int(stop.code or 0)
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def config_file(folder: Path, text: str) -> Path:
    """Write a config that asks for a run on a data file that does not matter."""
    file = folder / "config.yaml"
    file.write_text(text)
    return file
