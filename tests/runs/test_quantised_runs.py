"""Whole runs on a base model in 4 or 8 bits: trained, resumed bit for bit, measured, loaded elsewhere, exported."""

from __future__ import annotations

import json
import logging
import shutil
import signal
from pathlib import Path

import pytest
import torch

from paretune.core.errors import ConfigError, ModelError
from paretune.core.preference import Preference
from paretune.core.sampling import Sampling
from paretune.data.rows import Message
from paretune.models.adapter import Adapter
from paretune.models.language_model import load
from paretune.policies.export import export, export_grid
from paretune.policies.policy_file import BaseChoice
from paretune.policies.saving import load_policy
from paretune.runs.config import RunConfig
from paretune.runs.parse import parse_config
from paretune.runs.run import run
from paretune.serving.config import ServeConfig
from paretune.serving.local import LocalBackend
from support.adapters import adapters_equal
from support.command import call
from support.kills import killed
from support.world import make_dataset, write_model

pytest.importorskip("bitsandbytes")

HALF = Preference.parse("short=0.5,good=0.5")
FLOAT = {"dtype": "float32", "device": "cpu"}
PANACEA = {"beta": 0.5, "rank": 2, "groups": 2}


def config_of(folder: Path, model: Path, **changes: object) -> RunConfig:
    folder.mkdir(exist_ok=True)
    make_dataset(40).select([]).write(folder / "data.jsonl")
    values = {
        "folder": str(folder / "run"),
        "model": str(model),
        "quantization": "nf4",
        **FLOAT,
        "data": {"source": str(folder / "data.jsonl")},
        "score": [
            {"objective": "short", "rule": "length", "unit": "words", "direction": "lower"},
            {"objective": "good", "rule": "regex", "pattern": "good", "how": "count"},
        ],
        "methods": {"dpo-soup": {"beta": 0.5}, "panacea": PANACEA},
        "preferences": 3,
        "train": {"steps": 6, "batch_pairs": 2, "rank": 4, "learning_rate": 1e-2, "checkpoint_every": 2},
        "sampling": {"max_new_tokens": 6, "batch_size": 64},
        "evaluate": {"samples": 2, "preferences": 3, "resamples": 50},
    }
    return parse_config({**values, **changes})


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture(scope="module")
def finished(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run on the model in NF4."""
    return run(config_of(tmp_path_factory.mktemp("whole") / "a", model)).parent


def answer(policy) -> str:
    return policy.generate([(Message("user", "good red moon"),)], [HALF], Sampling(8, 0.0, 1.0), [0])[0].text


@pytest.mark.slow
def test_a_run_in_4_bits_trains_and_is_measured(finished: Path, model: Path) -> None:
    front = json.loads((finished / "front.json").read_text())
    assert {policy["name"] for policy in front["policies"]} >= {"dpo-soup", "panacea"}
    history = json.loads((finished / "adapters/dpo-good/history.json").read_text())
    assert history[-1]["loss"] < history[0]["loss"]
    facts = json.loads((finished / "policies/panacea/policy.json").read_text())
    assert facts["quantization"] == "nf4" and facts["dtype"] == "float32"
    lm = load(str(model), "float32", "cpu", quantization="nf4")
    assert facts["base"] == lm.fingerprint and facts["weights"] == load(str(model), **FLOAT).origin.weights
    assert Adapter.load(finished / "adapters/dpo-good/adapter").info["quantization"] == "nf4"


@pytest.mark.slow
def test_a_killed_run_in_4_bits_ends_with_the_same_weights(
    finished: Path, model: Path, tmp_path: Path
) -> None:
    config = config_of(tmp_path / "b", model)
    assert killed(5, lambda: run(config)) == -signal.SIGKILL
    assert list((tmp_path / "b/run/checkpoints").glob("*.safetensors"))
    run(config)
    names = [file.name for file in (finished / "adapters").iterdir()]
    assert len(names) >= 3
    for name in names:
        one, other = (
            Adapter.load(place / "adapters" / name / "adapter") for place in (finished, tmp_path / "b/run")
        )
        assert adapters_equal(one, other)


@pytest.mark.slow
def test_another_quantisation_trains_another_model(finished: Path, model: Path, tmp_path: Path) -> None:
    shutil.copytree(finished, tmp_path / "c/run")
    run(config_of(tmp_path / "c", model, quantization="int8", methods={"dpo-soup": {"beta": 0.5}}))
    one, other = (
        Adapter.load(place / "adapters/dpo-good/adapter") for place in (finished, tmp_path / "c/run")
    )
    assert not adapters_equal(one, other) and other.info["quantization"] == "int8"


def test_a_policy_is_loaded_as_it_was_trained_or_the_difference_is_named(
    finished: Path, model: Path, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    policy = load_policy(finished / "policies/dpo-soup", device="cpu")
    assert policy.lm.quantization == "nf4" and not caplog.records
    elsewhere = tmp_path / "elsewhere"
    shutil.copytree(model, elsewhere)
    travelled = load_policy(finished / "policies/dpo-soup", model=str(elsewhere), device="cpu")
    assert answer(travelled) == answer(policy) and not caplog.records
    with caplog.at_level(logging.WARNING):
        dense = load_policy(finished / "policies/dpo-soup", device="cpu", quantization="none")
    assert dense.lm.quantization == "none"
    assert (
        "was trained and measured on" in caplog.text
        and "with quantization nf4, and it is loaded with none" in caplog.text
    )
    with pytest.raises(ModelError, match="quantization 'nf5' is not known"):
        load_policy(finished / "policies/dpo-soup", device="cpu", quantization="nf5")
    lm = load(str(model), **FLOAT)
    with pytest.raises(
        ModelError, match=r"was trained on .*tiny with quantization: nf4, and the model is held in none"
    ):
        lm.own(Adapter.load(finished / "adapters/dpo-good/adapter"))


def test_a_server_holds_the_base_model_as_the_run_did(finished: Path) -> None:
    assert LocalBackend.of(finished, ServeConfig()).quantization == "nf4"
    assert LocalBackend.of(finished, ServeConfig(), BaseChoice(quantization="none")).quantization == "none"
    file = finished / "policies/panacea/policy.json"
    before = file.read_text()
    file.write_text(before.replace('"nf4"', '"int8"'))
    try:
        with pytest.raises(
            ModelError, match=r"quantisations int8, nf4 of the base model; choose one with --quant"
        ):
            LocalBackend.of(finished, ServeConfig())
    finally:
        file.write_text(before)


def test_exports_say_how_the_base_was_held(finished: Path, tmp_path: Path) -> None:
    from transformers import AutoModelForCausalLM

    policy = load_policy(finished / "policies/panacea", device="cpu")
    assert export_grid(policy, [HALF], tmp_path / "grid")["quantization"] == "nf4"
    export(policy, HALF, tmp_path / "lora")
    assert (tmp_path / "lora/adapter_model.safetensors").is_file()
    with pytest.raises(ModelError, match="--dequantize"):
        export(policy, HALF, tmp_path / "dense", "dense")
    export(policy, HALF, tmp_path / "dense", "dense", dequantise=True)
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "dense", dtype=torch.float32)
    text = (Message("user", "good red moon"),)
    ids = torch.tensor([policy.lm.encode_prompt(text)])
    with torch.no_grad():
        tokens = plain.generate(ids, attention_mask=torch.ones_like(ids), max_new_tokens=8, do_sample=False)[
            0
        ]
    # transformers does not know where the template ends a turn, and goes on.
    assert policy.lm.decode(tokens[ids.shape[1] :].tolist()).startswith(answer(policy))
    assert answer(policy)


def test_commands_take_the_quantisation(
    finished: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    policy = finished / "policies/dpo-soup"
    at = ("-p", "short=0.5,good=0.5")
    code, out, _ = call(monkeypatch, capsys, "generate", policy, "good red", *at, "--device", "cpu")
    assert code == 0 and "short" in out
    code, _, error = call(
        monkeypatch, capsys, "generate", policy, "good red", *at, "--device", "cpu", "--quantization", "none"
    )
    assert code == 0
    dense = ("export", policy, tmp_path / "dense", *at, "--device", "cpu", "--format", "dense")
    code, _, error = call(monkeypatch, capsys, *dense)
    assert code == 2 and "--dequantize" in error and "Traceback" not in error
    code, _, error = call(monkeypatch, capsys, *dense, "--dequantize")
    assert code == 0 and (tmp_path / "dense/model.safetensors").is_file()
    code, _, error = call(monkeypatch, capsys, *dense[:-2], "--dequantize")
    assert code == 2 and "give --format dense" in error
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    code, _, error = call(monkeypatch, capsys, "generate", policy, "good red", *at, "--device", "cpu")
    assert code == 2 and "pip install 'paretune[quantization]'" in " ".join(error.split())


def test_a_quantised_model_is_not_divided_among_processes() -> None:
    with pytest.raises(ConfigError, match="sharding: fsdp divides matrices of floats"):
        parse_config({"sharding": "fsdp", "quantization": "nf4"})
    with pytest.raises(ConfigError, match="quantization"):
        parse_config({"quantization": "int4"})
