"""What every command has: the version, how much is said, completion, and JSON beside each table."""

from __future__ import annotations

import inspect
import json
import logging
import subprocess
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer

import paretune
from paretune.cli.log import LEVELS, configure
from paretune.cli.main import app
from paretune.cli.output import show
from paretune.core.errors import ConfigError
from paretune.core.progress import silent
from support import forked
from support.command import call
from support.world import make_dataset

LIGHT = (
    ["--version"],
    ["--help"],
    ["run", "--help"],
    ["methods"],
    ["methods", "--json"],
    ["data", "sets"],
    ["run", "quickstrat"],
    ["plan", "none.yaml"],
)
NO_TABLE = {
    "init": "writes a config and says where",
    "export": "writes a model and says at which preference",
    "serve": "answers until it is stopped",
    "chat": "is a conversation",
    "push": "sends files and says where they are",
    "pull": "fetches files and says what they are",
    "figures": "writes the table to the file that is asked for",
    "report": "writes a page and pictures, and says where",
    "data convert": "writes data and counts them in a line",
    "data sample": "writes data and counts them in a line",
    "data from-votes": "writes data and counts them in a line",
    "pal name": "says the names that were given",
    "config schema": "prints JSON",
    "config reference": "prints a page, whose JSON is config schema",
}
"""Commands without ``--json``, and what they print."""


@pytest.fixture(autouse=True)
def _level_of_before() -> Iterator[None]:
    ours = logging.getLogger("paretune")
    level, filters, show = ours.level, list(warnings.filters), warnings.showwarning
    yield
    ours.setLevel(level)
    warnings.filters[:] = filters
    warnings.showwarning = show


def test_the_version_is_that_of_the_package(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    assert call(monkeypatch, capsys, "--version") == (0, f"paretune {paretune.__version__}\n", "")


@pytest.mark.parametrize("words", LIGHT, ids=" ".join)
@pytest.mark.slow
def test_a_quick_command_does_not_load_torch(words: list[str]) -> None:
    code = (
        f"import sys; sys.argv = ['paretune', *{words!r}]\n"
        "from paretune.cli.main import main\n"
        "try: main()\n"
        "except SystemExit: pass\n"
        "heavy = sorted({'torch', 'transformers', 'accelerate', 'matplotlib', 'pandas'} & set(sys.modules))\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def test_levels_come_from_options_first_and_then_from_the_environment(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    ours = logging.getLogger("paretune")
    monkeypatch.delenv("PARETUNE_LOG", raising=False)
    configure()
    assert ours.level == logging.WARNING and not silent()
    for name, level in LEVELS.items():
        monkeypatch.setenv("PARETUNE_LOG", name)
        configure()
        assert ours.level == level and silent() == (name == "error")
    configure(quiet=True)
    assert silent()
    configure(verbose=1)
    assert ours.level == logging.INFO
    configure(verbose=2)
    assert ours.level == logging.DEBUG
    monkeypatch.setenv("PARETUNE_LOG", "loud")
    with pytest.raises(ConfigError, match="PARETUNE_LOG=loud: expected one of: error, warning, info, debug"):
        configure()
    with pytest.raises(ConfigError, match="-v and -q contradict"):
        configure(1, True)


def test_verbose_says_which_config_is_read(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    caplog: pytest.LogCaptureFixture,
    tmp_path: Path,
) -> None:
    monkeypatch.chdir(tmp_path)
    for options, count in (([], 0), (["-v"], 1)):
        caplog.clear()
        call(monkeypatch, capsys, *options, "run", "three", "trian=1")
        assert sum("ships with paretune" in message for message in caplog.messages) == count


def test_completion_can_be_shown_and_installed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = call(monkeypatch, capsys, "--help")[1]
    assert "--install-completion" in out and "--show-completion" in out


def tree(command: Any, name: str = "") -> Iterator[tuple[str, Any]]:
    """Yield the name of each command of a group, with the groups that it is in, and the command."""
    for word, each in command.commands.items():
        whole = f"{name} {word}".strip()
        if hasattr(each, "commands"):
            yield from tree(each, whole)
        else:
            yield whole, each


COMMANDS = dict(tree(typer.main.get_command(app)))


def test_the_commands_that_print_no_table_are_there() -> None:
    assert set(NO_TABLE) < set(COMMANDS)


@pytest.mark.parametrize("name", COMMANDS)
def test_every_command_that_prints_a_table_can_print_json(name: str) -> None:
    options = {option for parameter in COMMANDS[name].params for option in parameter.opts}
    assert ("--json" in options) != (name in NO_TABLE), (
        f"{name}: give it --json, or say why it prints no table"
    )
    if name in NO_TABLE:
        source = inspect.getsource(inspect.unwrap(COMMANDS[name].callback))
        assert not any(word in source for word in ("show(", "tell(", "Table(")), "what prints tables"


def test_json_is_what_the_table_says(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    from paretune.methods import METHODS
    from paretune.methods.parts import PARTS

    cards = json.loads(call(monkeypatch, capsys, "methods", "--json")[1])
    parts = {name: {**vars(part), "family": "parts"} for name, part in PARTS.items()}
    assert cards == {name: vars(method.card) for name, method in METHODS.items()} | parts
    assert {row["name"] for row in json.loads(call(monkeypatch, capsys, "data", "sets", "--json")[1])} >= {
        "hh-rlhf"
    }
    source = tmp_path / "data.jsonl"
    make_dataset(20).write(source)
    code, out, err = call(
        monkeypatch, capsys, "data", "select", source, "--k", 4, "--preferences", 3, "--json"
    )
    if code == 0:
        assert len(json.loads(out)["preferences"]) == 3
    else:
        assert "collapsed" in err  # a refusal, and no half of a JSON
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    findings = json.loads(call(monkeypatch, capsys, "doctor", "--json")[1])
    assert next(row for row in findings if row[0] == "hub")[1] is False


@pytest.mark.parametrize("columns", [None, "60"])
def test_no_name_is_cut_in_a_table(
    columns: str | None, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    from rich.console import Group
    from rich.table import Table

    monkeypatch.delenv("COLUMNS", raising=False)
    if columns:
        monkeypatch.setenv("COLUMNS", columns)
    table = Table("objective", *[f"column {n}" for n in range(9)])
    table.add_row("harmlessness_of_the_given_response", *["0.123"] * 9)
    show(Group(table))
    out = capsys.readouterr().out
    assert "…" not in out
    assert ("harmlessness_of_the_given_response" in out) == (columns is None)


@pytest.mark.slow
def test_a_warning_about_data_is_a_message_of_this_program(tmp_path: Path) -> None:
    """Without a file and a line of our code, in which nothing is wrong."""
    data = tmp_path / "d.jsonl"
    data.write_text('{"prompt": "a", "completion": "b"}\n')
    command = [
        sys.executable,
        "-m",
        "paretune",
        "data",
        "convert",
        str(data),
        "o.jsonl",
        "--objective",
        "helpful",
    ]
    done = forked.run(command, cwd=tmp_path, capture_output=True, text=True, check=True)
    assert "objective=helpful is not used: the data have no labels" in done.stderr
    assert "Warning" not in done.stderr and ".py:" not in done.stderr
    quiet = [*command[:3], "-q", *command[3:5], str(data), "quiet.jsonl", *command[-2:]]
    assert not forked.run(quiet, cwd=tmp_path, capture_output=True, text=True, check=True).stderr


@pytest.mark.parametrize(
    ("line", "word", "completed"),
    [
        ("paretune ju", 1, ["judge"]),
        ("paretune judge --res", 2, ["--resamples"]),
        ("paretune data in", 2, ["inspect"]),
    ],
)
def test_a_shell_completes_commands_and_options(
    line: str,
    word: int,
    completed: list[str],
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    """As the script does that --install-completion writes."""
    monkeypatch.setenv("_PARETUNE_COMPLETE", "complete_bash")
    monkeypatch.setenv("COMP_WORDS", line)
    monkeypatch.setenv("COMP_CWORD", str(word))
    code, out, err = call(monkeypatch, capsys)
    assert code == 0 and out.split() == completed, out + err
