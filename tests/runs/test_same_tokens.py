"""A run folder that is used again goes on with the same tokens, files and number format, or says what changed."""

from __future__ import annotations

import json
import shutil
from datetime import datetime
from pathlib import Path
from typing import Any

import pytest

from paretune.core.errors import ConfigError, DataError, ModelError, TrainingError
from paretune.core.files import read_json
from paretune.fronts.record import FrontRecord
from paretune.policies.saving import load_policy
from paretune.runs.parse import parse_config
from paretune.runs.run import run
from paretune.serving.config import ServeConfig
from support.chat_models import DATED, write_chat_model
from support.runs_world import quick_config


@pytest.fixture
def config(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    monkeypatch.setenv("PARETUNE_CACHE", str(tmp_path / "cache"))
    dated = DATED.replace("%H:%M", "%H:%M:%S.%f")  # another time for every prompt
    added = ("<|im_start|>", "<|im_end|>")
    model = write_chat_model(tmp_path / "model", dated, added=added, max_position_embeddings=512)
    train = {"steps": 2, "batch_pairs": 1, "rank": 2}
    return quick_config(tmp_path, model, train=train, sampling={"max_new_tokens": 3})


def made(folder: Path) -> set[str]:
    """Return the stages that the last run made anew."""
    return {stage.name for stage in FrontRecord.read(folder / "front.json").stages if not stage.reused}


@pytest.mark.slow
def test_a_run_goes_on_with_its_tokens_numbers_and_files(
    config: dict[str, Any], tmp_path: Path, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = tmp_path / "run"
    run(parse_config(config))
    date = read_json(folder / "chat-template/date.json")["date"]
    assert datetime.fromisoformat(date) <= datetime.now()
    before = (folder / "data/test.jsonl.gz").read_bytes()
    run(parse_config(config))
    assert not made(folder), "the tokens are those of the first day"
    assert (folder / "data/test.jsonl.gz").read_bytes() == before

    assert read_json(folder / "policies/dpo-soup/policy.json")["dtype"] == "float32"
    assert str(load_policy(folder / "policies/dpo-soup").lm.model.dtype) == "torch.float32"

    # A bit flips in a finished adapter: it is named, and deleting the stage makes it again.
    stage = folder / "adapters/dpo-short"
    file = stage / "adapter/adapter.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[:-1] + bytes([whole[-1] ^ 1]))
    with pytest.raises(
        TrainingError, match=r"dpo-short/adapter/adapter.safetensors: is not what this stage wrote"
    ):
        run(parse_config(config))
    shutil.rmtree(stage)
    run(parse_config(config))
    assert file.read_bytes() == whole
    assert made(folder) == {"adapters/dpo-short"}
    copy = folder / "policies/dpo-soup/adapter-0/adapter.safetensors"
    copy.write_bytes(copy.read_bytes()[:-1] + bytes([copy.read_bytes()[-1] ^ 1]))
    with pytest.raises(ModelError, match="its numbers are not those that were saved"):
        load_policy(folder / "policies/dpo-soup")

    # Another date is a change of the data, and is called so.
    (folder / "chat-template/stage.json").unlink()
    shutil.rmtree(folder / "chat-template")
    monkeypatch.setattr("paretune.runs.run.datetime", Tomorrow)
    run(parse_config(config))
    assert "dpo-short is made again, as its data (texts, tokens, scores or margins) changed" in caplog.text

    # Without its config, a run would be served without its bounds.
    (folder / "config.yaml").write_text("")
    for state in ("empty", "missing"):
        with pytest.raises(
            ConfigError, match=rf"config\.yaml: is {state}, so the minimum weights .* not known"
        ):
            ServeConfig.read(folder, {})
        (folder / "config.yaml").unlink(missing_ok=True)


class Tomorrow(datetime):
    """A clock that is a day ahead and runs on."""

    @classmethod
    def now(cls, tz: object = None) -> datetime:  # type: ignore[override]
        return datetime(2031, 1, 2, 3, 4, 5)


def test_a_run_says_what_does_not_fit_the_model(
    config: dict[str, Any], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    config["sampling"] = {"max_new_tokens": 600}

    with pytest.raises(
        DataError, match=r"leave fewer than sampling.max_new_tokens=600 of the model's 512 positions"
    ):
        run(parse_config(config))
    assert json.loads((tmp_path / "run/versions.json").read_text())["paretune"]
    assert not (tmp_path / "run/adapters").exists(), "it is said before any training"
