"""A file that a person names as a new one never takes the place of an older one."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from paretune.core.errors import ModelError
from paretune.data.dataset import ScoredDataset
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
    given: dict[str, object] = {}

    def load(*values: object, **named: object) -> None:
        given.update(zip(("name", "dtype", "device", "revision", "quantization"), values, strict=False))
        raise ModelError("far enough")

    with monkeypatch.context() as patch:
        patch.setattr("paretune.models.language_model.load", load)
        named = ("--model", "team/base", "--revision", "v2", "--quantization", "nf4")
        assert call(patch, capsys, "data", "sample", "d.jsonl", "p.jsonl", *named, *short)[0] == 2
    assert (given["revision"], given["quantization"], given["device"]) == ("v2", "nf4", None)
    (parts / "thesis.txt").unlink()
    (parts / "0123456789abcdef.json").write_text("[]")
    remove_parts(parts)
    assert not parts.exists()


def test_what_is_not_read_of_the_data_is_said(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (place / "folder").mkdir()
    for name in ("train.jsonl", "notes.jsonl"):
        make_dataset(12).write(place / "folder" / name)
    code, _, said = call(monkeypatch, capsys, "data", "convert", place / "folder", "o.jsonl")
    assert code == 0 and "data files that are not read: 1 (notes.jsonl)" in " ".join(said.split())


def test_sampling_reads_a_source_as_inspecting_does(
    place: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """--split, --objective and --path mean what they mean elsewhere."""
    model = write_model(place / "model")
    short = ("--model", model, "--responses", 1, "--max-new-tokens", 2)
    folder = place / "helpful-base"
    folder.mkdir()
    for split, count in (("train", 3), ("validation", 2)):
        pairs = [{"prompt": f"{split} {n}", "chosen": "good", "rejected": "bad"} for n in range(count)]
        (folder / f"{split}.jsonl").write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    named = ("--split", "validation", "--objective", "warm")
    code, _, said = call(monkeypatch, capsys, "data", "sample", folder, "o.jsonl", *named, *short)
    assert code == 0, said
    drawn = ScoredDataset.read("o.jsonl")
    assert [row.prompt[0].content for row in drawn.rows] == ["validation 0", "validation 1"]
    talks = [
        {name: f"\n\nHuman: {n}?\n\nAssistant: {text}" for name, text in (("chosen", "a"), ("rejected", "b"))}
        for n in range(2)
    ]
    (folder / "train.jsonl").write_text("".join(json.dumps(talk) + "\n" for talk in talks))
    (folder / "validation.jsonl").unlink()
    code, _, said = call(
        monkeypatch, capsys, "data", "sample", "hh-rlhf", "h.jsonl", "--path", folder, *short
    )
    assert code == 0, said
    assert [row.prompt[0].content for row in ScoredDataset.read("h.jsonl").rows] == ["0?", "1?"]
