"""Long data: inspection, conversion, selection and pairs of many rows in bounded memory.

    python -m benchmarks.data.long_data [--rows 10000 100000 1000000] [--work FOLDER]

Writes preference rows of random words (two responses, scores on two objectives, comparisons on a third) to a Parquet file in
one group of rows, as pyarrow and pandas do, and runs each phase in a process of its own:

    inspect    `paretune data inspect`: read, check, count
    convert    `paretune data convert` to JSON lines
    select     `paretune data select`: 100 responses for each of 11 preferences, texts of the chosen written to a file
    pairs      pairs of one objective; a choice of 1000 as a training run of 250 steps makes it

Prints rows a CPU-second and the peak of resident memory of each phase, and how much that grows from the fewest rows to the
most.
"""

from __future__ import annotations

import argparse
import io
import json
import resource
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np

CHUNK = 10_000
OBJECTIVES = ("concise", "warm")


def words(rng: np.random.Generator) -> np.ndarray:
    """Return 5000 made-up words of one to four syllables."""
    starts, ends = list("bdfgklmnprstvw"), ["a", "e", "i", "o", "u", "an", "er", "is", "ol"]
    counts = rng.integers(1, 5, 5000)
    return np.array(["".join(rng.choice(starts) + rng.choice(ends) for _ in range(n)) for n in counts])


def texts(rng: np.random.Generator, vocabulary: np.ndarray, count: int, mean: int) -> list[str]:
    """Return ``count`` texts with a log-normal number of words around ``mean``."""
    lengths = np.clip(rng.lognormal(np.log(mean), 0.6, count), 3, 20 * mean).astype(int)
    drawn = vocabulary[(len(vocabulary) * rng.random(lengths.sum()) ** 2).astype(int)].tolist()
    ends = np.cumsum(lengths).tolist()
    return [" ".join(drawn[end - n : end]) for n, end in zip(lengths.tolist(), ends, strict=True)]


def records(rows: int, seed: int = 0) -> Iterator[dict[str, list[Any]]]:
    """Yield columns of the canonical form in parts; about one prompt in a hundred comes again."""
    rng = np.random.default_rng(seed)
    vocabulary = words(rng)
    for start in range(0, rows, CHUNK):
        count = min(CHUNK, rows - start)
        prompts = texts(rng, vocabulary, count, 60)
        for place in rng.integers(0, count, count // 100).tolist():
            prompts[place] = prompts[0]
        first, second = (texts(rng, vocabulary, count, 45) for _ in range(2))
        warm = rng.normal(size=(count, 2)).round(3).tolist()
        concise = [[-float(len(a)), -float(len(b))] for a, b in zip(first, second, strict=True)]
        said = rng.choice([1.0, -1.0, 0.0], count).tolist()
        yield {
            "prompt": prompts,
            "responses": list(map(list, zip(first, second, strict=True))),
            "scores": [{"concise": c, "warm": w} for c, w in zip(concise, warm, strict=True)],
            "labels": [{"helpful": [[0.0, 1.0, p]] if n % 4 == 0 else None} for n, p in enumerate(said)],
        }


def write(path: Path, rows: int) -> None:
    """Write the data as one group of rows."""
    import pyarrow as pa
    import pyarrow.parquet

    numbers = pa.list_(pa.float64())
    schema = pa.schema(
        {
            "prompt": pa.string(),
            "responses": pa.list_(pa.string()),
            "scores": pa.struct(dict.fromkeys(OBJECTIVES, numbers)),
            "labels": pa.struct({"helpful": pa.list_(numbers)}),
        }
    )
    batches = [
        pa.record_batch([pa.array(columns[field.name], field.type) for field in schema], schema=schema)
        for columns in records(rows)
    ]
    pa.parquet.write_table(pa.Table.from_batches(batches), path)


# The phases, each as a user would run it


def inspect(source: Path, work: Path) -> int:
    """Run what ``paretune data inspect`` runs."""
    from rich.console import Console

    from paretune.cli.inspect import render
    from paretune.data.load import load_data
    from paretune.data.summary import inspect

    found = inspect(load_data(source))
    Console(file=io.StringIO()).print(render(found))
    return found.prompts


def convert(source: Path, work: Path) -> int:
    """Run what ``paretune data convert`` runs."""
    from paretune.data.load import load_data

    target = work / "converted.jsonl"
    load_data(source).write(target)
    size = target.stat().st_size
    target.unlink()
    return size


def select(source: Path, work: Path) -> int:
    """Run what ``paretune data select`` runs."""
    from paretune.cli.select import select_command
    from paretune.data.load import load_data

    target = work / "chosen.jsonl"
    select_command(load_data(source).select(OBJECTIVES), jsonl=target)
    return sum(1 for _ in target.open())


def pairs(source: Path, work: Path) -> int:
    """Split the data, make pairs and take those of a short run."""
    from paretune.data.load import load_data
    from paretune.data.pairs import pairs

    train = load_data(source).split({"train": 0.9, "validation": 0.1})["train"]
    found = pairs(train, "warm")
    order = np.sort(np.random.default_rng(0).permutation(len(found))[:1000])
    assert all(found[n].gaps[train.objectives.index("warm")] > 0 for n in order.tolist())
    return len(found)


PHASES: dict[str, Callable[[Path, Path], int]] = {
    "inspect": inspect,
    "convert": convert,
    "select": select,
    "pairs": pairs,
}


def measured(phase: str, source: Path, work: Path, rows: int) -> dict[str, float]:
    """Run a phase in a process of its own; this one stays small, as a child counts the peak of its parent as its own."""
    command = [
        sys.executable,
        "-m",
        "benchmarks.data.long_data",
        "--phase",
        phase,
        "--source",
        str(source),
        "--work",
        str(work),
    ]
    command += ["--rows", str(rows)]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(done.stderr)
    return json.loads(done.stdout.splitlines()[-1])


def run_phase(phase: str, source: Path, work: Path, rows: int) -> None:
    """Run a phase here and print what it took."""
    if phase == "write":
        write(source, rows)
        result = source.stat().st_size
    else:
        result = PHASES[phase](source, work)
    seconds = time.process_time()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
    print(json.dumps({"seconds": seconds, "peak": peak, "result": result}))


def main() -> None:
    """Run all phases at all sizes and print the table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, nargs="+", default=[10_000, 100_000, 1_000_000])
    parser.add_argument("--phases", nargs="+", choices=PHASES, default=list(PHASES))
    parser.add_argument("--work", type=Path, help="where to write the data; by default a temporary folder")
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/long_data.json"))
    parser.add_argument("--phase", choices=("write", *PHASES), help=argparse.SUPPRESS)
    parser.add_argument("--source", type=Path, help=argparse.SUPPRESS)
    arguments = parser.parse_args()
    if arguments.phase:
        run_phase(arguments.phase, arguments.source, arguments.work, arguments.rows[0])
        return
    results: dict[str, dict[int, dict[str, float]]] = {phase: {} for phase in arguments.phases}
    with tempfile.TemporaryDirectory(dir=arguments.work) as folder:
        work = Path(folder)
        for rows in sorted(arguments.rows):
            source = work / f"{rows}.parquet"
            size = measured("write", source, work, rows)["result"]
            print(f"{rows:,} rows: {size / 2**20:,.0f} MB of Parquet", flush=True)
            for phase, found in results.items():
                found[rows] = one = measured(phase, source, work, rows)
                speed, peak = rows / one["seconds"], one["peak"] / 2**20
                print(
                    f"  {phase:8} {speed:8,.0f} rows a CPU-s  peak {peak:6,.0f} MB  ({one['result']:,})",
                    flush=True,
                )
            source.unlink()
    least, most = min(arguments.rows), max(arguments.rows)
    for phase, found in results.items():
        growth = (found[most]["peak"] - found[least]["peak"]) / 2**20
        print(f"{phase:8} peak memory grows by {growth:,.0f} MB from {least:,} rows to {most:,}")
    from paretune.core.files import write_json

    write_json(arguments.out, {"phases": results})


if __name__ == "__main__":
    main()
