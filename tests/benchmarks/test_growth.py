"""The benchmark of growth at its smallest sizes, and the fit of an exponent."""

from __future__ import annotations

import mmap
import os
from pathlib import Path

import numpy as np
import pytest

from benchmarks import growth
from benchmarks.growth_axes import AXES
from paretune.core.files import read_json


@pytest.mark.parametrize("power", [0.5, 1.0, 2.0])
def test_the_exponent_is_that_of_the_upper_half_without_what_does_not_grow(power: float) -> None:
    sizes = [1, 10, 101, 1001, 10_001]
    values = [7.0, 7.1, *(7.0 + 3.0 * (size - 1) ** power for size in sizes[2:])]
    assert growth.exponent(sizes, values) == pytest.approx(power)
    assert growth.exponent(sizes, [7.0, 8.0, 7.5, 7.4, 7.9]) is None, "noise"
    assert growth.exponent(sizes[:2], values[:2]) is None, "two sizes show no curve"


def test_what_grows_faster_than_linearly_is_called_so() -> None:
    sizes = [64, 128, 256, 512, 1024]
    square = growth.curve(sizes, [[9.0 + float(size**2)] * 2 for size in sizes], "CPU-s")
    assert 1.7 < square["exponent"] < 2.1 and square["verdict"].startswith("faster than linear (exponent")
    linear = growth.curve(sizes, [[50 + size * 0.9, 50 + size * 1.1] for size in sizes], "CPU-s")
    assert linear["exponent"] == pytest.approx(1.0) and linear["verdict"] == "linear or better"
    small = growth.curve(sizes, [[float(size**2)] for size in sizes], "bytes", growth.MEASURABLE)
    assert small["exponent"] is None and small["verdict"] == "does not grow measurably"
    assert growth.fitted({"axis": "x", "sizes": sizes, "curves": {"a": square}})["curves"]["a"] == square


def test_a_process_of_its_own_returns_time_and_memory() -> None:
    def work() -> dict[str, float]:
        held = np.frombuffer(mmap.mmap(-1, 30_000_000 // 8 * 8))  # pages that no freed memory stands in for
        held[:] = 1
        return {"sum": float(held.sum()), "process": os.getpid()}

    found, rise = growth.in_a_process(work)
    assert found["process"] != os.getpid() and 30e6 <= rise < 90e6


@pytest.mark.slow
def test_it_measures_and_draws_and_keeps_other_axes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARETUNE_CACHE", str(tmp_path / "cache"))
    out, picture = tmp_path / "growth.json", tmp_path / "growth.png"
    given = ["--tiny", "--rounds", "1", "--out", str(out), "--picture", str(picture), "--only"]
    growth.main([*given, "objectives"])
    first = read_json(out)["axes"]
    picture.unlink()
    growth.main([*given, "response length", "policies served", "rows of data"])
    axes = read_json(out)["axes"]
    assert [axis["axis"] for axis in axes] == [
        "rows of data",
        "response length",
        "objectives",
        "policies served",
    ]
    assert axes[2] == first[0]
    for axis in axes:
        wanted = AXES[axis["axis"]]
        assert axis["sizes"] == list(wanted.tiny) and axis["machine"]["versions"]["torch"]
        memory = [name for name in axis["curves"] if name.startswith("memory: ")]
        assert len(memory) == len(wanted.work) and len(axis["curves"]) > len(memory)
        for each in axis["curves"].values():
            assert [len(values) for values in each["rounds"]] == [1] * len(axis["sizes"])
            assert all(value > 0 for (value,) in each["rounds"])
    assert picture.read_bytes().startswith(b"\x89PNG")
