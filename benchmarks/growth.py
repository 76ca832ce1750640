"""How time and memory grow with rows, response length, objectives, preferences and served policies, on a tiny random model.

    python -m benchmarks.growth [--rounds 2] [--only AXIS ...] [--out docs/performance/growth.json] [--picture growth.png]

Each axis runs the library at growing sizes with all else fixed, each size in a process of its own on one thread, and measures
CPU-seconds and how far the process's peak of memory rises. A run is divided by its own profile (``stages.json``) into training,
measuring and all else. The exponent of growth is the slope of a line through the logarithms of sizes and medians (least squares)
over the upper half of the sizes: 1 is linear, 2 quadratic. Writes JSON and a picture, and prints what grows faster than linearly.
"""

from __future__ import annotations

import argparse
import json
import logging
import math
import multiprocessing
import os
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from tokenizers import Tokenizer, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from benchmarks.data import long_data
from benchmarks.device.models import random_model
from benchmarks.side_by_side import machine
from benchmarks.training.inputs import RANK as RANK_SERVED
from benchmarks.training.inputs import random_lora
from paretune.core.files import read_json, write_json
from paretune.core.meter import peak_bytes
from paretune.core.preference import Preference
from paretune.core.sampling import Sampling
from paretune.generation.batch import Batch, Slot
from paretune.models.chat_template import PLAIN_TEMPLATE
from paretune.models.language_model import LanguageModel, load
from paretune.models.packing import pack, packed_logps
from paretune.models.steering import Steering
from paretune.policies.policy import Policy
from paretune.runs.parse import parse_config
from paretune.runs.run import run
from paretune.serving.config import EngineLimits
from paretune.serving.engine.engine import Engine
from paretune.serving.engine.stream import gather
from paretune.serving.events import Job

LINEAR = 1.1
"""Largest exponent that counts as linear: other work of the machine moves a fit by some hundredths."""
MEASURABLE = 8e6
"""Bytes below which a rise of the peak says nothing of growth: the memory that Python and its allocator take by the way."""
PROMPT, ROWS, RANK = 32, 4, 4
"""Tokens of a prompt and rows that sample together (response length); rank of adapters."""

Work = Callable[[int, Path], Mapping[str, float]]
"""Does the work of one size in a folder, and returns the CPU-seconds of each part."""


@dataclass(frozen=True)
class Axis:
    """What grows.

    Attributes:
        name: What the sizes count.
        sizes: Sizes of the real measurement, and ``tiny`` those of the test.
        work: Kinds of work, each in a process of its own; ``before`` makes what they need, unmeasured.
        fixed: What does not grow, in words.
    """

    name: str
    sizes: Sequence[int]
    tiny: Sequence[int]
    work: Mapping[str, Work]
    fixed: str
    before: Callable[[int, Path], None] = lambda size, folder: None


# The world: a random model that knows some words, and data of these words


def write_model(folder: Path) -> None:
    """Write a random model of two layers with a tokenizer of made-up words."""
    vocabulary = ["<s>", "</s>", "a", *made_words()]
    model = random_model("tiny", torch.device("cpu"), torch.float32)
    made = PreTrainedTokenizerFast(
        tokenizer_object=_tokenizer(vocabulary[: model.config.vocab_size]),
        bos_token="<s>",
        eos_token="</s>",
        pad_token="</s>",
    )
    made.chat_template = PLAIN_TEMPLATE
    model.save_pretrained(folder)
    made.save_pretrained(folder)


def _tokenizer(vocabulary: Sequence[str]) -> Tokenizer:
    made = Tokenizer(models.WordLevel({word: n for n, word in enumerate(vocabulary)}, unk_token="a"))
    made.pre_tokenizer = pre_tokenizers.WhitespaceSplit()
    return made


def made_words() -> list[str]:
    """Return distinct made-up words in a fixed order."""
    return list(dict.fromkeys(long_data.words(np.random.default_rng(0)).tolist()))


def write_rows(file: Path, rows: int) -> None:
    """Write prompts of 8 words with two responses of 4 to 12."""
    draw, known = random.Random(0), made_words()[:400]
    with file.open("w", encoding="utf-8") as lines:
        for _ in range(rows):
            responses = [" ".join(draw.choices(known, k=draw.randint(4, 12))) for _ in range(2)]
            lines.write(
                json.dumps({"prompt": " ".join(draw.choices(known, k=8)), "responses": responses}) + "\n"
            )


def settings(folder: Path, rows: int, objectives: int = 2, preferences: int = 0) -> dict[str, Any]:
    """Return the config of a run of DPO soups, with 4 steps of training for each objective and 8 held-out prompts."""
    write_rows(folder / "rows.jsonl", rows)
    names = [f"o{n}" for n in range(objectives)]
    ends = [str(Preference.one_hot(name, names)) for name in names]
    return {
        "folder": str(folder / "run"),
        "model": str(folder.parent / "model"),
        "dtype": "float32",
        "device": "cpu",
        "data": {"source": str(folder / "rows.jsonl")},
        # Letters occur in nearly every response, so that every objective has pairs.
        "score": [
            {"objective": name, "rule": "regex", "pattern": "abdefgiklm"[n]} for n, name in enumerate(names)
        ],
        "methods": {"dpo-soup": {"beta": 0.5}},
        "preferences": [*ends, str(Preference.uniform(names))],
        "train": {"steps": 4, "batch_pairs": 4, "rank": RANK},
        "sampling": {"max_new_tokens": 8, "batch_size": 64},
        "evaluate": {"prompts": 8, "resamples": 200, "preferences": preferences},
    }


def whole_run(config: Mapping[str, Any]) -> dict[str, float]:
    """Do a run and return the CPU-seconds of its parts, by its own profile."""
    run(parse_config(dict(config)))
    parts = {"training": 0.0, "measuring": 0.0}
    profile = read_json(Path(config["folder"]) / "stages.json")
    for stage in profile["stages"]:
        part = {"adapters": "training", "front": "measuring"}.get(stage["name"].partition("/")[0])
        if part is not None and not stage["reused"]:
            parts[part] += stage["cpu_seconds"]
    return parts | {"all else of the run": profile["total"]["cpu_seconds"] - sum(parts.values())}


def clocked(what: str, work: Callable[[], object]) -> dict[str, float]:
    """Return the CPU-seconds of ``work`` under a name; what takes less than a tenth is done again, for as long."""
    times, begin = 0, time.process_time()
    while not times or time.process_time() - begin < 0.1:
        work()
        times += 1
    return {what: (time.process_time() - begin) / times}


def opened(folder: Path) -> LanguageModel:
    """Return the random model."""
    return load(str(folder.parent / "model"), "float32", "cpu")


# The axes


def _long_data(name: str) -> Work:
    phase: Callable[[Path, Path], int] = getattr(long_data, name)

    def work(size: int, folder: Path) -> dict[str, float]:
        begin = time.process_time()
        phase(folder / "rows.parquet", folder)
        return {name: time.process_time() - begin}

    return work


def _ids(lm: LanguageModel, count: int) -> list[int]:
    return [2 + n % (lm.model.config.vocab_size - 2) for n in range(count)]


def train_pair(size: int, folder: Path) -> dict[str, float]:
    """Train on one prompt with two responses of ``size`` tokens."""
    lm = opened(folder)
    batch = pack([(_ids(lm, PROMPT), [_ids(lm, size), _ids(lm, size)[::-1]])])
    steering, gate = Steering.attach(lm.model, ["all-linear"], RANK), torch.full((RANK,), 2.0)

    def step() -> None:
        with steering.at(gate):
            packed_logps(lm.model, batch).sum().backward()

    return clocked("training on a pair", step)


def read_pair(size: int, folder: Path) -> dict[str, float]:
    """Read the same without training."""
    lm = opened(folder)
    batch = pack([(_ids(lm, PROMPT), [_ids(lm, size), _ids(lm, size)[::-1]])])
    with torch.no_grad():
        return clocked("reading a pair", lambda: packed_logps(lm.model, batch))


def sample(size: int, folder: Path) -> dict[str, float]:
    """Sample ``size`` tokens in each row; an end of turn is drawn by chance and does not end a row here."""
    lm = opened(folder)

    def answer() -> None:
        batch = Batch(
            lm, None, [Slot(_ids(lm, PROMPT), Sampling(size, 1.0, 1.0), seed) for seed in range(ROWS)]
        )
        batch.read()
        for _ in range(size - 1):
            batch.step()

    return clocked(f"sampling {ROWS} rows", answer)


def serve(size: int, folder: Path) -> dict[str, float]:
    """Serve soups of two adapters each: load nothing, attach all, and answer 32 prompts that go round the policies."""
    lm, names = opened(folder), ("a", "b")
    adapters = [random_lora(lm, ["all-linear"], seed) for seed in range(2 * size)]
    policies = {f"p{n}": Policy.soup(f"p{n}", lm, names, adapters[2 * n : 2 * n + 2]) for n in range(size)}
    begin = time.process_time()
    with Engine(policies, EngineLimits(max_rows=32)) as engine:
        attached = time.process_time()
        jobs = [
            Job(f"p{n % size}", made_words()[n], Preference.uniform(names), Sampling(16, 1.0, 1.0), n)
            for n in range(32)
        ]
        for stream in engine.submit_all(jobs):
            gather(stream)
        answered = time.process_time()
    return {"attaching": attached - begin, "32 answers": answered - attached}


AXES = {
    axis.name: axis
    for axis in (
        Axis(
            "rows",
            (1000, 3162, 10_000, 31_623, 100_000),
            (20, 40),
            {
                **{name: _long_data(name) for name in ("inspect", "convert", "pairs")},
                "run": lambda size, folder: whole_run(settings(folder, size)),
            },
            "two responses a row; a run of 4 steps for each of 2 objectives, measured at 3 preferences on 8 prompts",
            before=lambda size, folder: long_data.write(folder / "rows.parquet", size),
        ),
        Axis(
            "response length",
            (64, 128, 256, 512, 1024, 2048, 4096),
            (4, 8),
            {"train": train_pair, "read": read_pair, "sample": sample},
            f"one prompt of {PROMPT} tokens with two responses; {ROWS} rows that sample together",
        ),
        Axis(
            "objectives",
            (2, 4, 6, 8, 10),
            (2, 3),
            {"run": lambda size, folder: whole_run(settings(folder, 200, size))},
            "DPO soups of 200 rows, 4 steps for each objective, measured on 8 prompts at the corners and the middle",
        ),
        Axis(
            "preferences",
            (3, 11, 26, 51, 101),
            (3, 4),
            {"run": lambda size, folder: whole_run(settings(folder, 200, preferences=size))},
            "DPO soups of two objectives, 200 rows, 8 prompts at each preference",
        ),
        Axis(
            "policies served",
            (1, 3, 10, 30, 100),
            (1, 2),
            {"serve": serve},
            f"soups of two adapters of rank {RANK_SERVED} on all linears; 32 prompts at once, 16 tokens each",
        ),
    )
}  # fmt: skip


# Measuring and fitting


def in_a_process(work: Callable[[], Mapping[str, float]]) -> tuple[dict[str, float], int]:
    """Do work in a forked process; return what it returns, and how many bytes its peak of memory rose above its start."""
    context = multiprocessing.get_context("fork")
    mine, theirs = context.Pipe(duplex=False)

    def child() -> None:
        held = int(Path("/proc/self/statm").read_text().split()[1]) * os.sysconf("SC_PAGE_SIZE")
        found = work()
        theirs.send((dict(found), peak_bytes() - held))

    process = context.Process(target=child)
    process.start()
    theirs.close()
    try:
        found: tuple[dict[str, float], int] = mine.recv()
    except EOFError:
        raise SystemExit(f"a measurement ended with {process.exitcode}; see above") from None
    finally:
        process.join()
    return found


def exponent(sizes: Sequence[int], values: Sequence[float]) -> float:
    """Return the slope of log(value) over log(size), least squares over the upper half of the sizes (two at least)."""
    upper = max(2, math.ceil(len(sizes) / 2))
    x, y = np.log(sizes[-upper:]), np.log(values[-upper:])
    return float(np.polyfit(x, y, 1)[0])


def verdict(grows: float | None) -> str:
    """Return in words how something grows."""
    if grows is None:
        return "does not grow measurably"
    return "linear or better" if grows <= LINEAR else f"faster than linear (exponent {grows:.2f})"


def curve(
    sizes: Sequence[int], rounds: Sequence[Sequence[float]], unit: str, least: float = 0.0
) -> dict[str, Any]:
    """Return the rounds of each size, the exponent of their medians, and the verdict; below ``least`` there is none."""
    medians = [statistics.median(values) for values in rounds]
    grows = exponent(sizes, medians) if min(medians[-2:]) > least else None
    return {
        "unit": unit,
        "rounds": [list(values) for values in rounds],
        "exponent": grows,
        "verdict": verdict(grows),
    }


def measured(axis: Axis, sizes: Sequence[int], rounds: int, world: Path) -> dict[str, Any]:
    """Return the curves of an axis: CPU-seconds of each part, and the rise of memory of each kind of work."""
    seconds: dict[str, list[list[float]]] = {}
    memory: dict[str, list[list[float]]] = {}
    for at, size in enumerate(sizes):
        with tempfile.TemporaryDirectory(dir=world) as prepared:
            in_a_process(lambda where=Path(prepared), size=size: axis.before(size, where) or {})  # type: ignore[misc]
            for _ in range(rounds):
                for kind, work in axis.work.items():
                    _once(kind, work, size, at, Path(prepared), seconds, memory)
        said = ", ".join(f"{part} {statistics.median(values[at]):.3g}" for part, values in seconds.items())
        print(f"{axis.name} {size}: {said} CPU-s", flush=True)
    curves = {part: curve(sizes, values, "CPU-s") for part, values in seconds.items()}
    held = {f"memory: {kind}": curve(sizes, values, "bytes", MEASURABLE) for kind, values in memory.items()}
    return {"axis": axis.name, "sizes": list(sizes), "fixed": axis.fixed, "curves": curves | held}


def _once(
    kind: str,
    work: Work,
    size: int,
    at: int,
    prepared: Path,
    seconds: dict[str, list[list[float]]],
    memory: dict[str, list[list[float]]],
) -> None:
    """Do the work of one size once, in a folder with what was prepared, and note what it took."""
    with tempfile.TemporaryDirectory(dir=prepared.parent) as folder:
        for file in prepared.iterdir():
            (Path(folder) / file.name).symlink_to(file)
        found, rise = in_a_process(lambda: work(size, Path(folder)))
    for noted, values in ((seconds, found), (memory, {kind: float(rise)})):
        for part, value in values.items():
            rows = noted.setdefault(part, [])
            rows.extend([] for _ in range(at + 1 - len(rows)))
            rows[at].append(value)


def draw(axes: Sequence[Mapping[str, Any]], picture: Path) -> None:
    """Draw time and memory of all axes as small multiples, with a dashed line of slope 1 in each."""
    from matplotlib import pyplot

    figure, grid = pyplot.subplots(
        2, len(axes), figsize=(3.4 * len(axes), 6.4), squeeze=False, layout="constrained"
    )
    for column, axis in enumerate(axes):
        sizes = np.array(axis["sizes"], dtype=float)
        for row, unit in enumerate(("CPU-s", "bytes")):
            panel = grid[row][column]
            shown = {name: each for name, each in axis["curves"].items() if each["unit"] == unit}
            top = 0.0
            for name, each in shown.items():
                medians = np.array([statistics.median(values) for values in each["rounds"]])
                scale = 1e6 if unit == "bytes" else 1.0
                slope = "" if each["exponent"] is None else f", slope {each['exponent']:.2f}"
                panel.plot(
                    sizes,
                    np.maximum(medians / scale, 1e-5),
                    "o-",
                    ms=3.5,
                    label=name.removeprefix("memory: ") + slope,
                )
                top = max(top, medians[-1] / scale)
            panel.plot(sizes, top * sizes / sizes[-1], "--", color="0.6", lw=1, label="slope 1")
            panel.set(xscale="log", yscale="log", xlabel=axis["axis"])
            panel.legend(fontsize=7, frameon=False)
            panel.spines[["top", "right"]].set_visible(False)
            panel.set_title(axis["axis"] if row == 0 else "", fontsize=10)
        grid[0][0].set_ylabel("CPU-seconds, one thread")
        grid[1][0].set_ylabel("rise of peak memory, MB")
    figure.savefig(picture, dpi=110)
    pyplot.close(figure)


def main(given: Sequence[str] | None = None) -> None:
    """Measure the axes, fit their growth, write and draw it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rounds", type=int, default=2, help="how often each size is measured")
    parser.add_argument(
        "--only", nargs="+", choices=list(AXES), default=list(AXES), help="axes; by default all"
    )
    parser.add_argument(
        "--model", type=Path, help="folder of a model with 4,200 positions; by default one is made"
    )
    parser.add_argument("--tiny", action="store_true", help="the smallest sizes, which tell nothing")
    parser.add_argument("--out", type=Path, default=Path("docs/performance/growth.json"))
    parser.add_argument("--picture", type=Path, default=Path("docs/performance/growth.png"))
    arguments = parser.parse_args(given)
    torch.set_num_threads(1)
    logging.getLogger("paretune").setLevel(logging.ERROR)  # no progress
    with tempfile.TemporaryDirectory() as folder:
        world = Path(folder)
        os.environ["PARETUNE_CACHE"] = str(world / "cache")
        if arguments.model:
            (world / "model").symlink_to(arguments.model.absolute())
        else:
            write_model(world / "model")
        axes = [
            measured(axis, axis.tiny if arguments.tiny else axis.sizes, arguments.rounds, world)
            for axis in map(AXES.__getitem__, arguments.only)
        ]
    write_json(arguments.out, {"rounds": arguments.rounds, "axes": axes, "machine": machine()})
    draw(axes, arguments.picture)
    for axis in axes:
        for name, each in axis["curves"].items():
            print(f"{axis['axis']}, {name}: {each['verdict']}")


if __name__ == "__main__":
    main()
