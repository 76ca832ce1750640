"""Quantised base models: what bitsandbytes holds is what is computed with, and what cannot be loaded is refused in one message."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch
from safetensors.torch import load_file, save_file

from paretune.core.errors import ModelError
from paretune.models import packing
from paretune.models.language_model import LanguageModel, load
from paretune.models.packing import pack, packed_logps, prepare
from paretune.models.quantised import QuantisedLinear, dequantised, is_quantised
from paretune.models.steering import Steering
from support.random_models import random_adapter
from support.tiny import make_tiny_llama
from support.world import write_model

bitsandbytes = pytest.importorskip("bitsandbytes")

GROUPS = [([1, 5, 7, 9], [[3, 4, 2], [8, 6, 11, 2]]), ([1, 4], [[9, 2], [7, 7, 2]])]
TARGETS = ["q_proj", "v_proj", "down_proj"]


@pytest.fixture(scope="module")
def folder(tmp_path_factory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module", params=["nf4", "int8"])
def quantised(request, folder: Path) -> LanguageModel:
    return load(str(folder), "float32", "cpu", quantization=request.param)


def dense_twin(lm: LanguageModel) -> torch.nn.Module:
    """A plain model with the dequantised weights."""
    twin = make_tiny_llama(vocab_size=lm.model.config.vocab_size)
    with dequantised(lm.model):
        twin.load_state_dict(lm.model.state_dict())
    twin.requires_grad_(False)
    prepare(twin)
    return twin


def layers(model: torch.nn.Module) -> dict[str, QuantisedLinear]:
    return {path: module for path, module in model.named_modules() if isinstance(module, QuantisedLinear)}


def test_all_matrices_of_the_layers_are_held_in_few_bits_and_near_the_model(
    quantised: LanguageModel, folder: Path
) -> None:
    held = layers(quantised.model)
    assert len(held) == 14 and {layer.quantization for layer in held.values()} == {quantised.quantization}
    plain = load_file(folder / "model.safetensors")
    # NF4's largest gap between levels is 0.28 of a block's largest number, int8's 1/127 of a row's.
    share = 0.15 if quantised.quantization == "nf4" else 0.005
    for path, layer in held.items():
        weight = plain[f"{path}.weight"]
        assert layer.weight.element_size() == 1 and layer.weight.numel() in (
            weight.numel() // 2,
            weight.numel(),
        )
        assert (layer.dense(torch.float32) - weight).abs().max() <= share * weight.abs().max()
        assert not torch.equal(layer.dense(torch.float32), weight)


def test_products_are_those_of_bitsandbytes_in_training(quantised: LanguageModel) -> None:
    layer = quantised.model.model.layers[0].mlp.up_proj  # of 64 inputs: bitsandbytes' blocks end with rows
    x = torch.randn(1, 20, 64, generator=torch.Generator().manual_seed(0), requires_grad=True)
    mine = layer(x)
    if layer.quantization == "nf4":
        theirs = bitsandbytes.matmul_4bit(x, layer.weight, quant_state=layer.weight.quant_state)
    else:
        state = bitsandbytes.MatmulLtState()
        state.is_training = True
        state.CB, state.SCB, state.has_fp16_weights = layer.weight.data, layer._scales, False
        theirs = bitsandbytes.matmul(x, layer.weight, state=state)
    torch.testing.assert_close(mine, theirs)
    dy = torch.randn(mine.shape, generator=torch.Generator().manual_seed(1))
    for one, other in zip(torch.autograd.grad(mine, x, dy), torch.autograd.grad(theirs, x, dy), strict=True):
        torch.testing.assert_close(one, other)


def test_values_and_gradients_are_those_of_the_dequantised_model(quantised: LanguageModel) -> None:
    results = []
    for model in (quantised.model, dense_twin(quantised)):
        adapter = random_adapter(model, targets=TARGETS)
        steering = Steering.attach_adapter(model, adapter, trainable=True)
        with steering.at(adapter.gates()):
            logps = packed_logps(model, pack(GROUPS))
            logps.sum().backward()
        results.append((logps.detach(), [p.grad for p in steering.parameters()]))
        steering.detach()
    (mine, gradients), (theirs, expected) = results
    torch.testing.assert_close(mine, theirs)
    for one, other in zip(gradients, expected, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)


@contextmanager
def swapped_layers(model: torch.nn.Module) -> Iterator[None]:
    layers = model.model.layers
    layers[0], layers[1] = layers[1], layers[0]
    yield
    layers[0], layers[1] = layers[1], layers[0]


@contextmanager
def another_rotary_base(model: torch.nn.Module) -> Iterator[None]:
    rotary = model.model.rotary_emb
    kept = rotary.inv_freq
    rotary.inv_freq = kept**1.02  # a base of 12 000 in place of 10 000
    yield
    rotary.inv_freq = kept


@contextmanager
def another_scale(model: torch.nn.Module) -> Iterator[None]:
    """One matrix of the first layer is a tenth larger."""
    layer = model.model.layers[0].self_attn.v_proj
    whole = layer.dense
    layer.dense = lambda kind: 1.1 * whole(kind)
    yield
    del layer.dense


@contextmanager
def a_matrix_left_out(model: torch.nn.Module) -> Iterator[None]:
    layer = model.model.layers[1].mlp.down_proj
    layer.product = lambda x: x.new_zeros(*x.shape[:-1], layer.out_features)
    yield
    del layer.product


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
@pytest.mark.parametrize("quantization", ["nf4", "int8"])
@pytest.mark.parametrize("wrong", [swapped_layers, another_rotary_base, another_scale, a_matrix_left_out])
def test_the_proof_of_a_quantised_model_sees_small_mistakes_of_packed_batches(
    folder: Path, quantization: str, dtype: str, wrong, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The proof is as strict as that of a model in float32: matrices are dequantised to what they multiply."""
    right = packing.packed_states

    def mistaken(model: torch.nn.Module, batch: packing.PackedBatch) -> torch.Tensor:
        with wrong(model):
            return right(model, batch)

    monkeypatch.setattr(packing, "packed_states", mistaken)
    with pytest.raises(
        ModelError, match=r"computes other log-probabilities in a packed batch .*allowed 0\.0001"
    ):
        load(str(folder), dtype, "cpu", quantization=quantization)


def test_text_is_read_alike_with_gradients_and_without(quantised: LanguageModel) -> None:
    """bitsandbytes' own layers change their weights to another layout, of fewer bits, at the first pass without gradients."""
    batch = pack(GROUPS)
    with torch.no_grad():
        before = packed_logps(quantised.model, batch)
        assert torch.equal(packed_logps(quantised.model, batch), before)
    steering = Steering.attach(quantised.model, TARGETS, 2)
    try:
        with steering.at(torch.ones(2)):
            torch.testing.assert_close(packed_logps(quantised.model, batch).detach(), before)
    finally:
        steering.detach()


def test_a_model_quantised_by_its_owner_trains_too() -> None:
    """An update was added in place on a view of what bitsandbytes returned, which autograd refuses."""
    model = make_tiny_llama()
    layer = bitsandbytes.nn.Linear4bit(64, 64, bias=False, compute_dtype=torch.float32, quant_type="nf4")
    layer.weight = bitsandbytes.nn.Params4bit(
        model.model.layers[0].self_attn.q_proj.weight.data,
        requires_grad=False,
        quant_type="nf4",
        module=layer,
    ).to("cpu")
    model.model.layers[0].self_attn.q_proj = layer
    steering = Steering.attach(model.train(), ["q_proj"], 2)
    with steering.at(torch.ones(2)):
        model(input_ids=torch.tensor([[1, 2, 3]])).logits.sum().backward()
    assert all(torch.isfinite(p.grad).all() for p in steering.parameters())


def test_fingerprints_differ_by_quantisation_and_not_by_place(folder: Path, tmp_path: Path) -> None:
    plain = load(str(folder), "float32", "cpu")
    one = load(str(folder), "float32", "cpu", quantization="nf4")
    other = load(str(write_model(tmp_path / "again")), "float32", "cpu", quantization="nf4")
    assert one.fingerprint == other.fingerprint != plain.fingerprint
    assert one.fingerprints_in("none") == plain.fingerprints and plain.quantization == "none"
    assert one.origin.weights == plain.origin.weights


@pytest.mark.parametrize("how", ["nf4", "int8"])
def test_a_folder_that_was_saved_quantised_loads_as_it_is(folder: Path, tmp_path: Path, how: str) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

    four = how == "nf4"
    settings = BitsAndBytesConfig(
        load_in_4bit=four,
        load_in_8bit=not four,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    saved = AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=settings, device_map={"": "cpu"}, dtype=torch.float32
    )
    saved.save_pretrained(tmp_path / how)
    AutoTokenizer.from_pretrained(folder).save_pretrained(tmp_path / how)
    lm = load(str(tmp_path / how), "float32", "cpu")
    assert lm.quantization == how and len(layers(lm.model)) == 14
    assert load(str(tmp_path / how), "float32", "cpu", quantization=how).fingerprint == lm.fingerprint
    here = load(str(folder), "float32", "cpu", quantization=how)
    with torch.no_grad():
        torch.testing.assert_close(
            packed_logps(lm.model, pack(GROUPS)), packed_logps(here.model, pack(GROUPS)), atol=0.02, rtol=0.01
        )
    other = "int8" if four else "nf4"
    for asked in ("none", other):
        with pytest.raises(ModelError, match=f"is saved in {how} and cannot become {asked}"):
            load(str(tmp_path / how), "float32", "cpu", quantization=asked)


def saved_with(folder: Path, place: Path, skipped: list[str]) -> Path:
    from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig

    settings = BitsAndBytesConfig(
        load_in_4bit=True, bnb_4bit_quant_type="nf4", llm_int8_skip_modules=[*skipped, "lm_head"]
    )
    saved = AutoModelForCausalLM.from_pretrained(
        folder, quantization_config=settings, device_map={"": "cpu"}, dtype=torch.float32
    )
    saved.save_pretrained(place)
    AutoTokenizer.from_pretrained(folder).save_pretrained(place)
    return place


def test_a_model_of_which_little_is_quantised_is_told_apart(
    folder: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    load(str(folder), "float32", "cpu", quantization="nf4")
    assert not caplog.records
    attention = [f"{name}_proj" for name in "qkvo"]
    lm = load(
        str(saved_with(folder, tmp_path / "part", [*attention, "up_proj", "gate_proj"])), "float32", "cpu"
    )
    assert len(layers(lm.model)) == 2
    # Of a block 64 x 64 twice, 32 x 64 twice and 96 x 64 three times, of which one; and the norms.
    assert "20 % of the numbers in its blocks are quantised" in caplog.text
    every = [*attention, "up_proj", "gate_proj", "down_proj"]
    with pytest.raises(ModelError, match="has no linear layer that bitsandbytes quantises"):
        load(str(saved_with(folder, tmp_path / "none", every)), "float32", "cpu")


def test_what_cannot_be_loaded_is_one_message(folder: Path, tmp_path: Path, monkeypatch) -> None:
    with pytest.raises(ModelError, match="quantization 'int4' is not known; did you mean 'int8'"):
        load(str(folder), "float32", "cpu", quantization="int4")
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(ModelError, match=r"pip install 'paretune\[quantization\]'"):
        load(str(folder), "float32", "cpu", quantization="nf4")


@pytest.mark.parametrize("asked", ["auto", "none", "nf4"])
@pytest.mark.parametrize(
    "stated",
    [
        {"quant_method": "gptq", "bits": 4, "group_size": 128, "desc_act": False, "sym": True},
        {"quant_method": "awq", "bits": 4, "group_size": 128, "version": "gemm", "zero_point": True},
        {"quant_method": "compressed-tensors", "format": "pack-quantized"},
        {"quant_method": "fp8", "activation_scheme": "dynamic"},
        {"quant_method": "mxfp4"},
    ],
    ids=lambda stated: stated["quant_method"],
)
def test_folders_that_others_quantised_are_one_message(stated: dict, asked: str, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "tiny")
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps({**config, "quantization_config": stated}))
    expected = (
        rf"quantised \({stated['quant_method']}\).*bitsandbytes saved in nf4 or int8.*quantization: nf4"
    )
    with pytest.raises(ModelError, match=expected) as refused:
        load(str(folder), "float32", "cpu", quantization=asked)
    assert "\n" not in str(refused.value)


def test_numbers_that_are_not_finite_are_refused_before_they_are_quantised(tmp_path: Path) -> None:
    folder = write_model(tmp_path / "tiny")
    tensors = load_file(folder / "model.safetensors")
    name = "model.layers.1.mlp.down_proj.weight"
    tensors[name][3, 5] = float("nan")
    save_file(tensors, folder / "model.safetensors", {"format": "pt"})
    with pytest.raises(ModelError, match=f"{name} holds numbers that are NaN"):
        load(str(folder), "float32", "cpu", quantization="nf4")


def test_a_dense_copy_is_refused_or_dequantised(quantised: LanguageModel, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    model = quantised.model
    adapter = random_adapter(model, targets=TARGETS)
    steering = Steering.attach_adapter(model, adapter)
    ids = torch.tensor([[1, 5, 7, 9]])
    try:
        with pytest.raises(ModelError, match="--dequantize"):
            steering.save_dense(tmp_path / "dense", adapter.gates())
        assert not (tmp_path / "dense").exists()
        steering.save_dense(tmp_path / "dense", adapter.gates(), dequantise=True)
        with steering.at(adapter.gates()), torch.no_grad():
            expected = model(input_ids=ids).logits
    finally:
        steering.detach()
    assert is_quantised(model) and model.config.quantization_config is not None
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "dense", dtype=torch.float32)
    assert not hasattr(plain.config, "quantization_config")
    with torch.no_grad():
        torch.testing.assert_close(plain(input_ids=ids).logits, expected, rtol=1e-4, atol=1e-4)
