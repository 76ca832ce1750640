"""Small finished runs on the tiny model, for tests of what is done with a run afterwards."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from paretune.runs.parse import parse_config
from paretune.runs.run import run
from support.world import make_dataset, write_model


def quick_config(folder: Path, model: Path, **changes: Any) -> dict[str, Any]:
    """Return the values of a config of one method by two rules, as quick as a run can be; its data are written to ``folder``."""
    make_dataset(20).select([]).write(folder / "data.jsonl")
    return {
        "name": "told",
        "folder": str(folder / "run"),
        "model": str(model),
        "dtype": "float32",
        "device": "cpu",
        "data": {"source": str(folder / "data.jsonl")},
        "score": [
            {"objective": "short", "rule": "length", "unit": "words", "direction": "lower"},
            {"objective": "good", "rule": "regex", "pattern": "good"},
        ],
        "methods": {"dpo-soup": {}},
        "preferences": 2,
        "train": {"steps": 2, "batch_pairs": 2, "rank": 2},
        "sampling": {"max_new_tokens": 4},
        "evaluate": {"prompts": 2, "resamples": 20},
        **changes,
    }


def small_run(folder: Path, model: Path, **changes: Any) -> Path:
    """Make a run of two methods with two answers to each held-out prompt; return its folder."""
    data = folder.with_suffix(".jsonl")
    make_dataset(40).select([]).write(data)
    config: dict[str, Any] = {
        "name": folder.name,
        "folder": str(folder),
        "model": str(model),
        "dtype": "float32",
        "device": "cpu",
        "data": {"source": str(data)},
        "score": [
            {"objective": "short", "rule": "length", "unit": "words", "direction": "lower"},
            {"objective": "good", "rule": "regex", "pattern": "good", "how": "count"},
        ],
        "methods": {"dpo-soup": {"beta": 0.5}, "modpo": {"beta": 0.5}},
        "preferences": 3,
        "train": {"steps": 3, "batch_pairs": 2, "rank": 4, "learning_rate": 1e-2},
        "sampling": {"max_new_tokens": 6, "batch_size": 64},
        "evaluate": {"samples": 2, "preferences": 3, "resamples": 50},
    }
    for key, value in changes.items():
        config[key] = {**config[key], **value} if isinstance(config.get(key), dict) else value
    return run(parse_config(config)).parent


def tiny_model(folder: Path) -> Path:
    """Write the tiny model and return its folder."""
    return write_model(folder)
