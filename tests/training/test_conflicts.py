"""Gradients kept apart in training: DPO-LW, Panacea and MORLHF step as their sum says, and log the cosines."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from paretune.core.errors import ConfigError
from paretune.core.preference import Preference
from paretune.core.sampling import Sampling
from paretune.methods import METHODS, dpo_lw, morlhf, panacea
from paretune.methods.base import Inputs
from paretune.methods.dpo_lw import DPOLWConfig
from paretune.methods.morlhf import MORLHFConfig
from paretune.methods.panacea import PanaceaConfig
from paretune.models.adapter import Adapter
from paretune.models.distributed import ProcessGroup, WorkSplit
from paretune.models.language_model import LanguageModel
from paretune.scoring.scorer import build_scorer
from paretune.training.apart import Apart, KeptApart
from paretune.training.conflicts import conflicts
from paretune.training.gradients import GradientRule
from paretune.training.lab import Lab
from support.adapters import TRAINING, adapters_equal
from support.together import together
from support.world import make_dataset

NAMES = ("short", "good")
SETTINGS = replace(TRAINING, steps=4, accumulate=2, learning_rate=1e-2)
SCORERS = (
    build_scorer({"objective": "short", "rule": "length", "unit": "words", "direction": "lower"}),
    build_scorer({"objective": "good", "rule": "regex", "pattern": "good|kind", "how": "count"}),
)


def trained(
    method: Any, config: Any, lm: LanguageModel, folder: Path, **settings: Any
) -> tuple[list[Adapter], Lab]:
    lab = Lab(lm, folder, replace(SETTINGS, **settings))
    asked = [Preference.one_hot("good", NAMES), Preference.parse("short=0.3,good=0.7")]
    data = (make_dataset(12), make_dataset(4, seed=9))
    policy = method.train(
        Inputs(lab, *data, asked, SCORERS, Sampling(max_new_tokens=5, batch_size=64)), config
    )
    return list(policy.adapters), lab


def histories(lab: Lab) -> dict[str, list[dict[str, float]]]:
    files = sorted((lab.folder / "adapters").glob("*/history.json"))
    return {file.parent.name: json.loads(file.read_text()) for file in files}


def close(first: Adapter, second: Adapter) -> bool:
    return all(
        torch.allclose(a, b, rtol=2e-3, atol=2e-5)
        for path in first.factors
        for a, b in zip(first.factors[path], second.factors[path], strict=True)
    )


def morlhf_config(**values: Any) -> MORLHFConfig:
    return METHODS["morlhf"].settings(values, "methods.morlhf")


CASES = {
    "dpo-lw": (dpo_lw, DPOLWConfig, {}),
    "panacea": (panacea, PanaceaConfig, {"rank": 2}),
    "panacea-labelled": (panacea, PanaceaConfig, {"rank": 2, "data": "labelled"}),
    "morlhf": (morlhf, morlhf_config, {"responses": 3, "beta": 0.1}),
}


@pytest.mark.parametrize("case", CASES)
@pytest.mark.slow
def test_observed_gradients_step_as_their_weighted_sum(case: str, lm: LanguageModel, tmp_path: Path) -> None:
    """One backward pass for each objective, and the same adapter as with one for the weighted loss."""
    method, config, options = CASES[case]
    # Panacea draws one preference for all forwards of a step where gradients are apart, so a step has one forward here.
    forwards = {"accumulate": 1} if "panacea" in case else {}
    plain, _ = trained(method, config(**options), lm, tmp_path / "plain", **forwards)
    apart, lab = trained(method, config(**options, gradients="observed"), lm, tmp_path / "apart", **forwards)
    assert all(close(a, b) for a, b in zip(plain, apart, strict=True))
    measured = [
        record for records in histories(lab).values() for record in records if "cosine/short,good" in record
    ]
    assert measured and all(-1 <= record["cosine/short,good"] <= 1 for record in measured)
    assert {"coefficient/short", "coefficient/good"} <= set(measured[0])
    (found,) = [adapter.info["conflicts"] for adapter in apart if "conflicts" in adapter.info]
    assert found[0]["objectives"] == ["short", "good"] and found[0]["steps"] == len(measured) == 4
    assert found[0]["cosine"] == pytest.approx(np.mean([record["cosine/short,good"] for record in measured]))


@pytest.mark.parametrize("case", CASES)
@pytest.mark.slow
def test_raco_takes_other_steps_and_leaves_corners_as_they_are(
    case: str, lm: LanguageModel, tmp_path: Path
) -> None:
    method, config, options = CASES[case]
    plain, _ = trained(method, config(**options), lm, tmp_path / "plain")
    raco, _ = trained(method, config(**options, gradients="raco", correction=0.9), lm, tmp_path / "raco")
    assert not close(plain[-1], raco[-1])
    if len(plain) == 2:
        assert adapters_equal(plain[0], raco[0])


@pytest.mark.slow
def test_gradient_checkpointing_changes_nothing(lm: LanguageModel, tmp_path: Path) -> None:
    config = DPOLWConfig(gradients="pcgrad")
    first, _ = trained(dpo_lw, config, lm, tmp_path / "plain")
    saving, _ = trained(dpo_lw, config, lm, tmp_path / "saving", gradient_checkpointing=True)
    assert close(first[1], saving[1])


def in_process(case: str, lm: LanguageModel, folder: Path, accumulate: int) -> dict[str, Any]:
    """Train in this process of a team and return what process 0 keeps."""
    method, config, options = CASES[case]
    adapters, lab = trained(
        method, config(**options, gradients="raco"), lm, folder, steps=2, accumulate=accumulate
    )
    records = next(r for r in histories(lab).values() if "cosine/short,good" in r[0])
    cosines = [record["cosine/short,good"] for record in records]
    return {"factors": adapters[-1].factors, "cosines": cosines, "size": lab.team.size}


@pytest.mark.parametrize(("case", "accumulate"), [("dpo-lw", 1), ("panacea-labelled", 1), ("morlhf", 2)])
@pytest.mark.slow
def test_two_processes_take_the_steps_of_one(
    case: str, accumulate: int, lm: LanguageModel, tmp_path: Path
) -> None:
    """Where they divide the rows of a forward, and where they divide the forwards.

    Factors are compared by the norm: Adam divides by a gradient's own size, so that where one is nearly zero its rounding shows.
    """
    alone = in_process(case, lm, tmp_path / "alone", accumulate)
    for found in together(in_process, case, lm, tmp_path / "both", accumulate):
        assert found["size"] == 2 and alone["size"] == 1
        assert found["cosines"] == pytest.approx(alone["cosines"], abs=1e-3)
        for path, factors in alone["factors"].items():
            for a, b in zip(factors, found["factors"][path], strict=True):
                assert torch.linalg.vector_norm(a - b) <= 5e-3 * torch.linalg.vector_norm(a)


def test_two_forwards_are_one_gradient_and_what_is_combined_is_their_sum() -> None:
    """L1 = a x, L2 = -b x over two forwards: g1 = mean a, g2 = -mean b, each in its own row."""
    x = torch.nn.Parameter(torch.tensor([1.0, 2.0]))
    kept = KeptApart([x], WorkSplit())
    for a in (torch.tensor([1.0, 0.0]), torch.tensor([3.0, 0.0])):
        losses = torch.stack([(a * x).sum(), -(a.flip(0) * x).sum()])
        kept.add(Apart(losses, (0.25, 0.75), ("a", "b"), GradientRule("observed")), 2)
    record = kept.combine((0, 0))
    assert x.grad is not None and x.grad.tolist() == pytest.approx([0.25 * 2, -0.75 * 2])
    assert record["cosine/a,b"] == pytest.approx(0.0) and record["coefficient/b"] == 0.75


def test_a_model_divided_among_processes_is_refused() -> None:
    with pytest.raises(ConfigError, match="set sharding: none, or gradients: linear"):
        KeptApart([], WorkSplit(ProcessGroup(0, 2, sharded=True)))


def test_conflicts_are_counted_from_the_records() -> None:
    history = [{"cosine/a,b": 0.5}, {"cosine/a,b": -0.1}, {"loss": 1.0}]
    assert conflicts(history, Preference.parse("a=0.5,b=0.5")) == {
        "conflicts": [
            {
                "objectives": ["a", "b"],
                "preference": "a=0.5,b=0.5",
                "cosine": pytest.approx(0.2),
                "opposed": 0.5,
                "steps": 2,
            }
        ]
    }
    assert conflicts([{"loss": 1.0}]) == {}


@pytest.mark.parametrize(
    ("config", "values", "words"),
    [
        (PanaceaConfig, {"aggregation": "tchebycheff"}, "gradients: raco with aggregation: tchebycheff"),
        (PanaceaConfig, {"orthogonality": 0.1}, "a loss that is no objective's"),
        (PanaceaConfig, {"loss": "modpo"}, "they have no gradients of their own"),
        (PanaceaConfig, {"per": "row"}, "use per: batch"),
        (morlhf_config, {"estimator": "grpo"}, "gradients: raco needs estimator: rloo"),
        (morlhf_config, {"form": "conditioned"}, "use per: batch"),
        (DPOLWConfig, {"correction": 1.0}, "correction"),
    ],
)
def test_what_does_not_go_together_is_refused(config: Any, values: dict[str, Any], words: str) -> None:
    with pytest.raises(ConfigError, match=words):
        config(gradients="raco", **values)
