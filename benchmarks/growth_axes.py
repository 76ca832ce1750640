"""What :mod:`benchmarks.growth` measures: the axes, their work at each size, and the random world that it runs in."""

from __future__ import annotations

import functools
import json
import random
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
from benchmarks.training.inputs import RANK as RANK_SERVED
from benchmarks.training.inputs import random_lora
from paretune.core.files import read_json
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

PROMPT, ROWS, RANK = 32, 4, 4
"""Tokens of a prompt and rows that sample together (response length); rank of the adapters that are trained."""

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


@functools.cache
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
        # About every other response has a word that begins with a given letter.
        "score": [
            {"objective": name, "rule": "regex", "pattern": rf"\b{letter}"}
            for name, letter in zip(names, "bdfgklmnpr"[:objectives], strict=True)
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
            "rows of data",
            (1000, 10_000, 100_000, 1_000_000),
            (20, 40),
            {name: _long_data(name) for name in ("inspect", "convert", "pairs")},
            "a Parquet file with two responses a row: read and checked, written as JSON lines, made into pairs",
            before=lambda size, folder: long_data.write(folder / "rows.parquet", size),
        ),
        Axis(
            "rows of a run",
            (316, 1000, 3162, 10_000),
            (100, 200),
            {"run": lambda size, folder: whole_run(settings(folder, size))},
            "two responses a row, 4 steps of training for each of 2 objectives, 8 prompts at 3 preferences",
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
