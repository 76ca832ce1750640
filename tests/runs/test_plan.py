"""Plans and estimates: arithmetic by hand, a real model's parameters and kept activations, a real run's tokens, laws, errors."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from paretune.core.errors import ConfigError, DataError, ModelError
from paretune.data.typical import SIZES
from paretune.models.packing import pack, packed_logps, prepare
from paretune.models.steering import Steering
from paretune.planning import calibrate
from paretune.planning.cost import (
    Decoding,
    Model,
    Passes,
    cache_bytes,
    decoded,
    packed,
    traffic,
)
from paretune.planning.devices import KNOWN as DEVICES
from paretune.planning.devices import Device, Rates, device_of
from paretune.planning.memory import frozen_bytes, kept_bytes, training_bytes
from paretune.planning.shapes import KNOWN as SHAPES
from paretune.planning.shapes import Shape, of_config, shape_of
from paretune.planning.work import Step
from paretune.runs.config import RunConfig
from paretune.runs.estimate import _read_by_encoder, estimate
from paretune.runs.parse import load_config, parse_config
from paretune.runs.plan import plan
from paretune.runs.prepare import load_splits
from paretune.runs.run import run
from support.command import call
from support.machine import really_measured
from support.measuring import RATES
from support.tiny import make_tiny_llama
from support.world import make_dataset, write_model

# d = 4, feed-forward 6, 2 blocks, 2 heads of 2 with 1 of keys: q 16, k 8, v 8, o 16, three of 24 in a block: 120 numbers.
TINY = Shape("tiny", 4, 6, 2, 2, 1, 2, 10, True)
ATTENTION = ("q_proj", "k_proj", "v_proj", "o_proj")
FREE = Rates(1e30, 1e30, 1e30, 1e30, 0.0, 1e30)
"""A device on which nothing takes time; one rate at a time is set to something."""
CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))
SCORE = [
    {"objective": "short", "rule": "length", "direction": "lower"},
    {"objective": "good", "rule": "sentiment"},
]


def tiny(rank: int = 3, dtype: str = "float32", **changes) -> Model:
    return replace(Model(TINY, dtype, tuple(TINY.targeted(ATTENTION)), rank), **changes)


# Arithmetic


def test_a_forward_and_a_backward_by_hand() -> None:
    model = tiny()
    # Inputs and outputs of q, k, v, o in two blocks: 2 (8 + 6 + 6 + 8) = 56 numbers a column.
    assert TINY.matrices == 240 and model.column == 56
    forward = Passes(tokens=7, targets=5, seen=20, forwards=1, texts=3, columns=3)
    # matrices 2*240*7, adapters 2*56*3*7, head 2*4*10*5, attention 4*4*2*20
    assert packed(forward, model, FREE).flops == 3360 + 2352 + 400 + 640
    both = replace(forward, backward=True)
    # the frozen matrices twice, the adapters three times, the head's gradient in forward, attention 3.5 times
    assert packed(both, model, FREE).flops == 2 * 3360 + 3 * 2352 + 2 * 400 + 3.5 * 640
    again = packed(both, replace(model, checkpointing=True), FREE).flops
    assert again == packed(both, model, FREE).flops + 3360 + 2352 + 640


def test_a_decoding_by_hand() -> None:
    model = tiny(dtype="bfloat16")
    work = Decoding(rows=4, prompt=5, new=3, longest=4, batch=2, columns=0)
    # Prompts: 20 tokens, one position each for the head, each token sees all 5. Then 2 tokens a row, at 6.5 on average.
    prompts = 2 * 240 * 20 + 2 * 40 * 4 + 4 * 4 * 2 * 100
    answers = 8 * (2 * 240 + 2 * 40) + 4 * 4 * 2 * 8 * 6.5
    assert decoded(work, model, FREE).flops == prompts + answers
    # Two batches of three steps after the first token read 280 numbers of 2 bytes each time; and 52 positions of the cache.
    assert cache_bytes(model) == 2 * 2 * 2 * 2
    seconds = decoded(work, model, replace(FREE, stream=1.0)).seconds
    assert seconds == pytest.approx(2 * 3 * 280 * 2 + 52 * 16, rel=1e-6)


def test_memory_by_hand() -> None:
    model = tiny(host=True)
    # 240 in matrices, 5 norms of 4, an embedding of 40; and the matrices once more.
    assert TINY.parameters == 300 and frozen_bytes(model) == 4 * (300 + 240 + 40)
    assert frozen_bytes(replace(model, dtype="bfloat16", host=False)) == 600
    # 4d + 5kv + 3f + a column for each target, and the inputs of two norms: (16 + 10 + 18 + 12 + 2 * 4) 4
    assert kept_bytes(model) == 256
    assert kept_bytes(replace(model, dtype="bfloat16", host=False)) == 128
    # On a CPU queries, outputs, keys and values of attention are float32: (8 + 10) 2 bytes more.
    assert kept_bytes(replace(model, dtype="bfloat16")) == 164
    assert kept_bytes(replace(model, dtype="bfloat16", attention="products")) == 128


# Against real models


@pytest.mark.parametrize("tied", [True, False])
def test_parameters_are_those_of_a_real_llama(tied: bool) -> None:
    model = make_tiny_llama(tie_word_embeddings=tied)
    shape = of_config("tiny", model.config.to_dict())
    assert shape.parameters == sum(p.numel() for p in model.parameters())
    linear = [m for m in model.get_decoder().modules() if isinstance(m, torch.nn.Linear)]
    assert shape.matrices == sum(m.weight.numel() for m in linear)
    steering = Steering.attach(model, ["q_proj", "down_proj"], 5)
    adapted = Model(shape, "float32", tuple(shape.targeted(["q_proj", "down_proj"])), 5)
    assert adapted.column * 5 == sum(p.numel() for p in steering.parameters())


def test_known_shapes_are_of_their_size() -> None:
    billions = {
        **{"smollm2-135m": 0.1345, "0.5b": 0.494, "0.6b": 0.596, "1b": 1.236, "1.7b": 1.721, "3b": 3.213},
        **{"4b": 4.022, "7b": 7.615, "8b": 8.030, "14b": 14.768, "32b": 32.762, "70b": 70.55},
    }
    for name, size in billions.items():
        assert SHAPES[name].parameters / 1e9 == pytest.approx(size, rel=1e-3)


@pytest.mark.model
def test_the_embedded_shape_is_that_of_the_embedded_model() -> None:
    from transformers import AutoConfig

    from paretune.models.embedded import EMBEDDED
    from paretune.models.loading import locate

    values = AutoConfig.from_pretrained(locate(EMBEDDED)).to_dict()
    assert of_config(EMBEDDED, values) == SHAPES[EMBEDDED]


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
@pytest.mark.parametrize("targets", [["q_proj", "k_proj", "v_proj", "o_proj"], ["all-linear"]])
def test_autograd_keeps_what_the_memory_formula_says(dtype: torch.dtype, targets: list[str]) -> None:
    """The bytes of all saved tensors that are no parameters, for one more block and token."""
    lengths, kept = 60, []
    sizes = {"hidden_size": 128, "intermediate_size": 320, "num_attention_heads": 8}
    for layers in (1, 3):
        model = make_tiny_llama(num_hidden_layers=layers, **sizes).to(dtype).requires_grad_(False)
        prepare(model)
        steering = Steering.attach(model, targets, 4)
        own = {p.untyped_storage().data_ptr() for p in model.parameters()}
        found: dict[int, int] = {}

        def keep(x: torch.Tensor, found: dict[int, int] = found) -> torch.Tensor:
            storage = x.untyped_storage()
            found[storage.data_ptr()] = storage.nbytes()
            return x

        ids = list(range(lengths))
        batch = pack([(ids, [ids, ids])])
        with (
            steering.at(torch.full((4,), 2.0)),
            torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x),
        ):
            packed_logps(model, batch).sum().backward()
        kept.append(sum(size for place, size in found.items() if place not in own))
    shape = of_config("tiny", model.config.to_dict())
    name = str(dtype).removeprefix("torch.")
    said = kept_bytes(Model(shape, name, tuple(shape.targeted(targets)), 4, host=True)) * 3 * lengths
    assert (kept[1] - kept[0]) / 2 == pytest.approx(said, rel=0.1)


# Plans


def config_of(folder: Path, model: Path | str, **changes) -> RunConfig:
    values = {
        "model": str(model),
        "dtype": "float32",
        "folder": str(folder / "run"),
        "data": {
            "source": str(folder / "data.jsonl"),
            "splits": {"train": 0.5, "validation": 0.25, "test": 0.25},
        },
        "score": [{"objective": name, "rule": "length"} for name in ("short", "good")],
        "methods": {"dpo-soup": {}, "modpo": {}},
        "train": {"steps": 5, "batch_pairs": 2, "rank": 4, "validate_every": 2},
        "sampling": {"max_new_tokens": 6, "batch_size": 16},
        "evaluate": {"resamples": 50},
        "preferences": 3,
    }
    return parse_config({**values, **changes})


@pytest.mark.slow
def test_trained_tokens_are_those_that_a_real_run_records(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARETUNE_CACHE", str(tmp_path / "cache"))
    model = write_model(tmp_path / "model")
    make_dataset(24, 2).write(tmp_path / "data.jsonl")
    methods = {
        "dpo-soup": {},
        "modpo": {},
        "dpo-lw": {},
        "panacea": {"loss": "dpo", "rank": 2},
        "ric": {"iterations": 0},
        "morlhf": {"responses": 3, "epochs": 2},
        "gdpo": {"responses": 2, "form": "conditioned", "groups": 1},
    }
    config = config_of(tmp_path, model, methods=methods)
    planned = {stage.name: stage for stage in plan(config).stages}
    report = run(config)
    trained: dict[str, float] = {}
    for file in (report.parent / "adapters").glob("*/history.json"):
        method = file.parent.name.split("-")[0] if "-lw" not in file.parent.name else "dpo-lw"
        trained[method] = trained.get(method, 0) + sum(r["tokens"] for r in json.loads(file.read_text()))
    said = {
        "dpo": "train: dpo",
        "modpo": "train: modpo",
        "dpo-lw": "train: dpo-lw",
        "panacea": "train: panacea",
        "morlhf": "train: morlhf",
        "gdpo": "train: gdpo",
    }
    for method, stage in (said | {"ric": "train: ric, offline"}).items():
        assert planned[stage].trained == pytest.approx(trained[method], rel=0.2), method
    assert sum(len(stage.columns) for stage in planned.values()) == len(
        list((report.parent / "adapters").glob("*"))
    )


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.stem)
@pytest.mark.slow
def test_every_shipped_config_has_a_plan(file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    if file.stem in ("hh", "topical", "votes"):
        pytest.skip("its data are not here")
    far = isinstance(source := load_config(file).data.source, str) and source in SIZES
    monkeypatch.setenv("HF_DATASETS_CACHE", "/nowhere")  # texts of typical lengths stand for those of the hub
    config = load_config(file, ["data.limit=600"] if far else [])
    planned = plan(config)
    names = [stage.name for stage in planned.stages]
    trained = [name for name in config.methods if config.entry(name).traits.adapters != "none"]
    assert len(set(names)) >= len(config.methods) and planned.runs >= 2 * bool(trained)
    for method in config.methods:
        assert f"front: {method}" in names


def test_stages_shared_by_methods_are_counted_once(tmp_path: Path) -> None:
    make_dataset(24).write(tmp_path / "data.jsonl")
    model = "smollm2-135m"
    soup = plan(config_of(tmp_path, model, methods={"dpo-soup": {}}))
    mod = plan(config_of(tmp_path, model, methods={"dpo-soup": {}, "mod": {}}))
    other = plan(config_of(tmp_path, model, methods={"dpo-soup": {}, "mod": {"beta": 0.3}}))
    assert soup.runs == mod.runs == 2 and other.runs == 4
    assert sum(stage.name == "reference" for stage in other.stages) == 1


def test_runs_and_answers_of_methods_in_stages(tmp_path: Path) -> None:
    make_dataset(30).write(tmp_path / "data.jsonl")
    methods = {
        "paretohqd": {"steps": 10, "stage2_steps": 4, "prompts": 6},
        "ric": {"iterations": 2, "prompts": 5, "online_steps": 3},
        "sipo": {"steps": 9, "rounds": 2, "conflicts": 7, "refine": False, "train": {"steps": 20}},
        "mod": {},
        "morlhf": {"responses": 4, "epochs": 2, "train": {"steps": 5, "batch_pairs": 3}},
    }
    values = {"data": {"source": str(tmp_path / "data.jsonl")}, "score": SCORE, "methods": methods}
    stages = {stage.name: stage for stage in plan(parse_config({**values, "preferences": 3})).stages}
    assert "3 runs of 10 steps" in stages["train: paretohqd, stage 1"].what
    assert "3 runs of 4 steps" in stages["train: paretohqd, stage 2"].what
    assert stages["answers: paretohqd"].judged == 18
    assert "1 run of 100 steps" in stages["train: ric, offline"].what
    assert "1 run of 3 steps" in stages["train: ric, online 2"].what
    assert stages["answers: ric, 1"].decodings[0].rows == 5
    assert "2 runs of 9 steps" in stages["train: sipo, 2"].what
    assert stages["answers: sipo, 1"].decodings[0].rows == 7 * 4 * 2  # four preferences, two copies
    # Three anchors draw at steps 1, 3 and 5 of 5, for 3 prompts 4 answers, which fill a batch of their own.
    drawn = stages["train: morlhf"].decodings[0]
    assert drawn.rows == 3 * 3 * 3 * 4 == stages["train: morlhf"].judged and drawn.batches == 9


# Laws


def test_more_work_costs_more(tmp_path: Path) -> None:
    make_dataset(24).write(tmp_path / "data.jsonl")
    base = config_of(tmp_path, "smollm2-135m")

    def cost(config: RunConfig, model: str = "1b", device: str = "h100"):
        return estimate(plan(config), config, model, device)

    first = cost(base)
    longer = cost(config_of(tmp_path, "smollm2-135m", train={"steps": 50, "batch_pairs": 2}))
    answers = cost(config_of(tmp_path, "smollm2-135m", evaluate={"samples": 3}))
    larger = cost(base, "8b")
    exact = cost(base, device="a100")
    for other in (longer, answers, larger):
        assert other.cost.flops > first.cost.flops and other.cost.seconds > first.cost.seconds
    assert larger.peak > first.peak and exact.cost.seconds > first.cost.seconds
    assert exact.cost.flops == first.cost.flops


def test_heads_that_are_fitted_are_planned_by_the_texts_they_read(tmp_path: Path) -> None:
    make_dataset(24).write(tmp_path / "data.jsonl")
    fitted = [SCORE[0], {"objective": "good", "head": "fit"}]
    plain, config = config_of(tmp_path, "smollm2-135m"), config_of(tmp_path, "smollm2-135m", score=fitted)
    assert "heads" not in [stage.name for stage in plan(plain).stages]
    # Each response of the training and validation rows is read behind its prompt, and alone.
    splits = load_splits(config)
    responses = sum(len(row.responses) for name in ("train", "validation") for row in splits[name].rows)
    planned = plan(config)
    (heads,) = [stage for stage in planned.stages if stage.name == "heads"]
    assert heads.embedded == 2 * responses > 0
    lines = {row.name: row.cost for row in estimate(planned, config, "1b", "a100").rows}
    assert lines["heads"].seconds > 3 and lines["heads"].tokens > 0


def test_an_encoder_on_a_processor_reads_in_float32_whatever_the_model_is(tmp_path: Path) -> None:
    slow = Rates(1e9, 1e9, 1e9, 1e9, 0.0, 1e9)
    device = Device("here", "here", "here", 1e12, 1, {"bfloat16": FREE, "float32": slow}, True, "")
    model = tiny(dtype="bfloat16", host=True)
    read = _read_by_encoder(100, 60, model, device).seconds
    assert read > 1 and read == _read_by_encoder(100, 60, replace(model, dtype="float32"), device).seconds


def test_checkpointing_takes_time_and_gives_memory() -> None:
    model = Model(SHAPES["8b"], "bfloat16", tuple(SHAPES["8b"].targeted(["q_proj"])), 16)
    less = replace(model, checkpointing=True)
    work = Passes(4000, 2000, 4000 * 300, 1, 12, 16, True)
    step = Step(4000, 2000, 4000 * 300)
    rates = DEVICES["h100"].rates["bfloat16"]
    assert packed(work, less, rates).seconds > packed(work, model, rates).seconds
    assert training_bytes(less, step) < 0.5 * training_bytes(model, step)
    assert traffic(model, 2, True) == 2 * traffic(model, 1, True)


def test_a_model_that_does_not_fit_says_how_many_devices_hold_it(tmp_path: Path) -> None:
    make_dataset(24).write(tmp_path / "data.jsonl")
    config = config_of(tmp_path, "smollm2-135m", dtype="bfloat16")
    one = estimate(plan(config), config, "70b", "h100")
    assert one.device.count == 2 and any(
        "it takes 2 x h100; 1 would not hold it" in said for said in one.assumptions
    )
    eight = estimate(plan(config), config, "70b", "8xh100")
    assert eight.device.count == 8 and eight.cost.seconds < one.cost.seconds
    small = estimate(plan(config), config, "8b", "h100")
    assert small.device.count == 1 and small.fits
    assert estimate(plan(config), config, "70b", "rtx4090").device.name == "7xrtx4090"
    assert estimate(plan(config), config, "70b", "2xrtx4090").device.name == "7xrtx4090"
    float32 = estimate(plan(config_of(tmp_path, "smollm2-135m")), config_of(tmp_path, "x"), "70b", "h100")
    assert float32.device.count >= 4


# This machine


@pytest.mark.slow
def test_this_machine_is_measured_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARETUNE_CACHE", str(tmp_path))
    monkeypatch.setattr(calibrate, "measure", really_measured)
    monkeypatch.setattr(calibrate, "ROUNDS", 1)
    monkeypatch.setattr(calibrate, "_others", lambda before, after: 0.0)
    first, name = calibrate.here("float32", "cpu")
    assert name == "float32" and first.host and first.memory > 1e9
    rates = first.rates[name]
    assert all(value > 0 for value in vars(rates).values())
    assert 1e8 < rates.matmul < 1e14 and rates.launch < 1e-3
    monkeypatch.setattr(calibrate, "measure", lambda *_: pytest.fail("measured twice"))
    assert calibrate.here("float32", "cpu")[0].rates[name] == rates


def test_what_is_measured_on_a_busy_machine_is_not_kept(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARETUNE_CACHE", str(tmp_path))
    measured = []
    monkeypatch.setattr(calibrate, "measure", lambda *_: measured.append(1) or RATES)
    monkeypatch.setattr(calibrate, "_others", lambda before, after: 0.5)
    first, _ = calibrate.here("float32", "cpu")
    assert calibrate.here("float32", "cpu") == (first, "float32") and len(measured) == 1, "once in a command"
    assert "measured while other programs used 50% of the processors, so not kept" in first.assumptions
    assert not list(tmp_path.rglob("*.json"))
    calibrate._measured_now.cache_clear()  # another command
    monkeypatch.setattr(calibrate, "_others", lambda before, after: 0.0)
    assert "not kept" not in calibrate.here("float32", "cpu")[0].assumptions
    assert len(list(tmp_path.rglob("*.json"))) == 1


# The command


@pytest.fixture
def small(tmp_path: Path) -> Path:
    make_dataset(24).write(tmp_path / "data.jsonl")
    file = tmp_path / "config.yaml"
    lines = [
        f"data: {{source: {tmp_path / 'data.jsonl'}}}",
        f"score: {json.dumps(SCORE)}",
        "train: {steps: 3}",
    ]
    file.write_text("\n".join(lines))
    return file


def test_the_command_prints_a_table_or_json(small: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    code, out, _ = call(monkeypatch, capsys, "plan", small, "--model", "8b", "--device", "h100")
    assert code == 0
    for text in (
        "8b (8.03 G parameters)",
        "train: modpo",
        "Memory at the peak",
        "Disk:",
        "data sheet",
        "not measured",
    ):
        assert text in out
    both = ("--model", "1b", "--model", "70b", "--device", "8xh100", "--json")
    code, out, _ = call(monkeypatch, capsys, "plan", small, "train.steps=4", *both)
    found = json.loads(out)
    assert code == 0 and [each["model"] for each in found] == ["1b", "70b"]
    for each in found:
        assert each["total"]["flops"] == pytest.approx(sum(stage["flops"] for stage in each["stages"]))
        assert each["memory"]["peak"] > 0 and each["disk"]["total"] > 0 and each["assumptions"]
    assert found[1]["devices"] == 8


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--model", "13b"], "unknown model '13b'"),
        (["--device", "h1000"], "unknown device 'h1000'; did you mean 'h100'?"),
        (["--device", "0xh100"], "unknown device '0xh100'"),
        (["--device", "h100", "train.targets=[q_prj]"], "no linear layer 'q_prj'; did you mean 'q_proj'?"),
        (["data.source=nowhere.jsonl"], "nowhere.jsonl"),
    ],
)
def test_the_command_says_what_is_known(
    arguments: list[str], message: str, small: Path, monkeypatch: pytest.MonkeyPatch, capsys
) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    code, _, err = call(monkeypatch, capsys, "plan", small, *arguments)
    assert code == 2 and message in err


def test_what_cannot_be_planned_is_said(tmp_path: Path) -> None:
    with pytest.raises(ModelError, match=r"Expected one of smollm2-135m, 0\.5b, .*8b, 14b, 32b, 70b"):
        shape_of(str(tmp_path / "nothing"))
    with pytest.raises(ModelError, match="num_local_experts = 8"):
        of_config("moe", {"num_local_experts": 8})
    with pytest.raises(ModelError, match="states no hidden_size"):
        of_config("gpt", {"n_embd": 8})
    with pytest.raises(ConfigError, match="expected one of: here, b200"):
        device_of("tpu")
    bare = [replace(row, responses=(), scores={}, truncated=()) for row in make_dataset(12).rows]
    replace(make_dataset(12), rows=tuple(bare)).write(tmp_path / "data.jsonl")
    replace(make_dataset(12), rows=tuple(bare[:3])).write(tmp_path / "held.jsonl")
    with pytest.raises(DataError, match=r"rows have no response; set data\.sample"):
        plan(
            config_of(
                tmp_path,
                "smollm2-135m",
                data={
                    "source": str(tmp_path / "data.jsonl"),
                    "splits": {"train": 0.5, "validation": 0.5},
                    "test": str(tmp_path / "held.jsonl"),
                },
            )
        )
    drawn = config_of(
        tmp_path,
        "smollm2-135m",
        data={
            "source": str(tmp_path / "data.jsonl"),
            "sample": 4,
            "splits": {"train": 0.5, "validation": 0.25, "test": 0.25},
        },
    )
    (data, *_) = plan(drawn).stages
    assert data.decodings[0].rows == 9 * 4


def test_a_run_shows_its_plan(small: Path, monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    rates = Rates(1e11, 1e11, 1e10, 1e10, 1e-5, 1e10)
    monkeypatch.setattr(calibrate, "measure", lambda *_: rates)
    monkeypatch.setenv("PARETUNE_CACHE", str(small.parent / "cache"))
    code, out, _ = call(monkeypatch, capsys, "run", small, "--dry-run", "dtype=float32")
    assert code == 0 and "5 training runs" in out and "100 GFLOP/s in products" in out


def test_one_hot_anchors_are_planned_once_for_morlhf_and_rewarded_soups(tmp_path: Path) -> None:
    make_dataset(24).write(tmp_path / "data.jsonl")
    model, corners = "smollm2-135m", 2  # the baseline's DPO models
    soup = plan(config_of(tmp_path, model, methods={"rewarded-soup": {}}))
    both = plan(config_of(tmp_path, model, methods={"morlhf": {}, "rewarded-soup": {}}))
    apart = plan(config_of(tmp_path, model, methods={"morlhf": {}, "rewarded-soup": {"beta": 0.2}}))
    anchors = plan(config_of(tmp_path, model, methods={"morlhf": {}})).runs - corners
    assert (soup.runs - corners, both.runs - corners, apart.runs - corners) == (2, anchors, anchors + 2)
