"""Writes leave the old content or the new, never half of it."""

from __future__ import annotations

import errno
import sys
from pathlib import Path

import pytest

from paretune.core.errors import ParetuneError
from paretune.core.files import atomic_path, cache_folder, fingerprint, read_json, write_json, write_text


def listing(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


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
