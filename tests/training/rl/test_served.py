"""Training on responses that a server draws from a LoRA of the parameters of the moment; the server is a process of its own."""

from __future__ import annotations

import json
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from paretune.core.errors import ConfigError, EndpointError, TrainingError
from paretune.core.preference import Preference
from paretune.core.sampling import Sampling
from paretune.generation.endpoint import Endpoint
from paretune.models.language_model import LanguageModel
from paretune.models.steering import trained
from paretune.policies.policy import Policy
from paretune.runs.parse import parse_config
from paretune.runs.run import train
from paretune.scoring.cache import ScoreCache
from paretune.scoring.scorer import build_scorer
from paretune.scoring.standardise import Standardisation
from paretune.training.lab import Lab
from paretune.training.learner import one_adapter
from paretune.training.losses import grpo_loss, importance, rloo_loss
from paretune.training.rl.goal import Reward, RLSettings
from paretune.training.rl.rollouts import NOTHING, Rollout
from paretune.training.rl.task import OnPolicyTask
from support.adapters import TRAINING, adapters_equal, training_run
from support.live_lora import Live, fresh_server, started_process  # noqa: F401 - fixtures
from support.world import make_dataset

OBJECTIVES = ("short", "good")
SCORE = [
    {"objective": "short", "rule": "length", "unit": "words", "direction": "lower"},
    {"objective": "good", "rule": "regex", "pattern": "good|kind", "how": "count"},
]
PROMPTS = tuple(row.prompt for row in make_dataset().rows)
SETTINGS = replace(TRAINING, learning_rate=3e-2, accumulate=2, steps=4, checkpoint_every=2)


def goal(live: Live | None, **changes: Any) -> Reward:
    server = changes.pop("endpoint", {})
    made = Reward(
        PROMPTS,
        tuple(build_scorer(spec) for spec in SCORE),
        Standardisation(OBJECTIVES, np.zeros(2), np.array([2.0, 0.5])),
        Sampling(max_new_tokens=5),
        RLSettings(responses=3),
        Preference.uniform(OBJECTIVES),
        server=None if live is None else Endpoint(live.url, "base", retries=0, **server),
    )
    return replace(made, **changes)


@contextmanager
def task(lm: LanguageModel, aim: Reward, folder: Path, settings: Any = SETTINGS) -> Iterator[OnPolicyTask]:
    run = training_run(lm, settings, folder)
    learner = one_adapter(run)
    with torch.no_grad():  # a policy that is not the base model
        for name, parameter in learner.steering.named_parameters():
            generator = torch.Generator().manual_seed(len(name))
            parameter.add_(0.2 * torch.randn(parameter.shape, generator=generator))
    with trained(learner.steering, False):
        yield OnPolicyTask(run, learner, aim, ScoreCache(folder / "scores.sqlite"))


def step(of: OnPolicyTask, number: int = 0) -> tuple[dict[str, Tensor], list[dict[str, float]]]:
    """Return the gradient of a step, and the records of its forwards."""
    records = []
    named = dict(of.learner.groups()[0].parameters)
    for parameter in named.values():
        parameter.grad = None
    for micro in range(of.run.settings.accumulate):
        with of.batch(number, micro, {}) as (loss, record):
            (loss / of.run.settings.accumulate).backward()
            records.append(record)
    return {name: parameter.grad.clone() for name, parameter in named.items()}, records


def same(first: dict[str, Tensor], second: dict[str, Tensor], tolerance: float) -> bool:
    scale = max(float(g.abs().max()) for g in second.values())
    return scale > 1e-3 and all(float((first[n] - second[n]).abs().max()) < tolerance * scale for n in first)


# Laws


@pytest.mark.parametrize("estimator", ["rloo", "grpo"])
@pytest.mark.parametrize("tells", ["all", "ids", "nothing"])
@pytest.mark.slow
def test_without_a_lag_the_gradient_is_that_of_the_same_responses_sampled_here(
    lm: LanguageModel, live: Live, tmp_path: Path, estimator: str, tells: str
) -> None:
    """What the server draws and states, and the same responses as if they had been decoded here: one gradient."""
    live.be(tells=tells)
    settings = RLSettings(responses=3, estimator=estimator)  # type: ignore[arg-type]
    with task(lm, goal(live, settings=settings), tmp_path / "served") as of:
        served, records = step(of)
        rollout = Rollout.load(of.folder / "000000.safetensors", "key")
    assert (len(rollout.drawn_logps) > 0) == (tells == "all")
    assert len({len(response) for response in rollout.responses}) > 1
    if tells == "all":
        assert all(r["importance"] == pytest.approx(1, abs=1e-3) and not r["capped"] for r in records)
        assert all(r["server_gap"] < 1e-4 for r in records)
    else:
        assert "importance" not in records[0]
    with task(lm, goal(None, settings=settings), tmp_path / "here") as of:
        replace(rollout, drawn_logps=NOTHING).save(of.folder / "000000.safetensors", "key")
        local, _ = step(of)
    assert same(served, local, 1e-3 if tells == "all" else 1e-6)


@pytest.mark.slow
def test_the_server_draws_from_the_parameters_of_the_step(
    lm: LanguageModel, live: Live, tmp_path: Path
) -> None:
    """Its stated log-probabilities are those of the policy after a step, not before, and every load has a name of its own."""
    with task(lm, goal(live), tmp_path) as of:
        for number in (0, 1):
            _, records = step(of, number)
            assert all(record["server_gap"] < 1e-4 for record in records)
            with torch.no_grad():
                for parameter in of.learner.groups()[0].parameters.values():
                    parameter.mul_(1.5)
    names = [body["model"] for body in live.told()["asked"]]
    assert len(names) == 2 * 12 and len(set(names)) == 2 and names[0] == names[11] != names[12]
    assert live.told()["loaded"] == [], "LoRAs stay loaded"
    assert not (of.folder / "lora").exists() and not (of.folder / "answers").exists()
    body = live.told()["asked"][0]
    assert (body["temperature"], body["top_p"], body["top_k"], body["min_p"], body["repetition_penalty"]) == (
        1,
        1,
        -1,
        0,
        1,
    )


@pytest.mark.parametrize("tells", ["all", "ids"])
@pytest.mark.slow
def test_responses_of_older_parameters_count_by_their_importance(
    lm: LanguageModel, live: Live, tmp_path: Path, tells: str
) -> None:
    """Two rollouts of one load: the second is drawn before the step and weighed after it, whoever finds its probability."""
    live.be(tells=tells)
    with task(lm, goal(live, endpoint={"load_every": 2, "ratio_cap": 1.5}), tmp_path) as of:
        step(of, 0)
        assert len(live.told()["asked"]) == 24 and len(live.told()["loaded"]) == 0
        rollout = Rollout.load(of.folder / "000001.safetensors", "key")
        with torch.no_grad():
            for parameter in of.learner.groups()[0].parameters.values():
                parameter.mul_(1.2)
        gradient, records = step(of, 1)
        assert len(live.told()["asked"]) == 24, "the second rollout was sampled again"
        now = of._found(
            [lm.encode_prompt(PROMPTS[row]) for row in of._rows(1)], of._weights(1), rollout.responses
        )
    lengths = [len(response) for response in rollout.responses]
    sums = torch.stack([part.sum() for part in (now - rollout.drawn_logps).split(lengths)])
    weights = sums.exp().clamp(max=1.5)
    assert float(weights.std()) > 0.05 and float((sums.exp() > 1.5).float().mean()) > 0
    found = sum(record["importance"] for record in records) / 2
    assert found == pytest.approx(float(weights.mean()), rel=1e-3)
    assert sum(r["capped"] for r in records) / 2 == pytest.approx(float((sums.exp() > 1.5).float().mean()))
    # Without the weights the gradient is another.
    with task(lm, goal(None), tmp_path / "plain") as of:
        with torch.no_grad():
            for parameter in of.learner.groups()[0].parameters.values():
                parameter.mul_(1.2)
        replace(rollout, drawn_logps=NOTHING).save(of.folder / "000001.safetensors", "key")
        unweighted, _ = step(of, 1)
    assert not same(gradient, unweighted, 0.02)


@pytest.mark.parametrize("tokens", [False, True])
def test_weighted_gradients_have_the_expectation_of_the_policys_own(tokens: bool) -> None:
    """A table of five answers, exactly: E_mu[weight * loss] has the gradient of E_pi[loss]; without weights it has another."""
    generator = torch.Generator().manual_seed(1)
    logits, other, values = (torch.randn(5, generator=generator, dtype=torch.float64) for _ in range(3))
    logits.requires_grad_(True)

    def gradient(mu: Tensor, cap: float | None) -> Tensor:
        logps, old = logits.log_softmax(0), logits.detach().log_softmax(0)
        if tokens:
            losses = grpo_loss(logps, old, torch.zeros(5), values, 0.0, 0.2)
        else:
            losses = rloo_loss(logps, old, values, 0.2)
        weights = importance(old, mu, cap) if cap else 1.0
        (found,) = torch.autograd.grad((mu.exp() * weights * losses).sum(), logits)
        return found

    here, there = logits.detach().log_softmax(0), other.log_softmax(0)
    torch.testing.assert_close(gradient(there, 1e9), gradient(here, None))
    assert not torch.allclose(gradient(there, None), gradient(here, None), rtol=0.05)
    bound = gradient(there, 1.0)
    assert not torch.allclose(bound, gradient(there, 1e9)), "the cap cuts nothing"


def test_importance_by_hand() -> None:
    old, drawn = torch.tensor([0.0, -1.0, -1.0]), torch.tensor([-2.0, -1.0, 0.0])
    found = importance(old.requires_grad_(True), drawn, 2.0)
    torch.testing.assert_close(found, torch.tensor([2.0, 1.0, 0.3679]), atol=1e-4, rtol=0)
    assert not found.requires_grad


# Runs


def trained_by(lm: LanguageModel, folder: Path, live: Live | None, **settings: Any) -> tuple[Policy, Lab]:
    method = settings.pop("method", "morlhf")
    server = {"url": live.url, "model": "base", "retries": 0, "stages": [method]} if live else None
    if server:
        server |= settings.pop("endpoint", {})
    config = parse_config(
        {
            "score": SCORE,
            "preferences": ["short=1", "short=0.5,good=0.5"],
            "sampling": {"max_new_tokens": 5},
            "methods": {method: {"responses": 3, **settings}},
            "endpoint": server,
        }
    )
    lab = Lab(lm, folder, replace(SETTINGS, accumulate=1))
    splits = {"train": make_dataset(6), "validation": make_dataset(3, seed=2)}
    scorers = [build_scorer(spec) for spec in SCORE]
    return train(method, config, lab, splits, config.grid(OBJECTIVES), scorers), lab


def history(lab: Lab) -> list[dict[str, float]]:
    """The records of the anchor of the first preference."""
    (file,) = (lab.folder / "adapters").glob("morlhf-short=1*/history.json")
    return json.loads(file.read_text())


@pytest.mark.parametrize("epochs", [1, 2])
@pytest.mark.slow
def test_anchors_are_trained_on_what_a_server_draws(
    lm: LanguageModel, live: Live, tmp_path: Path, epochs: int
) -> None:
    policy, lab = trained_by(lm, tmp_path, live, epochs=epochs)
    assert len(policy.adapters) == 2 and all(
        bool(U.any()) for a in policy.adapters for U, _ in a.factors.values()
    )
    steps = history(lab)
    assert len(steps) == 4 and all(s["server_gap"] < (1e-4 if epochs == 1 else 1) for s in steps)
    # A batch of 2 prompts with 3 responses, for each of 4 / epochs rollouts of 2 anchors.
    assert len(live.told()["asked"]) == 6 * 4 // epochs * 2
    assert not list((tmp_path / "checkpoints").iterdir())
    before = len(live.told()["asked"])
    again, _ = trained_by(lm, tmp_path, live, epochs=epochs)
    assert all(map(adapters_equal, again.adapters, policy.adapters)) and len(live.told()["asked"]) == before


@pytest.mark.slow
def test_a_lag_is_trained_on_and_told(lm: LanguageModel, live: Live, tmp_path: Path) -> None:
    _, lab = trained_by(lm, tmp_path, live, endpoint={"load_every": 4})
    steps = history(lab)
    assert steps[0]["importance"] == pytest.approx(1, abs=1e-3)
    assert abs(steps[3]["importance"] - 1) > 1e-3 and steps[3]["server_gap"] > steps[0]["server_gap"]
    assert len({body["model"] for body in live.told()["asked"]}) <= 2, "loaded more often than asked for"


@pytest.mark.slow
def test_a_killed_run_asks_only_for_what_has_not_arrived(
    lm: LanguageModel, live: Live, tmp_path: Path
) -> None:
    live.be(most=15)
    with pytest.raises(EndpointError, match=r"no more.*the same command goes on from there"):
        trained_by(lm, tmp_path, live)
    assert len(live.told()["asked"]) == 15
    first = [(body["model"], body["seed"]) for body in live.told()["asked"]]
    live.be()
    policy, _ = trained_by(lm, tmp_path, live)
    second = [(body["model"], body["seed"]) for body in live.told()["asked"]]
    assert len(policy.adapters) == 2 and not set(first) & set(second)
    assert len(first) + len(second) == 48


@pytest.mark.parametrize(
    ("method", "settings"),
    [("gdpo", {}), ("rewarded-soup", {}), ("morlhf", {"form": "conditioned", "condition": "prompt"})],
)
@pytest.mark.slow
def test_other_methods_that_train_loras(
    lm: LanguageModel, live: Live, tmp_path: Path, method: str, settings: dict
) -> None:
    policy, _ = trained_by(lm, tmp_path, live, method=method, **settings)
    asked = live.told()["asked"]
    assert asked and all(bool(U.any()) for a in policy.adapters for U, _ in a.factors.values())
    tagged = "condition" in settings
    assert all(("<short:" in body["messages"][-1]["content"]) == tagged for body in asked)


def test_the_server_is_part_of_what_a_run_is(lm: LanguageModel, live: Live) -> None:
    own = goal(None, preference=Preference.one_hot("short", OBJECTIVES))
    served = replace(own, server=Endpoint("http://a/v1", "base"))
    moved = replace(own, server=Endpoint("http://b/v1", "base"))
    later = replace(own, server=Endpoint("http://a/v1", "base", load_every=2))
    for of in (Reward.identity, Reward.content):
        assert of(served) == of(moved) and of(own) != of(served) != of(later)


# Servers that are another


@pytest.mark.slow
def test_a_server_of_another_model_is_said_once(lm: LanguageModel, live: Live, tmp_path: Path) -> None:
    live.be(shift=-0.5)
    said: list[str] = []
    with task(lm, goal(live), tmp_path) as of:
        assert of.server is not None
        of.server = replace(of.server, say=said.append)
        for number in (0, 1):
            step(of, number)
    assert len(said) == 1 and "differ from those here by 0.5 nats a token" in said[0]


def test_a_server_that_states_no_tokens_is_said_once(lm: LanguageModel, live: Live, tmp_path: Path) -> None:
    live.be(tells="nothing")
    said: list[str] = []
    with task(lm, goal(live), tmp_path) as of:
        assert of.server is not None
        of.server = replace(of.server, say=said.append)
        step(of)
    assert len(said) == 1 and "does not say which tokens it drew" in said[0]


def test_a_server_that_reads_prompts_otherwise_is_refused(
    lm: LanguageModel, live: Live, tmp_path: Path
) -> None:
    live.be(reads=1)
    with (
        task(lm, goal(live), tmp_path) as of,
        pytest.raises(EndpointError, match=r"reads a prompt as \d+ tokens.*chat template"),
    ):
        step(of)


def test_gates_that_follow_each_row_are_no_lora(lm: LanguageModel, live: Live, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match=r"endpoint\.stages: morlhf: with condition: gates .* no LoRA server takes"
    ):
        parse_config(
            {
                "methods": {"morlhf": {"form": "conditioned"}},
                "endpoint": {"url": live.url, "stages": ["morlhf"]},
            }
        )
    with pytest.raises(TrainingError, match="gates that follow the preference"):
        Lab(lm, tmp_path, SETTINGS).fit_on_policy("run", goal(live, preference=None))
