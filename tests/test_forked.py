"""What :mod:`support.forked` starts is a process of its own, as a new one would be."""

from __future__ import annotations

import os
import signal
import sys
from pathlib import Path
from subprocess import PIPE, TimeoutExpired

import pytest

from support.forked import COMMAND_LINE, Forked, run

PYTHON = sys.executable
SLEEPS = "import time; print('awake', flush=True); time.sleep(600)"


def test_streams_folder_environment_arguments_and_what_is_registered_for_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run([PYTHON, "-c", ""])  # the warm process is there before the variable is
    env = {**os.environ, "MINE": "é"}
    monkeypatch.setenv("LEFT_OUT", "1")
    code = (
        "import atexit, os, sys; atexit.register(print, 'bye')\n"
        "print(sys.argv, os.getcwd(), os.environ['MINE'], 'LEFT_OUT' in os.environ, input(), __name__)\n"
        "print('no', file=sys.stderr); sys.exit(3)"
    )
    done = run(
        [PYTHON, "-c", code, "a", "b c"],
        input="hello\n",
        capture_output=True,
        text=True,
        cwd=tmp_path,
        env=env,
    )
    assert done.stdout == f"['-c', 'a', 'b c'] {tmp_path} é False hello __main__\nbye\n"
    assert (done.stderr, done.returncode) == ("no\n", 3)


def test_an_error_is_shown_and_a_file_and_a_module_are_run(tmp_path: Path) -> None:
    (tmp_path / "program.py").write_text("import helper\nhelper.fail()")
    (tmp_path / "helper.py").write_text("def fail():\n    raise RuntimeError('lost')")
    for command, place in (([str(tmp_path / "program.py")], "/"), (["-m", "program"], str(tmp_path))):
        done = run([PYTHON, *command], capture_output=True, text=True, cwd=place)
        assert done.returncode == 1 and done.stderr.endswith("RuntimeError: lost\n"), done.stderr


@pytest.mark.parametrize("number", [signal.SIGKILL, signal.SIGTERM, signal.SIGINT])
def test_signals_end_it(number: signal.Signals) -> None:
    with Forked([PYTHON, "-c", SLEEPS], stdout=PIPE, stderr=PIPE, text=True) as process:
        assert process.stdout is not None and process.stdout.readline() == "awake\n"
        assert process.poll() is None
        with pytest.raises(TimeoutExpired):
            process.wait(0.01)
        process.send_signal(number)
        assert process.wait(60) == -number


def test_forks_draw_different_random_numbers() -> None:
    code = "import random, numpy as np; print(random.random(), np.random.random())"
    drawn = [run([PYTHON, "-c", code], capture_output=True, text=True).stdout.split() for _ in range(2)]
    assert len({number for line in drawn for number in line}) == 4


def test_the_command_line_ends_as_one_that_was_started_anew() -> None:
    done = run([*COMMAND_LINE, "run", "nowhere.yaml"], capture_output=True, text=True)
    assert done.returncode == 2 and "nowhere.yaml" in done.stderr and "Traceback" not in done.stderr
