"""VAS on the tiny model: what the heads learn, the dial, what entries share, files, and bad input."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch

from paretune.core.errors import ConfigError, DataError, ModelError, ScoreError, TrainingError
from paretune.core.preference import Preference, preference_grid
from paretune.core.sampling import Sampling
from paretune.data.dataset import ScoredDataset
from paretune.data.rows import Message, Row
from paretune.methods import vas
from paretune.methods.base import Inputs
from paretune.methods.vas import VASConfig
from paretune.models.language_model import LanguageModel, load
from paretune.policies.policy import Policy
from paretune.policies.policy_file import PolicyFile
from paretune.policies.valued import ValuedPolicy
from paretune.scoring.scorer import build_scorer, score_texts
from paretune.serving.config import EngineLimits
from paretune.serving.engine.admission import Intake
from paretune.serving.events import Job
from paretune.training.lab import Lab
from paretune.training.loop import Training
from paretune.training.value_samples import Scale, with_room
from support.world import make_dataset, write_model

OBJECTIVES = ("sun", "kind")
SCORERS = [build_scorer({"objective": o, "rule": "regex", "pattern": o, "how": "count"}) for o in OBJECTIVES]
SAMPLING = Sampling(6, batch_size=64)
TRAINING = Training(steps=60, batch_pairs=8, learning_rate=2e-3, max_tokens=64, validate_every=20)
CONFIG = VASConfig(beta=2.0, responses=8, width=32)
PROMPTS = [row.prompt for row in make_dataset(12, seed=5).rows]


def inputs_of(lab: Lab) -> Inputs:
    """Prompts alone: what values are trained on is sampled."""
    train, held_out = (
        ScoredDataset(OBJECTIVES, tuple(Row(row.prompt, ()) for row in make_dataset(rows, seed=seed).rows))
        for rows, seed in ((24, 0), (8, 9))
    )
    return Inputs(lab, train, held_out, scorers=SCORERS, sampling=SAMPLING)


@pytest.fixture(scope="module")
def lab(lm: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Lab:
    return Lab(lm, tmp_path_factory.mktemp("lab"), TRAINING)


@pytest.fixture(scope="module")
def policy(lab: Lab) -> ValuedPolicy:
    made = vas.train(inputs_of(lab), CONFIG)
    assert isinstance(made, ValuedPolicy)
    return made


def means(policy: Policy, preference: Preference) -> np.ndarray:
    """Return the mean scores ``[2]`` of answers to all prompts, eight each."""
    prompts = PROMPTS * 8
    answers = policy.generate(prompts, [preference] * len(prompts), SAMPLING)
    texts = [answer.text for answer in answers]
    return np.array([score_texts(scorer, prompts, texts).mean() for scorer in SCORERS])


@pytest.mark.slow
def test_the_values_explain_held_out_outcomes(policy: ValuedPolicy) -> None:
    """A random model writes words at random: what counts is which words stand already, which the last token shows in part."""
    shares = policy.values.info["explained"]
    assert all(shares[name] > 0.1 for name in OBJECTIVES)


@pytest.mark.slow
def test_a_preference_gets_more_of_what_it_weighs(policy: ValuedPolicy) -> None:
    sun, kind = (means(policy, Preference.one_hot(o, OBJECTIVES)) for o in OBJECTIVES)
    base = means(Policy.base(policy.lm, OBJECTIVES), Preference.uniform(OBJECTIVES))
    assert sun[0] > 1.5 * base[0] and kind[1] > 1.5 * base[1]
    assert sun[0] > kind[0] and kind[1] > sun[1]


def test_beta_is_a_dial_without_training(policy: ValuedPolicy, lab: Lab) -> None:
    sun = Preference.one_hot("sun", OBJECTIVES)
    scores = [means(policy.at(beta), sun)[0] for beta in (0.0, 1.0, 4.0)]
    assert scores == sorted(scores) and scores[0] < scores[2]
    base = Policy.base(policy.lm, OBJECTIVES)
    assert policy.at(0.0).effective(sun) == base.effective(sun) != policy.effective(sun)
    drawn = policy.at(0.0).generate(PROMPTS, [sun] * 12, SAMPLING)
    assert [r.tokens for r in drawn] == [r.tokens for r in base.generate(PROMPTS, [sun] * 12, SAMPLING)]
    twice = policy.generate(PROMPTS, [sun.at(2.0)] * 12, SAMPLING)
    assert twice == policy.at(2 * policy.augmentation.beta).generate(PROMPTS, [sun] * 12, SAMPLING)
    assert policy.effective(sun.at(0.0)) == base.effective(sun), "the strength of a request multiplies beta"
    before = len(lab.stages)
    again = vas.train(inputs_of(lab), replace(CONFIG, beta=0.3, candidates=5))
    assert all(stage.reused for stage in lab.stages[before:]), (
        "entries that differ in strength share heads and samples"
    )
    assert isinstance(again, ValuedPolicy) and again.values.fingerprint == policy.values.fingerprint
    assert (again.augmentation.beta, again.augmentation.candidates) == (0.3, 5)
    with pytest.raises(ConfigError, match="beta"):
        policy.at(-1.0)


def test_other_settings_of_the_heads_train_others(policy: ValuedPolicy, lab: Lab) -> None:
    with lab.trained_by(replace(TRAINING, steps=2)):
        others = [vas.train(inputs_of(lab), replace(CONFIG, lam=lam)) for lam in (1.0, 0.5)]
    prints = {other.values.fingerprint for other in others if isinstance(other, ValuedPolicy)}
    assert len(prints | {policy.values.fingerprint}) == 3


def test_preferences_off_the_simplex_extrapolate(policy: ValuedPolicy) -> None:
    beyond = Preference.parse("sun=1.5,kind=-0.5", OBJECTIVES, True)
    assert policy.mixture([beyond]).coefficients.tolist() == [[1.0, 3.0, -1.0]]
    assert policy.extrapolates and policy.copies == policy.passes == 1 and policy.stand_in() is None


def test_log_probabilities_are_those_of_decoding(policy: ValuedPolicy) -> None:
    grid = preference_grid(OBJECTIVES, 2)
    answers = policy.generate(PROMPTS[:3], grid, SAMPLING)
    groups = [(policy.lm.encode_prompt(p), [r.tokens]) for p, r in zip(PROMPTS, answers, strict=False)]
    found = [float(logp[0]) for logp in policy.logps(groups, grid)]
    assert found == pytest.approx([answer.logp for answer in answers], abs=1e-4)
    distribution = policy.distribution(*groups[0][:1], groups[0][1][0], grid[0])
    assert torch.allclose(distribution.exp().sum(-1), torch.ones(len(distribution)))


def test_a_saved_policy_answers_alike(policy: ValuedPolicy, tmp_path: Path) -> None:
    policy.save(tmp_path / "p")
    loaded = Policy.load(tmp_path / "p", policy.lm)
    half = Preference.uniform(OBJECTIVES)
    assert loaded.effective(half) == policy.effective(half) and loaded.kind == "values"
    assert loaded.generate(PROMPTS[:2], [half] * 2, SAMPLING) == policy.generate(
        PROMPTS[:2], [half] * 2, SAMPLING
    )
    facts = PolicyFile.read(tmp_path / "p")
    assert facts.augmentation == {"beta": 2.0, "candidates": 20} and not facts.exportable


def test_value_heads_of_another_base_are_refused(policy: ValuedPolicy, tmp_path: Path) -> None:
    other = load(str(write_model(tmp_path / "other", seed=1)), "float32", "cpu")
    policy.save(tmp_path / "p")
    with pytest.raises(ModelError, match="has other weights"):
        Policy.load(tmp_path / "p", other)
    with pytest.raises(ModelError, match=r"value heads of the base model .* but the model in use is"):
        ValuedPolicy.of("vas", other, OBJECTIVES, policy.values)
    with pytest.raises(ModelError, match=r"value heads for the objectives \['sun', 'kind'\], in this order"):
        ValuedPolicy.of("vas", policy.lm, OBJECTIVES[::-1], policy.values)
    # Heads that were copied in from another policy's folder.
    file = tmp_path / "p" / "values" / "values.json"
    file.write_text(json.dumps({**json.loads(file.read_text()), "base": "0" * 16}))
    with pytest.raises(ModelError, match=r"value heads of the base model 0{16}"):
        Policy.load(tmp_path / "p", policy.lm)


def test_a_server_draws_what_the_policy_draws(policy: ValuedPolicy) -> None:
    intake = Intake.of({"vas": policy, "base": Policy.base(policy.lm, OBJECTIVES)}, EngineLimits())
    half = Preference.uniform(OBJECTIVES)
    (row,) = intake.rows(Job("vas", PROMPTS[0], half, SAMPLING, 3))
    (other,) = intake.rows(Job("vas", PROMPTS[1], half, SAMPLING, 4))
    assert row.mixture is not None and other.mixture is not None
    assert row.mixture.rescoring is other.mixture.rescoring, "so that they are re-scored together"


# Bad input


def test_rewards_are_counted_in_deviations_and_within_prompts_where_they_must() -> None:
    scores = np.array([[[1.0, 10.0], [3.0, 12.0]], [[1.0, 50.0], [3.0, 52.0]]])
    within = [SCORERS[0], replace(SCORERS[1], across_prompts=False)]
    scale = Scale.of(scores, within)
    assert scale.mean.tolist() == [2.0, 0.0] and scale.deviation.tolist() == [1.0, 1.0]
    assert scale.apply(scores).tolist() == [[[-1.0, -1.0], [1.0, 1.0]]] * 2
    with pytest.raises(ScoreError, match="'sun': all 4 sampled answers score 1"):
        Scale.of(np.ones((2, 2, 2)), SCORERS)


def test_an_objective_without_a_scorer_is_named(lab: Lab) -> None:
    with pytest.raises(ConfigError, match="vas: no scorer for the objective 'kind'"):
        vas.train(replace(inputs_of(lab), scorers=SCORERS[:1]), CONFIG)


def test_prompts_without_room_are_counted_or_refused(lm: LanguageModel, tmp_path: Path) -> None:
    small = Lab(lm, tmp_path, replace(TRAINING, max_tokens=14))
    long = (Message("user", "red " * 20),)
    assert with_room(small, [PROMPTS[0], long], 4) == [PROMPTS[0]]
    assert any("1 of 2 prompts leave no room for 4 new tokens" in line for line in small.left_out)
    with pytest.raises(TrainingError, match="none of 1 prompts leaves room for 4 new tokens"):
        with_room(small, [long], 4)
    cutting = replace(small, too_long="prompt-left", left_out=[])
    (kept,) = with_room(cutting, [long], 4)
    assert len(lm.encode_prompt(kept)) <= 10 and len(cutting.left_out) == 1


def test_answers_that_were_damaged_are_named(lm: LanguageModel, tmp_path: Path) -> None:
    lab = Lab(lm, tmp_path, replace(TRAINING, steps=2))
    vas.train(inputs_of(lab), replace(CONFIG, responses=2))
    marker = tmp_path / "answers" / "vas" / "stage.json"
    done = json.loads(marker.read_text())
    done.pop("files"), done.pop("itself")
    marker.write_text(json.dumps(done))  # as written by a version without checksums
    (tmp_path / "answers" / "vas" / "responses.json").write_text("[[1]]")
    with pytest.raises(DataError, match="no sampled answers"):
        vas.train(inputs_of(Lab(lm, tmp_path, replace(TRAINING, steps=2))), replace(CONFIG, responses=2))


@pytest.mark.parametrize(
    "values", [{"beta": -1}, {"candidates": 0}, {"responses": 1}, {"lam": 1.5}, {"width": 0}, {"prompts": 0}]
)
def test_settings_out_of_bounds(values: dict[str, float]) -> None:
    with pytest.raises(ConfigError, match=next(iter(values))):
        VASConfig(**values)  # type: ignore[arg-type]
