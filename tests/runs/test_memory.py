"""Memory of runs: what is held by parts, what each setting saves, checkpointing by itself, and an end without memory."""

from __future__ import annotations

import json
import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from paretune.core.errors import ParetuneError, lacks_memory
from paretune.models.language_model import load
from paretune.planning.cost import Model, Passes, dequantising, packed, weight_bytes
from paretune.planning.devices import KNOWN as DEVICES
from paretune.planning.memory import (
    attention_bytes,
    frozen_bytes,
    matrix_at_work,
    positions,
    training_bytes,
    training_parts,
)
from paretune.planning.shapes import KNOWN as SHAPES
from paretune.planning.shapes import of_config
from paretune.planning.work import Step
from paretune.runs import memory
from paretune.runs.config import RunConfig
from paretune.runs.estimate import estimate
from paretune.runs.memory import fitting, held, planned_model, savings
from paretune.runs.parse import load_config, parse_config
from paretune.runs.plan import plan
from paretune.runs.run import run
from paretune.training import loop
from support.adapters import adapters_equal
from support.command import call
from support.world import make_dataset, write_model

SCORE = [
    {"objective": "short", "rule": "length", "unit": "words", "direction": "lower"},
    {"objective": "good", "rule": "regex", "pattern": "good", "how": "count"},
]
EIGHT = Model(SHAPES["8b"], "bfloat16", tuple(SHAPES["8b"].targeted(["q_proj", "v_proj"])), 16)


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_model(tmp_path_factory.mktemp("model"))


def config_of(folder: Path, model: Path | str, **changes: object) -> RunConfig:
    make_dataset(40).select([]).write(folder / "data.jsonl")
    values = {
        "name": "run",
        "folder": str(folder / "run"),
        "model": str(model),
        "dtype": "float32",
        "device": "cpu",
        "data": {"source": str(folder / "data.jsonl")},
        "score": SCORE,
        "methods": {"dpo-soup": {"beta": 0.5}},
        "preferences": 3,
        "train": {"steps": 6, "batch_pairs": 2, "rank": 4, "learning_rate": 1e-2},
        "sampling": {"max_new_tokens": 6, "batch_size": 64},
        "evaluate": {"samples": 2, "preferences": 3, "resamples": 50},
    }
    return parse_config({**values, **changes})


@pytest.fixture(scope="module")
def whole(model: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The folder of a run that had memory enough."""
    return run(config_of(tmp_path_factory.mktemp("whole"), model)).parent


# Parts


def test_parts_add_up_and_each_follows_what_it_is_made_of() -> None:
    step = Step(4000, 2000, 4000 * 900)
    parts = training_parts(EIGHT, step)
    assert sum(parts.values()) == training_bytes(EIGHT, step)
    # Two matrices of 32 blocks: 4096 + 4096 and 4096 + 1024 numbers a column, 16 columns, 4 bytes; four further copies.
    assert parts["adapter"] == 4 * 16 * 32 * (8192 + 5120) and parts["optimiser"] == 4 * parts["adapter"]
    # A chunk of 256 positions in bfloat16 and twice in float32, and the states of 2000 positions with their gradients.
    assert parts["logits"] == 256 * 128_256 * 10 + 2 * 2000 * 4096 * 2
    assert parts["attention"] == attention_bytes(EIGHT, step) > 2 * 4000 * 900
    # An accelerator forms as many at a time as fill a 64th of its memory: 974 in 80 GB, and so 512.
    roomy = replace(EIGHT, memory=80e9)
    assert positions(roomy) == 512 and positions(EIGHT) == 256
    assert training_parts(roomy, step)["logits"] - parts["logits"] == 256 * 128_256 * 10
    assert "kept states" not in parts and training_parts(replace(EIGHT, kept=2e9), step)["kept states"] == 2e9
    less = training_parts(replace(EIGHT, checkpointing=True), step)
    assert less["activations"] < 0.15 * parts["activations"]
    again = ("activations", "attention")
    assert {name: value for name, value in less.items() if name not in again} == {
        name: value for name, value in parts.items() if name not in again
    }


def test_a_quantised_model_takes_the_bits_that_it_says() -> None:
    nf4, int8 = replace(EIGHT, quantization="nf4"), replace(EIGHT, quantization="int8")
    matrices = SHAPES["8b"].matrices
    rest = frozen_bytes(EIGHT) - 2 * matrices
    assert frozen_bytes(nf4) == pytest.approx(rest + matrices * 4.127 / 8)
    assert frozen_bytes(int8) == pytest.approx(rest + matrices, rel=2e-3)
    assert matrix_at_work(nf4) == 2 * 4096 * 14_336 and matrix_at_work(EIGHT) == 0
    # A processor keeps prepacked copies of floats alone.
    host = replace(EIGHT, host=True)
    assert frozen_bytes(host) - frozen_bytes(EIGHT) == 2 * 2 * (matrices + 128_256 * 4096)
    assert frozen_bytes(replace(nf4, host=True)) - frozen_bytes(nf4) == 2 * 2 * 128_256 * 4096


def test_a_float32_model_on_a_processor_has_a_copy_to_decode_with() -> None:
    float32 = replace(EIGHT, dtype="float32")
    held = frozen_bytes(replace(float32, host=True)) - frozen_bytes(float32)
    assert held == 4 * (SHAPES["8b"].matrices + 128_256 * 4096)


def test_the_bits_are_those_of_bitsandbytes(model: Path) -> None:
    pytest.importorskip("bitsandbytes")
    from paretune.models.quantised import QuantisedLinear

    lm = load(str(model), "float32", "cpu", quantization="nf4")
    layers = [module for module in lm.model.modules() if isinstance(module, QuantisedLinear)]
    weights = sum(layer.in_features * layer.out_features for layer in layers)
    held_by = 0
    for layer in layers:
        state = layer._state
        held_by += layer.weight.nbytes + state.absmax.nbytes + state.state2.absmax.nbytes
    # Tables of 16 and 256 levels are shared in large models, and count for nothing there.
    assert 8 * held_by / weights == pytest.approx(4.127, abs=0.02)


def test_dequantising_takes_time() -> None:
    nf4 = replace(EIGHT, quantization="nf4")
    work, rates = Passes(4000, 2000, 4000 * 300, 1, 12, 16, True), DEVICES["rtx4090"].rates["bfloat16"]
    assert packed(work, nf4, rates).seconds > packed(work, EIGHT, rates).seconds
    assert packed(work, nf4, rates).flops == packed(work, EIGHT, rates).flops
    assert weight_bytes(nf4, 0) > weight_bytes(EIGHT, 0) and dequantising(EIGHT) == 0


def test_a_folder_that_is_saved_quantised_is_planned_so() -> None:
    values = {
        "hidden_size": 64, "intermediate_size": 96, "num_hidden_layers": 2, "num_attention_heads": 4, "vocab_size": 100
    }  # fmt: skip
    stated = {"quant_method": "bitsandbytes", "load_in_4bit": True, "bnb_4bit_quant_type": "nf4"}
    assert of_config("m", values).stored == "none"
    shape = of_config("m", {**values, "quantization_config": stated})
    assert planned_model(RunConfig(), shape, "bfloat16", False).quantization == "nf4"
    with pytest.raises(ParetuneError, match="gptq"):
        of_config("m", {**values, "quantization_config": {"quant_method": "gptq"}})


# What helps


def test_savings_are_those_of_the_plan_with_the_setting(tmp_path: Path) -> None:
    config = config_of(tmp_path, "smollm2-135m", dtype="bfloat16")
    planned = plan(config)
    device = planned_model(config, SHAPES["8b"], "bfloat16", False)
    found = {one.setting.partition("=")[0]: one for one in savings(planned, config, device)}
    assert len(found) == 3 and "quantization" in found
    lighter = config_of(tmp_path, "smollm2-135m", dtype="bfloat16", quantization="nf4")
    less = held(planned, planned_model(lighter, SHAPES["8b"], "bfloat16", False))
    assert held(planned, device).peak - less.peak == pytest.approx(found["quantization"].saved)
    assert all(one.saved > 0 for one in found.values())
    text = str(found["quantization"])
    assert text.startswith("quantization=nf4 (about 10") and text.endswith("GB less everywhere)")
    small = replace(device, checkpointing=True, quantization="nf4")
    assert not {"quantization", "train.gradient_checkpointing"} & {
        one.setting.partition("=")[0] for one in savings(planned, config, small)
    }


def test_what_fits_is_found_and_really_fits(tmp_path: Path) -> None:
    config = config_of(tmp_path, "smollm2-135m", dtype="bfloat16", train={"steps": 6, "batch_pairs": 512})
    planned, memory_there = plan(config), DEVICES["rtx4090"].memory
    device = planned_model(config, SHAPES["8b"], "bfloat16", False, memory_there)
    chosen = fitting(planned, config, device, memory_there)
    assert chosen[:2] == ["train.gradient_checkpointing=true", "quantization=nf4"]
    asked = {
        "quantization": "nf4",
        "train": {"steps": 6, "batch_pairs": 512, "gradient_checkpointing": True},
    }
    for setting in chosen[2:]:
        key, value = setting.split("=")
        assert key in ("train.batch_tokens", "sampling.batch_size")
        if key == "train.batch_tokens":
            asked["train"] = {**asked["train"], "batch_tokens": int(value)}
    found = estimate(
        plan(config_of(tmp_path, "x", dtype="bfloat16", **asked)),
        config_of(tmp_path, "smollm2-135m", dtype="bfloat16", **asked),
        "8b",
        "rtx4090",
    )
    assert found.device.count == 1 and found.fitting == () and found.peak < memory_there
    assert fitting(planned, config, replace(device, shape=SHAPES["70b"]), memory_there) == []


def test_auto_is_on_in_a_plan_where_memory_is_short(tmp_path: Path) -> None:
    config = config_of(tmp_path, "smollm2-135m", dtype="bfloat16", train={"steps": 6, "batch_pairs": 512})
    short, wide = (estimate(plan(config), config, "1b", device) for device in ("rtx4090", "8xh100"))
    assert "train.gradient_checkpointing=true (auto)" in short.settings
    assert "train.gradient_checkpointing=false (auto)" in wide.settings
    assert short.memory["activations"] < wide.memory["activations"]


def test_the_command_names_settings_parts_and_savings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    config_of(tmp_path, "smollm2-135m")  # for its data
    file = tmp_path / "config.yaml"
    file.write_text(
        f"data: {{source: {tmp_path / 'data.jsonl'}}}\nscore: {json.dumps(SCORE)}\n"
        "train: {steps: 3, batch_pairs: 256, batch_tokens: 10000}\n"
        "methods: {dpo-soup: {}}\n"
    )
    code, out, _ = call(monkeypatch, capsys, "plan", file, "--model", "8b", "--device", "rtx4090")
    out = " ".join(out.split())
    assert (
        code == 0
        and "It fits on 2 rtx4090 with: quantization=none, train.gradient_checkpointing=true (auto)" in out
    )
    assert "train.batch_tokens=10000 lets a forward have about" in out
    assert "Each alone would save: quantization=nf4 (about 10" in out
    assert "It would fit on one rtx4090 with: quantization=nf4" in out
    code, out, _ = call(
        monkeypatch,
        capsys,
        "plan",
        file,
        "--model",
        "8b",
        "--device",
        "rtx4090",
        "quantization=nf4",
        "--json",
    )
    (found,) = json.loads(out)
    assert found["fits"] and found["devices"] == 1 and found["fitting"] == []
    assert {"weights", "activations", "logits"} <= set(found["memory"])


@pytest.mark.parametrize("name", ["ultrafeedback", "helpsteer2", "safe-rlhf"])
def test_the_configs_for_24_gigabytes_fit_and_ask_nobody(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path))
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("asked a server"))
    config = load_config(name, ["data.limit=600"])
    found = estimate(plan(config), config, "8b", "rtx4090")
    assert found.device.count == 1 and found.fits and found.peak < 0.7 * 24e9
    assert {"quantization=nf4", "train.gradient_checkpointing=true (auto)", "train.batch_tokens=8192"} <= set(
        found.settings
    )
    assert found.phases["training"]["attention"] > 0
    said = " ".join(found.assumptions)
    assert "is not on this machine: 600 prompts of about" in said and "train.batch_tokens=8192 lets" in said


@pytest.mark.slow
def test_the_plan_of_the_shipped_config_as_a_command_without_network_or_model(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path))
    monkeypatch.setenv("PARETUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr("socket.socket.connect", lambda *_: pytest.fail("asked a server"))
    config = Path(__file__).parents[2] / "configs/ultrafeedback.yaml"
    code, out, error = call(monkeypatch, capsys, "plan", config, "--model", "8b", "--device", "rtx4090")
    out = " ".join(out.split())
    assert code == 0, error
    fits = "It fits on one rtx4090 with: quantization=nf4, train.gradient_checkpointing=true (auto)"
    assert fits in out and "train.batch_tokens=8192" in out
    for phase, parts in {"training": ("activations", "attention", "logits"), "scoring": ("scorers",)}.items():
        (line,) = re.findall(rf"beside the model in {phase}: [^(]*\(([^)]*)\)", out)
        assert all(re.search(rf"{part} [\d.]+ [GM]B", line) for part in parts), line
    assert (
        "Skywork/Skywork-Reward-V2-Qwen3-0.6B is not on this machine: by its name it has 0.6 billion" in out
    )
    assert "ultrafeedback is not on this machine" in out


def test_a_plan_says_how_many_texts_are_too_long_and_what_happens(tmp_path: Path) -> None:
    train = {"steps": 3, "max_tokens": 35}
    for rule, end in {
        "drop": "are left out",
        "cut": "lose the end of their responses",
        "prompt-left": "lose the beginning of their prompts",
    }.items():
        config = config_of(
            tmp_path, "x", train=train, data={"source": str(tmp_path / "data.jsonl"), "too_long": rule}
        )
        (said,) = [one for one in plan(config).assumptions if "have more than 35 tokens" in one]
        assert said.startswith("about 0.") and said.endswith(end)


# Checkpointing by itself


@pytest.mark.slow
def test_checkpointing_is_decided_once_and_kept(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = config_of(tmp_path, model)
    used: list[bool] = []
    trained = loop.fit
    import paretune.training.preference_pairs as pairs_of

    def watched(task, run_):
        used.append(run_.settings.checkpointing)
        return trained(task, run_)

    monkeypatch.setattr(pairs_of, "fit", watched)
    monkeypatch.setattr(
        memory, "memory_of", lambda device: 1e9
    )  # the libraries alone take 0.6 GB, and kernels much
    said: list[str] = []
    monkeypatch.setattr("paretune.training.lab.announce", said.append)
    run(config)
    assert used == [True, True] and any(
        "gradient checkpointing is on: without it the plan has" in s for s in said
    )
    stated = json.loads((tmp_path / "run/versions.json").read_text())
    assert list(stated["gradient_checkpointing"].values()) == [True]
    # A later process, with memory in plenty, keeps to it: here for an adapter that is gone.
    import shutil

    shutil.rmtree(tmp_path / "run/adapters/dpo-good")
    monkeypatch.setattr(memory, "memory_of", lambda device: 1e15)
    used.clear()
    run(config)
    assert used == [True]
    # With other sizes it is decided anew; what is asked for is not decided at all.
    run(config_of(tmp_path, model, train={"steps": 6, "batch_pairs": 3, "rank": 4}))
    assert used == [True, False, False]
    run(
        config_of(
            tmp_path, model, train={"steps": 6, "batch_pairs": 2, "rank": 5, "gradient_checkpointing": False}
        )
    )
    assert used[3:] == [False, False]


@pytest.mark.slow
def test_stages_are_found_whether_activations_were_computed_again_or_not(model: Path, tmp_path: Path) -> None:
    train = {"steps": 6, "batch_pairs": 2, "rank": 4, "learning_rate": 1e-2}
    run(config_of(tmp_path, model, train=train))
    before = {file: file.stat().st_mtime_ns for file in (tmp_path / "run/adapters").rglob("stage.json")}
    run(config_of(tmp_path, model, train={**train, "gradient_checkpointing": True}))
    assert {
        file: file.stat().st_mtime_ns for file in (tmp_path / "run/adapters").rglob("stage.json")
    } == before


# No memory


@pytest.mark.parametrize(
    "error",
    [
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB"),
        RuntimeError(
            "[enforce fail] DefaultCPUAllocator: can't allocate memory: you tried to allocate 8589934592 bytes"
        ),
        MemoryError(),
    ],
)
def test_what_says_that_no_memory_is_left(error: BaseException) -> None:
    assert lacks_memory(error) and not lacks_memory(ParetuneError("out of memory"))
    assert not lacks_memory(RuntimeError("shapes do not match"))


def failing(where: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def fail(*_: object, **__: object) -> None:
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")

    step = loop._Loop.step

    def fourth(self, number: int, held_out):
        if number == 3:
            fail()
        return step(self, number, held_out)

    match where:
        case "training":
            monkeypatch.setattr(loop._Loop, "step", fourth)
        case "scoring":
            monkeypatch.setattr("paretune.training.kept_logps.response_logps", fail)
        case "sampling":
            monkeypatch.setattr("paretune.generation.batch.Batch.step", fail)


@pytest.mark.parametrize("where", ["training", "scoring", "sampling"])
@pytest.mark.slow
def test_a_run_without_memory_ends_in_one_message_and_goes_on(
    model: Path, whole: Path, tmp_path: Path, where: str, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    from paretune.models.adapter import Adapter

    config = config_of(tmp_path, model)
    with monkeypatch.context() as broken:
        failing(where, broken)
        with pytest.raises(ParetuneError) as ended:
            run(config)
        message = str(ended.value)
        assert message.startswith(
            "out of memory (CUDA out of memory. Tried to allocate 2.00 GiB); what is finished is kept"
        )
        assert "By the plan of this run, less is needed with" in message and message.count(" less ") >= 4
        names = ("batch_tokens", "batch_size", "rank", "gradient_checkpointing", "quantization")
        assert sum(f"{name}=" in message for name in names) == 3
    if where == "training":
        assert list((tmp_path / "run/checkpoints").glob("dpo-short-*.safetensors"))
    run(config)
    for name in ("dpo-short", "dpo-good"):
        one, other = (
            Adapter.load(folder / "adapters" / name / "adapter") for folder in (whole, tmp_path / "run")
        )
        assert adapters_equal(one, other)


def test_what_is_on_already_is_no_advice(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Where `auto` has turned checkpointing on, the message names three other settings."""
    config = config_of(tmp_path, model)
    monkeypatch.setattr(memory, "memory_of", lambda device: 1e9)
    failing("training", monkeypatch)
    with pytest.raises(ParetuneError, match=r"out of memory .* less is needed with") as ended:
        run(config)
    stated = json.loads((tmp_path / "run/versions.json").read_text())
    assert list(stated["gradient_checkpointing"].values()) == [True]
    assert "gradient_checkpointing" not in str(ended.value) and str(ended.value).count(" less ") >= 4


def test_the_command_ends_with_2(
    model: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    config = config_of(tmp_path, model)
    from paretune.runs.run import to_yaml

    file = tmp_path / "config.yaml"
    file.write_text(to_yaml(config))
    failing("training", monkeypatch)
    code, _, error = call(monkeypatch, capsys, "run", file)
    assert code == 2 and "out of memory (CUDA" in error and "Traceback" not in error
