"""What the library does on a device without float64 and bfloat16, and on the CPU: ``python -m support.apple_trials FOLDER``.

The device stays known to a process once it is, so this is one of its own. It prints JSON: trial -> what it saw.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import Any
from unittest import mock

import torch

from paretune.core.errors import ModelError
from paretune.core.sampling import Sampling
from paretune.fronts.record import FrontRecord
from paretune.generation import batch
from paretune.generation.generate import attached, generate
from paretune.generation.mixing import Mixing, Mixture
from paretune.models.adapter import stack
from paretune.models.devices import double_device
from paretune.models.gates import soup_gates
from paretune.models.language_model import LanguageModel, load
from support.apple import apple, register
from support.random_models import random_adapter
from support.runs_world import small_run
from support.world import TAGS, WORDS, write_model

METHODS: dict[str, Any] = {
    "dpo-soup": {"beta": 0.5},
    "mod": {},
    "panacea": {"rank": 2},
    "morlhf": {"responses": 2, "epochs": 1},
    "linear-alignment": {"principles": {"good": "good red", "short": "kind blue sun"}, "strength": 1.0},
    "ric": {"form": "levels", "iterations": 0},
}
"""Methods of each place at which a preference enters: gates, the distribution, the prompt; and the one that samples in training."""


def sampled(lm: LanguageModel) -> dict[str, list[list[int]]]:
    """Return the tokens that are drawn under several settings of sampling and of mixing."""
    adapters = [random_adapter(lm.model, 2, seed=seed, base=lm.fingerprint) for seed in (1, 2)]
    # More than the 16 rows that are drawn together on the CPU.
    prompts, seeds = ([[3, 7, 4, 5]] * 3 + [[3, 9, 8, 4, 5]]) * 5, list(range(20))
    gates = soup_gates(torch.tensor([[1, 0], [0, 1], [0.5, 0.5], [0.2, 0.8]] * 5), [2, 2], [2.0, 2.0])
    copies = soup_gates(torch.cat([torch.zeros(1, 2), torch.eye(2)]), [2, 2], [2.0, 2.0]).expand(20, -1, -1)
    weights = torch.tensor(
        [[0, 1, 0], [0, 0.3, 0.7], [0.2, 0.4, 0.4], [0, 0.5, 0.5]] * 5, dtype=torch.float64
    )
    drawn = {}
    with attached(lm, stack(adapters)) as steering:
        for name, temperature, top_p in (("greedy", 0, 1), ("all", 1, 1), ("nucleus", 1, 0.8)):
            answers = generate(lm, prompts, Sampling(12, temperature, top_p), seeds, steering, gates)
            drawn[name] = [list(answer.tokens) for answer in answers]
        for divergence in ("reverse-kl", "jensen-shannon"):
            mixture = Mixture(weights, Mixing(divergence))
            answers = generate(lm, prompts, Sampling(12, 1, 0.9), seeds, steering, copies, mixture=mixture)
            drawn[divergence] = [list(answer.tokens) for answer in answers]
    return drawn


def whole_run(folder: Path, device: str) -> dict[str, Any]:
    """Train and measure on a device; return the answers and the scores of every point."""
    run = small_run(
        folder / device,
        folder / "model",
        dtype="float32" if device == "cpu" else "auto",
        device=device,
        methods=METHODS,
        train={"gradient_checkpointing": True},
        evaluate={"samples": 1, "resamples": 50, "preferences": 3},
    )
    points = [point for policy in FrontRecord.read(run / "front.json").policies for point in policy.points]
    return {
        "answers": [point.responses for point in points],
        "policies": sorted(path.name for path in (run / "policies").iterdir()),
    }


def main(folder: Path) -> dict[str, Any]:
    """Return what each trial saw."""
    register()
    model = write_model(folder / "model", words=[*WORDS, *TAGS])
    seen: dict[str, Any] = {"cpu": sampled(load(str(model), "float32", "cpu"))}
    seen["run on cpu"] = whole_run(folder, "cpu")
    with apple() as device:
        lm = load(str(model))
        seen["place"] = [str(lm.device), str(lm.model.dtype), str(double_device(device))]
        seen["apple"] = sampled(lm)
        seen["run on apple"] = whole_run(folder, "apple")
        try:
            with mock.patch.object(batch, "double_device", lambda device: device):
                generate(lm, [[3, 7]], Sampling(2), [0])
        except TypeError as error:
            seen["numbers drawn on the device"] = str(error)
        try:
            load(str(model), "bfloat16")
        except ModelError as error:
            seen["bfloat16"] = str(error)
        try:
            torch.zeros(1, device=device).double()
        except TypeError as error:
            seen["float64"] = str(error)
    return seen


if __name__ == "__main__":
    torch.set_num_threads(1)
    print(json.dumps(main(Path(sys.argv[1]))))
