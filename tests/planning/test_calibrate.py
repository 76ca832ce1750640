"""A measurement of this machine: what is said of it, and how long it takes beside other programs."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from paretune.planning import calibrate


def test_a_measurement_is_announced_and_ends_soon_on_a_busy_machine(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PARETUNE_CACHE", str(tmp_path))
    rates = calibrate.Rates(1e11, 1e10, 1e10, 1e10, 1e-5, 1e10)
    monkeypatch.setattr(calibrate, "measure", lambda *_: rates)
    calibrate.here("float32", "cpu")
    calibrate.here("float32", "cpu")
    assert capsys.readouterr().err.count("measuring the speed of this machine") == 1
    now, rounds = [0.0], [0]

    def slow() -> None:
        now[0] += 10.0
        rounds[0] += 1

    monkeypatch.setattr(calibrate.time, "monotonic", lambda: now[0])
    calibrate._seconds(slow, torch.device("cpu"))
    assert rounds[0] == 1 + calibrate.LEAST_ROUNDS
    monkeypatch.setattr(calibrate, "LONGEST", 1e9)
    calibrate._seconds(slow, torch.device("cpu"))
    assert rounds[0] == 2 + calibrate.LEAST_ROUNDS + calibrate.ROUNDS
