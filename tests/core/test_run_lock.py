"""One run at a time works in a run folder, or the workers of one sweep."""

from __future__ import annotations

import json
import os
import signal
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from paretune.core import run_lock
from paretune.core.errors import ParetuneError
from paretune.core.owners import this_process
from paretune.core.run_lock import LOCK, working_in


@contextmanager
def another(folder: Path, shared: bool) -> Iterator[int]:
    """Have another process work in the folder."""
    child = os.fork()
    if child == 0:
        try:
            with working_in(folder, shared):
                (folder / "works").touch()
                time.sleep(60)
        finally:
            os._exit(1)
    while not (folder / "works").exists():
        time.sleep(0.01)
    try:
        yield child
    finally:
        os.kill(child, signal.SIGKILL)
        os.waitpid(child, 0)


@pytest.mark.parametrize(("theirs", "ours"), [(False, False), (False, True), (True, False)])
def test_a_folder_in_which_another_process_works_is_refused(tmp_path: Path, theirs: bool, ours: bool) -> None:
    with another(tmp_path, theirs) as pid:
        told = rf"process {pid} on .* works in this run folder, since 20\d\d-.*; wait until it has ended"
        with pytest.raises(ParetuneError, match=told), working_in(tmp_path, ours):
            pytest.fail("it is refused")
    with working_in(tmp_path, ours):  # the lock of a killed process is free
        assert json.loads((tmp_path / LOCK).read_text())["pid"] == os.getpid()


def test_workers_of_a_sweep_work_side_by_side(tmp_path: Path) -> None:
    with another(tmp_path, True), working_in(tmp_path, True), working_in(tmp_path, True):
        pass


@pytest.mark.parametrize("text", ["", "{", "[]", '{"owner": 3, "working": true}'])
def test_a_damaged_lock_stops_nobody(tmp_path: Path, text: str) -> None:
    (tmp_path / LOCK).parent.mkdir()
    (tmp_path / LOCK).write_text(text)
    with working_in(tmp_path):
        pass


def test_where_files_cannot_be_locked_the_name_in_the_file_counts(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(run_lock, "try_lock", lambda descriptor, shared: None)
    with (
        another(tmp_path, False),
        pytest.raises(ParetuneError, match="works in this run folder"),
        working_in(tmp_path),
    ):
        pytest.fail("it is refused")
    with working_in(tmp_path):  # it was killed
        pass
    owner = this_process()
    facts = {"owner": ["01234567", owner.pid, owner.started], "host": "node7", "pid": 12, "working": True}
    (tmp_path / LOCK).write_text(json.dumps(facts))
    with (
        pytest.raises(
            ParetuneError,
            match=r"process 12 on node7 .* where that process no longer runs, delete .*run\.json",
        ),
        working_in(tmp_path),
    ):
        pytest.fail("it is refused")
