"""Rewards-in-Context: its stages on a tiny model, and what every training prompt shows."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from paretune.core.errors import ConfigError, DataError, TrainingError
from paretune.core.preference import Preference
from paretune.core.sampling import Sampling
from paretune.data.dataset import ScoredDataset
from paretune.data.rows import Message, Row
from paretune.generation.generate import Response
from paretune.methods.base import Inputs
from paretune.methods.ric import goal_answers
from paretune.methods.ric import method as ric
from paretune.methods.ric.goal_answers import fate
from paretune.methods.ric.method import RiCConfig, chosen, online_training
from paretune.methods.ric.responses import flat, rated, relabelled
from paretune.models.language_model import LanguageModel
from paretune.policies.policy import Policy
from paretune.policies.prompts import Prompting, mors
from paretune.training.demonstrations import Demonstration
from paretune.training.lab import Lab
from support.adapters import TRAINING, adapters_equal
from support.offset_world import offset_data, offset_scorers, quality
from support.scorers import OBJECTIVES, SCORERS, scorer
from support.world import make_dataset

QUICK = replace(TRAINING, steps=2, batch_pairs=2, checkpoint_every=100)
SAMPLING = Sampling(max_new_tokens=40, batch_size=3)
CONFIG = RiCConfig(iterations=2, prompts=16, keep_offline=5, temperature=1.0, top_p=1.0, online_steps=2)


class Spy:
    """A lab's ear and eye: what it says, and what it is given to imitate."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, lab: Lab) -> None:
        self.said: list[str] = []
        self.fits: dict[str, list[Demonstration]] = {}
        real = lab.fit_demonstrations

        def fit(name: str, items: Sequence[Demonstration], *rest: object, **options: object) -> object:
            self.fits[name] = list(items)
            return real(name, items, *rest, **options)  # type: ignore[arg-type]

        monkeypatch.setattr(lab, "fit_demonstrations", fit)
        monkeypatch.setattr(lab, "say", self.said.append)


@pytest.fixture(scope="module")
def run(lm: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> tuple[Lab, Spy, Policy]:
    """Return the lab of a run with two online stages, what was said and imitated, and its policy."""
    lab = Lab(lm, tmp_path_factory.mktemp("ric"), QUICK)
    with pytest.MonkeyPatch.context() as patch:
        spy = Spy(patch, lab)
        policy = ric.train(
            Inputs(lab, make_dataset(8), make_dataset(3, seed=1), scorers=SCORERS, sampling=SAMPLING), CONFIG
        )
    return lab, spy, policy


def sampled(lab: Lab, number: int) -> ScoredDataset:
    """Return what iteration ``number`` sampled and kept, from its file."""
    return ScoredDataset.read(lab.folder / "samples" / f"ric-{number}" / "generated.jsonl.gz")


@pytest.mark.slow
def test_6_every_training_prompt_shows_its_obtained_score(run: tuple[Lab, Spy, Policy]) -> None:
    _, spy, policy = run
    prompting = Prompting.from_dict(policy.adapters[0].info["prompting"])
    rates = {item.objective: item for item in SCORERS}
    for items in spy.fits.values():
        for item in items:
            plain = prompting.strip(item.prompt)
            raw = [float(rates[name]([plain], [item.response], [False])[0]) for name in OBJECTIVES]
            shown = prompting.read(item.prompt[-1].content)
            assert shown == prompting.shown(prompting.standardise(np.array(raw)))


def test_6_each_stage_trains_on_what_the_algorithm_says(run: tuple[Lab, Spy, Policy]) -> None:
    lab, spy, policy = run
    prompting = Prompting.from_dict(policy.adapters[0].info["prompting"])
    offline = flat(make_dataset(8), OBJECTIVES)
    assert spy.fits["ric-offline"] == relabelled(offline, prompting)
    kept = mors(prompting.standardise(offline.scores), 0.7)
    best = relabelled(offline[kept], prompting)
    new: list[Demonstration] = []
    for number in (1, 2):
        found = flat(sampled(lab, number), OBJECTIVES)
        new += relabelled(found[mors(prompting.standardise(found.scores), 0.7)], prompting)
        items = spy.fits[f"ric-online-{number}"]
        old, fresh = items[: len(items) - len(new)], items[len(items) - len(new) :]
        assert len(old) == min(5, len(best))
        assert fresh == new
        assert all(item in best for item in old)
        info = policy.adapters[0].info["online"][number - 1]
        assert info["drawn"] == 16 == info["empty"] + info["cut"] + info["collapsed"] + len(found.items)
        assert set(info["gap"]) == set(OBJECTIVES) and min(info["gap"].values()) > 0
    told = [line for line in spy.said if "special token" not in line]  # a random model draws such tokens
    assert [line.split(":")[0] for line in told] == ["ric, iteration 1", "ric, iteration 2"]
    assert "asked and obtained scores differ by short" in told[0]
    assert policy.adapters[0].info["stage"] == "adapters/ric-online-2"


def test_a_second_call_finds_every_stage_and_serves_the_map_of_today(
    run: tuple[Lab, Spy, Policy], monkeypatch: pytest.MonkeyPatch
) -> None:
    lab, _, policy = run
    again = Lab(lab.lm, lab.folder, QUICK)
    monkeypatch.setattr(goal_answers, "generate", None)
    monkeypatch.setattr(again, "say", lambda message: None)
    data = make_dataset(8), make_dataset(3, seed=1)
    other = ric.train(
        Inputs(again, *data, scorers=SCORERS, sampling=SAMPLING), replace(CONFIG, map="linear", floor=0.5)
    )
    assert [stage.name for stage in again.stages] == [
        "adapters/ric-offline",
        "samples/ric-1",
        "adapters/ric-online-1",
        "samples/ric-2",
        "adapters/ric-online-2",
    ]
    assert all(stage.reused for stage in again.stages)
    assert adapters_equal(other.adapters[0], policy.adapters[0])
    corner = Preference(OBJECTIVES, (1.0, 0.0))
    asked = [Prompting.from_dict(p.adapters[0].info["prompting"]).targets(corner) for p in (policy, other)]
    assert asked[0][0] == asked[1][0] and asked[0][1] < asked[1][1]
    assert (
        len(list((lab.folder / "cache" / "samples").iterdir())) == 4
    )  # 16 answers, 12 a part, two iterations


def test_the_policy_is_saved_and_answers(run: tuple[Lab, Spy, Policy], tmp_path: Path) -> None:
    lab, _, policy = run
    assert policy.kind == "prompt"
    policy.save(tmp_path / "policy")
    loaded = Policy.load(tmp_path / "policy", lab.lm)
    prompts = [row.prompt for row in make_dataset(2, seed=5).rows]
    preferences = [Preference(OBJECTIVES, (1.0, 0.0)), Preference(OBJECTIVES, (0.25, 0.75))]
    assert loaded.generate(prompts, preferences, SAMPLING) == policy.generate(prompts, preferences, SAMPLING)
    prompting = Prompting.from_dict(policy.adapters[0].info["prompting"])
    for asked, preference in zip(loaded.asked(prompts, preferences), preferences, strict=True):
        assert prompting.read(asked[-1].content) == prompting.targets(preference)
    # Preferences that ask for the same scores are one and the same policy.
    near = Preference(OBJECTIVES, (0.2501, 0.7499))
    assert policy.effective(near) == policy.effective(preferences[1]) != policy.effective(preferences[0])


def test_7_only_the_response_and_its_end_are_imitated(lm: LanguageModel) -> None:
    from paretune.training.demonstrations import tokenise_demonstrations

    data = flat(make_dataset(2), OBJECTIVES)
    items = relabelled(data, Prompting.of(OBJECTIVES, data.scores))
    table, _ = tokenise_demonstrations(lm, items, 64)
    for item, prompt, response in zip(items, table.prompts, table.responses, strict=True):
        assert list(prompt) == lm.encode_prompt(item.prompt)
        assert lm.decode(response) == item.response and response[-1] == lm.turn_end
    assert lm.turn_end != lm.tokenizer.pad_token_id


# Parts


def test_online_settings_and_the_draw_of_offline_rows() -> None:
    made = online_training(replace(QUICK, steps=100, learning_rate=2e-4), RiCConfig())
    assert (made.steps, made.learning_rate) == (20, pytest.approx(1.4e-5))
    assert online_training(replace(QUICK, steps=2), RiCConfig()).steps == 1
    assert online_training(QUICK, RiCConfig(online_steps=7)).steps == 7
    assert chosen(4, 10, 0, 1).tolist() == [0, 1, 2, 3]
    drawn = [chosen(100, 10, 0, number).tolist() for number in (1, 2)]
    assert all(len(set(d)) == 10 and d == sorted(d) for d in drawn) and drawn[0] != drawn[1]


def test_fates_of_responses() -> None:
    whole = Response("red sun moon tree", (7, 8, 9, 10, 11, 2), False, -1.0)
    assert fate(whole) == "kept"
    assert fate(replace(whole, text=" ")) == "empty"
    assert fate(replace(whole, truncated=True)) == "cut"
    assert fate(replace(whole, tokens=(7, 2))) == fate(replace(whole, tokens=(7,) * 20)) == "collapsed"


def quiet(lm: LanguageModel, folder: Path, monkeypatch: pytest.MonkeyPatch) -> tuple[Lab, list[str]]:
    """Return a lab, and the list that fills with what it says."""
    lab, said = Lab(lm, folder, QUICK), []
    monkeypatch.setattr(lab, "say", said.append)
    return lab, said


def test_scores_of_one_objective_have_one_scale(
    lm: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab, said = quiet(lm, tmp_path, monkeypatch)
    data = make_dataset(4)
    expected = flat(data, OBJECTIVES).scores
    assert np.array_equal(rated(lab, data, OBJECTIVES, SCORERS, "training data").scores, expected)
    assert np.array_equal(rated(lab, data, OBJECTIVES, [], "training data").scores, expected)
    assert said == []
    mixed = rated(lab, data, OBJECTIVES, [scorer("good", -1)], "training data").scores
    np.testing.assert_array_equal(mixed, expected * [1, -1])
    assert len(said) == 1 and "the scores of 'good' in the data are not those of its scorer" in said[0]


def test_missing_scores_are_left_out_and_counted(
    lm: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab, said = quiet(lm, tmp_path, monkeypatch)
    data = make_dataset(4)
    holed = replace(data.rows[1], scores={**data.rows[1].scores, "good": (1.0, np.nan, 1.0)})
    part = replace(data, rows=(data.rows[0], holed))
    assert len(rated(lab, part, OBJECTIVES, [], "training data").items) == 5
    assert said == ["ric, training data: 1 of 6 responses lack a score and were left out"]
    silent = data.select(["short"])
    with pytest.raises(
        ConfigError, match="training data: no scorer for the objective 'good', and the data hold"
    ):
        rated(lab, silent, OBJECTIVES, SCORERS[:1], "training data")
    with pytest.raises(TrainingError, match="validation data: no responses"):
        rated(lab, replace(data, rows=()), OBJECTIVES, [], "validation data")


def test_online_stages_need_a_scorer_for_every_objective(lm: LanguageModel, tmp_path: Path) -> None:
    with pytest.raises(
        ConfigError, match="online stage, which scores new responses: no scorer for the objective 'good'"
    ):
        ric.train(
            Inputs(
                Lab(lm, tmp_path, QUICK),
                make_dataset(2),
                make_dataset(2),
                scorers=SCORERS[:1],
                sampling=SAMPLING,
            ),
            CONFIG,
        )


def test_a_constant_objective_is_said_and_offline_alone_is_a_policy(
    lm: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab, said = quiet(lm, tmp_path, monkeypatch)
    flat_scores = [[0.5] * 3 for _ in range(4)]
    data = make_dataset(4).with_scores("good", flat_scores)
    policy = ric.train(
        Inputs(lab, data, data, scorers=[], sampling=SAMPLING), replace(CONFIG, iterations=0, form="levels")
    )
    assert len(said) == 1 and "all 12 training responses score alike on 'good'" in said[0]
    assert [stage.name for stage in lab.stages] == ["adapters/ric-offline"]
    asked = policy.asked([data.rows[0].prompt], [Preference(OBJECTIVES, (1.0, 0.0))])
    assert asked[0][-1].content.endswith("  <short: 10/10> <good: 10/10>")


def test_an_iteration_without_responses_stops_and_keeps_the_adapter(
    lm: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab, _ = quiet(lm, tmp_path, monkeypatch)
    silence = Response("", (lm.turn_end,), False, 0.0)
    monkeypatch.setattr(goal_answers, "generate", lambda lm, prompts, *rest: [silence] * len(prompts))
    with pytest.raises(TrainingError, match=r"iteration 1: 16 drawn, 16 empty, 0 cut .*iterations=0"):
        ric.train(Inputs(lab, make_dataset(4), make_dataset(2), scorers=SCORERS, sampling=SAMPLING), CONFIG)
    assert (tmp_path / "adapters" / "ric-offline" / "adapter").is_dir()
    assert not (tmp_path / "samples" / "ric-1").exists()


def test_a_prompt_with_a_tag_is_named(lm: LanguageModel, tmp_path: Path) -> None:
    data = make_dataset(2)
    tagged = Row((Message("user", "what is <rm1_score>?"),), ("good", "bad sun"), source="mine:7")
    with pytest.raises(
        DataError, match=r"mine:7 \(response 0\): the prompt already holds the tag '<rm1_score>'"
    ):
        ric.train(
            Inputs(
                Lab(lm, tmp_path, QUICK),
                replace(data, rows=(*data.rows, tagged)),
                data,
                scorers=SCORERS,
                sampling=SAMPLING,
            ),
            CONFIG,
        )


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"iterations": -1}, "iterations must be at least 0"),
        ({"prompts": -1}, "prompts must be at least 0"),
        ({"keep_offline": -1}, "keep_offline must be at least 0"),
        ({"online_steps": -1}, "online_steps must be at least 0"),
        ({"filter": "pareton"}, "unknown filter"),
        ({"reference": "gauss"}, "unknown reference 'gauss'; did you mean 'gaussian'"),
        ({"map": "linf2"}, "unknown map 'linf2'; did you mean 'linf'"),
        ({"form": "level"}, "unknown form 'level'; did you mean 'levels'"),
        ({"lam": 1}, "lam must be"),
        ({"floor": -0.1}, "floor must be at least 0 and at most 1"),
        ({"quantile": 1.0}, "quantile must be at least 0 and below 1"),
        ({"temperature": 0}, "temperature must be above 0"),
        ({"top_p": 0}, "top_p must be above 0 and at most 1"),
        ({"online_rate_factor": 0}, "online_rate_factor must be above 0"),
    ],
)
def test_bad_settings_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        RiCConfig(**change)  # type: ignore[arg-type]


# Scores that can be compared within a prompt only


@pytest.mark.parametrize("spread", [0.0, 5.0])
def test_an_offset_of_the_prompt_is_not_quality(
    lm: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spread: float
) -> None:
    """The filter keeps the 10 % best: their true quality is 1.5 deviations, and near 0 where prompts are pooled."""
    lab, said = quiet(lm, tmp_path, monkeypatch)
    data, offsets = offset_data(spread)
    only = ("helpful",)

    def kept(across_prompts: bool) -> float:
        scorers = offset_scorers(offsets, across_prompts)[:1]
        responses = rated(lab, data.select(only), only, scorers, "training data")
        scores = Prompting.of(only, responses.scores).standardise(responses.scores)
        return float(np.mean([quality(item.response) for item in responses[mors(scores, 0.9)].items]))

    assert kept(across_prompts=False) > 1.2
    pooled = kept(across_prompts=True)
    assert pooled > 1.2 if spread == 0 else pooled < 0.4
    assert len(said) == 1 and "training data: scores of helpful cannot be compared across prompts" in said[0]


def test_online_answers_are_taken_less_the_mean_of_the_training_responses(
    lm: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    lab = Lab(lm, tmp_path, QUICK)
    spy = Spy(monkeypatch, lab)
    data = make_dataset(6)
    lonely = replace(
        data.rows[0], responses=("good",), scores={"short": (-1.0,), "good": (1.1,)}, truncated=(False,)
    )
    data = replace(data, rows=(lonely, *data.rows[1:]))
    scorers = [replace(item, across_prompts=item.objective != "good") for item in SCORERS]
    config = replace(CONFIG, iterations=1)
    policy = ric.train(Inputs(lab, data, make_dataset(3, seed=1), (), scorers, SAMPLING), config)
    prompting = Prompting.from_dict(policy.adapters[0].info["prompting"])
    assert prompting.mean[1] == pytest.approx(0)
    assert "1 of 6 prompts have fewer than two scored responses" in spy.said[0]
    made = sampled(lab, 1)
    assert made.rows and lonely.key not in {row.key for row in made.rows}
    usual = {
        row.key: np.mean([SCORERS[1]([row.prompt], [r], [False])[0] for r in row.responses])
        for row in data.rows
    }
    obtained = [[row.scores["short"][0], row.scores["good"][0] - usual[row.key]] for row in made.rows]
    expected = {prompting.shown(prompting.standardise(np.array(scores))) for scores in obtained}
    kept = policy.adapters[0].info["online"][0]["kept"]
    shown = {prompting.read(item.prompt[-1].content) for item in spy.fits["ric-online-1"][-kept:]}
    assert kept and shown <= expected


def test_a_training_set_of_one_response_per_prompt_is_refused(lm: LanguageModel, tmp_path: Path) -> None:
    data, offsets = offset_data(1.0, prompts=4, responses=1)
    inputs = Inputs(Lab(lm, tmp_path, QUICK), data, data, (), offset_scorers(offsets, False), SAMPLING)
    with pytest.raises(
        DataError, match=r"ric, training data: scores of helpful .*4 of 4 prompts.*none is left"
    ):
        ric.train(inputs, CONFIG)
