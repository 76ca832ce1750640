"""ParetoHqD on the tiny model: what each stage trains on, where it starts, what is reused, and what is said."""

from __future__ import annotations

import shutil
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from paretune.core.errors import ConfigError, DataError
from paretune.core.files import read_json
from paretune.core.preference import Preference, preference_grid
from paretune.core.sampling import Sampling
from paretune.data.dataset import ScoredDataset
from paretune.data.rows import Message, Row
from paretune.generation.generate import response_logps
from paretune.methods.base import Inputs
from paretune.methods.paretohqd import method as paretohqd
from paretune.methods.paretohqd.method import ParetoHqDConfig, representatives
from paretune.methods.paretohqd.rays import Rays, select
from paretune.models.adapter import Adapter
from paretune.models.language_model import LanguageModel
from paretune.policies.policy import GatedPolicy, Policy
from paretune.scoring.scorer import Scorer, build_scorer
from paretune.training.demonstrations import Demonstration
from paretune.training.lab import Lab
from paretune.training.loop import attach
from support.adapters import TRAINING, adapters_equal
from support.offset_world import offset_data, offset_scorers, quality
from support.world import make_dataset

OBJECTIVES = ("short", "good")
GRID = preference_grid(OBJECTIVES, 2)
SAMPLING = Sampling(max_new_tokens=12, temperature=1.0, batch_size=4)
CONFIG = ParetoHqDConfig(k=4, steps=3, stage2_steps=2, drop_collapsed=False, held_out=2)
QUICK = replace(CONFIG, held_out=0, prompts=2)
SCORERS: list[Scorer] = [
    build_scorer({"objective": "good", "rule": "regex", "pattern": "good|kind", "how": "count"}),
    build_scorer({"objective": "short", "rule": "length", "unit": "words", "direction": "lower"}),
]


@dataclass
class Fits:
    """What the method asked the lab to train."""

    calls: dict[str, dict[str, Any]] = field(default_factory=dict)

    def around(self, fit: Callable[..., Adapter]) -> Callable[..., Adapter]:
        def record(
            lab: Lab,
            name: str,
            items: list[Demonstration],
            held_out: list[Demonstration] = [],  # noqa: B006
            start: Adapter | None = None,
            info: dict[str, Any] | None = None,
        ) -> Adapter:
            adapter = fit(lab, name, items, held_out, start, info)
            self.calls[name] = {
                "items": items, "held_out": held_out, "start": start, "steps": lab.training.steps, "adapter": adapter,
            }  # fmt: skip
            return adapter

        return record


@pytest.fixture
def fits(monkeypatch: pytest.MonkeyPatch) -> Fits:
    """Record the trainings."""
    recorded = Fits()
    monkeypatch.setattr(Lab, "fit_demonstrations", recorded.around(Lab.fit_demonstrations))
    return recorded


@pytest.fixture(scope="module")
def untrained(lm: LanguageModel) -> Adapter:
    """An adapter that does nothing."""
    steering, scale = attach(lm, TRAINING)
    try:
        return steering.adapter(scale, {"stage": "none"})
    finally:
        steering.detach()


@pytest.fixture
def no_training(monkeypatch: pytest.MonkeyPatch, untrained: Adapter) -> Fits:
    """Record the trainings and do none."""
    recorded = Fits()
    monkeypatch.setattr(Lab, "fit_demonstrations", recorded.around(lambda *_: untrained))
    return recorded


def texts(items: list[Demonstration]) -> list[tuple[Any, str]]:
    return [(item.prompt, item.response) for item in items]


@pytest.mark.slow
def test_both_stages_and_a_second_run(
    lm: LanguageModel,
    tmp_path: Path,
    fits: Fits,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    data, validation = make_dataset(), make_dataset(4, seed=9)
    lab = Lab(lm, tmp_path, TRAINING)
    policy = paretohqd.train(Inputs(lab, data, validation, GRID, SCORERS, SAMPLING), CONFIG)
    assert (policy.name, policy.kind, policy.anchor_preferences) == ("paretohqd", "anchors", tuple(GRID))
    assert list(fits.calls) == [f"paretohqd-{w}-stage-{n}" for n in (1, 2) for w in GRID]

    # Stage 1: a fresh adapter on the k nearest of the data.
    scores = np.concatenate([data.matrix(row) for row in data.rows])
    pairs = [(row.prompt, response) for row in data.rows for response in row.responses]
    expected = select(scores, np.array([w.array() for w in GRID]), Rays(4))
    for w, chosen in zip(GRID, expected.chosen, strict=True):
        first = fits.calls[f"paretohqd-{w}-stage-1"]
        assert texts(first["items"]) == [pairs[n] for n in chosen]
        assert (first["start"], first["steps"], len(first["held_out"])) == (None, 3, 2)
        assert {prompt for prompt, _ in texts(first["held_out"])} <= {row.prompt for row in validation.rows}
        assert "made:" in first["items"][0].where

    # Stage 2: k / 2 of the generated answers alone, from the adapter of stage 1.
    answers = ScoredDataset.read(tmp_path / "answers/paretohqd/answers.jsonl.gz", OBJECTIVES)
    assert [row.prompt for row in answers.rows] == [row.prompt for row in data.rows]
    drawn = {(row.prompt, text) for row in answers.rows for text in row.responses}
    row = next(row for row in answers.rows if row.responses)
    assert row.scores["short"] == tuple(-len(text.split()) for text in row.responses)
    for w, adapter in zip(GRID, policy.adapters, strict=True):
        first, second = (fits.calls[f"paretohqd-{w}-stage-{n}"] for n in (1, 2))
        assert 1 <= len(second["items"]) <= 2
        assert set(texts(second["items"])) <= drawn
        assert second["steps"] == 2
        assert second["start"] is first["adapter"]
        assert adapters_equal(adapter, second["adapter"]) and not adapters_equal(adapter, first["adapter"])
        assert adapter.info["start"] == first["adapter"].info["stage"]
        assert (adapter.info["method"], adapter.info["preference"]) == ("paretohqd", w.as_dict())
    facts = read_json(tmp_path / "selections/paretohqd-stage-1.json")
    assert (facts["pool"], facts["layers"]) == (len(expected.pool), expected.num_layers)
    told = " ".join(capsys.readouterr().err.split())
    assert (
        f"stage 1: {len(expected.pool)} of 36 responses in {expected.num_layers} layers; neighbouring" in told
    )

    # Again: everything is found, and nothing is drawn though the stage of the answers is gone.
    shutil.rmtree(tmp_path / "answers")
    monkeypatch.setattr(GatedPolicy, "generate", None)
    again = Lab(lm, tmp_path, TRAINING)
    policy_again = paretohqd.train(Inputs(again, data, validation, GRID, SCORERS, SAMPLING), CONFIG)
    assert [s.name for s in again.stages if not s.reused] == ["answers/paretohqd"]
    assert all(map(adapters_equal, policy.adapters, policy_again.adapters))


def test_stage_2_starts_at_the_logits_of_stage_1(lm: LanguageModel, tmp_path: Path, fits: Fits) -> None:
    lab = Lab(lm, tmp_path, TRAINING)
    paretohqd.train(
        Inputs(lab, make_dataset(), make_dataset(4, seed=9), GRID[:1], SCORERS, SAMPLING),
        replace(QUICK, prompts=6),
    )
    second = fits.calls[f"paretohqd-{GRID[0]}-stage-2"]
    groups = [([3, 4, 5], [[6, 7, 2], [8, 2]])]
    served = Policy.anchors("one", lm, OBJECTIVES, [second["start"]], GRID[:1]).logps(groups, GRID[:1])[0]
    steering, scale = attach(lm, lab.training, second["start"])
    try:
        at_step_0 = response_logps(lm, groups, steering, torch.full((steering.rank,), scale))[0]
    finally:
        steering.detach()
    assert torch.equal(at_step_0, served)
    assert not torch.equal(response_logps(lm, groups)[0], served)
    # The models that answer are trained though nobody asked for their preferences; six prompts are asked.
    assert [name for name in fits.calls if "stage-1" in name] == [
        f"paretohqd-{w}-stage-1" for w in [GRID[0], GRID[2], GRID[1]]
    ]
    assert len(ScoredDataset.read(tmp_path / "answers/paretohqd/answers.jsonl.gz").rows) == 6


def test_defaults_follow_the_run(lm: LanguageModel, tmp_path: Path, no_training: Fits) -> None:
    config = replace(QUICK, steps=None, stage2_steps=None)
    lab = Lab(lm, tmp_path, replace(TRAINING, steps=7))
    paretohqd.train(Inputs(lab, make_dataset(), make_dataset(4), GRID, SCORERS, SAMPLING), config)
    steps = {name[-1]: call["steps"] for name, call in no_training.calls.items()}
    assert steps == {"1": 7, "2": 3}
    assert lab.training.steps == 7


def test_one_stage_needs_no_scorer(lm: LanguageModel, tmp_path: Path, no_training: Fits) -> None:
    lab = Lab(lm, tmp_path, TRAINING)
    paretohqd.train(
        Inputs(lab, make_dataset(), make_dataset(4), GRID[:1], [], SAMPLING), replace(QUICK, stage2=False)
    )
    assert list(no_training.calls) == [f"paretohqd-{GRID[0]}-stage-1"]
    assert lab.stages == []


def test_stage_1_is_kept_where_stage_2_has_nothing(
    lm: LanguageModel,
    tmp_path: Path,
    no_training: Fits,
    untrained: Adapter,
    capsys: pytest.CaptureFixture[str],
) -> None:
    cut = replace(SAMPLING, max_new_tokens=1)  # a word that is cut, or an end without a word
    policy = paretohqd.train(
        Inputs(Lab(lm, tmp_path, TRAINING), make_dataset(), make_dataset(4), GRID, SCORERS, cut), QUICK
    )
    assert all("stage-1" in name for name in no_training.calls)
    assert policy.adapters == (untrained,) * 3
    told = " ".join(capsys.readouterr().err.split())
    assert "stage 2: no usable response" in told
    assert "the adapters of stage 1 are kept" in told


def test_one_objective(
    lm: LanguageModel, tmp_path: Path, no_training: Fits, capsys: pytest.CaptureFixture[str]
) -> None:
    data, only = make_dataset().select(["short"]), [Preference(("short",), (1.0,))]
    paretohqd.train(Inputs(Lab(lm, tmp_path, TRAINING), data, data, only, SCORERS, SAMPLING), QUICK)
    shortest = no_training.calls["paretohqd-short=1.0-stage-1"]["items"]
    lengths = sorted(len(text.split()) for row in data.rows for text in row.responses)
    assert [len(item.response.split()) for item in shortest] == lengths[:4]
    assert "one objective has no rays: the 4 best are taken" in " ".join(capsys.readouterr().err.split())


def test_labels_alone_are_scored(lm: LanguageModel, tmp_path: Path, no_training: Fits) -> None:
    """An objective that the data only compare gets the scores of its scorer; scores there are stay."""
    rows = tuple(
        replace(row, scores={"short": row.scores["short"]}, labels={"good": ((0, 1, 1.0),)})
        for row in make_dataset().rows
    )
    data, lab, one = (
        ScoredDataset(OBJECTIVES, rows),
        Lab(lm, tmp_path, TRAINING),
        replace(QUICK, stage2=False),
    )
    with pytest.raises(
        ConfigError, match="stage 1: no scorer for the objective 'good'; add one under score:"
    ):
        paretohqd.train(Inputs(lab, data, data, GRID, [], SAMPLING), one)
    paretohqd.train(Inputs(lab, data, data, GRID, SCORERS[:1], SAMPLING), one)
    best = no_training.calls[f"paretohqd-{GRID[2]}-stage-1"]["items"]
    counts = [sum(word in ("good", "kind") for word in item.response.split()) for item in best]
    every = [sum(w in ("good", "kind") for w in text.split()) for row in rows for text in row.responses]
    assert counts[0] == max(every)


def test_what_is_wrong_is_named_with_its_stage(
    lm: LanguageModel, tmp_path: Path, no_training: Fits, capsys: pytest.CaptureFixture[str]
) -> None:
    data, lab = make_dataset(), Lab(lm, tmp_path, TRAINING)

    def run(rows: tuple[Row, ...], scorers: list[Scorer] = SCORERS, **settings: Any) -> str:
        changed = ScoredDataset(OBJECTIVES, rows)
        paretohqd.train(
            Inputs(lab, changed, data, GRID, scorers, SAMPLING), replace(QUICK, stage2=False, **settings)
        )
        return " ".join(capsys.readouterr().err.split())

    with pytest.raises(
        ConfigError, match="stage 2, which scores new answers: no scorer for the objective 'short'"
    ):
        paretohqd.train(Inputs(lab, data, data, GRID, SCORERS[:1], SAMPLING), QUICK)
    assert no_training.calls == {}  # said before training
    with pytest.raises(DataError, match=r"stage 1: no usable response \(left out: 36 cut\)"):
        run(tuple(replace(row, truncated=(True,) * 3) for row in data.rows))
    missing = (*data.rows[:5], replace(data.rows[5], scores={"short": (1, 2, 3)}), *data.rows[6:])
    with pytest.raises(DataError, match=r"stage 1: 3 of 36 .* first made:5 \(response 0\) on 'good'"):
        run(missing)
    same = tuple(replace(row, scores=dict.fromkeys(OBJECTIVES, (1.0,) * 3)) for row in data.rows)
    assert "stage 1: 36 of 36 responses in 1 layer;" in (told := run(same))
    assert "all responses score the same on every objective; the first 4 are taken" in told
    assert "there are 3 responses, fewer than k=4: every preference takes them all" in run(data.rows[:1])
    assert "responses left out:" in (told := run(data.rows, drop_collapsed=True))
    assert "collapsed" in told


def test_config_says_what_it_expects() -> None:
    for wrong, message in (
        ({"k": 1}, "k must be at least 2, as stage 2 takes half as many, got 1"),
        ({"k": 0}, "must be at least 1, got 0"),
        ({"steps": 0}, "steps must be at least 1, got 0"),
        ({"stage2_steps": 0}, "stage2_steps must be at least 1, got 0"),
        ({"prompts": 0}, "prompts must be at least 1"),
        ({"held_out": -1}, "held_out must be at least 0"),
        ({"num_layers": 0}, "num_layers must be at least 1"),
        ({"normalize": "rank"}, "normalize: unknown value 'rank'"),
        ({"clip": 0.7}, "below 0.5, got 0.7"),
    ):
        with pytest.raises(ConfigError, match=message):
            ParetoHqDConfig(**wrong)  # type: ignore[arg-type]


def test_representatives_are_the_corners_and_the_centre() -> None:
    names = ("a", "b", "c")
    third = Preference(names, (0.333333333, 0.333333333, 0.333333334))
    found = representatives([Preference.one_hot("b", names), third])
    assert [w.weights for w in found[:3]] == [(1, 0, 0), (0, 1, 0), (0, 0, 1)]
    assert found[3] is third
    assert [w.weights for w in representatives([Preference(("a",), (1.0,))])] == [(1.0,)]


def test_prompts_are_asked_once(lm: LanguageModel, tmp_path: Path, no_training: Fits) -> None:
    """A prompt that stands in many rows is one prompt."""
    prompt = (Message("user", "sun moon"),)
    rows = tuple(Row(prompt, row.responses, row.scores) for row in make_dataset(5).rows)
    data = ScoredDataset(OBJECTIVES, rows)
    paretohqd.train(Inputs(Lab(lm, tmp_path, TRAINING), data, data, GRID, SCORERS, SAMPLING), QUICK)
    assert len(ScoredDataset.read(tmp_path / "answers/paretohqd/answers.jsonl.gz").rows) == 1


@pytest.mark.parametrize("spread", [0.0, 5.0])
def test_an_offset_of_the_prompt_does_not_choose(
    lm: LanguageModel, tmp_path: Path, capsys: pytest.CaptureFixture[str], spread: float
) -> None:
    """The 50 nearest to the ray of one objective are about one deviation better than the rest, pooled less the prompt's mean."""
    data, offsets = offset_data(spread)
    lab, asked = Lab(lm, tmp_path, TRAINING), [Preference.one_hot("helpful", data.objectives)]

    def chosen(across_prompts: bool) -> float:
        inputs = Inputs(lab, data, data, asked, offset_scorers(offsets, across_prompts))
        (items,) = paretohqd.nearest(inputs, data, asked, replace(QUICK, k=50), 50, "stage 1")
        assert len(items) == 50
        return float(np.mean([quality(item.response) for item in items]))

    assert chosen(across_prompts=False) > 0.8
    assert "helpful cannot be compared across prompts" in " ".join(capsys.readouterr().err.split())
    pooled = chosen(across_prompts=True)
    assert pooled > 0.8 if spread == 0 else pooled < 0.4
    assert "compared across prompts" not in capsys.readouterr().err


def test_scores_within_prompts_in_both_stages(
    lm: LanguageModel, tmp_path: Path, no_training: Fits, capsys: pytest.CaptureFixture[str]
) -> None:
    """Stage 1 leaves out prompts with one response; stage 2 takes an answer less the mean of the three to its prompt."""
    data = make_dataset()
    lonely = replace(
        data.rows[0], responses=("good",) * 1, scores={"short": (-1.0,), "good": (99.0,)}, truncated=(False,)
    )
    data = replace(data, rows=(lonely, *data.rows[1:]))
    scorers = [replace(scorer, across_prompts=scorer.objective != "good") for scorer in SCORERS]
    paretohqd.train(Inputs(Lab(lm, tmp_path, TRAINING), data, data, GRID, scorers, SAMPLING), QUICK)
    best = no_training.calls[f"paretohqd-{Preference.one_hot('good', OBJECTIVES)}-stage-1"]["items"]
    assert all(item.prompt != lonely.prompt for item in best)
    logged = " ".join(capsys.readouterr().err.split())
    assert "ParetoHqD, stage 1: scores of good cannot be compared across prompts" in logged
    assert "1 of 12 prompts have fewer than two scored responses and were left out" in logged
    assert "ParetoHqD, stage 2: scores of good cannot be compared across prompts" in logged
    facts = read_json(tmp_path / "selections/paretohqd-stage-2.json")
    answers = ScoredDataset.read(tmp_path / "answers/paretohqd/answers.jsonl.gz", OBJECTIVES)
    within = [value - np.mean(row.scores["good"]) for row in answers.rows for value in row.scores["good"]]
    assert facts["ideal"]["good"] == pytest.approx(max(within))

    one_each = replace(data, rows=(lonely,))
    with pytest.raises(DataError, match=r"stage 1: scores of good .*none is left. Give at least two"):
        paretohqd.train(Inputs(Lab(lm, tmp_path, TRAINING), one_each, data, GRID, scorers, SAMPLING), QUICK)
