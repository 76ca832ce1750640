"""Whether commands named in a text exist, with the options given to them."""

from __future__ import annotations

import re
from collections.abc import Sequence
from functools import cache
from typing import Any

import typer

from paretune.cli.main import app


@cache
def all_commands() -> Any:
    """Return the command line as click sees it."""
    return typer.main.get_command(app)


def check_command(words: Sequence[str], line: str) -> None:
    """Fail with ``line`` if the words after ``paretune`` name a command or an option that is not there."""
    words, command = list(words), all_commands()
    while words and hasattr(command, "commands"):
        if words[0].startswith("-"):  # an option of all commands, which stands before the command
            assert words[0] in {option for parameter in command.params for option in parameter.opts}, line
            words = words[1:]
            continue
        assert words[0] in command.commands, f"no such command: {line}"
        command, words = command.commands[words[0]], words[1:]
    options = {option for parameter in command.params for option in parameter.opts} | {"--help"}
    for word in words:
        if re.match(r"--?[a-z]", word):
            assert word.split("=")[0] in options, f"no such option: {word} in {line}"
