"""Stages appear whole, are found again, and what a message tells the user to delete is made again."""

from __future__ import annotations

from pathlib import Path

import pytest

from paretune.core.errors import ConfigError, ModelError, ParetuneError
from paretune.core.files import read_json, write_json
from paretune.models.distributed import ProcessGroup
from paretune.training.stages import Stages


class Made:
    """A run folder whose stage is counted when it is made."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.count, self.said = folder, 0, list[str]()

    def stage(self, name: str = "adapters/dpo-warm", key: str = "key", content: str = "") -> Path:
        def make(folder: Path) -> None:
            self.count += 1
            (folder / "adapter").mkdir()
            for file in ("adapter/adapter.json", "adapter/adapter.safetensors", "history.json"):
                write_json(folder / file, [self.count])

        stages = Stages(self.folder, ProcessGroup(), say=self.said.append)
        return stages.made(name, key, make, content=content)


@pytest.mark.parametrize(
    "gone", ["history.json", "adapter/adapter.json", "adapter/adapter.safetensors", "adapter", "stage.json"]
)
@pytest.mark.parametrize("listed", [True, False])
def test_a_file_that_is_deleted_is_made_again(tmp_path: Path, gone: str, listed: bool) -> None:
    made = Made(tmp_path)
    folder = made.stage()
    if not listed:  # as version 0.1 wrote it
        marker = read_json(folder / "stage.json")
        write_json(folder / "stage.json", {key: marker[key] for key in ("key", "seconds")})
    made.stage()
    assert made.count == 1
    for file in sorted((folder / gone).glob("*")) if (folder / gone).is_dir() else [folder / gone]:
        file.unlink()
    made.stage()
    assert made.count == 2 and (folder / "history.json").is_file()
    assert gone == "stage.json" or "is missing, so this stage is done again" in made.said[0]


@pytest.mark.parametrize("text", ["{}", "[]", "null", "{", '{"key": "key", "seconds": "1"}', "[" * 3000])
def test_a_damaged_marker_is_named_with_a_cure_that_cures(tmp_path: Path, text: str) -> None:
    made = Made(tmp_path)
    marker = made.stage() / "stage.json"
    marker.write_text(text)
    with pytest.raises(
        ParetuneError, match=r"dpo-warm/stage\.json: not .*; delete the file to have the stage done again"
    ):
        made.stage()
    made.stage("adapters/another", content="c")  # the damaged one beside it is no reason to stop
    marker.unlink()
    made.stage()
    assert made.count == 3


def test_a_stage_with_a_file_of_the_user_is_not_replaced(tmp_path: Path) -> None:
    made = Made(tmp_path)
    folder = made.stage()
    (folder / "adapter" / "thesis.tex").write_text("mine")
    assert made.stage() == folder
    with pytest.raises(ModelError, match=r"holds other files \(adapter/thesis\.tex\)"):
        made.stage(key="other")
    assert made.count == 1 and (folder / "adapter" / "thesis.tex").read_text() == "mine"


@pytest.mark.parametrize("name", ["../victim", "a/b", "", "..", "x" * 250])
def test_a_name_that_leads_elsewhere_is_refused(tmp_path: Path, name: str) -> None:
    made = Made(tmp_path / "run")
    with pytest.raises(ConfigError, match="choose another name"):
        made.stage(f"adapters/{name}")
    assert not made.count
