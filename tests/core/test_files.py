"""Writes leave the old content or the new, never half of it."""

from __future__ import annotations

import errno
import os
import resource
import shutil
import signal
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest

from paretune.core.errors import ModelError, ParetuneError
from paretune.core.files import (
    append,
    atomic_path,
    cache_folder,
    fingerprint,
    read_json,
    write_json,
    write_text,
)
from paretune.core.folder_form import EXPORT, FolderForm, write_marker

THING = FolderForm("thing.json", ("thing",), ("*.txt", "part-[0-9]/*.txt"))


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def write_thing(folder: Path, content: str, keep_equal: bool = False) -> None:
    with atomic_path(folder, THING, keep_equal) as temporary:
        temporary.mkdir()
        (temporary / f"{content}.txt").write_text(content)
        write_json(temporary / "thing.json", {"thing": content})


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "old")
    with pytest.raises(RuntimeError), atomic_path(tmp_path / "a.txt") as temporary:
        temporary.write_text("half")
        raise RuntimeError
    assert (tmp_path / "a.txt").read_text() == "old" and listing(tmp_path) == ["a.txt"]


def test_a_full_disk_is_said_and_nothing_is_half_written(tmp_path: Path) -> None:
    write_text(tmp_path / "a.txt", "old")
    full = pytest.raises(ParetuneError, match=r"a\.txt: the disk is full; nothing was written")
    with full, atomic_path(tmp_path / "a.txt") as temporary:
        temporary.write_text("half")
        raise OSError(errno.ENOSPC, "No space left on device")
    assert (tmp_path / "a.txt").read_text() == "old" and listing(tmp_path) == ["a.txt"]


def test_a_folder_replaces_a_folder_of_its_form(tmp_path: Path) -> None:
    for content in ("first", "second"):
        write_thing(tmp_path / "folder", content)
    assert listing(tmp_path) == ["folder"] and listing(tmp_path / "folder") == ["second.txt", "thing.json"]


@pytest.mark.parametrize("name", ["thesis.tex", "part-1/notes.md", "empty/", ".hidden"])
def test_a_folder_that_holds_anything_else_is_never_replaced(tmp_path: Path, name: str) -> None:
    folder = tmp_path / "folder"
    write_thing(folder, "first")
    own = folder / name
    own.parent.mkdir(exist_ok=True)
    own.mkdir() if name.endswith("/") else own.write_text("years of work")
    before = sorted(path.relative_to(folder) for path in folder.rglob("*"))
    with pytest.raises(ModelError, match=rf"holds other files \({name}\), which would be lost"):
        write_thing(folder, "second")
    assert sorted(path.relative_to(folder) for path in folder.rglob("*")) == before


@pytest.mark.parametrize("marker", [None, "{", "[]", '{"Version": "2012-10-17"}'])
def test_a_folder_with_names_like_ours_is_not_ours(tmp_path: Path, marker: str | None) -> None:
    (tmp_path / "own.txt").write_text("mine")
    if marker is not None:
        (tmp_path / "thing.json").write_text(marker)
    with pytest.raises(ModelError, match=r"own\.txt"):
        write_thing(tmp_path, "second")
    assert (tmp_path / "own.txt").read_text() == "mine"


def test_without_a_form_only_an_empty_folder_is_replaced(tmp_path: Path) -> None:
    for folder, holds in (("empty", False), ("full", True)):
        (tmp_path / folder).mkdir()
        if holds:
            (tmp_path / folder / "x").touch()
    with atomic_path(tmp_path / "empty") as temporary:
        temporary.mkdir()
        (temporary / "new").touch()
    assert listing(tmp_path / "empty") == ["new"]
    with pytest.raises(ModelError, match="holds other files"), atomic_path(tmp_path / "full"):
        pytest.fail("it is refused before the work")
    (tmp_path / "file").touch()
    with pytest.raises(ModelError, match="is a file; give a folder"), atomic_path(tmp_path / "file", THING):
        pytest.fail("it is refused before the work")


def test_a_file_that_comes_while_a_folder_is_made_is_kept(tmp_path: Path) -> None:
    write_thing(tmp_path / "folder", "first")
    with pytest.raises(ModelError, match="late"), atomic_path(tmp_path / "folder", THING) as temporary:
        temporary.mkdir()
        (tmp_path / "folder" / "late").touch()
    assert listing(tmp_path / "folder") == ["first.txt", "late", "thing.json"] and listing(tmp_path) == [
        "folder"
    ]


def test_an_export_is_known_by_the_list_in_it(tmp_path: Path) -> None:
    for content in ("first", "second"):
        with atomic_path(tmp_path / "export", EXPORT) as temporary:
            temporary.mkdir()
            (temporary / f"{content}.bin").touch()
            write_marker(temporary)
    assert listing(tmp_path / "export") == ["paretune.json", "second.bin"]


def test_an_equal_folder_is_left_alone_whatever_else_it_holds(tmp_path: Path) -> None:
    write_thing(tmp_path / "folder", "same")
    (tmp_path / "folder" / "notes.md").write_text("mine")
    before = (tmp_path / "folder" / "same.txt").stat()
    write_thing(tmp_path / "folder", "same", keep_equal=True)
    after = (tmp_path / "folder" / "same.txt").stat()
    assert (after.st_ino, after.st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    with pytest.raises(ModelError, match=r"notes\.md"):
        write_thing(tmp_path / "folder", "other", keep_equal=True)


def test_a_linked_folder_is_replaced_and_the_link_stays(tmp_path: Path) -> None:
    write_thing(tmp_path / "disk", "first")
    (tmp_path / "link").symlink_to(tmp_path / "disk")
    write_thing(tmp_path / "link", "second")
    assert (tmp_path / "link").is_symlink() and listing(tmp_path / "disk") == ["second.txt", "thing.json"]


@pytest.mark.parametrize("umask", [0o022, 0o077, 0o002])
def test_modes_follow_the_umask_whatever_a_library_gives(tmp_path: Path, umask: int) -> None:
    import numpy as np
    from safetensors.numpy import save_file

    before = os.umask(umask)
    try:
        with atomic_path(tmp_path / "folder") as temporary:
            temporary.mkdir()
            save_file({"x": np.zeros(3)}, temporary / "x.safetensors")
        write_text(tmp_path / "a.txt", "a")
    finally:
        os.umask(before)
    for file in (tmp_path / "folder/x.safetensors", tmp_path / "a.txt"):
        assert file.stat().st_mode & 0o777 == 0o666 & ~umask


def limited(write: object, size: int) -> str:
    """Return the error of ``write`` in a process whose files may have ``size`` bytes."""
    read, told = os.pipe()
    child = os.fork()
    if child == 0:
        signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
        resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))
        try:
            write()  # type: ignore[operator]
        except ParetuneError as error:
            os.write(told, str(error).encode())
        finally:
            os._exit(0)
    os.close(told)
    os.waitpid(child, 0)
    with os.fdopen(read) as file:
        return file.read()


def test_weights_that_may_not_be_written_are_one_message(tmp_path: Path) -> None:
    """The library that writes them raises an error of its own."""
    import numpy as np
    from safetensors.numpy import save_file

    def write() -> None:
        with atomic_path(tmp_path / "x.safetensors") as temporary:
            save_file({"x": np.zeros(100_000)}, temporary)

    message = limited(write, 4096)
    assert "x.safetensors: the file would be larger than this process may write" in message, message
    assert listing(tmp_path) == []


def test_what_is_beyond_the_valid_length_is_written_over(tmp_path: Path) -> None:
    file = tmp_path / "deep" / "log"
    append(file, b"one\n", 0)
    append(file, b"half", 4)
    append(file, b"two\n", 4)
    assert file.read_bytes() == b"one\ntwo\n"


def test_a_place_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    write_text(tmp_path / "file", "x")
    with pytest.raises(ParetuneError, match="cannot write"):
        write_text(tmp_path / "file" / "below.txt", "x")


def test_json_round_trip_and_its_refusals(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"ü": [1, None]})
    assert read_json(tmp_path / "a.json") == {"ü": [1, None]}
    with pytest.raises(ValueError, match="Out of range float"):
        write_json(tmp_path / "a.json", float("nan"))
    assert read_json(tmp_path / "a.json") == {"ü": [1, None]}
    write_text(tmp_path / "a.json", "{")
    with pytest.raises(ParetuneError, match=r"a\.json: not valid JSON.*delete the file"):
        read_json(tmp_path / "a.json")


@dataclass(frozen=True)
class Form:
    name: str
    values: tuple[float, ...]


def test_a_value_has_its_type(tmp_path: Path) -> None:
    write_json(tmp_path / "a.json", {"name": "a", "values": [1, 2.5], "later": 1})
    assert read_json(tmp_path / "a.json", Form) == Form("a", (1.0, 2.5))


@pytest.mark.parametrize(
    "text",
    [
        *("", "{}", "[]", "null", '"a"', "3", "\x00", "[" * 100_000, "{" * 3000),
        '{"name": 3, "values": []}',
        '{"name": "a", "values": ["1"]}',
        '{"name": "a", "values": [true]}',
        '{"name": "a", "values": 1}',
        '{"name": "a", "values": [1%s]}' % ("0" * 400),
        '{"name": "a", "values": [1e999]}',
        '{"name": "a", "values": [NaN]}',
        '{"name": "\\ud800", "values": []}',
    ],
)
def test_json_of_another_form_is_one_message_with_the_cure(tmp_path: Path, text: str) -> None:
    (tmp_path / "a.json").write_text(text)
    with pytest.raises(ParetuneError, match=r"a\.json: not (valid JSON|as expected) \(.*\); do this") as told:
        read_json(tmp_path / "a.json", Form, "do this")
    assert len(str(told.value)) < 600


def test_json_in_another_code_is_named(tmp_path: Path) -> None:
    (tmp_path / "a.json").write_bytes('{"name": "ü"}'.encode("latin-1"))
    with pytest.raises(ParetuneError, match=r"a\.json: not valid JSON"):
        read_json(tmp_path / "a.json")


def test_a_cache_without_a_home_is_named(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setenv("PARETUNE_CACHE", "~nosuchuser/cache")
    with pytest.raises(
        ParetuneError, match="PARETUNE_CACHE: '~nosuchuser/cache': there is no such home folder"
    ):
        cache_folder()
    monkeypatch.delenv("PARETUNE_CACHE")
    monkeypatch.delenv("HOME", raising=False)
    monkeypatch.delenv("XDG_CACHE_HOME", raising=False)
    monkeypatch.setattr("pwd.getpwuid", dict[int, str]().__getitem__)
    with pytest.raises(ParetuneError, match="set PARETUNE_CACHE to a folder that can be written"):
        cache_folder()
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "paretune"


def test_a_full_disk_is_one_message_for_weights_too(tmp_path: Path) -> None:
    """On a real file system of 64 kB, where this user may make one."""
    import subprocess

    import numpy as np
    from safetensors.numpy import save_file

    mount = shutil.which("mount") or "mount"
    options = [mount, "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(tmp_path)]
    if subprocess.run(options, check=False, capture_output=True).returncode:
        pytest.skip("this user may not mount a file system")
    try:
        write_text(tmp_path / "x.safetensors", "old")
        with (
            pytest.raises(ParetuneError, match=r"x\.safetensors: the disk is full; nothing was written"),
            atomic_path(tmp_path / "x.safetensors") as temporary,
        ):
            save_file({"x": np.zeros(100_000)}, temporary)
        assert (tmp_path / "x.safetensors").read_text() == "old" and listing(tmp_path) == ["x.safetensors"]
    finally:
        subprocess.run(["umount", str(tmp_path)], check=True)


def test_equal_text_gives_equal_bytes_when_compressed(tmp_path: Path) -> None:
    for name in ("a.gz", "b.gz"):
        write_text(tmp_path / name, "same")
    assert (tmp_path / "a.gz").read_bytes() == (tmp_path / "b.gz").read_bytes()


def test_fingerprints_tell_parts_apart() -> None:
    assert fingerprint("ab", "c") != fingerprint("a", "bc")
    assert fingerprint({"x": 1, "y": 2}) == fingerprint({"y": 2, "x": 1})
    assert fingerprint("1") != fingerprint(1) and len(fingerprint(b"")) == 16


@pytest.fixture
def places(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Path, Path]:
    """The system's place for the cache, other than that of earlier versions, as on macOS; and the latter."""
    monkeypatch.delenv("PARETUNE_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "earlier"))
    monkeypatch.setattr("platformdirs.user_cache_path", lambda name, **_: tmp_path / "Caches" / name)
    return tmp_path / "Caches/paretune", tmp_path / "earlier/paretune"


def test_the_cache_lies_where_the_system_keeps_caches(places: tuple[Path, Path]) -> None:
    assert cache_folder() == places[0]


def test_a_cache_of_an_earlier_version_is_used_further_and_said_once(
    places: tuple[Path, Path], caplog: pytest.LogCaptureFixture
) -> None:
    place, earlier = places
    earlier.mkdir(parents=True)
    assert cache_folder() == cache_folder() == earlier
    (message,) = caplog.messages
    assert str(earlier) in message and str(place) in message and "PARETUNE_CACHE" in message
    place.mkdir(parents=True)
    assert cache_folder() == place


def test_the_environment_names_another_cache(
    places: tuple[Path, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARETUNE_CACHE", "~/mine")
    assert cache_folder() == Path.home() / "mine"


@pytest.mark.skipif(sys.platform != "linux", reason="the place is that of Linux")
def test_on_linux_the_place_is_that_of_earlier_versions(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.delenv("PARETUNE_CACHE", raising=False)
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert cache_folder() == tmp_path / "paretune"
