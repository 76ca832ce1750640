"""Threads that wait for each other sleep soon, unless a person chose otherwise."""

import os
import subprocess
import sys

import pytest

from paretune.cli.threads import CHOSEN, MILLISECONDS, SPINS, wait_briefly


def test_threads_wait_briefly_where_nobody_chose(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in CHOSEN:
        monkeypatch.setenv(name, "")  # set, so that it is put back; an empty variable counts as none
    wait_briefly()
    assert os.environ["GOMP_SPINCOUNT"] == str(SPINS) and os.environ["KMP_BLOCKTIME"] == str(MILLISECONDS)


@pytest.mark.parametrize("chosen", CHOSEN)
def test_what_a_person_chose_stays(chosen: str, monkeypatch: pytest.MonkeyPatch) -> None:
    for name in CHOSEN:
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv(chosen, "ACTIVE")
    wait_briefly()
    assert [os.environ.get(name) for name in CHOSEN if name != chosen] == [None, None]
    assert os.environ[chosen] == "ACTIVE"


def test_the_command_line_chooses_before_torch_is_there() -> None:
    code = (
        "import os, sys; from paretune.cli import main as cli; cli.app = lambda **_: print(os.environ['GOMP_SPINCOUNT'],"
        " 'torch' in sys.modules); cli.main()"
    )
    environment = {name: value for name, value in os.environ.items() if name not in CHOSEN}
    out = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    assert out.stdout.split() == [str(SPINS), "False"]
