"""Adapters are what they say: other numbers than finite ones in float32 are refused, and so are numbers that changed."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from paretune.core.errors import ModelError
from paretune.models.adapter import Adapter, from_peft, load_any, to_peft
from support.random_models import random_adapter
from support.tiny import make_tiny_llama

CHANGES: dict[str, tuple[Callable[[torch.Tensor], torch.Tensor], str]] = {
    "NaN": (lambda x: x.index_fill(0, torch.tensor([0]), float("nan")), "NaN or infinite"),
    "inf": (lambda x: x.index_fill(0, torch.tensor([0]), float("-inf")), "NaN or infinite"),
    "float64": (lambda x: x.double(), "number format F64, expected .*F32; save it again in float32"),
    "int8": (lambda x: (x * 10).to(torch.int8), "number format I8"),
    "bool": (lambda x: x > 0, "number format BOOL"),
}


def changed(file: Path, change: Callable[[torch.Tensor], torch.Tensor]) -> None:
    tensors = load_file(file)
    name = sorted(tensors)[0]
    save_file(tensors | {name: change(tensors[name]).contiguous()}, file)


@pytest.mark.parametrize("kind", CHANGES)
def test_numbers_that_no_adapter_has_are_refused_with_tensor_and_file(tmp_path: Path, kind: str) -> None:
    adapter = random_adapter(make_tiny_llama())
    adapter.save(tmp_path / "own")
    to_peft(adapter, tmp_path / "lora")
    change, message = CHANGES[kind]
    for file in (tmp_path / "own/adapter.safetensors", tmp_path / "lora/adapter_model.safetensors"):
        changed(file, change)
        with pytest.raises(ModelError, match=f"{file.name}: .*{message}"):
            load_any(file.parent)


def test_a_flipped_bit_is_named(tmp_path: Path) -> None:
    adapter = random_adapter(make_tiny_llama())
    adapter.save(tmp_path / "a")
    file = tmp_path / "a/adapter.safetensors"
    raw = bytearray(file.read_bytes())
    raw[-5] ^= 1
    file.write_bytes(raw)
    with pytest.raises(ModelError, match=r"adapter.safetensors: its numbers are not those that were saved"):
        Adapter.load(tmp_path / "a")


def test_an_adapter_of_version_0_1_has_no_fingerprint_and_is_read(tmp_path: Path) -> None:
    adapter = random_adapter(make_tiny_llama())
    adapter.save(tmp_path / "a")
    file = tmp_path / "a/adapter.json"
    values = json.loads(file.read_text())
    del values["fingerprint"]
    file.write_text(json.dumps(values))
    assert Adapter.load(tmp_path / "a").fingerprint == adapter.fingerprint


@pytest.mark.parametrize(
    "values",
    [
        {"scale": "x"},
        {"blocks": [[4]]},
        {"blocks": None},
        {"blocks": [["4", "nan"]]},
        {"info": None},
        {"scale": 1e400, "blocks": []},
    ],
)
def test_settings_that_no_adapter_has_are_refused(tmp_path: Path, values: dict[str, object]) -> None:
    random_adapter(make_tiny_llama()).save(tmp_path / "a")
    file = tmp_path / "a/adapter.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))
    with pytest.raises(
        ModelError, match=r"copy or save the adapter again|expected finite numbers|no JSON number"
    ):
        Adapter.load(tmp_path / "a")


@pytest.mark.parametrize(
    "values",
    [
        {"r": 0},
        {"r": "4"},
        {"lora_alpha": float("nan")},
        {"alpha_pattern": {"q_proj": None}},
        {"rank_pattern": [4]},
    ],
)
def test_settings_that_no_lora_has_are_refused(tmp_path: Path, values: dict[str, object]) -> None:
    to_peft(random_adapter(make_tiny_llama()), tmp_path / "lora")
    file = tmp_path / "lora/adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))
    with pytest.raises(
        ModelError, match=r"save the adapter again with PEFT|save it again with PEFT|no JSON number"
    ):
        from_peft(tmp_path / "lora")


def test_a_pointer_of_git_lfs_is_no_damage(tmp_path: Path) -> None:
    random_adapter(make_tiny_llama()).save(tmp_path / "a")
    (tmp_path / "a/adapter.safetensors").write_bytes(b"version https://git-lfs.github.com/spec/v1\n")
    with pytest.raises(ModelError, match=r"adapter.safetensors: is a pointer of git-lfs"):
        Adapter.load(tmp_path / "a")


@pytest.mark.parametrize(
    ("values", "message"),
    [
        ({"rank_pattern": {"q_proj(": 4}}, r"rank_pattern: 'q_proj\(' is no regular expression"),
        ({"alpha_pattern": {"*q_proj": 4}}, r"alpha_pattern: '\*q_proj' is no regular expression"),
        (
            {"lora_alpha": 1e-300, "alpha_pattern": {"q_proj": 1e308}},
            "lora_B at its scale holds numbers that are NaN",
        ),
        ({"lora_alpha": 1e40}, "expected finite numbers in float32"),
    ],
)
def test_scales_that_no_lora_has_are_refused(tmp_path: Path, values: dict[str, object], message: str) -> None:
    to_peft(random_adapter(make_tiny_llama()), tmp_path / "lora")
    file = tmp_path / "lora/adapter_config.json"
    file.write_text(json.dumps(json.loads(file.read_text()) | values))
    with pytest.raises(ModelError, match=message):
        from_peft(tmp_path / "lora")


def test_modules_that_are_switched_off_stay_off_beside_others(tmp_path: Path) -> None:
    """alpha 0 for most modules, and 8 for one of rank 4: an update of zeros, and one of scale 2."""
    whole = random_adapter(make_tiny_llama())
    to_peft(whole, tmp_path / "lora")
    file = tmp_path / "lora/adapter_config.json"
    values = json.loads(file.read_text())
    alpha = 2 * values["r"]
    file.write_text(json.dumps(values | {"lora_alpha": 0, "alpha_pattern": {"q_proj": alpha}}))
    read = from_peft(tmp_path / "lora")
    for path, (U, V) in read.factors.items():
        update = read.scale * U @ V
        first, second = (
            load_file(tmp_path / "lora/adapter_model.safetensors"),
            f"base_model.model.{path}.lora_",
        )
        expected = 2 * first[f"{second}B.weight"] @ first[f"{second}A.weight"]
        torch.testing.assert_close(update, expected if path.endswith("q_proj") else torch.zeros_like(update))
