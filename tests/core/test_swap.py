"""New takes the place of old in one step; what killed processes left is removed, and only that."""

from __future__ import annotations

import errno
import os
import signal
import subprocess
from collections.abc import Callable
from pathlib import Path

import pytest

from paretune.core import swap
from paretune.core.errors import ParetuneError
from paretune.core.files import atomic_path, write_text
from paretune.core.folder_form import FolderForm
from paretune.core.owners import this_process

FORM = FolderForm("form.json", ("content",), ("*.txt",))


def write(folder: Path, content: str) -> None:
    with atomic_path(folder, FORM) as temporary:
        temporary.mkdir()
        (temporary / "form.json").write_text(f'{{"content": "{content}"}}')


def read(folder: Path) -> str:
    return (folder / "form.json").read_text()


def in_child(do: Callable[[], object]) -> int:
    """Run ``do`` in a child process; return its exit status."""
    child = os.fork()
    if child == 0:
        try:
            do()
        finally:
            os._exit(1)
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


def killed_at(monkeypatch: pytest.MonkeyPatch, name: str, place: object = Path) -> None:
    """Have this process killed behind the next call of a function."""
    real = getattr(place, name)

    def deadly(*args: object, **kwargs: object) -> None:
        real(*args, **kwargs)
        kill()

    monkeypatch.setattr(place, name, deadly)


def test_a_reader_never_finds_neither(tmp_path: Path) -> None:
    write(tmp_path / "folder", "0")

    def rewrite() -> None:
        for number in range(40):
            write(tmp_path / "folder", str(number))
        os._exit(0)

    child = os.fork()
    if child == 0:
        rewrite()
    seen = 0
    while os.waitpid(child, os.WNOHANG)[0] == 0:
        read(tmp_path / "folder")
        seen += 1
    assert seen > 10


def without_exchange(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(swap, "_exchanged", lambda new, target: False)


@pytest.mark.parametrize("step", ["rename", "mkdtemp"])
def test_a_kill_between_the_two_steps_is_made_good(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    """Where the file system cannot exchange folders: after the old one is aside, the new one is put there by the next sweep."""
    write(tmp_path / "folder", "old")

    def die() -> None:
        without_exchange(monkeypatch)
        killed_at(monkeypatch, *(("rename", Path) if step == "rename" else ("write_through", swap)))
        write(tmp_path / "folder", "new")

    assert in_child(die) == -signal.SIGKILL
    assert (tmp_path / "folder").exists() == (step != "rename") and len(list(tmp_path.iterdir())) > 0
    assert swap.sweep(tmp_path) == 1
    assert "new" in read(tmp_path / "folder") and len(list(tmp_path.iterdir())) == 1


def test_what_the_user_put_there_meanwhile_is_kept(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "folder", "old")

    def die() -> None:
        without_exchange(monkeypatch)
        killed_at(monkeypatch, "rename")
        write(tmp_path / "folder", "new")

    in_child(die)
    (tmp_path / "folder").mkdir()
    (tmp_path / "folder" / "mine").touch()
    assert swap.sweep(tmp_path) == 1
    assert [path.name for path in (tmp_path / "folder").iterdir()] == ["mine"]


def test_a_folder_that_can_be_removed_but_not_renamed_is_replaced(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As a folder in a lower layer of overlayfs."""
    write(tmp_path / "folder", "old")
    without_exchange(monkeypatch)
    rename = Path.rename

    def lower(self: Path, target: Path) -> Path:
        if self == tmp_path / "folder":
            raise OSError(errno.EXDEV, "Invalid cross-device link")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", lower)
    write(tmp_path / "folder", "new")
    assert "new" in read(tmp_path / "folder") and len(list(tmp_path.iterdir())) == 1


def test_a_folder_in_a_lower_layer_is_replaced(tmp_path: Path) -> None:
    """On a real overlay, where this user may make one."""
    lower, upper, work, merged = (tmp_path / name for name in ("lower", "upper", "work", "merged"))
    for folder in (upper, work, merged):
        folder.mkdir()
    write(lower / "folder", "old")
    options = f"lowerdir={lower},upperdir={upper},workdir={work}"
    command = ["mount", "-t", "overlay", "overlay", "-o", options, str(merged)]
    if subprocess.run(command, check=False, capture_output=True).returncode:
        pytest.skip("this user may not mount an overlay")
    try:
        for content in ("new", "newer"):
            write(merged / "folder", content)
            assert content in read(merged / "folder") and len(list(merged.iterdir())) == 1
    finally:
        subprocess.run(["umount", str(merged)], check=True)


def test_what_a_killed_process_left_goes_with_the_next_write(tmp_path: Path) -> None:
    def die() -> None:
        with atomic_path(tmp_path / "a" / "x.txt") as temporary:
            temporary.write_text("half")
            kill()

    assert in_child(die) == -signal.SIGKILL
    assert len(list((tmp_path / "a").iterdir())) == 1
    write_text(tmp_path / "a" / "y.txt", "y")
    assert [path.name for path in (tmp_path / "a").iterdir()] == ["y.txt"]


def test_what_is_not_left_by_us_stays(tmp_path: Path) -> None:
    owner = this_process()
    names = [
        ".git",
        ".x.paretune-notes",
        f".x.paretune-{owner.host}-{owner.pid}-{owner.started}-abcdefgh",  # of a process that runs
        ".x.paretune-01234567-12-1700000000-abcdefgh",  # of another machine, and young
    ]
    for name in names:
        (tmp_path / name).mkdir()
        (tmp_path / name / "file").touch()
    assert swap.sweep(tmp_path) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == sorted(names)


def test_a_number_that_another_process_got_since_is_no_owner(tmp_path: Path) -> None:
    owner = this_process()
    left = tmp_path / "below" / f".x.paretune-{owner.host}-{owner.pid}-{owner.started - 1000}-abcdefgh"
    left.mkdir(parents=True)
    assert swap.sweep(tmp_path) == 0 and swap.sweep(tmp_path, depth=1) == 1 and not left.exists()


def test_a_stop_during_the_clean_up_is_a_stop(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The interpreter reports it as an error of a descriptor that was just closed."""

    def stopped(*args: object, **kwargs: object) -> None:
        try:
            raise KeyboardInterrupt
        finally:
            os.close(10**6)

    monkeypatch.setattr(swap.shutil, "rmtree", stopped)
    with pytest.raises(KeyboardInterrupt), atomic_path(tmp_path / "x.txt") as temporary:
        temporary.write_text("x")


def test_a_failed_swap_puts_the_old_one_back(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write(tmp_path / "folder", "old")
    without_exchange(monkeypatch)
    rename, calls = Path.rename, []

    def failing(self: Path, target: Path) -> Path:
        calls.append(self)
        if len(calls) == 2:
            raise OSError(errno.EIO, "Input/output error")
        return rename(self, target)

    monkeypatch.setattr(Path, "rename", failing)
    with pytest.raises(ParetuneError, match="folder: cannot write"):
        write(tmp_path / "folder", "new")
    assert "old" in read(tmp_path / "folder") and len(list(tmp_path.iterdir())) == 1
