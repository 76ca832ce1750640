"""Policies as PEFT LoRAs and dense checkpoints: others compute what the policy computes."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from transformers import AutoModelForCausalLM

from paretune.core.errors import ConfigError, ModelError
from paretune.core.preference import Preference, preference_grid
from paretune.generation.generate import attached
from paretune.methods import dpo, modpo, panacea
from paretune.methods.base import DPOConfig, Inputs
from paretune.methods.modpo import MODPOConfig
from paretune.methods.panacea import PanaceaConfig
from paretune.models.adapter import stack, to_peft
from paretune.models.embedded import EMBEDDED, EMBEDDED_HUB
from paretune.models.language_model import LanguageModel
from paretune.policies.catalogue import exported, find_policy, find_sources
from paretune.policies.export import _names as export_names
from paretune.policies.export import export, export_grid
from paretune.policies.policy import Policy
from paretune.policies.saving import load_policy
from paretune.training.lab import Lab
from support import records
from support.adapters import TRAINING
from support.world import make_dataset

OBJECTIVES = ("short", "good")
IDS = torch.tensor([[3, 7, 9, 11, 4, 6]])
ASKED = Preference.parse("short=0.7,good=0.3")


@pytest.fixture(scope="module")
def policies(lm: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Policy]:
    lab, data = Lab(lm, tmp_path_factory.mktemp("lab"), TRAINING), (make_dataset(), make_dataset(4, seed=9))
    return {
        "dpo-soup": dpo.train(Inputs(lab, *data), DPOConfig()),
        "modpo": modpo.train(Inputs(lab, *data, preference_grid(OBJECTIVES, 2)), MODPOConfig()),
        "panacea": panacea.train(
            Inputs(lab, *data), PanaceaConfig(rank=3, rate_factor=1.0, gate_rate_factor=5.0)
        ),
    }


@torch.no_grad()
def expected(policy: Policy, preference: Preference) -> torch.Tensor:
    gates = policy.gates([preference])
    with attached(policy.lm, stack(policy.adapters)) as steering, steering.at(gates):  # type: ignore[arg-type]
        return policy.lm.model(input_ids=IDS).logits


@pytest.mark.parametrize("name", ["dpo-soup", "modpo", "panacea"])
@pytest.mark.slow
def test_peft_and_transformers_compute_the_policy(
    policies: dict[str, Policy], name: str, tmp_path: Path
) -> None:
    peft = pytest.importorskip("peft")
    policy = policies[name]
    logits = expected(policy, ASKED)
    used = export(policy, ASKED, tmp_path / "lora").preference
    assert export(policy, ASKED, tmp_path / "dense", "dense").preference == used
    assert used == (Preference.parse("short=0.5,good=0.5") if name == "modpo" else ASKED)
    base = AutoModelForCausalLM.from_pretrained(policy.lm.name, dtype=torch.float32)
    with torch.no_grad():
        lora = peft.PeftModel.from_pretrained(base, str(tmp_path / "lora"))(input_ids=IDS).logits
        dense = AutoModelForCausalLM.from_pretrained(tmp_path / "dense", dtype=torch.float32)(
            input_ids=IDS
        ).logits
    torch.testing.assert_close(lora, logits, atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(dense, logits, atol=1e-5, rtol=1e-5)
    with torch.no_grad():
        assert not torch.allclose(policy.lm.model(input_ids=IDS).logits, logits, atol=1e-4)


def test_a_grid_has_a_manifest_with_measured_scores(policies: dict[str, Policy], tmp_path: Path) -> None:
    measured = records.point({"short": 0.5, "good": 0.5}, [-3.0, 1.0], [-4.0, 0.5], [-2.0, 1.5])
    facts = records.record(OBJECTIVES, [records.policy("panacea", [measured])])
    (tmp_path / "front.json").write_text(json.dumps(facts))
    grid = preference_grid(OBJECTIVES, 2)
    export_grid(policies["panacea"], grid, tmp_path / "loras", tmp_path / "front.json")
    manifest = json.loads((tmp_path / "loras/manifest.json").read_text())
    assert list(manifest["adapters"]) == ["short1-good0", "short0.5-good0.5", "short0-good1"]
    assert manifest["adapters"]["short0.5-good0.5"]["scores"]["short"] == {
        "mean": -3.0,
        "low": -4.0,
        "high": -2.0,
    }
    assert manifest["adapters"]["short1-good0"]["scores"] is None
    assert all((tmp_path / "loras" / name / "adapter_config.json").is_file() for name in manifest["adapters"])
    ranks = {
        name: json.loads((tmp_path / "loras" / name / "adapter_config.json").read_text())["r"]
        for name in manifest["adapters"]
    }
    assert ranks == {"short1-good0": 4, "short0.5-good0.5": 5, "short0-good1": 4}, (
        "columns of weight 0 are dropped"
    )
    snapped = export_grid(policies["modpo"], preference_grid(OBJECTIVES, 4), tmp_path / "anchors")
    assert sum(len(entry["serves"]) for entry in snapped["adapters"].values()) == 5
    assert len(snapped["adapters"]) == 3
    with pytest.raises(ConfigError, match="not empty"):
        export_grid(policies["panacea"], grid, tmp_path / "loras")


@pytest.mark.parametrize("lost", ["deleted", "a folder"])
@pytest.mark.slow
def test_a_run_that_has_lost_its_front_exports_no_grid_without_scores(
    policies: dict[str, Policy], tmp_path: Path, lost: str
) -> None:
    front, grid = tmp_path / "front.json", preference_grid(OBJECTIVES, 2)
    (tmp_path / "versions.json").write_text("{}")
    if lost == "a folder":
        front.mkdir()
    with pytest.raises(
        ModelError, match=r"front.json: there is no such file, and the scores .* the command of the run again"
    ):
        export_grid(policies["panacea"], grid, tmp_path / "loras", front)
    assert not (tmp_path / "loras").exists()
    (tmp_path / "alone").mkdir()
    manifest = export_grid(policies["panacea"], grid, tmp_path / "loras", tmp_path / "alone" / "front.json")
    assert {entry["scores"] for entry in manifest["adapters"].values()} == {None}
    assert manifest["dtype"] == "float32" == find_sources(tmp_path / "loras")[0].dtype


def test_an_export_replaces_an_earlier_one_but_not_a_text_that_was_edited(
    policies: dict[str, Policy], tmp_path: Path
) -> None:
    policy, out = policies["dpo-soup"], tmp_path / "lora"
    for weight in (0.25, 0.75):
        export(policy, Preference(policy.objectives, (weight, 1 - weight)), out)
    before = (out / "adapter_model.safetensors").read_bytes()
    card = out / "README.md"
    card.write_text(card.read_text() + "\nMeasured on our own questions: good.\n")
    with pytest.raises(
        ModelError, match=r"lora: holds other files \(README\.md as it was edited\), which wo"
    ):
        export(policy, Preference(policy.objectives, (0.5, 0.5)), out)
    assert "our own questions" in card.read_text()
    assert (out / "adapter_model.safetensors").read_bytes() == before
    card.rename(tmp_path / "card.md")
    export(policy, Preference(policy.objectives, (0.5, 0.5)), out)
    assert (out / "adapter_model.safetensors").read_bytes() != before and card.is_file()


def test_a_run_with_several_policies_asks_which(policies: dict[str, Policy], tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="no policy in it"):
        find_policy(tmp_path)
    for name in ("modpo", "panacea"):
        policies[name].save(tmp_path / "policies" / name)
    with pytest.raises(ModelError, match="modpo, panacea; choose one"):
        find_policy(tmp_path)
    with pytest.raises(ModelError, match="no policy 'soup'"):
        find_policy(tmp_path, "soup")
    assert find_policy(find_policy(tmp_path, "panacea")).name == "panacea"
    with pytest.raises(ModelError, match="no update to export"):
        export(Policy.base(policies["modpo"].lm, OBJECTIVES), ASKED, tmp_path / "x")


def test_a_policy_loads_and_is_exported_in_the_number_format_of_its_run(
    policies: dict[str, Policy], tmp_path: Path
) -> None:
    policies["panacea"].save(tmp_path / "p")
    assert load_policy(tmp_path / "p").lm.model.dtype == torch.float32
    assert load_policy(tmp_path / "p", dtype="bfloat16").lm.model.dtype == torch.bfloat16
    export(load_policy(tmp_path / "p"), ASKED, tmp_path / "dense", "dense")
    assert json.loads((tmp_path / "dense/config.json").read_text())["dtype"] == "float32"


def test_exports_name_the_base_model_as_the_hub_does(policies: dict[str, Policy], tmp_path: Path) -> None:
    policy = policies["panacea"]
    embedded = replace(policy, lm=replace(policy.lm, name=EMBEDDED))
    export_grid(embedded, preference_grid(OBJECTIVES, 1), tmp_path / "loras")
    manifest = json.loads((tmp_path / "loras/manifest.json").read_text())
    assert (manifest["base_model"], manifest["model"]) == (EMBEDDED_HUB, EMBEDDED)
    config = json.loads((tmp_path / "loras/short1-good0/adapter_config.json").read_text())
    assert config["base_model_name_or_path"] == EMBEDDED_HUB
    together, _ = exported(tmp_path / "loras")
    assert (together.model, together.base_name) == (EMBEDDED, EMBEDDED_HUB)


def test_a_grid_is_written_whole_or_not_at_all(
    policies: dict[str, Policy], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    grid, written = preference_grid(OBJECTIVES, 3), []

    def fails(*arguments: object) -> None:
        written.append(arguments)
        if len(written) == 3:
            raise KeyboardInterrupt
        to_peft(*arguments)  # type: ignore[arg-type]

    monkeypatch.setattr("paretune.policies.export.to_peft", fails)
    with pytest.raises(KeyboardInterrupt):
        export_grid(policies["panacea"], grid, tmp_path / "loras")
    assert list(tmp_path.iterdir()) == []
    monkeypatch.undo()
    export_grid(policies["panacea"], grid, tmp_path / "loras")
    assert len(list((tmp_path / "loras").iterdir())) == 5
    (tmp_path / "file").write_text("x")
    with pytest.raises(ConfigError, match="file: is a file; give a new folder"):
        export_grid(policies["panacea"], grid, tmp_path / "file")


def test_the_loras_of_a_fine_grid_all_have_names_of_their_own() -> None:
    names = export_names(preference_grid(OBJECTIVES, 2000))
    assert len(set(names.values())) == 2001
    assert export_names([ASKED])[ASKED] == "short0.7-good0.3"
    odd = Preference.of({"a/b": 0.5, "../c": 0.5}, ("a/b", "../c"))
    assert export_names([odd])[odd] == "a_b0.5-.._c0.5"


@pytest.mark.parametrize("name", ["../outside", "/etc", "..", "a/b", "", "a\\b"])
def test_a_manifest_names_no_folder_elsewhere(policies: dict[str, Policy], tmp_path: Path, name: str) -> None:
    export_grid(policies["panacea"], preference_grid(OBJECTIVES, 1), tmp_path / "loras")
    file = tmp_path / "loras/manifest.json"
    manifest = json.loads(file.read_text())
    manifest["adapters"] = {name: next(iter(manifest["adapters"].values()))}
    file.write_text(json.dumps(manifest))
    with pytest.raises(
        ModelError, match=r"manifest\.json: the LoRA .*the name of a folder; choose another name"
    ):
        exported(tmp_path / "loras")
