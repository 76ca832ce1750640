"""States below the lowest adapted block are kept: the same training, read once, and bit for bit whatever is kept."""

from __future__ import annotations

import json
import signal
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from paretune.core.errors import ModelError
from paretune.models import kept_states
from paretune.models.kept_states import keeping
from paretune.models.language_model import LanguageModel
from paretune.models.packing import every_state, pack, packed_states, prepare
from paretune.models.steering import Steering
from paretune.training.lab import Lab
from support.adapters import TRAINING, adapters_equal
from support.architectures import make_architecture
from support.kills import killed
from support.world import make_dataset

UPPER = replace(TRAINING, targets=("all-linear@1-",), steps=12)
KEPT = replace(UPPER, keep_states=0.01)
DATA = make_dataset(4), make_dataset(3, seed=9)
GROUPS = [((1, 2, 3), ((4, 5), (6, 7, 8))), ((9, 10), ((11,),))]


@pytest.fixture(autouse=True)
def nothing_kept() -> Iterator[None]:
    kept_states._KEPT.clear()
    yield
    kept_states._KEPT.clear()


@contextmanager
def counted(lm: LanguageModel) -> Iterator[list[int]]:
    """Count the tokens of each pass through the first block."""
    passes: list[int] = []
    block = lm.model.get_decoder().layers[0]
    hook = block.register_forward_pre_hook(lambda module, given: passes.append(given[0].shape[1]))
    try:
        yield passes
    finally:
        hook.remove()


def test_the_same_training_reads_each_text_once_below(lm: LanguageModel, tmp_path: Path) -> None:
    with counted(lm) as plain_passes:
        plain = Lab(lm, tmp_path / "plain", UPPER).dpo("good", *DATA, 0.1)
    with counted(lm) as kept_passes:
        kept = Lab(lm, tmp_path / "kept", KEPT).dpo("good", *DATA, 0.1)
    for path, factors in plain.factors.items():
        for a, b in zip(factors, kept.factors[path], strict=True):
            torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)
    histories = [
        json.loads((tmp_path / name / "adapters/dpo-good/history.json").read_text())
        for name in ("plain", "kept")
    ]
    assert [h["loss"] for h in histories[0]] == pytest.approx([h["loss"] for h in histories[1]], abs=1e-4)
    assert sum(kept_passes) < 0.7 * sum(plain_passes)
    with counted(lm) as again:
        Lab(lm, tmp_path / "other seed", replace(KEPT, seed=3)).dpo("good", *DATA, 0.1)
    assert sum(again) < 0.5 * sum(kept_passes), (
        "another seed finds what the first has read; the base model reads anew"
    )


@pytest.mark.parametrize("room", [1e-9, 2e-6])
def test_how_much_is_kept_changes_no_number(lm: LanguageModel, tmp_path: Path, room: float) -> None:
    much = Lab(lm, tmp_path / "much", KEPT).dpo("good", *DATA, 0.1)
    kept_states._KEPT.clear()
    little = Lab(lm, tmp_path / "little", replace(KEPT, keep_states=room)).dpo("good", *DATA, 0.1)
    assert adapters_equal(much, little)
    (states,) = kept_states._KEPT[lm.model].values()
    assert states._held <= room * 1e9 and states._held == sum(each.nbytes for each in states._states.values())


def test_a_killed_run_ends_with_the_same_bytes(lm: LanguageModel, tmp_path: Path) -> None:
    whole = Lab(lm, tmp_path / "whole", KEPT).dpo("good", *DATA, 0.1)
    kept_states._KEPT.clear()
    assert killed(7, lambda: Lab(lm, tmp_path / "killed", KEPT).dpo("good", *DATA, 0.1)) == -signal.SIGKILL
    assert adapters_equal(whole, Lab(lm, tmp_path / "killed", KEPT).dpo("good", *DATA, 0.1))


def test_the_key_of_a_stage_has_whether_and_not_how_much() -> None:
    assert UPPER.decisive == replace(UPPER, keep_states=0.0).decisive and "keep_states" not in UPPER.decisive
    assert KEPT.decisive == replace(KEPT, keep_states=9.0).decisive != UPPER.decisive


def test_where_nothing_can_be_kept_it_is_said(lm: LanguageModel, tmp_path: Path) -> None:
    said: list[str] = []
    lab = Lab(lm, tmp_path, replace(KEPT, targets=("q_proj",)))
    lab.say = said.append  # type: ignore[method-assign]
    lab.dpo("good", *DATA, 0.1)
    assert any("train.keep_states keeps nothing: adapters reach the first block" in line for line in said)
    assert lm.model not in kept_states._KEPT


NAMES = """deepseek_v3 ernie4_5 exaone4 gemma gemma3_text gemma4_text glm4 gpt_neox gpt_oss llama mistral mixtral olmo2 olmo3 phi
phi3 qwen2 qwen3 qwen3_moe smollm3 starcoder2"""


@pytest.mark.parametrize("name", NAMES.split())
def test_an_architecture_reads_as_it_does_without(name: str) -> None:
    model = make_architecture(name)
    prepare(model)
    steering = Steering.attach(model, ["all-linear@1-"], 2)
    batch = pack(GROUPS)
    with steering.at(torch.ones(2)), torch.no_grad(), keeping(model, 0.01) as why:
        whole = every_state(model, batch)
        found = [packed_states(model, batch) for _ in range(2)]
    assert not why
    for each in found:
        torch.testing.assert_close(each, whole, rtol=1e-3, atol=1e-4)


def test_a_model_that_hands_on_something_else_is_refused(
    lm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    steering = Steering.attach(lm.model, ["all-linear@1-"], 2)
    monkeypatch.setattr(kept_states._Instead, "forward", lambda self, hidden, *others, **named: 2 * hidden)
    try:
        with (
            steering.at(torch.ones(2)),
            keeping(lm.model, 0.01),
            pytest.raises(ModelError, match=r"cannot be passed over.*leave train\.keep_states out"),
        ):
            packed_states(lm.model, pack(GROUPS))
    finally:
        steering.detach()
