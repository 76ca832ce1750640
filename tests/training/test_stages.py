"""Stages are found again while their inputs and their files stay the same, and say what changed."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from paretune.core.errors import ParetuneError, TrainingError
from paretune.core.files import read_json, write_json
from paretune.models.distributed import ProcessGroup
from paretune.training.stages import Stages


def write(folder: Path) -> None:
    (folder / "inner").mkdir()
    (folder / "inner/numbers").write_bytes(b"0123")
    (folder / "facts.json").write_text("{}")


def write_history(folder: Path) -> None:
    (folder / "history.json").write_text("[]")


def test_a_flipped_bit_in_a_finished_stage_is_named_and_deleting_it_cures(tmp_path: Path) -> None:
    folder = Stages(tmp_path, ProcessGroup()).made("adapters/a", "key", write, content="c")
    assert sorted(read_json(folder / "stage.json")["files"]) == ["facts.json", "inner/numbers"]
    assert Stages(tmp_path, ProcessGroup()).made("adapters/a", "key", write) == folder
    (folder / "inner/numbers").write_bytes(b"0133")
    for name, key in (("adapters/a", "key"), ("adapters/b", "other")):
        with pytest.raises(
            TrainingError, match=r"inner/numbers: is not what this stage wrote .* delete the folder"
        ):
            Stages(tmp_path, ProcessGroup()).made(name, key, write, content="c")
    (folder / "inner/numbers").unlink()
    (folder / "facts.json").unlink()
    (folder / "stage.json").unlink()
    (folder / "inner").rmdir()
    folder.rmdir()
    stages = Stages(tmp_path, ProcessGroup())
    assert (stages.made("adapters/a", "key", write) / "inner/numbers").read_bytes() == b"0123"
    assert not stages.records[0].reused


@pytest.mark.parametrize("change", [{"files": None}, {"content": "d"}, {"files": {}}, {"causes": {"x": "y"}}])
def test_a_changed_marker_is_named_and_deleting_it_cures(tmp_path: Path, change: dict[str, Any]) -> None:
    """Without its list of files it would say that nothing is missing."""
    folder = Stages(tmp_path, ProcessGroup()).made("adapters/a", "key", write_history, content="c")
    whole = read_json(folder / "stage.json")
    changed = {name: value for name, value in (whole | change).items() if value is not None}
    write_json(folder / "stage.json", changed)
    with pytest.raises(ParetuneError, match=r"stage.json: is not what this stage wrote .*; delete the file"):
        Stages(tmp_path, ProcessGroup()).made("adapters/a", "key", write_history, content="c")
    (folder / "stage.json").unlink()
    Stages(tmp_path, ProcessGroup()).made("adapters/a", "key", write_history, content="c")
    again = read_json(folder / "stage.json")
    unlike = {"seconds": 0, "spent": {}}
    assert again["spent"].keys() == whole["spent"].keys() and again | unlike == whole | unlike


def test_the_marker_of_an_earlier_version_is_completed(tmp_path: Path) -> None:
    folder = Stages(tmp_path, ProcessGroup()).made("adapters/a", "key", write_history, content="c")
    whole = read_json(folder / "stage.json")
    write_json(folder / "stage.json", {name: value for name, value in whole.items() if name != "itself"})
    Stages(tmp_path, ProcessGroup()).made("adapters/a", "key", write_history, content="c")
    assert read_json(folder / "stage.json") == whole


def test_a_stage_of_version_0_1_has_no_checksums_and_is_found(tmp_path: Path) -> None:
    folder = Stages(tmp_path, ProcessGroup()).made("samples/a", "key", write)
    (folder / "stage.json").write_text('{"key": "key", "seconds": 1.0}')
    stages = Stages(tmp_path, ProcessGroup())
    stages.made("samples/a", "key", write)
    assert stages.records[0].reused


def test_a_stage_that_is_made_again_says_what_changed(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    causes = {"the base model": "m", "the settings": "s"}
    Stages(tmp_path, ProcessGroup()).made("samples/a", "key", write, causes=causes)
    Stages(tmp_path, ProcessGroup()).made(
        "samples/a", "other", write, causes=causes | {"the base model": "n"}
    )
    assert "samples/a is made again, as the base model changed since it was finished" in caplog.text
