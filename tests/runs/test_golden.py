"""One run of every method on the tiny model gives the figures that it gave before.

The figures are in `golden.json`. Another kind of CPU rounds otherwise, so a tolerance is allowed. A change that is meant to
move them writes them anew: `python tests/runs/test_golden.py`, with src and tests on the path. Its commit says why.
"""

from __future__ import annotations

import json
import re
import sys
import tempfile
from collections import defaultdict
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paretune.core.files import read_json, write_text
from paretune.runs.parse import parse_config
from paretune.runs.run import run
from support.world import make_dataset, write_model

FIGURES = Path(__file__).with_name("golden.json")
METHODS: dict[str, dict[str, Any]] = {
    "dpo-soup": {"beta": 0.5},
    "mod": {"beta": 0.5},
    "modpo": {"beta": 0.5},
    "modpo-scores": {"method": "modpo", "margin": "scores"},
    "panacea": {"beta": 0.5, "rank": 2, "train": {"steps": 6}},
    "panacea-lora": {
        "method": "panacea",
        "per": "row",
        "draw": "corners",
        "rank": 0,
        "groups": 3,
        "init": "lora",
    },
    "panacea-tchebycheff": {"method": "panacea", "aggregation": "tchebycheff"},
    "panacea-policy-gradient": {"method": "panacea", "loss": "policy-gradient"},
    "panacea-modpo": {"method": "panacea", "loss": "modpo"},
    "dpo-lw": {},
    "paretohqd": {"k": 4, "steps": 2, "stage2_steps": 1, "prompts": 3, "drop_collapsed": False},
    "ric": {"iterations": 0},
    "sipo": {"refine": False, "steps": 1, "conflicts": 4},
    "morlhf": {"train": {"steps": 2}},
    "morlhf-conditioned": {"method": "morlhf", "form": "conditioned", "train": {"steps": 2}},
    "gdpo": {"train": {"steps": 2}},
}


def figures(folder: Path) -> dict[str, Any]:
    """Run all methods in ``folder``; return each policy's mean scores, and the last loss and gradient norm of each training."""
    make_dataset(30).select([]).write(folder / "data.jsonl")
    config = {
        "folder": str(folder / "run"),
        "model": str(write_model(folder / "model")),
        "dtype": "float32",
        "device": "cpu",
        "data": {"source": str(folder / "data.jsonl")},
        "score": [
            {"objective": "short", "rule": "length", "unit": "words", "direction": "lower"},
            {"objective": "good", "rule": "regex", "pattern": "good"},
        ],
        "methods": METHODS,
        "preferences": 3,
        "train": {"steps": 4, "batch_pairs": 2, "rank": 4, "learning_rate": 1e-2},
        "sampling": {"max_new_tokens": 6, "batch_size": 64},
        "evaluate": {"prompts": 3, "preferences": 3, "resamples": 50},
    }
    run(parse_config(config))
    front = read_json(folder / "run" / "front.json")
    last = defaultdict[str, list[list[float]]](list)
    for history in (folder / "run" / "adapters").glob("*/history.json"):
        # Where two methods train under one name the second has a key behind it, which depends on the model's last bits.
        record = read_json(history)[-1]
        last[re.sub(r"-[0-9a-f]{16}$", "", history.parent.name)].append([record["loss"], record["grad_norm"]])
    return {
        "means": {
            policy["name"]: [point["mean"] for point in policy["points"]] for policy in front["policies"]
        },
        "training": {name: sorted(last[name]) for name in sorted(last)},
    }


@pytest.mark.slow
def test_every_method_gives_the_figures_it_gave_before(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARETUNE_CACHE", str(tmp_path / "cache"))
    expected, got = read_json(FIGURES), figures(tmp_path)
    assert got.keys() == expected.keys() and all(got[kind].keys() == expected[kind].keys() for kind in got)
    for kind, values_of in got.items():
        for name, values in values_of.items():
            np.testing.assert_allclose(
                values, expected[kind][name], rtol=2e-3, atol=2e-3, err_msg=f"{kind} of {name}"
            )


if __name__ == "__main__":
    with tempfile.TemporaryDirectory() as temporary:
        found = figures(Path(temporary))
    target = Path(sys.argv[1]) if sys.argv[1:] else FIGURES
    lines = [
        f' "{kind}": {{\n'
        + ",\n".join(f"  {json.dumps(name)}: {json.dumps(values)}" for name, values in values_of.items())
        + "\n }"
        for kind, values_of in found.items()
    ]
    write_text(target, "{\n" + ",\n".join(lines) + "\n}\n")
