"""Data beyond memory: what a file of rows gives is what a tuple of them gives, in bounded memory, and damage is named."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paretune.core.errors import DataError, ParetuneError
from paretune.data import row_store
from paretune.data.dataset import ScoredDataset, concatenate, to_records
from paretune.data.load import load_data
from paretune.data.pairs import labelled_pairs, pairs
from paretune.data.row_store import ArrowRows, gather
from paretune.data.rows import Row
from paretune.data.summary import _layers_of_each, inspect
from paretune.fronts.indicators import layers
from paretune.methods.paretohqd.rays import candidates
from support.any_rows import OBJECTIVES, rows
from support.world import make_dataset

sizes = st.sampled_from([1, 700, 5000, 1 << 20])  # characters in a block: a row, a few, all
tables = st.lists(rows(), min_size=1, max_size=8)


@pytest.fixture(autouse=True)
def cache_folder(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Path:
    folder = tmp_path_factory.mktemp("cache")
    monkeypatch.setenv("PARETUNE_CACHE", str(folder))
    return folder


def filed(found: list[Row], block: int) -> ArrowRows:
    """Return rows in a file of blocks of ``block`` characters."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(row_store, "MOST_IN_MEMORY", 0)
        patch.setattr(row_store, "BLOCK", block)
        kept = gather(iter(found))
    assert isinstance(kept, ArrowRows)
    return kept


# The same as in memory


@given(tables, sizes, st.data())
@settings(max_examples=60)
@pytest.mark.slow
def test_rows_of_a_file_are_the_rows(found, block, data) -> None:
    kept = filed(found, block)
    assert kept == tuple(found) and tuple(kept) == tuple(found) and len(kept) == len(found)
    assert [row.source for row in kept] == [row.source for row in found]
    at = data.draw(st.integers(-len(found), len(found) - 1))
    assert kept[at] == found[at]
    cut = data.draw(st.slices(len(found)))
    assert tuple(kept[cut]) == tuple(found[cut])
    with pytest.raises(IndexError):
        kept[len(found)]


@pytest.mark.filterwarnings("ignore:overflow")  # in the deviation of numbers near the largest
@given(tables, sizes)
@settings(max_examples=60)
@pytest.mark.slow
def test_everything_counted_and_chosen_is_the_same(found, block) -> None:
    small, large = ScoredDataset(OBJECTIVES, found), ScoredDataset(OBJECTIVES, filed(found, block))
    assert large == small and large.fingerprint == small.fingerprint
    assert json.dumps(inspect(large).to_dict()) == json.dumps(inspect(small).to_dict())
    assert np.array_equal(large.distinct(), small.distinct())
    mine, theirs = (candidates(each, lambda text: len(text) < 3) for each in (large, small))
    for field in ("rows", "responses", "scores"):
        assert np.array_equal(getattr(mine, field), getattr(theirs, field), equal_nan=True)
    assert mine.dropped == theirs.dropped
    assert repr(list(labelled_pairs(large))) == repr(labelled_pairs(small))
    for choose in ("extremes", "all", "adjacent"):
        lazy, listed = (pairs(each, OBJECTIVES[0], choose) for each in (large, small))
        assert repr(list(lazy)) == repr(listed) == repr([lazy[n] for n in range(len(lazy))])
        assert repr(lazy[1:]) == repr(listed[1:])


@given(tables, sizes)
@settings(max_examples=40)
@pytest.mark.slow
def test_every_change_of_a_data_set_is_the_same(found, block) -> None:
    small, large = ScoredDataset(OBJECTIVES, found), ScoredDataset(OBJECTIVES, filed(found, block))
    kept = large.select(OBJECTIVES[1:3])
    assert kept == small.select(OBJECTIVES[1:3]) and isinstance(kept.rows, ArrowRows)
    assert kept.select(OBJECTIVES[2:3]) == small.select(OBJECTIVES[2:3])
    numbers = [[float(n)] * len(row.responses) for n, row in enumerate(found)]
    assert large.with_scores("new", numbers) == small.with_scores("new", numbers)
    assert concatenate([large, small, kept]) == concatenate([small, small, small.select(OBJECTIVES[1:3])])
    if len(small.distinct()) > 3:
        fractions = {"a": 0.5, "b": 0.5}
        try:
            parts = small.split(fractions)
        except DataError as error:
            with pytest.raises(DataError) as caught:
                large.split(fractions)
            assert str(caught.value) == str(error)
        else:
            assert large.split(fractions) == parts
            assert all(isinstance(part.rows, ArrowRows) for part in large.split(fractions).values())


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".parquet", ".csv"])
def test_files_are_read_and_written_the_same(suffix, tmp_path, monkeypatch) -> None:
    small = make_dataset(60)
    small.write(tmp_path / f"small{suffix}")
    monkeypatch.setattr(row_store, "MOST_IN_MEMORY", 5000)
    monkeypatch.setattr(row_store, "BLOCK", 3000)
    large = ScoredDataset.read(tmp_path / f"small{suffix}")
    assert isinstance(large.rows, ArrowRows) and large == small
    large.write(tmp_path / f"large{suffix}")
    if suffix != ".parquet":
        assert (tmp_path / f"large{suffix}").read_bytes() == (tmp_path / f"small{suffix}").read_bytes()
    assert load_data(tmp_path / f"large{suffix}", directions={"short": "lower"}).rows[7].scores[
        "short"
    ] == tuple(-value for value in small.rows[7].scores["short"])


@given(st.integers(0, 2**32 - 1), st.integers(1, 6), st.integers(1, 4))
def test_layers_of_many_prompts_at_once_are_those_of_each(seed, count, objectives) -> None:
    points = np.random.default_rng(seed).integers(0, 3, (7, count, objectives)).astype(float)
    assert _layers_of_each(points).tolist() == [layers(each).tolist() for each in points]


def test_a_mistake_far_down_is_named(tmp_path, monkeypatch, cache_folder) -> None:
    monkeypatch.setattr(row_store, "MOST_IN_MEMORY", 5000)
    path = tmp_path / "long.jsonl"
    lines = [json.dumps({"prompt": f"p{n}", "responses": ["a"], "scores": {"x": [n]}}) for n in range(500)]
    lines[400] = lines[400].replace("[400]", '["high"]')
    path.write_text("\n".join(lines))
    with pytest.raises(DataError, match=r"long.jsonl:401: column 'scores.x': expected a number or null, got"):
        load_data(path)
    assert not list((cache_folder / "scratch").iterdir())
    with pytest.raises(DataError, match="made:0: unknown objective 'short'"):
        ScoredDataset(("good",), filed(list(make_dataset(3).rows), 1))


# Formats


@pytest.mark.parametrize("kind", ["file", "stream"])
def test_arrow_files_and_streams(kind, tmp_path) -> None:
    import pyarrow as pa

    dataset = make_dataset(40)
    table = pa.Table.from_pylist(list(to_records(dataset)))
    opened = pa.ipc.new_file if kind == "file" else pa.ipc.new_stream
    with pa.OSFile(str(tmp_path / "d.arrow"), "wb") as file, opened(file, table.schema) as writer:
        writer.write_table(table, max_chunksize=7)
    assert ScoredDataset.read(tmp_path / "d.arrow") == dataset
    raw = (tmp_path / "d.arrow").read_bytes()
    for part in (raw[: len(raw) // 2], b"something else entirely"):
        (tmp_path / "cut.arrow").write_bytes(part)
        with pytest.raises(DataError, match=r"cut.arrow: not a readable Arrow file \(.*write it again"):
            ScoredDataset.read(tmp_path / "cut.arrow")


@pytest.mark.parametrize("damage", ["cut", "overwritten"])
def test_damaged_parquet_is_named(damage, tmp_path) -> None:
    make_dataset(400).write(tmp_path / "d.parquet")
    raw = bytearray((tmp_path / "d.parquet").read_bytes())
    if damage == "cut":
        raw = raw[: len(raw) // 2]
    else:  # the pages, while the footer is whole
        raw[4 : len(raw) // 3] = os.urandom(len(raw) // 3 - 4)
    (tmp_path / "d.parquet").write_bytes(raw)
    with pytest.raises(DataError, match=r"d.parquet: (not a readable Parquet file|cannot read) \("):
        ScoredDataset.read(tmp_path / "d.parquet")


def test_a_full_disk_is_said(monkeypatch) -> None:
    monkeypatch.setattr(row_store, "scratch_file", lambda: open("/dev/full", "wb", buffering=0))  # noqa: PTH123, SIM115
    with pytest.raises(ParetuneError, match=r"cannot keep the rows there .*No space left"):
        filed(list(make_dataset(3).rows), 1)


# Memory

CHILD = """
import json, sys
from paretune.data import row_store
from paretune.data.load import load_data
from paretune.data.summary import inspect
from paretune.data.pairs import pairs
from paretune.methods.paretohqd.rays import candidates
row_store.MOST_IN_MEMORY = int(sys.argv[2])
dataset = load_data(sys.argv[1])
found = inspect(dataset), pairs(dataset, "warm"), candidates(dataset)
dataset.write(sys.argv[1] + ".jsonl")
status = open("/proc/self/status").read()
print(int(status.split("VmHWM:")[1].split()[0]) / 1024)
"""


def peak(path: Path, most_in_memory: int) -> float:
    """Return the peak memory in MB of a process that reads, counts, pairs, chooses and writes the rows of a file."""
    command = [sys.executable, "-c", CHILD, str(path), str(most_in_memory)]
    return float(subprocess.run(command, capture_output=True, text=True, check=True).stdout)


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads the peak of memory from Linux")
@pytest.mark.slow
def test_memory_does_not_grow_with_the_rows(tmp_path) -> None:
    import pyarrow as pa
    import pyarrow.parquet

    def write(count: int) -> Path:
        """One group of rows, as pyarrow writes it."""
        words = np.random.default_rng(0).choice(["sun", "moon", "tree", "stone", "river"], (50, 400))
        texts = [" ".join(line) for line in words]
        scores = [{"warm": [n % 7 / 7, n % 5 / 5], "cold": [n % 3 / 3, n % 11]} for n in range(count)]
        columns = {"prompt": [f"{n} {texts[n % 50]}" for n in range(count)], "scores": scores}
        columns["responses"] = [[f"{n} {texts[n % 49]}", f"{n} {texts[n % 47]}"] for n in range(count)]
        pa.parquet.write_table(pa.table(columns), tmp_path / f"{count}.parquet")
        return tmp_path / f"{count}.parquet"

    few, many = write(4000), write(24_000)
    kept_in_a_file = peak(many, 1 << 22)
    growth = kept_in_a_file - peak(few, 1 << 22)
    assert growth < 25, f"20,000 rows more took {growth:.0f} MB more"
    assert peak(many, 1 << 60) > kept_in_a_file + 40, "rows in memory would be seen by this test"


# Interruption

READER = """
import time
from paretune.data import row_store
from paretune.data.rows import Message, Row
def rows():
    for n in range(10**9):
        if n == 3000:
            print("half", flush=True)
            time.sleep(600)
        yield Row((Message("user", f"q{n}"),), ("a" * 100,))
row_store.MOST_IN_MEMORY = 0
row_store.BLOCK = 10000
row_store.gather(rows())
"""


def test_a_killed_process_leaves_no_rows_behind(cache_folder) -> None:
    process = subprocess.Popen([sys.executable, "-c", READER], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None and process.stdout.readline() == "half\n"
    process.send_signal(signal.SIGKILL)
    process.wait()
    process.stdout.close()
    scratch = cache_folder / "scratch"
    assert not scratch.exists() or not list(scratch.iterdir())


@pytest.mark.slow
def test_the_benchmark_runs(tmp_path) -> None:
    command = [
        sys.executable,
        "-m",
        "benchmarks.data.long_data",
        "--rows",
        "150",
        "--phases",
        "select",
        "pairs",
    ]
    command += ["--work", str(tmp_path), "--out", str(tmp_path / "out.json")]
    done = subprocess.run(command, capture_output=True, text=True, cwd=Path(__file__).parents[2])
    assert done.returncode == 0, done.stderr
    assert set(json.loads((tmp_path / "out.json").read_text())["phases"]["pairs"]) == {"150"}
    assert "peak memory grows by" in done.stdout
