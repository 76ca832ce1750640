"""What a policy promises whatever method made it, and the comparison of all methods in one run."""

from __future__ import annotations

import json
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import torch
import yaml

from paretune.core.errors import ModelError, PreferenceError, TrainingError
from paretune.core.preference import Preference, preference_grid, simplex_grid
from paretune.core.sampling import Sampling
from paretune.data.pairs import labelled_pairs, pairs
from paretune.evaluation.evaluate import HeldOut, evaluate
from paretune.evaluation.judge import judge
from paretune.evaluation.judged import Evaluation, Judged
from paretune.generation.draw import draw
from paretune.generation.generate import generate
from paretune.methods import (
    METHODS,
    bone_soup,
    dpo,
    dpo_lw,
    hpo,
    knowpat,
    linear_alignment,
    mo_odpo,
    mod,
    modpo,
    morlhf,
    mrpo,
    panacea,
    prompting,
    rewarded_soup,
    spa,
    spo,
    vas,
)
from paretune.methods.base import DPOConfig, Inputs, Traits
from paretune.methods.bone_soup import BoneSoupConfig
from paretune.methods.dpo_lw import DPOLWConfig, vote
from paretune.methods.hpo import HPOConfig
from paretune.methods.knowpat import KnowPATConfig
from paretune.methods.linear_alignment import LinearAlignmentConfig
from paretune.methods.mo_odpo import MOODPOConfig
from paretune.methods.mod import MODConfig
from paretune.methods.modpo import MODPOConfig
from paretune.methods.morlhf import MORLHFConfig
from paretune.methods.mrpo import MRPOConfig
from paretune.methods.panacea import PanaceaConfig
from paretune.methods.paretohqd import method as paretohqd
from paretune.methods.paretohqd.method import ParetoHqDConfig
from paretune.methods.prompting import PromptingConfig
from paretune.methods.rewarded_soup import RewardedSoupConfig
from paretune.methods.ric import method as ric
from paretune.methods.ric.method import RiCConfig
from paretune.methods.sipo import method as sipo
from paretune.methods.sipo.method import SIPOConfig
from paretune.methods.spa import SPAConfig
from paretune.methods.spo import SPOConfig
from paretune.methods.vas import VASConfig
from paretune.models.language_model import LanguageModel, load
from paretune.policies.policy import Policy
from paretune.runs.config import RunConfig
from paretune.runs.parse import parse_config
from paretune.runs.run import run
from paretune.scoring.repetition import is_collapsed
from paretune.scoring.scorer import build_scorer, score_texts
from paretune.training.conditioning import LORA_PER_OBJECTIVE
from paretune.training.lab import Lab
from support.adapters import TRAINING, adapters_equal
from support.world import TAGS, WORDS, make_dataset, write_model

pytestmark = pytest.mark.slow

OBJECTIVES = ("short", "good")
GREEDY = Sampling(max_new_tokens=6, temperature=0.0, batch_size=4)
SCORERS = [
    {"objective": "short", "rule": "length", "unit": "words", "direction": "lower"},
    {"objective": "good", "rule": "regex", "pattern": "good|kind", "how": "count"},
]


ASKED = {"short": "red red", "good": "good kind good"}
UNTRAINED = {"prompting", "linear-alignment"}
NEIGHBOURS = {"spo", "hpo", "mrpo", "knowpat", "spa", "vas", *UNTRAINED}


@pytest.fixture(scope="module")
def policies(lm: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Policy]:
    """One policy of every method, trained hard enough that preferences tell apart."""
    lab = Lab(lm, tmp_path_factory.mktemp("lab"), replace(TRAINING, steps=12, learning_rate=2e-2))
    data = make_dataset(), make_dataset(4, seed=9)
    grid = preference_grid(OBJECTIVES, 2)
    longer = Lab(lm, tmp_path_factory.mktemp("longer"), replace(lab.training, steps=50))
    # Tags in a prompt say something only to a tokenizer that knows them.
    tagged = load(
        str(write_model(tmp_path_factory.mktemp("tagged"), words=[*WORDS, *TAGS])), "float32", "cpu"
    )
    reader = Lab(
        tagged, tmp_path_factory.mktemp("reader"), replace(lab.training, steps=60, learning_rate=5e-3)
    )
    scorers, sampling = [build_scorer(spec) for spec in SCORERS], replace(GREEDY, temperature=1.0)
    return {
        "dpo-soup": dpo.train(Inputs(lab, *data), DPOConfig()),
        "mod": mod.train(Inputs(lab, *data), MODConfig()),
        "modpo": modpo.train(Inputs(lab, *data, grid), MODPOConfig()),
        "panacea": panacea.train(
            Inputs(longer, *data),
            PanaceaConfig(rank=4, rate_factor=1.0, gate_rate_factor=5.0, draw="corners"),
        ),
        "dpo-lw": dpo_lw.train(Inputs(lab, *data, grid), DPOLWConfig()),
        "paretohqd": paretohqd.train(
            Inputs(lab, *data, grid, scorers, sampling), ParetoHqDConfig(k=4, prompts=4, drop_collapsed=False)
        ),
        "ric": ric.train(
            Inputs(reader, *data, scorers=scorers, sampling=sampling), RiCConfig(form="levels", iterations=0)
        ),
        "sipo": sipo.train(
            Inputs(lab, *data, grid, sampling=sampling), SIPOConfig(refine=False, conflicts=6, least=0)
        ),
        "morlhf": morlhf.train(
            Inputs(lab, data[0], data[0], grid, scorers, sampling),
            MORLHFConfig(form="conditioned", conditioning=replace(LORA_PER_OBJECTIVE, groups=4), responses=4),
        ),
        "gdpo": morlhf.train(
            Inputs(lab, data[0], data[0], grid, scorers, sampling),
            MORLHFConfig(aggregation="decoupled", estimator="grpo", responses=4),
        ),
        "mo-odpo": mo_odpo.train(
            Inputs(lab, data[0], data[0], (), scorers, sampling),
            MOODPOConfig(condition="gates", groups=4, responses=4, draw="corners", corner_share=0.5),
        ),
        "rewarded-soup": rewarded_soup.train(
            Inputs(lab, data[0], data[0], (), scorers, sampling), RewardedSoupConfig(responses=4)
        ),
        "bone-soup": bone_soup.train(
            Inputs(lab, data[0], data[0], (), scorers, sampling), BoneSoupConfig(responses=4)
        ),
        "spo": spo.train(Inputs(lab, *data, grid), SPOConfig()),
        "hpo": hpo.train(Inputs(lab, *data, grid), HPOConfig()),
        "knowpat": knowpat.train(Inputs(lab, *data, grid), KnowPATConfig()),
        "spa": spa.train(Inputs(lab, *data, sampling=sampling), SPAConfig(rounds=1, tolerance=1.0)),
        "mrpo": mrpo.train(Inputs(lab, *data), MRPOConfig()),
        "vas": vas.train(
            Inputs(lab, data[0], data[0], (), scorers, sampling), VASConfig(beta=4.0, responses=8)
        ),
        "prompting": prompting.train(Inputs(lab, *data), PromptingConfig(ASKED)),
        "linear-alignment": linear_alignment.train(Inputs(lab, *data), LinearAlignmentConfig(ASKED)),
    }


@pytest.mark.parametrize("name", METHODS)
def test_mixed_preferences_in_one_batch_equal_one_at_a_time(policies: dict[str, Policy], name: str) -> None:
    policy = policies[name]
    prompts = [row.prompt for row in make_dataset(4, seed=5).rows]
    preferences = preference_grid(OBJECTIVES, 3)
    for sampling in (GREEDY, replace(GREEDY, temperature=1.0, top_p=0.9)):
        together = policy.generate(prompts, preferences, sampling, seeds=[7, 8, 9, 10])
        alone = [
            policy.generate([p], [w], sampling, [s])[0]
            for p, w, s in zip(prompts, preferences, [7, 8, 9, 10], strict=True)
        ]
        assert [r.tokens for r in together] == [r.tokens for r in alone]
    drawn = replace(GREEDY, temperature=1.0)
    by_preference = {tuple(r.tokens for r in policy.generate(prompts, [w] * 4, drawn)) for w in preferences}
    assert len(by_preference) > 1


@pytest.mark.parametrize("name", METHODS)
def test_permuting_objectives_permutes_the_policy(policies: dict[str, Policy], name: str) -> None:
    """A preference is named: in which order its objectives stand changes nothing."""
    policy = policies[name]
    prompts = [row.prompt for row in make_dataset(3, seed=5).rows]
    ours, theirs = (
        [Preference.of({"short": w, "good": 1 - w}, names) for w in (0.0, 0.4, 1.0)]
        for names in (OBJECTIVES, OBJECTIVES[::-1])
    )
    assert [p.effective(w) for p, w in zip([policy] * 3, ours, strict=True)] == [
        p.effective(w) for p, w in zip([policy] * 3, theirs, strict=True)
    ]
    one, two = (policy.generate(prompts, asked, GREEDY) for asked in (ours, theirs))
    assert [r.tokens for r in one] == [r.tokens for r in two]


@pytest.mark.parametrize(
    "name", [name for name in METHODS if name not in UNTRAINED]
)  # a random model understands no words
def test_a_corner_serves_its_objective(policies: dict[str, Policy], name: str) -> None:
    """Each objective scores better at its own corner than at the other's, in deviations, on average over both."""
    prompts = [row.prompt for row in make_dataset(16, seed=5).rows]
    corners = [Preference.one_hot(objective, OBJECTIVES) for objective in OBJECTIVES]
    answers = policies[name].generate(
        prompts * 2,
        [w for w in corners for _ in prompts],
        replace(GREEDY, temperature=1.0, batch_size=32),
        [*range(16)] * 2,
    )
    texts, cut = [r.text for r in answers], [r.truncated for r in answers]
    scores = np.stack([score_texts(build_scorer(spec), prompts * 2, texts, cut) for spec in SCORERS])
    own = (scores / scores.std(1, keepdims=True)).reshape(2, 2, 16).mean(-1)  # [objective, corner]
    assert own[0, 0] - own[0, 1] + own[1, 1] - own[1, 0] > 0


@pytest.mark.parametrize("name", METHODS)
def test_saved_policy_is_the_same_policy(policies: dict[str, Policy], name: str, tmp_path: Path) -> None:
    policy = policies[name]
    policy.save(tmp_path / "policy")
    loaded = Policy.load(tmp_path / "policy", policy.lm)
    for preference in preference_grid(OBJECTIVES, 4):
        assert loaded.effective(preference) == policy.effective(preference)
    groups = [([3, 4, 5], [[6, 7, 2]])] * 5
    preferences = preference_grid(OBJECTIVES, 4)
    if name == "linear-alignment":  # token ids of one prompt do not tell those of the others
        prompt = make_dataset(1).rows[0].prompt
        assert policy.generate([prompt] * 5, preferences, GREEDY) == loaded.generate(
            [prompt] * 5, preferences, GREEDY
        )
        return
    for a, b in zip(policy.logps(groups, preferences), loaded.logps(groups, preferences), strict=True):
        assert torch.equal(a, b)


def test_soup_at_a_corner_is_the_single_adapter(policies: dict[str, Policy]) -> None:
    policy, groups = policies["dpo-soup"], [([3, 4, 5], [[6, 7, 2], [8, 2]])]
    for number, objective in enumerate(OBJECTIVES):
        corner = [Preference.one_hot(objective, OBJECTIVES)]
        single = Policy.anchors("one", policy.lm, OBJECTIVES, [policy.adapters[number]], corner)
        assert torch.equal(policy.logps(groups, corner)[0], single.logps(groups, corner)[0])


def test_modpo_corners_are_the_dpo_adapters(policies: dict[str, Policy]) -> None:
    """w_k = 1 is DPO: the adapter is shared, and evaluations at the corners are shared too."""
    modpo_policy, soup_policy = policies["modpo"], policies["dpo-soup"]
    for objective in OBJECTIVES:
        corner = Preference.one_hot(objective, OBJECTIVES)
        assert modpo_policy.effective(corner) == soup_policy.effective(corner)
    middle = Preference.uniform(OBJECTIVES)
    assert modpo_policy.effective(middle) != soup_policy.effective(middle)
    assert not any(adapters_equal(modpo_policy.adapters[1], adapter) for adapter in soup_policy.adapters)


def test_anchors_snap_and_say_so(policies: dict[str, Policy]) -> None:
    asked = [Preference.parse("short=0.9,good=0.1"), Preference.parse("short=0.6,good=0.4")]
    assert [str(w) for w in policies["modpo"].used(asked)] == [
        "short=1.0,good=0.0",
        "short=0.5,good=0.5",
    ] or [w.weights for w in policies["modpo"].used(asked)] == [(1.0, 0.0), (0.5, 0.5)]
    assert [w.weights for w in policies["dpo-soup"].used(asked)] == [w.weights for w in asked]


def test_extrapolation_goes_on_along_the_line(policies: dict[str, Policy]) -> None:
    """Every gate of a soup and of Panacea is affine in the preference; anchors have no line."""
    beyond = Preference.of({"good": 1.5, "short": -0.5}, OBJECTIVES, allow_extrapolation=True)
    corners = [Preference.one_hot(objective, OBJECTIVES) for objective in ("good", "short")]
    for name in ("dpo-soup", "panacea"):
        at = policies[name].gates([beyond, *corners])
        assert at is not None
        torch.testing.assert_close(at[0], 1.5 * at[1] - 0.5 * at[2])
    with pytest.raises(PreferenceError, match=r"nearest of its anchors.*short=-0.5,good=1.5"):
        policies["modpo"].gates([beyond])


def test_wrong_requests_are_refused(policies: dict[str, Policy], lm: LanguageModel, tmp_path: Path) -> None:
    policy, prompt = policies["modpo"], make_dataset(1).rows[0].prompt
    with pytest.raises(PreferenceError, match="1 prompts and 2 preferences"):
        policy.generate([prompt], preference_grid(OBJECTIVES, 1))
    with pytest.raises(PreferenceError, match="helpful"):
        policy.generate([prompt], [Preference.parse("helpful=1")])
    with pytest.raises(ModelError, match=r"no policy\.json"):
        Policy.load(tmp_path, lm)
    other = load(str(write_model(tmp_path / "other", seed=1)), "float32", "cpu")
    policy.save(tmp_path / "policy")
    with pytest.raises(ModelError, match=r"made for the base model .* has other weights"):
        Policy.load(tmp_path / "policy", other)
    with pytest.raises(ModelError, match="2 adapters for 1 objectives"):
        Policy.soup("x", lm, ["short"], policies["dpo-soup"].adapters)


def test_votes_of_loss_weighting(lm: LanguageModel, tmp_path: Path) -> None:
    """Worked, 4 of 5 pairs labelled by each: w_j 5/4 for each vote; a tie counts among the 4, a missing label does not."""
    table = Lab(lm, tmp_path, TRAINING).pair_table(labelled_pairs(make_dataset(6)))
    labels = [(1.0, 1.0), (1.0, -1.0), (0.0, -1.0), (float("nan"), -1.0), (-1.0, float("nan"))]
    few = replace(
        table,
        pairs=tuple(replace(p, labels=x) for p, x in zip(table.pairs, labels, strict=False)),
        margin=table.margin[:5],
        weight=table.weight[:5],
    )
    stamped = vote(few, Preference.parse("short=0.3,good=0.7"))
    assert stamped.weight.tolist() == pytest.approx([1.25, 0.375, 0.0, 0.0, 0.0])
    assert stamped.reversed_weight.tolist() == pytest.approx([0.0, 0.875, 0.875, 0.875, 0.375])


def test_loss_weighting_of_pairs_with_one_label_each_follows_the_preference(
    lm: LanguageModel, tmp_path: Path
) -> None:
    """w L(D1) + (1 - w) L(D2): three pairs of each weigh .9 and .1 up to a factor; two of D1 and four of D2 the same means."""
    table = Lab(lm, tmp_path, TRAINING).pair_table(labelled_pairs(make_dataset(6)))
    nan = float("nan")

    def weights(first: int, second: int, w: float) -> list[float]:
        labels = [(1.0, nan)] * first + [(nan, 1.0)] * second
        few = tuple(replace(p, labels=x) for p, x in zip(table.pairs, labels, strict=False))
        n = len(few)
        cut = replace(table, pairs=few, margin=table.margin[:n], weight=table.weight[:n])
        stamped = vote(cut, preference(w))
        assert not bool(stamped.reversed_weight.any())
        return stamped.weight.tolist()

    def preference(w: float) -> Preference:
        return Preference(OBJECTIVES, (w, 1 - w))

    assert weights(3, 3, 0.9) == pytest.approx([2 * 0.9] * 3 + [2 * 0.1] * 3)
    assert weights(3, 3, 0.5) == pytest.approx([1.0] * 6)
    uneven = weights(2, 4, 0.9)
    assert sum(uneven[:2]) / 6 == pytest.approx(0.9) and sum(uneven[2:]) / 6 == pytest.approx(0.1)


def test_loss_weighting_needs_pairs_of_every_objective_with_weight(lm: LanguageModel, tmp_path: Path) -> None:
    data = make_dataset(6)
    bare = replace(data, rows=tuple(replace(r, scores={"good": r.scores["good"]}) for r in data.rows))
    grid = [Preference.parse("short=0.5,good=0.5")]
    with pytest.raises(TrainingError, match="no pair that 'short' labels"):
        dpo_lw.train(Inputs(Lab(lm, tmp_path, TRAINING), bare, data, grid), DPOLWConfig())


def test_scores_can_be_margins(lm: LanguageModel, tmp_path: Path) -> None:
    lab, data = Lab(lm, tmp_path, TRAINING), (make_dataset(), make_dataset(4, seed=9))
    grid = [Preference.parse("short=0.4,good=0.6")]
    config = MODPOConfig(margin="scores", margin_scale={"short": 0.5})
    policy = modpo.train(Inputs(lab, *data, grid), config)
    assert len([stage for stage in lab.stages if not stage.reused]) == 1, "no margin model is trained"
    assert policy.adapters[0].info["margin"] == "scores"
    bare = replace(data[0], rows=tuple(replace(r, scores={"good": r.scores["good"]}) for r in data[0].rows))
    with pytest.raises(TrainingError, match=r"no score for 'short'.*add a scorer of it"):
        modpo.train(Inputs(Lab(lm, tmp_path / "b", TRAINING), bare, data[1], grid), config)


@pytest.mark.parametrize("margin_scale", [{"short": 0.5}, None])
def test_a_margin_without_a_score_is_scored(
    lm: LanguageModel,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    margin_scale: dict[str, float] | None,
) -> None:
    """One missing score, or an objective that is labelled only: its scorer gives what the data would have held."""
    data, grid = (make_dataset(), make_dataset(4, seed=9)), [Preference.parse("short=0.4,good=0.6")]
    config = MODPOConfig(margin="scores", margin_scale=margin_scale)
    whole = modpo.train(Inputs(Lab(lm, tmp_path, TRAINING), *data, grid), config)
    assert "have no score" not in capsys.readouterr().err
    place = pairs(data[0], "good")[0].row
    holed = list(data[0].rows)
    holed[place] = replace(holed[place], scores={**holed[place].scores, "short": (np.nan, -1.0, -1.0)})
    scorers, lab = [build_scorer(spec) for spec in SCORERS], Lab(lm, tmp_path / "b", TRAINING)
    scored = modpo.train(Inputs(lab, replace(data[0], rows=tuple(holed)), data[1], grid, scorers), config)
    assert "1 responses have no score for 'short'" in " ".join(capsys.readouterr().err.split())
    assert adapters_equal(whole.adapters[0], scored.adapters[0])

    labelled = tuple(
        replace(row, scores={"good": row.scores["good"]}, labels={"short": ((0, 1, 1.0),)})
        for row in data[0].rows
    )
    compared = replace(data[0], rows=labelled)
    other = modpo.train(Inputs(Lab(lm, tmp_path / "c", TRAINING), compared, data[1], grid, scorers), config)
    assert adapters_equal(whole.adapters[0], other.adapters[0])


def test_the_other_objective_is_served_by_its_own_model(lm: LanguageModel, tmp_path: Path) -> None:
    """A fixed k with w_k = 0: the DPO model of the other objective, which the run has as its margin model."""
    lab, data = Lab(lm, tmp_path, TRAINING), (make_dataset(), make_dataset(4, seed=9))
    grid = preference_grid(OBJECTIVES, 2)
    policy = modpo.train(Inputs(lab, *data, grid), MODPOConfig(objective="short"))
    soup = dpo.train(Inputs(lab, *data), DPOConfig())
    short, middle, good = policy.adapters  # the grid begins with all weight on short
    assert adapters_equal(short, soup.adapters[0]) and adapters_equal(good, soup.adapters[1])
    assert middle.info["objective"] == "short"


def test_margin_models_may_have_their_own_beta(lm: LanguageModel, tmp_path: Path) -> None:
    """Margins are margin_beta (log pi_j - log pi_ref) of models trained at margin_beta; corners stay DPO at beta."""
    lab, data = Lab(lm, tmp_path, TRAINING), (make_dataset(), make_dataset(4, seed=9))
    grid = preference_grid(OBJECTIVES, 2)
    default = modpo.train(Inputs(lab, *data, grid), MODPOConfig(beta=0.5))
    names = {stage.name for stage in lab.stages}
    same = modpo.train(Inputs(lab, *data, grid), MODPOConfig(beta=0.5, margin_beta=0.5))
    assert {stage.name for stage in lab.stages} == names, "no stage has another key"
    assert all(map(adapters_equal, default.adapters, same.adapters))

    own = modpo.train(Inputs(lab, *data, grid), MODPOConfig(beta=0.5, margin_beta=0.1))
    for corner in (0, 2):
        assert adapters_equal(own.adapters[corner], default.adapters[corner])
    assert not adapters_equal(own.adapters[1], default.adapters[1])
    table = lab.train_table(pairs(data[0], "short"))
    margin_model = lab.dpo("good", *data, beta=0.1)
    expected = modpo.stamp(table, 0.5 * lab.implicit_gap(table, margin_model, 0.1), 0.5, False)
    held_out = lab.pair_table(pairs(data[1], "short"))
    kept = modpo.stamp(held_out, 0.5 * lab.implicit_gap(held_out, margin_model, 0.1), 0.5, False)
    by_hand = lab.fit("by-hand", expected, kept, 0.5)
    assert adapters_equal(by_hand, own.adapters[1])


def test_greedy_generation_equals_transformers(lm: LanguageModel) -> None:
    prompts = [lm.encode_prompt(row.prompt) for row in make_dataset(5, seed=3).rows]
    ours = generate(lm, prompts, replace(GREEDY, max_new_tokens=12, batch_size=5), range(5))
    for prompt, response in zip(prompts, ours, strict=True):
        theirs = lm.model.generate(
            torch.tensor([prompt]),
            max_new_tokens=12,
            do_sample=False,
            pad_token_id=0,
            eos_token_id=sorted(lm.stops),
        )[0, len(prompt) :].tolist()
        assert list(response.tokens) == theirs
        assert response.truncated == (theirs[-1] not in lm.stops)


def test_a_response_knows_its_log_probability(policies: dict[str, Policy]) -> None:
    """That of the decoder equals that of the packed scorer, for rows of different preferences and lengths."""
    policy, rows = policies["panacea"], make_dataset(6, seed=3).rows
    prompts, asked = [row.prompt for row in rows], (preference_grid(OBJECTIVES, 2) * 2)[:6]
    drawn = policy.generate(prompts, asked, Sampling(12, 0.7, 0.9, batch_size=4))
    groups = [(policy.lm.encode_prompt(p), [r.tokens]) for p, r in zip(prompts, drawn, strict=True)]
    packed = torch.cat(policy.logps(groups, asked))
    torch.testing.assert_close(torch.tensor([r.logp for r in drawn]), packed, atol=1e-3, rtol=1e-4)


def test_drawing_follows_the_distribution() -> None:
    logits = torch.tensor([2.0, 1.0, 0.0, -1.0]).log_softmax(-1)
    uniform = torch.linspace(0, 1, 20_001, dtype=torch.float64)[:-1]
    drawn = draw(logits.expand(20_000, 4), uniform, 1.0, 1.0)
    torch.testing.assert_close(drawn.bincount(minlength=4) / 20_000, logits.exp(), atol=1e-3, rtol=0)
    nucleus = draw(logits.expand(20_000, 4), uniform, 1.0, 0.8)  # 0.64, 0.24: two tokens reach 0.8
    kept = logits.exp()[:2] / logits.exp()[:2].sum()
    torch.testing.assert_close(nucleus.bincount(minlength=4)[:2] / 20_000, kept, atol=1e-3, rtol=0)
    assert nucleus.max() == 1 and bool((draw(logits.expand(3, 4), uniform[:3], 0.0, 1.0) == 0).all())


def test_prompt_and_response_are_tokenised_once_with_one_end(lm: LanguageModel) -> None:
    row = make_dataset(1).rows[0]
    prompt, response = lm.encode_prompt(row.prompt), lm.encode_response("good kind")
    assert response[-1] == lm.turn_end and lm.encode_response("good kind", truncated=True) == response[:-1]
    assert prompt.count(lm.tokenizer.bos_token_id) <= 1
    assert lm.decode(response) == "good kind"


def test_collapse_rule() -> None:
    assert is_collapsed([1, 2, 3, 4]) and not is_collapsed([1, 2, 3, 4, 5])
    assert is_collapsed([1, 2] * 20) and not is_collapsed(list(range(40)))


def test_evaluation_shares_points_and_knows_the_base(policies: dict[str, Policy]) -> None:
    scorers = [build_scorer(spec) for spec in SCORERS]
    rows = make_dataset(5, seed=4).rows
    prompts, ids = [row.prompt for row in rows], [row.key for row in rows]
    known: dict = {}
    sampling = replace(GREEDY, temperature=1.0)
    twice = HeldOut(prompts, ids, scorers, sampling, samples=2)
    grid = preference_grid(OBJECTIVES, 2)
    soup_result = evaluate(policies["dpo-soup"], grid, twice, known)
    assert len(known) == 3 and soup_result.front.scores.shape == (3, 5, 2)
    evaluate(policies["modpo"], grid, twice, known)
    assert len(known) == 4, "both corners were judged already"
    once = HeldOut(prompts, ids, scorers, sampling)
    base = evaluate(Policy.base(policies["modpo"].lm, OBJECTIVES), [Preference.uniform(OBJECTIVES)], once)
    assert (base.points[0].logps == base.points[0].base_logps).all()


def measured(name: str, weights: list[list[float]], scores: np.ndarray) -> Evaluation:
    """Return the evaluation of a policy whose ``scores`` ``[N, P, M]`` are given."""
    nothing = np.zeros((scores.shape[1], 1))
    asked = [Preference(OBJECTIVES, tuple(w)) for w in weights]
    points = [
        Judged(
            rows[:, None],
            nothing,
            nothing,
            nothing + 9,
            nothing > 0,
            nothing > 0,
            nothing,
            [["a"]] * len(rows),
            0.0,
        )
        for rows in scores
    ]
    return Evaluation(name, OBJECTIVES, asked, asked, tuple(map(str, range(scores.shape[1]))), points)


def test_a_policy_on_the_mixture_of_corners_is_neither_above_nor_below_it() -> None:
    """At any number of preferences, although more points of one line have more hypervolume."""
    corners = np.random.default_rng(0).normal(size=(2, 40, 2)) + np.array([[[1, 4]], [[4, 1]]])
    ends = measured("corners", [[0, 1], [1, 0]], corners)
    base = measured("base", [[0.5, 0.5]], corners.mean(0, keepdims=True) - 1)
    policies = {}
    for name, N in (("coarse", 3), ("fine", 9)):
        weights = simplex_grid(2, N - 1)
        policies[name] = measured(name, weights.tolist(), np.einsum("nk,kpm->npm", weights, corners[::-1]))
    found = judge(policies, base, ends, np.zeros(2))
    verdicts = {(c.first, c.second): c for c in found.comparisons}
    for name in policies:
        against = verdicts[name, "mixture of corners"]
        assert against.difference == pytest.approx(0, abs=1e-9)
        assert against.verdict == "no difference shown"
        assert verdicts[name, "base"].verdict == f"{name} above"
    fine = found.recorded_policy("fine", False).figures["hypervolume"].value
    assert found.recorded_mixture().hypervolume.value == pytest.approx(fine), "shown at the most preferences"


def tiny_run(lm: LanguageModel, folder: Path, settings: dict[str, Any]) -> RunConfig:
    """Write a data set to ``folder`` and return the configuration of a run on it with the tiny model."""
    make_dataset(30).select([]).write(folder / "data.jsonl")
    common = {"name": "tiny", "folder": str(folder / "run"), "model": lm.name, "dtype": "float32"}
    data = {"source": str(folder / "data.jsonl")}
    return parse_config({**common, "device": "cpu", "data": data, "score": SCORERS, **settings})


def test_the_comparison_of_all_methods_then_nothing_is_done_twice(lm: LanguageModel, tmp_path: Path) -> None:
    """`configs/compare.yaml` at smoke size, data to report; a second run reuses every stage and judges nothing again."""
    shipped = yaml.safe_load((Path(__file__).parents[2] / "configs/compare.yaml").read_text())
    methods = {
        name: {k: v for k, v in own.items() if k != "train"} for name, own in shipped["methods"].items()
    }
    assert (
        set(methods)
        == set(METHODS) - {"morlhf", "gdpo", "mo-odpo", "rewarded-soup", "bone-soup"} - NEIGHBOURS
    ), "all methods that train on given answers are compared, but for the neighbours"
    methods["panacea"] |= {"rank": 2, "train": {"steps": 6}}
    methods["paretohqd"] |= {"k": 4, "steps": 2, "stage2_steps": 1, "prompts": 3, "drop_collapsed": False}
    # The tiny model ends no answer in six tokens and writes no list of suggestions.
    methods["ric"] |= {"iterations": 0}
    methods["sipo"] |= {"refine": False, "steps": 1, "conflicts": 4}
    config = tiny_run(
        lm,
        tmp_path,
        {
            "methods": methods,
            "preferences": shipped["preferences"],
            "train": {"steps": 4, "batch_pairs": 2, "rank": 4, "learning_rate": 1e-2},
            "sampling": {"max_new_tokens": 6, "batch_size": 64},
            "evaluate": {
                "prompts": 3,
                "preferences": 5,
                "extrapolations": ["good=1.25,short=-0.25"],
                "resamples": 100,
            },
        },
    )
    report = run(config)
    facts = json.loads((tmp_path / "run/front.json").read_text())
    found = {policy["name"]: policy for policy in facts["policies"]}
    page = report.read_text()
    assert page.startswith("<!doctype html>") and "Mixing while decoding" in page
    assert (tmp_path / "run/front.png").read_bytes()[:4] == b"\x89PNG"
    assert list(found) == list(methods)
    anchored = {"modpo", "dpo-lw", "paretohqd"}
    assert all(len(policy["points"]) == (3 if name in anchored else 5) for name, policy in found.items())
    line = [{"good": 1.25, "short": -0.25}]
    for name, policy in found.items():
        beyond = [point["preference"] for point in policy["extrapolations"]]
        assert beyond == ([] if name in anchored | {"ric"} else line), "anchors and prompts cannot"
    assert page.count("extrapolated, in no figure") == 4
    assert "extrapolated" in (tmp_path / "run/README.md").read_text()

    tokens = {name: policy["cost"]["tokens"] for name, policy in found.items()}
    history = json.loads((tmp_path / "run/adapters/panacea/history.json").read_text())
    assert tokens["panacea"] == sum(record["tokens"] for record in history) > 0
    assert len(history) == 6, "its own setting; the others take 4 steps"
    assert len(json.loads((tmp_path / "run/adapters/dpo-good/history.json").read_text())) == 4
    assert tokens["modpo"] > tokens["dpo-soup"] == tokens["mod"] > 0, (
        "its corners are the soup's adapters, and it has one more"
    )
    passes = {name: policy["cost"]["passes"] for name, policy in found.items()}
    assert {name for name, count in passes.items() if count == 2} == {"mod", "sipo"} and max(
        passes.values()
    ) == 2
    distances = [each["value"] for each in found["mod"]["soup_kl"]]
    assert distances[0] == distances[-1] == 0 < min(distances[1:-1]), "at corners the two are one model"
    inner = {name: found[name]["points"][1]["conflict"]["value"] for name in ("mod", "dpo-soup")}
    assert inner["mod"] > 0 == inner["dpo-soup"]

    assert found["panacea"]["steerability"] and "steerability" not in found["dpo-soup"]
    facts_of_points = {
        "collapse_rate",
        "cut_rate",
        "log_ratio",
        "base_logp",
        "shrunk",
        "band_low",
        "on_front",
        "movement",
    }
    assert facts_of_points <= set(found["dpo-soup"]["points"][0])
    assert facts["reference_point"] and facts["mixture"]["hypervolume"]["low"] is not None
    assert not any(
        stage["reused"] for stage in facts["stages"] if stage["name"] == "adapters/modpo-short=0.5,good=0.5"
    )
    run(config)
    again = json.loads((tmp_path / "run/front.json").read_text())
    assert all(stage["reused"] for stage in again["stages"])
    for key in ("policies", "comparisons", "mixture"):
        first, second = (
            [{k: v for k, v in x.items() if k != "cost"} for x in f[key]] if key == "policies" else f[key]
            for f in (facts, again)
        )
        assert first == second


def test_one_method_in_two_settings_side_by_side(lm: LanguageModel, tmp_path: Path) -> None:
    """Each keeps its own adapters, also in a second run, and the report tells them apart."""
    config = tiny_run(
        lm,
        tmp_path,
        {
            "methods": {"dpo-soup": {}, "sharp": {"method": "dpo-soup", "beta": 2.0, "train": {"steps": 3}}},
            "preferences": 3,
            "train": {"steps": 2, "batch_pairs": 2, "rank": 4, "learning_rate": 1e-2},
            "sampling": {"max_new_tokens": 4},
            "evaluate": {"prompts": 2, "resamples": 100},
        },
    )
    page = run(config).read_text()
    facts = json.loads((tmp_path / "run/front.json").read_text())
    titles = [policy["title"] for policy in facts["policies"]]
    assert titles == ["DPO soups", "DPO soups (sharp)"] and titles[1] in page
    assert ("dpo-soup", "sharp") in {(each["first"], each["second"]) for each in facts["comparisons"]}
    first, second = (Policy.load(tmp_path / "run/policies" / name, lm).adapters for name in config.methods)
    assert [adapter.info["beta"] for adapter in (*first, *second)] == [0.1, 0.1, 2.0, 2.0]
    histories = sorted((tmp_path / "run/adapters").glob("dpo-*/history.json"))
    assert sorted(len(json.loads(file.read_text())) for file in histories) == [2, 2, 3, 3]
    run(config)
    again = json.loads((tmp_path / "run/front.json").read_text())
    assert all(stage["reused"] for stage in again["stages"])


def test_a_run_stopped_while_judging_keeps_what_was_judged(
    lm: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Six points, one a batch, stopped after four: the same command judges the two that lack."""
    config = tiny_run(
        lm,
        tmp_path,
        {
            "methods": {"dpo-soup": {}},
            "preferences": 5,
            "train": {"steps": 2, "batch_pairs": 2, "rank": 4},
            "sampling": {"max_new_tokens": 4, "batch_size": 1},
            "evaluate": {"resamples": 100},
        },
    )
    judged: list[int] = []

    def points() -> int:
        return len(list((tmp_path / "run/fronts").glob("*.json")))

    def stopping(*args: Any, known: dict[str, Judged], **rest: Any) -> Evaluation:
        if points() == 4 and not judged:
            raise KeyboardInterrupt
        before = len(known)
        evaluation = evaluate(*args, known=known, **rest)
        if points() >= 4:
            judged.append(len(known) - before)
        return evaluation

    monkeypatch.setattr("paretune.runs.measure.evaluate", stopping)
    with pytest.raises(KeyboardInterrupt):
        run(config)
    assert points() == 4
    judged.append(0)
    run(config)
    assert points() == 6 and sum(judged) == 2


def test_pairs_of_the_world_conflict() -> None:
    """The data of these tests really pull apart, or the tests above would prove little."""
    found = pairs(make_dataset(), "good", "all")
    assert 0.2 < sum(pair.labels[0] < 0 for pair in found) / len(found) < 0.98


def test_a_method_that_ignores_the_preference_is_reported(
    lm: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Anchors with bit-identical adapters: the log names the preferences, and the report has a remark at each of them."""

    def train(inputs: Inputs, config: DPOConfig) -> Policy:
        adapter, other = inputs.corners(config)
        adapters = [adapter, adapter, other]
        return Policy.anchors("blind", inputs.lab.lm, inputs.objectives, adapters, inputs.preferences)

    blind = replace(dpo.METHOD, train=train, traits=lambda config: Traits("preference"), lends_corners=False)
    module = ModuleType("paretune.methods.blind")
    module.METHOD = blind  # type: ignore[attr-defined]
    monkeypatch.setitem(sys.modules, "paretune.methods.blind", module)
    monkeypatch.setitem(METHODS.modules, "blind", "blind")
    config = tiny_run(
        lm,
        tmp_path,
        {
            "methods": {"blind": {}, "dpo-soup": {}},
            "preferences": 3,
            "train": {"steps": 4, "batch_pairs": 2, "rank": 4, "learning_rate": 1e-2},
            "sampling": {"max_new_tokens": 4},
            "evaluate": {"prompts": 2, "resamples": 100},
        },
    )
    page = run(config).read_text()
    logged = " ".join(capsys.readouterr().err.split())
    alike = "blind: the policy computes the same at short=1.0,good=0.0 and at short=0.5,good=0.5, so"
    assert alike in logged and "dpo-soup: the policy computes the same" not in logged
    assert page.count("these weights change nothing") == 2
    assert "the same answers as at short 1, good 0: these weights change nothing" in page
    assert "the same answers as at short 0.5, good 0.5: these weights change nothing" in page
