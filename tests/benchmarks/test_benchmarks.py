"""Every benchmark runs at a tiny size, and fails when the ways that it compares do not compute the same."""

from __future__ import annotations

import argparse
import importlib
import json
import math
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType, SimpleNamespace

import pytest

from paretune.core.files import read_json, write_json
from support.world import write_model

ROOT = Path(__file__).parents[2]
PAIRS = ["--pairs", "2", "--prompt", "15", "20", "--response", "6", "9"]
CASES = {
    "training.step": PAIRS,
    "training.step_bf16": PAIRS,
    "training.modpo_step": PAIRS,
    "training.sweep": ["--pairs", "2", "--epochs", "2", "--batch", "2"],
    "training.memory": PAIRS,
    "training.panacea_cost": PAIRS,
    "generation.decode": ["--batches", "1", "3", "--tokens", "8"],
    "generation.mod": ["--batches", "2", "--tokens", "8"],
    "cli.cold_start": ["--tokens", "2", "--uncounted", "0"],
    "fronts.fronts": ["--points", "200", "--limit", "30"],
}
"""Benchmark -> options of its smallest size, in the order B1 to B10."""


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    """The folder of a tiny model."""
    return str(write_model(tmp_path_factory.mktemp("model")))


@pytest.fixture
def bench(
    model: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Callable[[str], tuple[ModuleType, Callable[[], dict]]]:
    """Return a function from the name of a benchmark to its module and what runs it for one round."""
    monkeypatch.chdir(ROOT)
    monkeypatch.setenv("PARETUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("TQDM_DISABLE", "1")
    side_by_side = importlib.import_module("benchmarks.side_by_side")
    monkeypatch.setattr(side_by_side, "keep_freed_memory", lambda: True)  # it is for the whole process

    def of(name: str) -> tuple[ModuleType, Callable[[], dict]]:
        module, out = (
            importlib.import_module(f"benchmarks.{name}"),
            tmp_path / f"{name.rpartition('.')[2]}.json",
        )
        given = ["--model", model, "--rounds", "1", "--out", str(out), *CASES[name]]

        def run() -> dict:
            module.main(given)
            return read_json(out)

        return module, run

    return of


@pytest.mark.parametrize("name", CASES)
@pytest.mark.slow
def test_it_runs_and_writes_its_figures(bench, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    module, run = bench(name)
    if name == "training.step_bf16":
        monkeypatch.setattr(module, "SHAPE", (128, 96, 160))
    if name == "training.memory":  # one child only: TRL takes seconds to import
        child, held = module.child, {"peak": 3e8, "before": 1e8}

        def either(way: str, given: list[str]) -> dict:
            if way == "paretune":
                return child(way, given)
            return module.measure(way, module.read(given)) | held

        monkeypatch.setattr(module, "child", either)
    if name == "cli.cold_start":  # our own command and server only: those of others take seconds to start
        command, starts = module.command, module.starts
        peer = [sys.executable, "-c", "print('usage')"]
        monkeypatch.setattr(module, "command", lambda name: command(name) if name == "paretune" else peer)

        def but_one(*given: object) -> dict:
            return {way: start for way, start in starts(*given).items() if way != "transformers serve"}

        monkeypatch.setattr(module, "starts", but_one)
    result = run()
    assert result["benchmark"] == f"B{list(CASES).index(name) + 1}"
    assert result["equal"] and result["machine"]["versions"]["torch"]
    assert result["settings"]["rounds"] == 1 and "out" not in result["settings"]
    for row in result["figures"]:
        assert all(value > 0 for values in row["taken"].values() for value in values)
        ratio = row["ratio"]
        assert 0 < ratio["low"] <= ratio["median"] <= ratio["high"] < math.inf
    written = importlib.import_module("benchmarks.table").table([(name.rpartition(".")[2], result)])
    assert f"**{result['benchmark']}**" in written and f"benchmarks/{name.replace('.', '/')}.py" in written


@pytest.mark.parametrize("options", [PAIRS, ["--decode", "2"]], ids=["step", "decode"])
def test_a_profile_holds_all_the_time(
    bench, monkeypatch: pytest.MonkeyPatch, model: str, tmp_path: Path, options: list[str]
) -> None:
    where, out = importlib.import_module("benchmarks.models.where"), tmp_path / "where.json"
    monkeypatch.setattr(where, "TOKENS", 8)
    monkeypatch.setattr(where, "PRODUCT", (128, 96, 160))
    given = ["--model", model, "--dtype", "float32", "--rounds", "1", "--out", str(out)]
    where.main([*given, *options])
    found = read_json(out)["float32"]
    assert all(seconds >= 0 for seconds in found["seconds"].values())
    assert sum(found["seconds"].values()) >= 0.5 * found.get("run", found.get("step"))


def test_gains_compare_what_computes_the_same(
    bench, monkeypatch: pytest.MonkeyPatch, model: str, tmp_path: Path
) -> None:
    gains, out = importlib.import_module("benchmarks.models.gains"), tmp_path / "gains.json"
    monkeypatch.setattr(gains, "TOKENS", 8)
    monkeypatch.setattr(gains, "slow_bfloat16", lambda: True)  # attention by products has tests of its own
    given = [
        "--model",
        model,
        "--dtype",
        "float32",
        "--rows",
        "1",
        "3",
        "--rounds",
        "1",
        "--out",
        str(out),
        *PAIRS,
    ]
    gains.main(given)
    result = read_json(out)
    decoded = [f"{n} rows, 8 tokens, float32" for n in (1, 3)]
    wide = gains.frozen_linear.wide_vectors()
    steps = ["DPO step, float32, 2 pairs"] * wide
    assert [row["what"] for row in result["figures"]] == steps + decoded
    assert len(result["equal"]) == 2 + wide

    right = gains.DecodingBlock._decoded

    def wrong(block: object, x: object, *more: object) -> object:
        return right(block, x if len(x) == 2 else -3 * x, *more)  # loading compares two rows

    monkeypatch.setattr(gains.DecodingBlock, "_decoded", wrong)
    with pytest.raises(SystemExit, match="so the figures mean nothing"):
        gains.main(given)


@pytest.mark.parametrize(
    "name", ["training.step", "training.step_bf16", "training.modpo_step", "training.sweep"]
)
@pytest.mark.slow
def test_another_loss_is_found(bench, monkeypatch: pytest.MonkeyPatch, name: str) -> None:
    import paretune.training.preference_pairs

    real = paretune.training.preference_pairs.pair_loss
    monkeypatch.setattr(
        paretune.training.preference_pairs, "pair_loss", lambda *given, **named: 1.5 * real(*given, **named)
    )
    with pytest.raises(SystemExit, match="so the figures mean nothing"):
        bench(name)[1]()


@pytest.mark.parametrize(
    ("name", "ways"), [("generation.decode", "PEFT, mixed adapters"), ("generation.mod", "PEFT")]
)
def test_other_tokens_are_found(bench, monkeypatch: pytest.MonkeyPatch, name: str, ways: str) -> None:
    module, run = bench(name)
    real = module.ways

    def other(*given: object) -> dict:
        found = real(*given)
        drawn = found[ways]
        return {**found, ways: lambda: [[*row[:-1], row[-1] + 1] for row in drawn()]}

    monkeypatch.setattr(module, "ways", other)
    with pytest.raises(SystemExit, match="rows, so the figures mean nothing"):
        run()


@pytest.mark.slow
def test_another_hypervolume_is_found(bench, monkeypatch: pytest.MonkeyPatch) -> None:
    module, run = bench("fronts.fronts")
    real = module.figures.hypervolume
    monkeypatch.setattr(module.figures, "hypervolume", lambda *a: 1.001 * real(*a))
    with pytest.raises(SystemExit, match="hypervolume, 200 points, 2 objectives differ"):
        run()


def test_a_peer_that_takes_too_long_is_left_out(bench, monkeypatch: pytest.MonkeyPatch) -> None:
    module, run = bench("fronts.fronts")
    monkeypatch.setattr(
        module, "finishes", lambda run, limit: "fast_non_dominated_sort" not in run.__code__.co_freevars
    )
    rows = [row for row in run()["figures"] if row["against"] == module.OWN]
    assert rows and all(
        "ratio" not in row and row["note"].startswith("not run: more than 30 s") for row in rows
    )


def test_memory_of_another_step_is_found(bench, monkeypatch: pytest.MonkeyPatch) -> None:
    module, run = bench("training.memory")
    monkeypatch.setattr(
        module, "child", lambda way, given: {"numbers": [0.7, float(len(way))], "peak": 2e6, "before": 1e6}
    )
    with pytest.raises(SystemExit, match="gradient norm and rewards differ"):
        run()


def test_panacea_below_the_anchors_is_found(bench, monkeypatch: pytest.MonkeyPatch) -> None:
    module, run = bench("training.panacea_cost")
    front = read_json(ROOT / "docs/results/panacea/figures.json")
    for test in front["comparisons"]:
        test["verdict"] = "modpo above"
    monkeypatch.setattr(module, "read_json", lambda path: front)
    with pytest.raises(SystemExit, match="lora is below modpo, so its cost means nothing"):
        run()


def test_another_answer_is_found(bench, monkeypatch: pytest.MonkeyPatch) -> None:
    module, run = bench("cli.cold_start")
    monkeypatch.setattr(module, "help_of", lambda name: None)
    monkeypatch.setattr(module, "empty_run", lambda source, folder: None)
    said = {
        name: SimpleNamespace(texts=[text], first_token=lambda: 1.0)
        for name, text in (("paretune serve", "a cat"), ("transformers serve", "a dog"))
    }
    monkeypatch.setattr(module, "starts", lambda run, arguments: said)
    with pytest.raises(SystemExit, match=r"the answers differ.*a dog"):
        run()


def test_nothing_agrees_with_nan(bench) -> None:
    module, _ = bench("fronts.fronts")
    for found in ([math.nan, 1.0], [1.0, math.nan]):
        with pytest.raises(SystemExit, match="differ"):
            module.same("numbers", {"a": [1.0, 1.0], "b": found}, relative=0.1)
    assert module.same("numbers", {"a": [1.0], "b": [1.05]}, relative=0.1)["share_of_tolerance"] < 1


def test_the_table_is_what_the_files_give(bench, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    bench("fronts.fronts")
    table = importlib.import_module("benchmarks.table")
    table.main(["--check"])
    copy = tmp_path / "docs"
    shutil.copytree(ROOT / "docs/performance", copy / "performance")
    shutil.copy(ROOT / "docs/performance.md", copy)
    monkeypatch.chdir(tmp_path)
    table.main([])
    assert (copy / "performance.md").read_text() == (ROOT / "docs/performance.md").read_text()
    file = next(iter((copy / "performance").glob("*.json")))
    changed = read_json(file)
    changed["figures"][0]["ratio"]["median"] = 123.0
    write_json(file, changed)
    with pytest.raises(SystemExit, match="is not what"):
        table.main(["--check"])
    table.main(["--take", "docs/performance"])
    assert "**123x**" in (copy / "performance.md").read_text()
    shutil.rmtree(copy / "performance" / "other", ignore_errors=True)
    (tmp_path / "new").mkdir()
    changed["figures"][0]["ratio"].update(median=2.5, low=2.0, high=3.0)
    changed["machine"].update(processor="A CPU", instructions="AVX2")
    write_json(tmp_path / "new" / file.name, changed)
    table.main(["--take", str(tmp_path / "new"), "--kind", "other"])
    written = (copy / "performance.md").read_text()
    assert "| on A CPU, AVX2 |" in written and "| 2.50x (2.00 to 3.00) |" in written and "**123x**" in written
    assert "Measured on A CPU, AVX2, " in written


def test_importing_the_package_is_quick(monkeypatch: pytest.MonkeyPatch, capsys) -> None:
    """In CPU-seconds, which a busy machine does not change much."""
    monkeypatch.chdir(ROOT)
    importlib.import_module("benchmarks.core.import_time").main(["--rounds", "3"])
    assert "above an interpreter that does nothing" in capsys.readouterr().out


def test_products_in_float32_are_compared_with_those_in_bfloat16(model: str, tmp_path: Path) -> None:
    from paretune.models import frozen_linear

    measured, out = frozen_linear.slow_bfloat16, tmp_path / "wide.json"
    sizes = ["--rows", "3", "--tokens", "2", *PAIRS]
    wide = importlib.import_module("benchmarks.models.wide")
    wide.main(["--model", model, "--rounds", "1", "--out", str(out), *sizes])
    assert frozen_linear.slow_bfloat16 is measured
    found = read_json(out)
    assert [row["ours"] for row in found["figures"]] == [wide.WIDE] * 2 and found["equal"]


def test_reading_a_common_beginning_once_is_compared_with_reading_all(model: str, tmp_path: Path) -> None:
    out = tmp_path / "reading.json"
    reading = importlib.import_module("benchmarks.generation.reading")
    reading.main(["--model", model, "--rounds", "1", "--out", str(out), "--rows", "3"])
    found = read_json(out)
    assert [row["against"] for row in found["figures"]] == [reading.WHOLE] * 2 and len(found["equal"]) == 2


def test_turns_that_are_read_on_are_compared_with_turns_read_anew(model: str, tmp_path: Path) -> None:
    out = tmp_path / "turns.json"
    turns = importlib.import_module("benchmarks.serving.turns")
    turns.main(["--model", model, "--rounds", "1", "--out", str(out), "--turns", "3", "--tokens", "4"])
    found = read_json(out)
    assert [row["against"] for row in found["figures"]] == [turns.ANEW] * 2 and len(found["read"]) == 3


def test_results_name_no_place_of_the_machine(tmp_path: Path) -> None:
    side_by_side = importlib.import_module("benchmarks.side_by_side")
    given = {
        "python": str(tmp_path / "bin" / "python"),
        "model": tmp_path / "tiny",
        "rows": [1, 8],
        "dtype": "auto",
    }
    side_by_side.write(argparse.Namespace(out=tmp_path / "out.json", **given), "B0", "a title", [], [])
    settings = json.loads((tmp_path / "out.json").read_text())["settings"]
    assert settings == {"python": "python", "model": "tiny", "rows": [1, 8], "dtype": "auto"}


def test_committed_results_name_no_place_of_a_machine() -> None:
    docs = Path(__file__).parents[2] / "docs"
    for file in [*docs.rglob("*.json"), *docs.rglob("config.yaml")]:
        found = re.findall(
            r"""["' ](/(?:home|root|tmp|work|opt|usr|mnt)/[^"'\s]*)""", file.read_text(encoding="utf-8")
        )
        assert not found, (file, found)
