"""Devices that lack what CUDA has: a device without float64 and bfloat16 stands for Apple's (``support/apple.py``)."""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any

import pytest
import torch

from paretune.models import devices, language_model
from support.forked import run

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def seen(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What ``support/apple_trials.py`` saw, in a process of its own."""
    tests = Path(__file__).parents[1]
    done = run(
        [sys.executable, "-m", "support.apple_trials", str(tmp_path_factory.mktemp("apple"))],
        cwd=tests,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return json.loads(done.stdout.splitlines()[-1])


def test_the_device_of_the_tests_refuses_float64(seen: dict[str, Any]) -> None:
    assert "float64" in seen["float64"]
    assert "float64" in seen["numbers drawn on the device"], (
        "random numbers in float64 on the device would have been seen"
    )


def test_the_number_format_is_one_that_the_device_computes(seen: dict[str, Any]) -> None:
    assert seen["place"] == ["apple:0", "torch.float32", "cpu"]
    assert "does not compute in bfloat16" in seen["bfloat16"]
    assert "dtype: float32" in seen["bfloat16"]


@pytest.mark.parametrize("how", ["greedy", "all", "nucleus", "reverse-kl", "jensen-shannon"])
def test_the_same_tokens_are_drawn_on_every_device(seen: dict[str, Any], how: str) -> None:
    assert len({tuple(row) for row in seen["cpu"][how]}) > 1, "different rows, or any mistake would be hidden"
    assert seen["apple"][how] == seen["cpu"][how]


def test_a_run_trains_and_measures_every_kind_of_policy(seen: dict[str, Any]) -> None:
    here, there = seen["run on cpu"], seen["run on apple"]
    assert there["policies"] == here["policies"]
    assert {"dpo-soup", "mod", "panacea", "morlhf", "linear-alignment", "ric"} <= set(there["policies"])
    assert there["answers"] == here["answers"]


def test_bfloat16_is_taken_where_the_device_computes_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(language_model, "present", lambda name: torch.device("xpu"))
    for native in (True, False):
        monkeypatch.setattr(devices, "computes", lambda device, dtype, native=native: native)
        kind = torch.bfloat16 if native else torch.float32
        monkeypatch.setattr(language_model, "computes", lambda device, dtype: True)
        assert language_model.computing("auto", None) == (torch.device("xpu"), kind)
