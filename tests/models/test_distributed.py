"""Several processes train what one does: gloo on the CPU, started by torch's elastic agent (the program behind torchrun)."""

from __future__ import annotations

import itertools
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from paretune.cli import main as cli
from paretune.core.errors import ConfigError, ParetuneError, TrainingError
from paretune.core.launch import one_voice
from paretune.methods import panacea
from paretune.methods.base import Inputs
from paretune.methods.panacea import PanaceaConfig
from paretune.models import distributed as shard
from paretune.models.adapter import Adapter
from paretune.models.distributed import ProcessGroup, WorkSplit, shard_weights, start
from paretune.models.frozen_linear import FrozenLinear
from paretune.models.language_model import LanguageModel
from paretune.planning import calibrate
from paretune.training import loop
from paretune.training.demonstrations import Demonstration
from paretune.training.lab import Lab
from paretune.training.loop import Training
from support.together import LAUNCHER, together
from support.world import make_dataset

TRAINING = Training(
    steps=20, batch_pairs=4, rank=4, alpha=8, max_tokens=64, checkpoint_every=6, validate_every=10
)


def data() -> tuple:
    return make_dataset(), make_dataset(4, seed=9)


def fits(lm: LanguageModel, folder: Path) -> None:
    """Train by every kind of task: the processes divide the two forwards of a step, or the rows of its one forward."""
    responses = [Demonstration(row.prompt, text) for row in data()[0].rows for text in row.responses]
    lab = Lab(lm, folder, replace(TRAINING, accumulate=2))
    lab.dpo("good", *data(), 0.1)
    panacea.train(Inputs(lab, *data()), PanaceaConfig())
    with lab.trained_by(TRAINING):
        lab.dpo("good", *data(), 0.1)
        lab.fit_demonstrations("demonstrations", responses, responses[:7])
        panacea.train(Inputs(lab, *data()), PanaceaConfig())
        panacea.train(Inputs(lab, *data()), PanaceaConfig(aggregation="tchebycheff", orthogonality=0.1))
        panacea.train(Inputs(lab, *data()), PanaceaConfig(per="row", draw="corners"))
    with lab.trained_by(replace(TRAINING, steps=4, gradient_checkpointing=True)):
        lab.dpo("good", *data(), 0.1)


def train_together(lm: LanguageModel, folder: Path, sharded: bool) -> list[float]:
    """Run :func:`fits` and return the share of a layer's weights that this process holds."""
    start(torch.device("cpu"), 2)
    if sharded:
        shard_weights(lm.model, torch.device("cpu"))
    fits(lm, folder)
    assert Lab(lm, folder, TRAINING).team == ProcessGroup(int(os.environ["RANK"]), 2, sharded)
    weight = lm.model.get_decoder().layers[0].mlp.up_proj.weight
    local = weight.to_local() if sharded else weight
    return local.numel() / weight.numel()


def files(folder: Path) -> list[str]:
    return sorted(str(file.relative_to(folder)) for file in folder.rglob("*") if file.is_file())


def distance(first: Path, second: Path) -> float:
    """Return the largest difference between the weights of two saved adapters."""
    a, b = Adapter.load(first / "adapter"), Adapter.load(second / "adapter")
    assert a.factors.keys() == b.factors.keys()
    pairs = ((x, y) for path in a.factors for x, y in zip(a.factors[path], b.factors[path], strict=True))
    return max(float((x - y).abs().max()) for x, y in pairs)


def history(stage: Path) -> list[dict[str, float]]:
    return json.loads((stage / "history.json").read_text())


def assert_equal_runs(one: Path, other: Path) -> int:
    """Compare all adapters and metrics under two folders; return how many adapters there are."""
    stages = sorted(one.glob("**/adapters/*"))
    for stage in stages:
        same = other / stage.relative_to(one)
        assert distance(stage, same) <= 1e-5, stage
        # Adam hides the scale of a gradient; its norm, which is logged, does not.
        for record, twin in zip(history(stage), history(same), strict=True):
            assert record.keys() == twin.keys()
            for name, value in record.items():
                assert math.isclose(value, twin[name], rel_tol=1e-4, abs_tol=1e-5), (stage, name)
    return len(stages)


@pytest.fixture(scope="module")
def single(lm: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The fits of one process."""
    folder = tmp_path_factory.mktemp("single")
    fits(lm, folder)
    return folder


@pytest.mark.parametrize("sharded", [False, True], ids=["whole weights", "fsdp"])
@pytest.mark.slow
def test_two_processes_train_as_one(lm: LanguageModel, single: Path, tmp_path: Path, sharded: bool) -> None:
    held = together(train_together, lm, tmp_path, sharded)
    assert held == ([0.5, 0.5] if sharded else [1.0, 1.0])
    assert assert_equal_runs(single, tmp_path) == 8
    assert files(tmp_path) == files(single), "every stage and cache once, nothing left over"
    trained = Adapter.load(single / "adapters/dpo-good/adapter")
    assert max(float(U.abs().max()) for U, _ in trained.factors.values()) > 1e-3


def _dpo(lm: LanguageModel, folder: Path, settings: Training) -> float:
    Lab(lm, folder, settings).dpo("good", *data(), 0.1)
    return time.time()


@pytest.mark.slow
def test_processes_divide_forwards_and_their_rows(lm: LanguageModel, tmp_path: Path) -> None:
    """Four processes on two forwards: two take one together, each half of its rows."""
    settings = replace(TRAINING, steps=5, accumulate=2, batch_pairs=2)
    _dpo(lm, tmp_path / "one", settings)
    together(_dpo, lm, tmp_path / "four", settings, size=4)
    assert assert_equal_runs(tmp_path / "one", tmp_path / "four") == 1


@contextmanager
def failing(step: int, fail: Callable[[], None], rank: int = 1) -> Iterator[None]:
    """Have process ``rank`` fail at optimiser step ``step``."""
    plain = loop._Loop.step

    def step_or_fail(self: loop._Loop, number: int, held_out: loop.Record) -> loop.Record:
        if number == step and os.environ.get("RANK") == str(rank):
            fail()
        return plain(self, number, held_out)

    loop._Loop.step = step_or_fail  # type: ignore[method-assign]
    try:
        yield
    finally:
        loop._Loop.step = plain  # type: ignore[method-assign]


def kill() -> None:
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.mark.slow
def test_a_killed_run_goes_on_with_any_number_of_processes(lm: LanguageModel, tmp_path: Path) -> None:
    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    began = time.time()
    with failing(15, kill), pytest.raises(ChildFailedError):
        together(_dpo, lm, tmp_path / "two", TRAINING, logs=tmp_path / "logs")
    assert time.time() - began < 60
    assert len(list((tmp_path / "two/checkpoints").glob("*.safetensors"))) == 1
    shutil.copytree(tmp_path / "two", tmp_path / "one")
    whole = tmp_path / "whole/adapters/dpo-good"
    _dpo(lm, tmp_path / "whole", TRAINING)
    with failing(11, lambda: pytest.fail("it began again"), rank=0):
        together(_dpo, lm, tmp_path / "two", TRAINING)
    _dpo(lm, tmp_path / "one", TRAINING)
    for folder in (tmp_path / "one", tmp_path / "two"):
        assert distance(folder / "adapters/dpo-good", whole) <= 1e-5
        assert files(folder) == files(tmp_path / "whole")


def _checkpoint_unseen(lm: LanguageModel, folder: Path) -> None:
    """Have only the second process see a checkpoint, as on two disks."""
    plain = Path.is_file
    Path.is_file = lambda self: (  # type: ignore[method-assign,assignment]
        os.environ["RANK"] == "1" if self.parent.name == "checkpoints" else plain(self)
    )
    with pytest.raises(TrainingError, match="not all processes see this checkpoint; the run folder must be"):
        _dpo(lm, folder, TRAINING)


@pytest.mark.slow
def test_a_folder_that_is_not_shared_is_refused(lm: LanguageModel, tmp_path: Path) -> None:
    together(_checkpoint_unseen, lm, tmp_path)


CONFIG = """
model: {model}
dtype: float32
device: cpu
data: {{source: {data}, splits: {{train: 0.5, validation: 0.2, test: 0.3}}}}
score:
  - {{objective: short, rule: length, unit: words, direction: lower}}
  - {{objective: good, rule: sentiment}}
train: {{steps: 4, batch_pairs: 2, rank: 4, alpha: 8, max_tokens: 64, learning_rate: 2.0e-3}}
sampling: {{max_new_tokens: 16}}
methods:
  dpo-soup: {{}}
  mod: {{}}
  ric: {{iterations: 1, prompts: 12, online_steps: 2}}
  paretohqd: {{steps: 4, stage2_steps: 2, prompts: 6, k: 3}}
preferences: 3
evaluate: {{resamples: 20}}
"""


@pytest.fixture
def config(lm: LanguageModel, tmp_path: Path) -> Path:
    """A whole run on the tiny model."""
    make_dataset(30).write(tmp_path / "data.jsonl")
    file = tmp_path / "config.yaml"
    file.write_text(CONFIG.format(model=lm.name, data=tmp_path / "data.jsonl"))
    return file


def _command(*arguments: object) -> None:
    sys.argv = ["paretune", *map(str, arguments)]
    cli.main()


def torchrun(*arguments: object) -> subprocess.CompletedProcess[str]:
    """Run ``torchrun --nproc_per_node 2 -m paretune ARGUMENTS``."""
    environment = {name: value for name, value in os.environ.items() if name not in LAUNCHER}
    environment["PYTHONPATH"] = str(Path(cli.__file__).parents[2])
    command = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2"]
    return subprocess.run(
        [*command, "-m", "paretune", *map(str, arguments)],
        capture_output=True,
        text=True,
        check=False,
        env=environment,
    )


@pytest.mark.slow
def test_torchrun_gives_the_run_of_one_process(
    config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Data, scores, training, draws between its stages, the front: the same numbers, told once."""
    from paretune.runs.parse import load_config
    from paretune.runs.run import run

    run(load_config(config, [f"folder={tmp_path / 'one'}"]))
    monkeypatch.setattr(calibrate, "_others", lambda *_: 0.0)
    calibrate.here("float32", "cpu")  # the other processes find in the cache how fast this machine is
    result = torchrun("run", config, f"folder={tmp_path / 'two'}", "processes=2")
    assert result.returncode == 0, result.stderr
    assert result.stdout.count("Report: ") == 1 and result.stderr.count("ParetoHqD, stage 2: ") <= 3
    one, two = (json.loads((tmp_path / name / "front.json").read_text()) for name in ("one", "two"))
    for mine, theirs in zip(one["policies"], two["policies"], strict=True):
        for point, twin in zip(mine["points"], theirs["points"], strict=True):
            assert point["mean"] == twin["mean"] and point["responses"] == twin["responses"]
            assert point["log_ratio"]["value"] == pytest.approx(twin["log_ratio"]["value"], abs=1e-4)
    assert one["scoring_forwards"] == two["scoring_forwards"]
    # Weights differ in their last bits, and what is named after them is named otherwise.
    assert len(files(tmp_path / "one")) == len(files(tmp_path / "two"))


FAILURES: list[tuple[list[str], Callable[[], None] | None, str]] = [
    (["processes=3"], None, r"the config asks for 3, but 2 were started; start them with `torchrun"),
    (["train.batch_pairs=3"], None, r"2 processes cannot share a step of 3 rows evenly"),
    (["trian.steps=3"], None, r"unknown key trian; did you mean 'train'"),
    ([], kill, r"another process of this run ended without an error message"),
]


@pytest.mark.parametrize(("overrides", "fail", "message"), FAILURES, ids=["size", "rows", "config", "killed"])
@pytest.mark.slow
def test_one_clear_message_ends_all_processes(
    config: Path, tmp_path: Path, overrides: list[str], fail: Callable[[], None] | None, message: str
) -> None:
    check_failure(config, tmp_path, overrides, fail, message)


@pytest.mark.slow
def test_an_error_of_one_process_ends_all(config: Path, tmp_path: Path) -> None:
    def diverge() -> None:
        raise TrainingError("rank 1: the loss is not finite")

    check_failure(config, tmp_path, [], diverge, "rank 1: the loss is not finite")


def check_failure(
    config: Path, tmp_path: Path, overrides: list[str], fail: Callable[[], None] | None, message: str
) -> None:
    import re

    from torch.distributed.elastic.multiprocessing.errors import ChildFailedError

    began = time.time()
    with failing(2, fail or (lambda: None)), pytest.raises(ChildFailedError) as raised:
        together(_command, "run", config, f"folder={tmp_path / 'run'}", *overrides, logs=tmp_path / "logs")
    told = [file.read_text() for file in sorted((tmp_path / "logs").rglob("stderr.log"))]
    assert time.time() - began < 60, "\n".join(told)
    codes = {failure.exitcode for failure in raised.value.failures.values()}
    assert codes & {2, -signal.SIGKILL} and codes <= {2, -signal.SIGKILL, -signal.SIGTERM}, "\n".join(told)
    assert len(told) == 2
    clock = r"\[\d+:\d\d:\d\d\] "  # of the lines that say where the run is
    messages = re.findall(rf"^paretune: (?!{clock}|measuring the speed).*", "".join(told), re.MULTILINE)
    if fail is kill and not messages:  # the other was ended before it noticed; the launcher names the signal
        assert -signal.SIGKILL in codes
        return
    assert len(messages) == 1 and re.search(message, messages[0]), told
    assert "Traceback" not in "".join(told)


def test_a_lost_connection_is_told_as_such(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("WORLD_SIZE", "2")
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with (
        pytest.raises(ParetuneError, match=r"ended without an error message .* Process 0 noticed"),
        one_voice(),
    ):
        raise RuntimeError("[gloo/transport/tcp/pair.cc:537] Connection reset by peer")
    with pytest.raises(RuntimeError, match="a bug"), one_voice():
        raise RuntimeError("a bug")


def test_one_process_is_not_taken_for_two(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    """As when `accelerate launch --cpu` was asked for two and starts one."""
    with pytest.raises(ConfigError, match=r"asks for 2, but 1 was started; start them with `torchrun"):
        start(torch.device("cpu"), 2)
    with pytest.raises(ConfigError, match="sharding: fsdp divides a model among processes, and this is the"):
        shard_weights(torch.nn.Linear(1, 1), torch.device("cpu"))
    monkeypatch.setenv("ACCELERATE_USE_DEEPSPEED", "true")
    with pytest.raises(ConfigError, match=r"set to shard with DeepSpeed .* set sharding: fsdp"):
        start(torch.device("cpu"))


@given(st.integers(1, 8), st.integers(1, 6), st.integers(1, 8))
def test_every_row_of_a_step_is_run_once_and_all_run_as_many(size: int, accumulate: int, rows: int) -> None:
    try:
        shares = [WorkSplit.of(ProcessGroup(rank, size), accumulate, rows) for rank in range(size)]
    except ConfigError as error:
        assert (accumulate * rows) % size or rows % (size // math.gcd(size, accumulate))
        assert str(size) in str(error) and f"train.batch_pairs={rows}" in str(error)
        return
    run = [
        [(forward, row) for forward in share.forwards(accumulate) for row in share.rows(list(range(rows)))]
        for share in shares
    ]
    assert sorted(itertools.chain(*run)) == [
        (forward, row) for forward in range(accumulate) for row in range(rows)
    ]
    assert len({len(each) for each in run}) == 1
    assert len({len(share.forwards(accumulate)) for share in shares}) == 1


def test_a_task_that_cannot_divide_rows_says_so() -> None:
    assert WorkSplit.of(ProcessGroup(1, 2), 4, 3, divisible=False).forwards(4) == range(1, 4, 2)
    with pytest.raises(ConfigError, match=r"train.accumulate=1 is no multiple of 2; set train.accumulate"):
        WorkSplit.of(ProcessGroup(0, 2), 1, 4, divisible=False)


def test_sharded_weights_are_not_prepacked(lm: LanguageModel) -> None:
    assert any(isinstance(module, FrozenLinear) and module.prepack for module in lm.model.modules())
    assert issubclass(ConfigError, ParetuneError) and shard.is_sharded(lm.model) is False
