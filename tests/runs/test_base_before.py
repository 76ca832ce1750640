"""A run goes on by the name that its stages have for the base model."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path

import pytest

from paretune.core.files import read_json, write_json
from paretune.models.language_model import load
from paretune.runs.about_data import about_data
from paretune.runs.run import continue_as_before
from paretune.runs.run_folder import UNNAMED, VERSIONS, bases_before
from paretune.training.lab import Lab
from support.fake_hub import put_in
from support.world import write_model


def test_a_run_of_0_1_on_a_model_of_the_hub_finds_its_stages(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARETUNE_CACHE", str(tmp_path / "cache"))
    put_in(monkeypatch, tmp_path / "hub").commit("team/base", write_model(tmp_path / "model"))
    lm = load("team/base", "float32", "cpu")
    present, old = lm.fingerprints
    folder = tmp_path / "run"
    assert bases_before(folder) == []
    write_json(folder / VERSIONS, {"paretune": "0.1.0"})
    assert bases_before(folder) == [], "no stage is finished"
    write_json(folder / "samples/train/stage.json", {"key": "0"})
    assert bases_before(folder) == [UNNAMED]
    write_json(folder / "adapters/dpo-warm/stage.json", {"key": "0"})
    write_json(folder / "adapters/dpo-warm/adapter/adapter.json", {"base": old})
    assert bases_before(folder) == [old, UNNAMED]

    def goes_by(before: list[str]) -> str:
        lab = Lab(replace(lm), folder)
        continue_as_before(lab, before)
        assert read_json(folder / VERSIONS)["base"] == lab.lm.fingerprint
        assert lab.lm.fingerprints == (present, old), "policies are saved under the present name"
        return lab.lm.fingerprint

    assert goes_by([old, UNNAMED]) == goes_by([UNNAMED]) == goes_by([old]) == old
    assert bases_before(folder) == [old], "what was chosen stands beside the versions"
    assert goes_by([]) == goes_by(["0123"]) == present, "a new run, and one that had another model before"


def test_cards_name_the_data_sets_that_are_on_the_hub() -> None:
    about = about_data(["hh-rlhf", {"hub": "team/pairs"}, "hub:team/more", {"path": "mine.jsonl"}], None)
    assert about.datasets == ("Anthropic/hh-rlhf", "team/pairs", "team/more") and about.languages == ()
    assert about_data("quickstart", {"name": "helpsteer2"}).languages == ("en",)
    assert about_data("quickstart", {"name": "helpsteer2"}).datasets == ("nvidia/HelpSteer2",)
    assert about_data("mine.jsonl").languages == ()
