"""MORLHF on a tiny model: its known optimum, its laws, TRL's GRPO beside it, replay after a kill, and broken rewards."""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from oracles import trl_lora
from paretune.core.errors import ConfigError, TrainingError
from paretune.core.preference import Preference
from paretune.core.sampling import Sampling
from paretune.data.rows import Message, Prompt
from paretune.generation.generate import attached
from paretune.methods import morlhf, rewarded_soup
from paretune.methods.base import Inputs
from paretune.methods.morlhf import MORLHFConfig
from paretune.models.adapter import stack
from paretune.models.language_model import LanguageModel, load
from paretune.models.packing import pack, packed_token_logps, token_sums
from paretune.runs.parse import parse_config
from paretune.scoring.function_scorer import FunctionScorer, from_function
from paretune.scoring.python_function import python_function
from paretune.scoring.scorer import build_scorer
from paretune.scoring.standardise import Standardisation
from paretune.training import loop
from paretune.training.conditioning import LORA_PER_OBJECTIVE, Conditioning
from paretune.training.lab import Lab
from paretune.training.learner import conditioned_adapter
from paretune.training.loop import BatchError
from paretune.training.losses import grpo_loss
from paretune.training.rl import task as on_policy
from paretune.training.rl.advantages import grpo_advantages
from paretune.training.rl.anchors import ONE_PREFERENCE, measured_reward
from paretune.training.rl.goal import Reward, RLSettings
from paretune.training.rl.rollouts import rollout_folder
from paretune.training.token_tables import Limit
from support.adapters import TRAINING, adapters_equal, training_run
from support.offset_world import offset_data, offset_scorers
from support.world import make_dataset

OBJECTIVES = ("short", "good")
SHORT, GOOD = (
    build_scorer({"objective": "short", "rule": "length", "unit": "words", "direction": "lower"}),
    build_scorer({"objective": "good", "rule": "regex", "pattern": "good|kind", "how": "count"}),
)
SAMPLING = Sampling(max_new_tokens=5, batch_size=64)
SETTINGS = replace(TRAINING, learning_rate=1e-2, accumulate=2, steps=5, checkpoint_every=2)
PROMPTS = tuple(row.prompt for row in make_dataset().rows)


def scale(*stds: float, objectives: Sequence[str] = OBJECTIVES) -> Standardisation:
    return Standardisation(tuple(objectives), np.zeros(len(stds)), np.array(stds))


def goal(first: Any = SHORT, second: Any = GOOD, **changes: Any) -> Reward:
    names = (first.objective, second.objective)
    made = Reward(
        PROMPTS,
        (first, second),
        scale(2.0, 0.5, objectives=names),
        SAMPLING,
        RLSettings(responses=3),
        Preference.uniform(names),
    )
    return replace(made, **changes)


def history(lab: Lab, name: str) -> list[dict[str, float]]:
    return json.loads((lab.folder / "adapters" / name / "history.json").read_text())


@pytest.mark.slow
def test_the_optimum_on_a_model(lm: LanguageModel, tmp_path: Path) -> None:
    """One token to one prompt: the trained model is pi_ref exp(w.r / beta), within 0.02 in total variation."""
    values = torch.linspace(-1, 1, len(lm.tokenizer)) ** 3, torch.linspace(1, 0, len(lm.tokenizer))
    ids = {lm.decode([token]): token for token in range(len(lm.tokenizer))}
    table = {text: [float(column[token]) for column in values] for text, token in ids.items()}

    def by(m: int) -> Callable[..., list[float]]:
        return lambda prompts, responses, truncated: [table[text][m] for text in responses]

    weights, beta, prompt = (0.3, 0.7), 0.25, PROMPTS[0]
    aim = Reward(
        (prompt,),
        (from_function("a", "a", by(0)), from_function("b", "b", by(1))),
        scale(1.0, 1.0, objectives=("a", "b")),
        Sampling(max_new_tokens=1),
        RLSettings(beta=beta, responses=48),
        Preference.of(dict(zip("ab", weights, strict=True)), ("a", "b")),
    )
    settings = replace(
        SETTINGS, steps=120, batch_pairs=1, accumulate=1, learning_rate=4e-3, rank=8, targets=("all-linear",)
    )
    adapter = Lab(lm, tmp_path, settings).fit_on_policy("one", aim)
    token_ids = torch.tensor([lm.encode_prompt(prompt)])
    with torch.no_grad():
        reference = lm.model(input_ids=token_ids).logits[0, -1].log_softmax(-1)
        with attached(lm, adapter) as steering, steering.at(adapter.gates()):
            learned = lm.model(input_ids=token_ids).logits[0, -1].log_softmax(-1)
    # Texts that several tokens decode to share their reward.
    reward = torch.tensor(
        [
            sum(w * v for w, v in zip(weights, table[lm.decode([t])], strict=True))
            for t in range(len(reference))
        ]
    )
    best = (reference + reward / beta).log_softmax(-1)
    assert 0.5 * float((reference.exp() - best.exp()).abs().sum()) > 0.2
    assert 0.5 * float((learned.exp() - best.exp()).abs().sum()) < 0.02


@pytest.mark.slow
def test_gradient_checkpointing_changes_no_answer_and_no_adapter(lm: LanguageModel, tmp_path: Path) -> None:
    """A model in training with checkpoints keeps no keys and values, without which nothing can be sampled."""
    made = [
        Lab(lm, tmp_path / str(saving), replace(SETTINGS, gradient_checkpointing=saving)).fit_on_policy(
            "one", goal()
        )
        for saving in (False, True)
    ]
    for path, factors in made[0].factors.items():
        for one, other in zip(factors, made[1].factors[path], strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)


@pytest.mark.slow
def test_a_raw_reward_times_ten_changes_nothing(lm: LanguageModel, tmp_path: Path) -> None:
    """Its scale is measured, so preferences mean the same whatever unit a reward is in."""
    louder = from_function("short", "louder", lambda *of: 10.0 * SHORT(*of))
    adapters = []
    for name, scorer in (("plain", SHORT), ("louder", louder)):
        lab = Lab(lm, tmp_path / name, SETTINGS)
        adapters.append(
            morlhf.train(
                Inputs(
                    lab,
                    make_dataset(),
                    make_dataset(),
                    [Preference.uniform(OBJECTIVES)],
                    [GOOD, scorer],
                    SAMPLING,
                ),
                MORLHFConfig(responses=3),
            ).adapters[0]
        )
    one, ten = (a.info["reward_scale"]["std"] for a in adapters)
    assert ten == pytest.approx([10 * one[0], one[1]])
    for path, factors in adapters[0].factors.items():
        for a, b in zip(factors, adapters[1].factors[path], strict=True):
            torch.testing.assert_close(a, b, atol=1e-5, rtol=1e-4)
    facts = adapters[0].info
    assert facts["preference"] == {"short": 0.5, "good": 0.5} and facts["beta"] == 0.05 and facts["seed"] == 0


def test_a_corner_is_the_run_on_that_reward_alone(lm: LanguageModel, tmp_path: Path) -> None:
    corner = goal(preference=Preference.one_hot("short", OBJECTIVES))
    alone = replace(
        corner,
        scorers=(SHORT,),
        scale=scale(2.0, objectives=["short"]),
        preference=Preference.uniform(["short"]),
    )
    lab = Lab(lm, tmp_path, SETTINGS)
    first, second = lab.fit_on_policy("corner", corner), lab.fit_on_policy("alone", alone)
    assert adapters_equal(first, second) and any(bool(U.any()) for U, _ in first.factors.values())


@pytest.mark.parametrize("estimator", ["rloo", "grpo"])
@pytest.mark.slow
def test_one_epoch_has_ratios_of_one_and_more_are_clipped(
    lm: LanguageModel, tmp_path: Path, estimator: str
) -> None:
    clipped = []
    for epochs in (1, 3):
        lab = Lab(lm, tmp_path / str(epochs), replace(SETTINGS, steps=6, learning_rate=5e-2))
        lab.fit_on_policy("run", goal(settings=RLSettings(responses=3, epochs=epochs, estimator=estimator)))  # type: ignore[arg-type]
        found = history(lab, "run")
        clipped.append([record["clipped"] for record in found])
        drawn = [record["sampled_tokens"] > 0 for record in found]
        assert drawn == [step % epochs == 0 for step in range(6)]
    assert clipped[0] == [0.0] * 6 and clipped[1][0] == clipped[1][3] == 0.0 < max(clipped[1])


@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_the_start_is_the_reference(lm: LanguageModel, tmp_path: Path, dtype: str) -> None:
    """The reference reads the same packed rows with the same kernels, so KL and ratios start at 0 and 1, and not nearly so."""
    lab = Lab(load(lm.name, dtype, "cpu"), tmp_path, SETTINGS)
    lab.fit_on_policy("run", goal(settings=RLSettings(responses=3, epochs=2)))
    first, second = history(lab, "run")[:2]
    assert first["kl"] == 0.0 and first["clipped"] == 0.0 and first["loss"] == pytest.approx(0, abs=1e-6)
    assert second["kl"] != 0.0
    assert first["weight/short"] == 0.5 and first["covariance/good"] > 0
    assert {"reward/short", "spread/good", "kl/good", "cut", "response_tokens"} <= set(first)


class KilledError(Exception):
    pass


@pytest.mark.parametrize("epochs", [1, 2])
@pytest.mark.slow
def test_a_killed_run_reads_its_responses_again_and_ends_with_the_same_weights(
    lm: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, epochs: int
) -> None:
    """Killed after step 5, checkpoint at 4: the responses of step 5 are not sampled a second time."""
    aim = goal(settings=RLSettings(responses=3, epochs=epochs))
    settings = replace(SETTINGS, steps=7)
    whole = Lab(lm, tmp_path / "whole", settings).fit_on_policy("run", aim)
    sampled: list[int] = []
    plain, step = on_policy.generate, loop._Loop.step

    def counting(lm: LanguageModel, prompts: Sequence[Any], *rest: Any, **more: Any) -> Any:
        sampled.append(len(prompts))
        return plain(lm, prompts, *rest, **more)

    def stopping(run: Any, number: int, held_out: Any) -> Any:
        if number == 5:
            raise KilledError
        return step(run, number, held_out)

    monkeypatch.setattr(on_policy, "generate", counting)
    monkeypatch.setattr(loop._Loop, "step", stopping)
    with pytest.raises(KilledError):
        Lab(lm, tmp_path / "killed", settings).fit_on_policy("run", aim)
    assert len(sampled) == {1: 5, 2: 3}[epochs]
    monkeypatch.setattr(loop._Loop, "step", step)
    resumed = Lab(lm, tmp_path / "killed", settings).fit_on_policy("run", aim)
    assert adapters_equal(whole, resumed)
    assert len(sampled) == {1: 7, 2: 4}[epochs], "as many as an undisturbed run"
    assert not list((tmp_path / "killed/checkpoints").iterdir()), "nothing is left behind"


def failing(how: Callable[[Sequence[Prompt], Sequence[str]], Any], after: int) -> FunctionScorer:
    """A scorer that works for the calls of ``after`` steps."""
    calls: list[int] = []

    def function(prompts: Sequence[Prompt], responses: Sequence[str], truncated: Sequence[bool]) -> Any:
        calls.append(1)
        return [0.1 * len(r) for r in responses] if len(calls) <= after else how(prompts, responses)

    return from_function("short", "failing", function)


def slow(prompts: Sequence[Prompt], responses: Sequence[str]) -> list[float]:
    if any("moon" in prompt[-1].content for prompt in prompts):
        time.sleep(5)
    return [0.0] * len(responses)


def broken(prompts: Sequence[Prompt], responses: Sequence[str]) -> list[float]:
    if any("moon" in prompt[-1].content for prompt in prompts):
        raise KeyError("no moon")
    return [0.0] * len(responses)


BAD = {
    "nan": (
        lambda p, r: [float("nan") if "moon" in x[-1].content else 0.0 for x in p],
        r"returned nan, expected a finite number",
    ),
    "few": (lambda p, r: [0.0] * (len(r) - 1), r"returned shape \(0,\) for 1 responses"),
    "raises": (broken, r"KeyError: 'no moon'"),
    "hangs": (slow, r"no answer within 0\.5 seconds; it stands at .*test_morlhf\.py:\d+ \(function\)"),
}


@pytest.mark.parametrize("case", BAD)
@pytest.mark.slow
def test_a_broken_reward_stops_the_run_after_saving(lm: LanguageModel, tmp_path: Path, case: str) -> None:
    """It names objective, prompt and reason; corrected, the run goes on from the step it stopped at."""
    how, reason = BAD[case]
    prompts = (PROMPTS[0], (Message("user", "red moon"),), PROMPTS[1], (Message("user", "blue moon"),))
    settings = RLSettings(responses=2, time_limit=0.5)
    common = {"prompts": prompts, "settings": settings, "preference": Preference.uniform(OBJECTIVES)}
    lab = Lab(lm, tmp_path, replace(SETTINGS, checkpoint_every=100))
    prompt = ".*" if case == "few" else r"to the prompt '(red|blue) moon'"
    with pytest.raises(
        TrainingError,
        match=rf"(?s)run, step 4: the reward function of 'short' failed on .*{prompt}.*{reason}",
    ):
        lab.fit_on_policy("run", goal(failing(how, after=3), **common))
    (checkpoint,) = (tmp_path / "checkpoints").glob("*.safetensors")
    assert len(list(rollout_folder(checkpoint).glob("*.safetensors"))) == 4, "what was sampled is kept"
    resumed = lab.fit_on_policy("run", goal(failing(how, after=100), **common))
    other = Lab(lm, tmp_path / "other", SETTINGS)
    assert adapters_equal(resumed, other.fit_on_policy("run", goal(failing(how, after=100), **common)))


def test_a_python_function_is_named(
    lm: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "my_rewards.py").write_text(
        "def half(prompts, responses):\n    return [1.0] * (len(responses) // 2)\n"
    )
    monkeypatch.chdir(tmp_path)
    with pytest.raises(BatchError, match=r"prompt '.*function 'my_rewards:half'.*returned shape \(0,\)"):
        Lab(lm, tmp_path, SETTINGS).fit_on_policy("run", goal(python_function("short", "my_rewards:half")))


def test_damaged_responses_are_named(
    lm: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = Lab(lm, tmp_path, SETTINGS)
    with pytest.raises(BatchError):
        lab.fit_on_policy("run", goal(failing(lambda p, r: [0.0], after=0)))
    (file,) = (tmp_path / "checkpoints").glob("*.rollouts/*")
    file.write_bytes(b"half")
    with pytest.raises(
        TrainingError, match=r"000000\.safetensors: cannot read .* delete it to have them sampled again"
    ):
        lab.fit_on_policy("run", goal(failing(lambda p, r: [0.0], after=0)))


def test_an_objective_that_falls_is_told(
    lm: LanguageModel, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    long = from_function("long", "long", lambda *of: -SHORT(*of))
    lab = Lab(lm, tmp_path, replace(SETTINGS, steps=8, learning_rate=1e-3))
    aim = goal(second=long, scale=scale(1.0, 1.0, objectives=("short", "long")))
    lab.fit_on_policy(
        "run", replace(aim, preference=Preference.parse("short=0.8,long=0.2", ["short", "long"]))
    )
    said = " ".join(capsys.readouterr().err.split())
    assert (
        "run: the reward of 'long' and the advantage have a negative covariance" in said
        and "'short' and" not in said
    )


def sampled_in_a_step(lm: LanguageModel, folder: Path, aim: Any) -> Any:
    """Return what the first step of a conditioned on-policy training sampled and made of it, after its backward pass."""
    run = training_run(lm, SETTINGS, folder)
    learner = conditioned_adapter(run, 2, aim.conditioning)
    try:
        task = on_policy.OnPolicyTask(run, learner, aim, None)  # type: ignore[arg-type]
        with task.batch(0, 0, {}) as (loss, _):
            loss.backward()
        return task._sampled[1]  # type: ignore[index]
    finally:
        learner.steering.detach()


def test_preferences_are_drawn_for_each_prompt_and_the_furthest_objective_is_trained(
    lm: LanguageModel, tmp_path: Path
) -> None:
    """Tchebycheff weighs an objective by w_i where it is furthest from the ideal, and by 0 elsewhere; linear by w."""
    for scalarisation, per in (("linear", "row"), ("tchebycheff", "batch")):
        conditioning = replace(LORA_PER_OBJECTIVE, aggregation=scalarisation, per=per, draw="uniform")  # type: ignore[arg-type]
        aim = goal(preference=None, conditioning=conditioning, ideal=(2.0, 2.0))
        sampled = sampled_in_a_step(lm, tmp_path / scalarisation / per, aim)
        w = sampled.weights
        assert w.shape == (4, 2) and (len(w.unique(dim=0)) == (1 if per == "batch" else 4))
        if scalarisation == "linear":
            used = w
        else:
            means = sampled.rewards.mean((0, 1)).expand(4, 2)
            worst = (w * (2.0 - means)).argmax(1, keepdim=True)
            used = torch.zeros_like(w).scatter(1, worst, w.gather(1, worst))
        torch.testing.assert_close(sampled.combined, (sampled.rewards * used[:, None]).sum(-1))
        torch.testing.assert_close(sampled.strength, 0.05 * used.sum(1, keepdim=True))


@pytest.mark.parametrize("scalarisation", ["min", "quantile", "product"])
def test_one_objective_is_trained_by_min_and_quantile_and_all_by_the_product(
    lm: LanguageModel, tmp_path: Path, scalarisation: str
) -> None:
    """What the policy gradient counts is the slope of the form at the mean rewards, penalty included."""
    conditioning = replace(
        LORA_PER_OBJECTIVE, aggregation=scalarisation, per="batch", draw="uniform", quantile=0.9
    )  # type: ignore[arg-type]
    aim = goal(preference=None, conditioning=conditioning, ideal=(2.0, 2.0), worst=(-3.0, -3.0))
    sampled = sampled_in_a_step(lm, tmp_path, aim)
    w, means = sampled.weights, sampled.rewards.mean((0, 1))  # at the start the penalty is 0
    if scalarisation == "product":
        gained = means + 3.0
        used = (gained**w).prod(1, keepdim=True) * w / gained
    else:
        order = means.argsort()
        reached = w[0][order].cumsum(0)
        place = order[0] if scalarisation == "min" else order[int((reached >= 0.9 - 1e-6).nonzero()[0, 0])]
        used = torch.zeros_like(w)
        used[:, place] = 1.0
    torch.testing.assert_close(
        sampled.combined, (sampled.rewards * used[:, None]).sum(-1), rtol=1e-4, atol=1e-4
    )


def test_the_worst_of_the_product_is_that_of_the_data_unless_it_is_stated(
    lm: LanguageModel, tmp_path: Path
) -> None:
    data = make_dataset(8)
    for stated in (None, -4.0):
        settings = replace(LORA_PER_OBJECTIVE, aggregation="product", per="batch", worst=stated)
        lab = Lab(lm, tmp_path / str(stated), SETTINGS)
        made, raw = measured_reward(
            lab, data, (SHORT, GOOD), Sampling(max_new_tokens=4), RLSettings(), settings
        )
        lowest = made.scale.apply(raw).min(axis=0)
        assert made.worst == pytest.approx(lowest if stated is None else [stated] * 2)
        other = measured_reward(
            lab,
            data,
            (SHORT, GOOD),
            Sampling(max_new_tokens=4),
            RLSettings(),
            replace(settings, aggregation="min"),
        )[0]
        assert other.worst == ()
        assert made.identity() != other.identity()


def test_a_conditioned_run_decodes_at_its_own_gates(lm: LanguageModel, tmp_path: Path) -> None:
    """What decoding draws at folded gates has the log-probabilities that training finds for it."""
    conditioning = replace(LORA_PER_OBJECTIVE, init="small", rank=2, groups=2)
    aim = goal(preference=None, conditioning=conditioning, settings=RLSettings(responses=3, epochs=2))
    run = training_run(lm, SETTINGS, tmp_path)
    learner = conditioned_adapter(run, 2, aim.conditioning)
    try:
        with torch.no_grad():
            for name, parameter in learner.steering.named_parameters():
                parameter.mul_(20.0 if name.endswith(".U") else 5.0)
        before = [parameter.clone() for parameter in learner.steering.parameters()]
        task = on_policy.OnPolicyTask(run, learner, aim, None)  # type: ignore[arg-type]
        task._of(0, 0, 0)
        assert all(torch.equal(a, b) for a, b in zip(before, learner.steering.parameters(), strict=True))
        rollout = on_policy.Rollout.load(rollout_folder(run.checkpoint) / "000000.safetensors", "key")
        sums = torch.stack(
            [part.sum() for part in rollout.old_logps.split([len(r) for r in rollout.responses])]
        )
        torch.testing.assert_close(sums, rollout.logps, atol=1e-4, rtol=1e-4)
        reference = torch.cat(task._sampled[1].reference)  # type: ignore[index]
        assert (reference - rollout.old_logps).abs().max() > 0.1
    finally:
        learner.steering.detach()


@pytest.mark.parametrize("aggregation", ["sum", "decoupled"])
def test_grpo_equals_trl(lm: LanguageModel, tmp_path: Path, aggregation: str) -> None:
    """Advantages, loss and adapter gradients of the same completions, rewards and weights; ratios are not 1."""
    trl = pytest.importorskip("trl")
    from datasets import Dataset
    from transformers import AutoModelForCausalLM

    G, K, weights, beta = 3, 4, [0.3, 0.7], 0.2
    generator = torch.Generator().manual_seed(4)
    prompts = [lm.encode_prompt(prompt) for prompt in PROMPTS[:G]]
    responses = [
        torch.randint(6, len(lm.tokenizer), (int(n),), generator=generator).tolist()
        for n in torch.randint(1, 6, (G * K,), generator=generator)
    ]
    texts = [lm.decode(response) for response in responses]
    rewards = torch.stack(
        [torch.tensor(scorer([PROMPTS[0]] * (G * K), texts, [False] * (G * K))) for scorer in (SHORT, GOOD)],
        1,
    )
    rewards = rewards.float().view(G, K, 2)
    advantages = grpo_advantages(rewards, torch.tensor([weights]).expand(G, 2), aggregation)  # type: ignore[arg-type]

    batch = pack([(p, responses[g * K : (g + 1) * K]) for g, p in enumerate(prompts)])
    steering = trl_lora.random_steering(lm.model, generator)
    with torch.no_grad(), steering.off():
        reference = packed_token_logps(lm.model, batch)
    old = reference + 0.1 * torch.randn(len(reference), generator=generator)
    with steering.at(torch.full((trl_lora.RANK,), trl_lora.SCALE)):
        logps = packed_token_logps(lm.model, batch)
        each = grpo_loss(logps, old, reference, advantages.flatten()[batch.responses], beta, 0.2)
        loss = (token_sums(each, batch) / batch.lengths).mean()
        loss.backward()
    values = {name: p.detach().clone() for name, p in steering.named_parameters()}
    ours = {name: p.grad.clone() for name, p in steering.named_parameters()}
    steering.detach()

    trainer = trl.GRPOTrainer(
        AutoModelForCausalLM.from_pretrained(lm.name, dtype=torch.float32),
        reward_funcs=[lambda completions, **_: [0.0] * len(completions)] * 2,
        args=trl.GRPOConfig(
            output_dir=str(tmp_path / "trl"),
            per_device_train_batch_size=G * K,
            num_generations=K,
            reward_weights=weights,
            multi_objective_aggregation={"sum": "sum_then_normalize", "decoupled": "normalize_then_sum"}[
                aggregation
            ],
            scale_rewards="group",
            loss_type="grpo",
            beta=beta,
            epsilon=0.2,
            **trl_lora.PLAIN,
        ),
        train_dataset=Dataset.from_list([{"prompt": "good"}] * 3),
        processing_class=lm.tokenizer,
        peft_config=trl_lora.lora_config(),
    )
    theirs = trainer.model
    modules = trl_lora.copy_factors(theirs, values)

    # TRL's own step from completions to advantages, with what it would sample and reward put in its hands.
    trainer._generate = lambda asked: (
        [prompts[n // K] for n in range(len(asked))],
        responses,
        None,
        texts,
        None,
        {},
        None,
        None,
    )
    trainer._calculate_rewards = lambda *_: rewards.view(G * K, 2)
    trainer.model.train()
    inputs = trainer._generate_and_score_completions([{"prompt": "good"}] * (G * K))
    torch.testing.assert_close(inputs["advantages"], advantages.flatten(), atol=1e-5, rtol=1e-4)
    mask = inputs["completion_mask"].bool()
    torch.testing.assert_close(inputs["ref_per_token_logps"][mask], reference, atol=1e-4, rtol=1e-4)
    width = torch.zeros_like(inputs["completion_mask"], dtype=torch.float32)
    inputs["old_per_token_logps"] = width.masked_scatter(mask, old)
    trainer.current_gradient_accumulation_steps = 1
    theirs.zero_grad()
    their_loss = trainer._compute_loss(theirs, inputs)
    their_loss.backward()
    assert loss.item() == pytest.approx(their_loss.item(), rel=1e-4)
    trl_lora.check_gradients(modules, ours, 1e-4)


def test_settings_that_cannot_be_are_refused() -> None:
    for values, message in (
        ({"responses": 1}, "methods.morlhf.responses must be at least 2, got 1"),
        ({"beta": -1.0}, "beta must be at least 0"),
        ({"estimator": "grpo", "scalarisation": "tchebycheff"}, "needs estimator: rloo"),
        (
            {"aggregation": "decoupled"},
            r"methods\.morlhf\.aggregation: got 'decoupled', but MORLHF is the method of",
        ),
        ({"mu": 0}, "methods.morlhf.mu must be above 0, got 0"),
        ({"groups": "many"}, r"methods\.morlhf\.groups: expected a whole number, got .many."),
        (
            {"scalarisation": "chebyshev"},
            r"methods\.morlhf\.scalarisation: unknown value 'chebyshev'; did you mean 'tchebycheff'",
        ),
        ({"orthogonality": 0.1}, r"unknown key methods\.morlhf\.orthogonality"),
        ({"clip": 0.0}, "clip must be above 0"),
    ):
        with pytest.raises(ConfigError, match=message):
            parse_config({"methods": {"morlhf": values}})
    with pytest.raises(ConfigError, match="GDPO is the method of aggregation: decoupled"):
        parse_config({"methods": {"mine": {"method": "gdpo", "aggregation": "sum"}}})
    config = parse_config({"methods": {"gdpo": {"responses": 4}}}).entry("gdpo").settings
    assert isinstance(config, MORLHFConfig) and config.aggregation == "decoupled" and config.beta > 0
    with pytest.raises(TrainingError, match="expected one for each of short, good"):
        goal(scorers=(GOOD, SHORT))
    with pytest.raises(ConfigError, match="set hidden to 0"):
        goal(conditioning=Conditioning(hidden=2))
    task = goal(sampling=Sampling(max_new_tokens=60))
    with pytest.raises(TrainingError, match="none of 12 prompts leaves room"):
        task.short_enough(FakeModel(), Limit(FakeModel(), 64))  # type: ignore[arg-type]


@pytest.mark.slow
def test_prompts_without_room_for_an_answer_are_cut_where_that_is_asked_for(
    lm: LanguageModel, tmp_path: Path
) -> None:
    long, end = (Message("user", "red " * 200 + "sun"),), "red sun"
    aim = goal(prompts=(*PROMPTS, long), preference=Preference.one_hot("good", OBJECTIVES))
    lab = Lab(lm, tmp_path, SETTINGS, too_long="prompt-left")
    adapter = lab.fit_on_policy("run", aim)
    (said,) = lab.left_out
    assert said.startswith("1 of 13 prompts with 5 new tokens are longer than max_tokens=")
    assert said.endswith("their prompts were cut at the beginning")
    (shorter,) = aim.cut(lm, lab.limit, lambda text: None).prompts[-1]
    assert shorter.content.endswith(end) and len(shorter.content) < 200 * 4
    whole = replace(aim, prompts=(*PROMPTS, (shorter,)))
    assert adapters_equal(adapter, Lab(lm, tmp_path / "whole", SETTINGS).fit_on_policy("run", whole))


@pytest.mark.slow
def test_prompts_without_room_for_an_answer_are_left_out_and_told(lm: LanguageModel, tmp_path: Path) -> None:
    """Also where the adapter is there already: the report of every run has the same sentence."""
    long = (Message("user", "red " * 200),)
    aim = goal(prompts=(*PROMPTS, long), preference=Preference.one_hot("good", OBJECTIVES))
    for _ in range(2):
        lab = Lab(lm, tmp_path, SETTINGS)
        adapter = lab.fit_on_policy("run", aim)
        (said,) = lab.left_out
        assert said.startswith("1 of 13 prompts leave no room for 5 new tokens within max_tokens=")
    alone = Lab(lm, tmp_path / "alone", SETTINGS).fit_on_policy("run", replace(aim, prompts=PROMPTS))
    assert adapters_equal(adapter, alone)


class FakeModel:
    device = torch.device("cpu")
    room = staticmethod(int)

    @staticmethod
    def encode_prompt(prompt: Prompt) -> list[int]:
        return [0] * 6


def test_an_offset_of_the_prompt_takes_no_worth_from_a_reward(lm: LanguageModel, tmp_path: Path) -> None:
    """A unit of reward is a deviation within prompts, which is 1, where scores cannot be compared across them; pooled it is 5."""
    data, offsets = offset_data(5.0)
    units = []
    for across in (False, True):
        scorers = offset_scorers(offsets, across)
        reward, _ = measured_reward(
            Lab(lm, tmp_path, SETTINGS), data, scorers, SAMPLING, MORLHFConfig(), ONE_PREFERENCE
        )
        units.append(reward.scale.std)
    assert units[0][0] == pytest.approx(1, abs=0.1) and units[1][0] > 4 and units[0][1] == units[1][1]


@pytest.mark.slow
def test_rewarded_soups_are_made_of_the_one_hot_adapters(lm: LanguageModel, tmp_path: Path) -> None:
    """Those that MORLHF trained are found, and a soup at any preference adds exactly their updates."""
    data, scorers, lab = make_dataset(), [GOOD, SHORT], Lab(lm, tmp_path, SETTINGS)
    corners = [Preference.one_hot(objective, OBJECTIVES) for objective in OBJECTIVES]
    anchors = morlhf.train(Inputs(lab, data, data, corners[:1], scorers, SAMPLING), MORLHFConfig(responses=3))
    before = len(lab.stages)
    config = rewarded_soup.RewardedSoupConfig(responses=3)
    soup = rewarded_soup.train(Inputs(lab, data, data, (), scorers, SAMPLING), config)
    names = [f"adapters/morlhf-{corner}" for corner in corners]
    assert [(stage.name, stage.reused) for stage in lab.stages[before:]] == [
        (names[0], True),
        (names[1], False),
    ]
    assert adapters_equal(soup.adapters[0], anchors.adapters[0])
    assert [adapter.info["preference"] for adapter in soup.adapters] == [
        corner.as_dict() for corner in corners
    ]

    w = Preference(OBJECTIVES, (0.3, 0.7))
    gates = soup.gates([w])
    assert gates is not None and soup.kind == "soup"
    stacked = stack(soup.adapters)
    for path, (U, V) in stacked.factors.items():
        parts = [
            adapter.scale * (adapter.factors[path][0] @ adapter.factors[path][1]) for adapter in soup.adapters
        ]
        torch.testing.assert_close(U @ (gates[0][:, None] * V), 0.3 * parts[0] + 0.7 * parts[1])
    with pytest.raises(ConfigError, match="rewarded-soup: no scorer for the objective 'short'"):
        rewarded_soup.train(Inputs(lab, data, data, (), [GOOD], SAMPLING), config)
