"""GGUF blocks read back and added at their scales are the policy, in transformers' own order of rows; and what is refused."""

from __future__ import annotations

import json
from collections import Counter
from pathlib import Path

import numpy as np
import pytest
import torch
from transformers import AutoConfig, AutoModelForCausalLM
from transformers.modeling_gguf_pytorch_utils import LlamaTensorProcessor

from paretune.core.errors import ModelError
from paretune.core.preference import Preference, preference_grid
from paretune.methods import dpo, modpo, panacea
from paretune.methods.base import DPOConfig, Inputs
from paretune.methods.modpo import MODPOConfig
from paretune.methods.panacea import PanaceaConfig
from paretune.models.gguf_lora import paired_rows
from paretune.models.language_model import LanguageModel, load
from paretune.policies.catalogue import exported_blocks
from paretune.policies.gguf_export import Blocks, export_at, export_blocks
from paretune.policies.policy import Policy
from paretune.training.lab import Lab
from support import records
from support.adapters import TRAINING, random_adapter
from support.tiny_models import piece_tokenizer, write_random
from support.world import make_dataset

gguf = pytest.importorskip("gguf")

OBJECTIVES = ("short", "good")
IDS = torch.tensor([[3, 7, 9, 11, 4, 6]])


@pytest.fixture(scope="module")
def policies(lm: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Policy]:
    lab, data = Lab(lm, tmp_path_factory.mktemp("lab"), TRAINING), (make_dataset(), make_dataset(4, seed=9))
    inputs = Inputs(lab, *data)
    grid = Inputs(lab, *data, preference_grid(OBJECTIVES, 2))
    rates = {"rate_factor": 20.0, "gate_rate_factor": 5.0}
    return {
        "dpo-soup": dpo.train(inputs, DPOConfig()),
        "modpo": modpo.train(grid, MODPOConfig()),
        "between": modpo.train(grid, MODPOConfig(between="soup")),
        "panacea": panacea.train(inputs, PanaceaConfig(rank=3, **rates)),
        "panacea-learned": panacea.train(inputs, PanaceaConfig(rank=3, hidden=2, **rates)),
    }


def update_of(file: Path, lm: LanguageModel) -> dict[str, np.ndarray]:
    """Return the update of each layer in a GGUF LoRA as llama.cpp adds it at scale 1, in transformers' order of rows."""
    reader = gguf.GGUFReader(file)
    alpha = float(reader.fields["adapter.lora.alpha"].parts[-1][0])
    tensors = {tensor.name: np.array(tensor.data) for tensor in reader.tensors}
    assert bytes(reader.fields["general.type"].parts[-1]) == b"adapter"
    assert bytes(reader.fields["adapter.type"].parts[-1]) == b"lora"
    assert bytes(reader.fields["general.architecture"].parts[-1]) == b"llama"
    config = lm.model.config
    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config.num_hidden_layers)
    back = LlamaTensorProcessor(config=config.to_dict())
    found = {}
    for path, module in lm.model.named_modules():
        there = names.get_name(f"{path}.weight", try_suffixes=(".weight",)) if path else None
        if there is None or f"{there}.lora_a" not in tensors:
            continue
        A, B = tensors[f"{there}.lora_a"], tensors[f"{there}.lora_b"]
        delta = alpha / A.shape[0] * (B @ A)
        if path.endswith("q_proj"):
            delta = back._reverse_permute_weights(
                delta, config.num_attention_heads, config.num_attention_heads
            )
        if path.endswith("k_proj"):
            delta = back._reverse_permute_weights(
                delta, config.num_attention_heads, config.num_key_value_heads
            )
        assert delta.shape == (module.out_features, module.in_features)
        found[path] = delta
    assert len(found) * 2 == len(tensors)
    return found


@torch.no_grad()
def logits_with(lm: LanguageModel, updates: list[tuple[float, dict[str, np.ndarray]]]) -> torch.Tensor:
    model = AutoModelForCausalLM.from_pretrained(lm.name, dtype=torch.float32)
    for scale, update in updates:
        for path, delta in update.items():
            model.get_submodule(path).weight += torch.from_numpy(scale * delta).float()
    return model(input_ids=IDS).logits[0].log_softmax(-1)


@pytest.mark.parametrize("name", ["dpo-soup", "modpo", "between", "panacea", "panacea-learned"])
@pytest.mark.slow
def test_the_blocks_at_three_scales_are_the_policy(
    policies: dict[str, Policy], name: str, lm: LanguageModel, tmp_path: Path
) -> None:
    policy = policies[name]
    names = export_blocks(policy, tmp_path / "blocks")
    blocks = Blocks.read(tmp_path / "blocks")
    assert blocks.names == names
    updates = [update_of(tmp_path / "blocks" / f"{each}.gguf", lm) for each in names]
    plain = logits_with(lm, [])
    for weight in (1.0, 0.3, 0.62):
        preference = Preference.parse(f"short={weight},good={1 - weight:.2f}")
        scales = blocks.scales(preference)
        made = logits_with(lm, list(zip(scales, updates, strict=True)))
        (used,) = policy.used([preference])
        own = policy.distribution(IDS[0, :-1].tolist(), [5], used)[-1]
        torch.testing.assert_close(made[-2], own, atol=2e-5, rtol=1e-5)
        assert not torch.allclose(plain[-2], own, atol=1e-3), "the update is one that can be seen"


@pytest.mark.slow
def test_scales_of_a_soup_are_its_weights_times_the_scale_of_each_update(
    policies: dict[str, Policy], tmp_path: Path
) -> None:
    soup = policies["dpo-soup"]
    export_blocks(soup, tmp_path / "blocks")
    blocks = Blocks.read(tmp_path / "blocks")
    assert blocks.names == ("dpo-soup-short", "dpo-soup-good")
    expected = [0.7 * soup.adapters[0].scale, 0.3 * soup.adapters[1].scale]
    assert blocks.scales(Preference.parse("good=0.3,short=0.7")) == pytest.approx(expected)


def test_blocks_of_panacea_are_named_for_what_they_are(policies: dict[str, Policy], tmp_path: Path) -> None:
    names = export_blocks(policies["panacea-learned"], tmp_path / "blocks")
    assert [name.removeprefix("panacea-") for name in names] == [
        "shared",
        "short",
        "good",
        "feature-0",
        "feature-1",
    ]


@pytest.mark.parametrize("name", ["dpo-soup", "modpo", "panacea-learned"])
def test_one_lora_at_one_preference(
    policies: dict[str, Policy], name: str, lm: LanguageModel, tmp_path: Path
) -> None:
    preference = Preference.parse("short=0.4,good=0.6")
    used = export_at(policies[name], preference, tmp_path / "one")
    assert used == policies[name].used([preference])[0]
    made = logits_with(lm, [(1.0, update_of(tmp_path / "one" / f"{policies[name].name}.gguf", lm))])
    own = policies[name].distribution(IDS[0, :-1].tolist(), [5], used)[-1]
    torch.testing.assert_close(made[-2], own, atol=2e-5, rtol=1e-5)


def test_rows_of_rotated_layers_are_paired_and_transformers_undoes_it() -> None:
    matrix = np.arange(16 * 3, dtype=np.float32).reshape(16, 3)
    paired = paired_rows(matrix, 2)
    assert paired[:4, 0].tolist() == [matrix[0, 0], matrix[4, 0], matrix[1, 0], matrix[5, 0]]
    back = LlamaTensorProcessor(config={})._reverse_permute_weights(paired, 2, 2)
    np.testing.assert_array_equal(back, matrix)


def test_the_front_and_the_kind_of_policy_go_along(policies: dict[str, Policy], tmp_path: Path) -> None:
    points = [records.point({"short": w, "good": 1 - w}, [w, 1 - w], [0, 0], [1, 1]) for w in (0.0, 1.0)]
    (tmp_path / "front.json").write_text(
        json.dumps(records.record(OBJECTIVES, [records.policy("dpo-soup", points)]))
    )
    export_blocks(policies["dpo-soup"], tmp_path / "blocks", tmp_path / "front.json")
    source = exported_blocks(tmp_path / "blocks")
    assert source.name == "dpo-soup" and source.surface is not None and source.anchors == ()
    export_blocks(policies["modpo"], tmp_path / "anchors")
    assert len(exported_blocks(tmp_path / "anchors").anchors) == 3


def test_a_folder_is_replaced_only_where_an_export_wrote_it(
    policies: dict[str, Policy], tmp_path: Path
) -> None:
    export_blocks(policies["dpo-soup"], tmp_path / "blocks")
    export_blocks(policies["panacea"], tmp_path / "blocks")
    assert "panacea" in Blocks.read(tmp_path / "blocks").names[0]
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "notes.txt").write_text("kept")
    with pytest.raises(ModelError, match="would be lost"):
        export_blocks(policies["panacea"], tmp_path / "mine")
    assert (tmp_path / "mine" / "notes.txt").read_text() == "kept"


def test_what_is_no_sum_of_blocks_is_refused(
    policies: dict[str, Policy], lm: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    soup = policies["dpo-soup"]
    with pytest.raises(ModelError, match=r"mixes next-token distributions|no single"):
        export_blocks(Policy.mod("mod", lm, OBJECTIVES, soup.adapters), tmp_path / "no")
    with pytest.raises(ModelError, match=r"is of the type WordLevel, .* convert_hf_to_gguf\.py"):
        export_blocks(soup, tmp_path / "no", base="copy")
    other = AutoConfig.from_pretrained(lm.name)
    other.model_type = "mamba"
    monkeypatch.setattr(lm.model, "config", other)
    with pytest.raises(ModelError, match="'mamba' is not written as GGUF here"):
        export_blocks(soup, tmp_path / "no")
    assert not (tmp_path / "no").exists()


def test_the_base_model_goes_along(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = write_random(
        tmp_path / "model", "mistral", piece_tokenizer("first"), padded=2, sliding_window=100
    )
    model = load(str(folder), "float32", "cpu")
    soup = Policy.soup("soup", model, OBJECTIVES, [random_adapter(model, seed) for seed in (0, 1)])
    export_blocks(soup, tmp_path / "blocks", base="copy")
    export_at(soup, Preference.parse("short=0.4,good=0.6"), tmp_path / "one", "q8_0")
    told = {
        name: Counter(
            tensor.tensor_type.name for tensor in gguf.GGUFReader(tmp_path / name / "base.gguf").tensors
        )
        for name in ("blocks", "one")
    }
    assert set(told["blocks"]) == {"F32"}, "as it is held"
    assert set(told["one"]) == {"F32", "Q8_0"}
    assert "states 100 positions" in caplog.text and "one space more or less" in caplog.text


def test_damaged_lists_are_one_message(policies: dict[str, Policy], tmp_path: Path) -> None:
    export_blocks(policies["dpo-soup"], tmp_path / "blocks")
    file = tmp_path / "blocks/blocks.json"
    whole = json.loads(file.read_text())
    for damaged in (
        "{",
        "[]",
        json.dumps({**whole, "blocks": []}),
        json.dumps({**whole, "blocks": whole["blocks"][:1]}),
    ):
        file.write_text(damaged)
        with pytest.raises(Exception, match=r"blocks\.json") as caught:
            Blocks.read(tmp_path / "blocks")
        assert isinstance(caught.value, ModelError) or "blocks.json" in str(caught.value)
