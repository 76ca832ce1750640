"""A command line that cannot be ends with exit code 2 and one message that names what is wrong; and how else commands end."""

from __future__ import annotations

import errno
import os
import re
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from paretune.cli import ending
from paretune.cli import main as cli
from support.bad_commands import BadCommand, bad_commands, write_place
from support.command import call

CASES = bad_commands()


@pytest.fixture(scope="module")
def place(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("place")
    write_place(folder)
    return folder


@pytest.mark.parametrize(
    "case", CASES, ids=lambda case: " ".join(case.arguments)[:90].encode("utf-8", "replace").decode()
)
def test_a_bad_command_line_ends_with_two_and_names_what_is_wrong(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], place: Path, case: BadCommand
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    monkeypatch.chdir(place)
    before = sorted(place.rglob("*"))
    code, out, err = call(monkeypatch, capsys, *case.at(place))
    said = re.sub(r"[\s│]+", "", err)
    assert code == 2, out + err
    assert re.search(re.sub(r"\s", "", case.names), said, re.IGNORECASE), err
    assert err.startswith("paretune: ") and err.count("\n") == 1, err
    assert "Traceback" not in out + err and "Input should" not in err
    assert sorted(place.rglob("*")) == before, "nothing was written"


def test_there_are_many_of_them() -> None:
    assert len({case.arguments for case in CASES}) == len(CASES) > 150


def ended(monkeypatch: pytest.MonkeyPatch, command: Callable[[], object]) -> int:
    monkeypatch.setattr(sys, "argv", ["paretune", "run", "x.yaml"])
    return ending.run_to_end(command)


def test_an_error_of_the_program_is_one_line_with_the_file_of_its_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.setenv("PARETUNE_CACHE", str(tmp_path))

    def broken() -> None:
        raise TypeError("not this")

    assert ended(monkeypatch, broken) == 1
    err = capsys.readouterr().err
    (file,) = (tmp_path / "tracebacks").iterdir()
    assert err.startswith("paretune: unexpected error, TypeError: not this.") and str(file) in err
    assert err.count("\n") == 1 and "Traceback" not in err
    assert "x.yaml" in (text := file.read_text()) and "in broken" in text


@pytest.mark.parametrize(
    ("error", "code", "words"),
    [
        (KeyboardInterrupt(), 130, "the same command goes on"),
        (MemoryError(), 2, "out of memory"),
        (
            RuntimeError("[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried"),
            2,
            "out of memory",
        ),
        (OSError(errno.ENOSPC, "No space left on device"), 2, "cannot write the output"),
        (PermissionError(errno.EACCES, "Permission denied", "/x/y"), 2, "/x/y: Permission denied"),
        (SystemExit(3), 3, ""),
    ],
)
def test_other_ends_have_their_code_and_one_message(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    error: BaseException,
    code: int,
    words: str,
) -> None:
    def fail() -> None:
        raise error

    assert ended(monkeypatch, fail) == code
    err = capsys.readouterr().err
    assert words in err and err.count("\n") == bool(words)


def run(script: str, **streams: object) -> subprocess.CompletedProcess[str]:
    text = f"import sys; sys.argv = ['paretune', 'data', 'sets']; {script}from paretune.cli.main import main; main()"
    return subprocess.run(
        [sys.executable, "-c", text],
        check=False,
        text=True,
        stderr=subprocess.PIPE,
        env=dict(os.environ),
        **streams,  # type: ignore[call-overload]
    )


def test_a_full_disk_behind_the_output_is_one_message() -> None:
    with Path("/dev/full").open("w") as full:
        done = run("", stdout=full)
    assert done.returncode == 2 and "cannot write the output" in done.stderr
    assert done.stderr.count("\n") == 1, done.stderr


def test_a_closed_output_is_no_traceback() -> None:
    read, write = os.pipe()
    os.close(read)
    done = run("", stdout=write)
    os.close(write)
    assert (
        "Traceback" not in done.stderr
        and "Exception ignored" not in done.stderr
        and done.returncode in (1, 2)
    )
    closed = run("import os; os.close(1); sys.stdout = None; ", stdout=subprocess.DEVNULL)
    assert closed.returncode == 0 and closed.stderr == ""


def test_there_is_one_last_resort() -> None:
    places = [
        file.name
        for file in Path(cli.__file__).parent.glob("*.py")
        for line in file.read_text().splitlines()
        if "except Exception" in line
    ]
    assert places == ["ending.py"]


def test_data_of_short_answers_alone_say_why_none_is_chosen(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    rows = "".join(
        f'{{"prompt": "Question {n}?", "responses": ["yes", "no"], "scores": {{"a": [1, 0], "b": [0, 1]}}}}\n'
        for n in range(4)
    )
    (tmp_path / "short.jsonl").write_text(rows)
    code, _, err = call(monkeypatch, capsys, "data", "select", tmp_path / "short.jsonl")
    assert code == 2 and "all are left out (8 collapsed)" in err and "fewer than 5 words" in err
