"""Policies as PEFT LoRAs and dense checkpoints: others compute what the policy computes."""

from __future__ import annotations

import json
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
from paretune.models.adapter import stack
from paretune.models.language_model import LanguageModel
from paretune.policies.catalogue import find_policy
from paretune.policies.export import export, export_grid
from paretune.policies.policy import Policy
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
def test_peft_and_transformers_compute_the_policy(
    policies: dict[str, Policy], name: str, tmp_path: Path
) -> None:
    peft = pytest.importorskip("peft")
    policy = policies[name]
    logits = expected(policy, ASKED)
    used = export(policy, ASKED, tmp_path / "lora")
    assert export(policy, ASKED, tmp_path / "dense", "dense") == used
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
