"""What a launcher says in the environment, and what another job left there."""

from __future__ import annotations

import os

import pytest
import torch

from paretune.core.errors import ParetuneError
from paretune.core.launch import LAUNCHER, launched, one_voice, rank
from paretune.models.distributed import start


@pytest.fixture(autouse=True)
def clean(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in LAUNCHER:
        monkeypatch.delenv(name, raising=False)


def test_variables_without_a_launcher_are_one_process(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in (("RANK", "3"), ("LOCAL_RANK", "3"), ("WORLD_SIZE", "")):
        monkeypatch.setenv(name, value)
    assert (launched(), rank()) == (1, 0)
    assert start(torch.device("cpu")).num_processes == 1 and "LOCAL_RANK" not in os.environ


TWO = {"WORLD_SIZE": "2", "RANK": "0", "LOCAL_RANK": "0", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "1"}


@pytest.mark.parametrize(
    "left",
    [
        {"WORLD_SIZE": "4"},
        {"WORLD_SIZE": "4", "RANK": "1"},
        {"WORLD_SIZE": "many"},
        {"WORLD_SIZE": "-4"},
        TWO | {"RANK": "2"},
        TWO | {"LOCAL_RANK": "x"},
    ],
)
def test_what_another_job_left_is_named_with_the_cure(
    monkeypatch: pytest.MonkeyPatch, left: dict[str, str]
) -> None:
    for name, value in left.items():
        monkeypatch.setenv(name, value)
    told = r"one of several processes of a run \(WORLD_SIZE=.*for one process: unset WORLD_SIZE RANK"
    with pytest.raises(ParetuneError, match=told):
        start(torch.device("cpu"))


def test_a_left_over_number_silences_nobody(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("WORLD_SIZE", "4")
    monkeypatch.setenv("RANK", "1")
    with one_voice():
        print("heard")
    assert capsys.readouterr().out == "heard\n"
