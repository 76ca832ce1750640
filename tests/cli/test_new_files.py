"""A file that a person names as a new one never takes the place of an older one."""

from __future__ import annotations

from pathlib import Path

import pytest

from paretune.generation.resumable import remove_parts
from paretune.serving.store.store import Store
from support.command import call
from support.world import make_dataset, write_model

MINE = "all my work\n"
WRITES = {
    "convert": ("data", "convert", "d.jsonl", "mine.jsonl"),
    "convert onto itself": ("data", "convert", "mine.jsonl", "mine.jsonl"),
    "sample": ("data", "sample", "d.jsonl", "mine.jsonl", "--model", "nowhere"),
    "picture": ("data", "select", "d.jsonl", "--k", "2", "--out", "mine.jsonl"),
    "selection": ("data", "select", "d.jsonl", "--k", "2", "--jsonl", "mine.jsonl"),
    "votes": ("data", "from-votes", "store.sqlite", "mine.jsonl"),
    "a link": ("data", "convert", "d.jsonl", "link.jsonl"),
}


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.chdir(tmp_path)
    make_dataset(12).write("d.jsonl")
    Path("mine.jsonl").write_text(MINE)
    Path("link.jsonl").symlink_to("elsewhere.jsonl")
    Store.open("store.sqlite").close()
    return tmp_path


@pytest.mark.parametrize("name", WRITES)
def test_a_file_that_is_there_is_not_written_over(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    before = sorted(place.iterdir())
    code, _, said = call(monkeypatch, capsys, *WRITES[name])
    assert code == 2 and "exists already, and" in said and "name another, or move it away" in said
    assert (place / "mine.jsonl").read_text() == MINE and sorted(place.iterdir()) == before


def test_one_name_for_picture_and_selection_is_refused(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    select = ("data", "select", "d.jsonl", "--k", "2")
    code, _, said = call(monkeypatch, capsys, *select, "--out", "x", "--jsonl", place / "x")
    assert code == 2 and "give each a file of its own" in said
    code, _, said = call(monkeypatch, capsys, *select, "--out", "x" * 300)
    assert code == 2 and "the name is longer than 255 bytes" in said


def test_a_file_type_that_is_not_written_is_told_before_anything_is_sampled(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, _, said = call(monkeypatch, capsys, "data", "sample", "d.jsonl", "o.txt", "--model", "nowhere")
    assert code == 2 and "o.txt: unknown file type" in said


def test_files_in_the_folder_of_parts_stay(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    model, parts = write_model(place / "model"), place / "o.jsonl.parts"
    parts.mkdir()
    (parts / "thesis.txt").write_text(MINE)
    short = ("--responses", 1, "--max-new-tokens", 2, "--limit", 2)
    assert call(monkeypatch, capsys, "data", "sample", "d.jsonl", "o.jsonl", "--model", model, *short)[0] == 0
    assert [file.name for file in parts.iterdir()] == ["thesis.txt"]
    (parts / "thesis.txt").unlink()
    (parts / "0123456789abcdef.json").write_text("[]")
    remove_parts(parts)
    assert not parts.exists()
