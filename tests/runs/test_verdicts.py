"""What a run says of its policies: verdicts over seeds, and what cannot be said where scores say nothing."""

from __future__ import annotations

import math
from typing import Any

import numpy as np
import pytest
from rich.console import Console

from paretune.cli.verdicts import render
from paretune.core.errors import DataError
from paretune.core.preference import Preference, simplex_grid
from paretune.core.sampling import Sampling
from paretune.data.rows import Message
from paretune.evaluation.evaluate import HeldOut, evaluate
from paretune.evaluation.judge import Judgement, judge
from paretune.evaluation.judged import Evaluation, Judged
from paretune.fronts.record import Cost, FrontRecord
from paretune.fronts.surface import Surface
from paretune.policies.policy import Policy
from paretune.reports.card import write_card
from paretune.reports.picture import write_picture
from paretune.reports.report import write_report
from paretune.reports.wording import luck, sentences, summary
from paretune.runs.parse import parse_config
from paretune.runs.run import run
from paretune.scoring.scorer import build_scorer
from support import records
from support.random_models import random_adapter
from support.world import make_dataset

OBJECTIVES = ("good", "short")
GRID = simplex_grid(2, 4)


def measured(name: str, weights: np.ndarray, scores: np.ndarray) -> Evaluation:
    """Return the evaluation of a policy whose ``scores`` ``[N, P, 2]`` are given; its answers have 10 to 29 words."""
    P = scores.shape[1]
    asked = [Preference(OBJECTIVES, tuple(w)) for w in weights.tolist()]
    zeros = np.zeros((P, 1))
    texts = [["word " * (10 + p % 20)] for p in range(P)]
    points = [
        Judged(rows[:, None], zeros, zeros, zeros + 9, zeros > 0, zeros > 0, zeros, texts, 0.0)
        for rows in scores
    ]
    return Evaluation(name, OBJECTIVES, asked, asked, tuple(map(str, range(P))), points)


def judged(policies: dict[str, np.ndarray], P: int = 40, scale: Any = 1.0) -> Judgement:
    """Judge policies of true means ``[N, 2]`` on the grid (three: on its ends and middle), beside corners and base at 0."""
    random = np.random.default_rng(0)

    def drawn(name: str, means: np.ndarray) -> Evaluation:
        weights = {5: GRID, 3: GRID[::2], 2: np.eye(2), 1: np.full((1, 2), 0.5)}[len(means)]
        return measured(name, weights, scale * (means[:, None] + random.normal(size=(len(means), P, 2))))

    evaluations = {name: drawn(name, np.asarray(means, dtype=float)) for name, means in policies.items()}
    return judge(
        evaluations, drawn("base", np.zeros((1, 2))), drawn("corners", np.eye(2)), np.full(2, -3.0), 200
    )


def recorded(judgement: Judgement) -> FrontRecord:
    empty = FrontRecord.parse(records.record(OBJECTIVES, []))
    found = {
        "policies": tuple(judgement.recorded_policy(name, False) for name in judgement.evaluations),
        "base": judgement.recorded_base(),
        "mixture": judgement.recorded_mixture(),
        "comparisons": judgement.recorded_tests(),
        "uncompared": tuple(judgement.uncompared),
        "cautions": judgement.cautions,
        "num_prompts": judgement.num_prompts,
    }
    return FrontRecord.parse(empty.model_copy(update=found).model_dump(mode="json"))


def told(record: FrontRecord) -> str:
    console = Console(width=300)
    with console.capture() as captured:
        console.print(render(record))
    return captured.get()


# Verdicts


def test_the_record_has_every_verdict_with_what_could_have_been_seen() -> None:
    found = judged({"high": np.full((5, 2), 2.0), "same": np.zeros((5, 2)), "anchors": np.full((3, 2), 2.0)})
    record = recorded(found)
    tests = {(test.first, test.second): test for test in record.comparisons}
    assert len(tests) == 3 * 2 + 3
    assert tests["high", "base"].verdict == tests["high", "same"].verdict == "high above"
    assert tests["high", "mixture of corners"].verdict == "high above"
    assert tests["same", "base"].verdict == tests["high", "anchors"].verdict == "no difference shown"
    assert len(tests["high", "anchors"].preferences) == 3 and len(tests["high", "same"].preferences) == 5
    for test in tests.values():
        assert test.low < test.difference < test.high and test.adjusted >= test.p_value and test.prompts == 40
        assert (test.low <= 0 <= test.high) == (test.verdict == "no difference shown")
        assert test.detectable > 0 and min(test.hypervolumes) > 0 and test.seeds == (0, 0)
    text = " ".join(sentences(record))
    assert (
        "deviations could have been seen; about" in text
        and "prompts would show one as small as observed" in text
    )
    assert "high and anchors are above the base model, for same no difference from it is shown" in summary(
        record
    )
    assert "another training seed may give other scores" in luck(record)
    asking = [
        policy.model_copy(update={"cost": Cost(adapters=0, passes=1, sampled=0)})
        for policy in record.policies
    ]
    assert "Nothing here was trained" in luck(record.model_copy(update={"policies": asking}))
    heads = [
        policy.model_copy(update={"cost": Cost(adapters=0, passes=1, sampled=9)})
        for policy in record.policies
    ]
    assert "another training seed" in luck(record.model_copy(update={"policies": heads}))
    assert "high is above the base model by" in told(record) and "corrected for luck" in told(record)


def test_training_seeds_are_judged_as_one_method() -> None:
    """Seeds that scatter by far more than prompts do: one seed is clearly above the base model, the method is not shown to be."""
    lifts = {"soup-seed-1": 1.2, "soup-seed-2": -0.9, "soup-seed-3": 0.9}
    found = judged(
        {name: np.full((3, 2), lift) for name, lift in lifts.items()} | {"alone-seed-7": np.full((3, 2), 1.2)}
    )
    record = recorded(found)
    tests = {(test.first, test.second): test for test in record.comparisons}
    assert {pair[0] for pair in tests} == {"soup", "alone-seed-7"}
    assert tests["soup", "base"].seeds == (3, 0) and tests["soup", "alone-seed-7"].seeds == (3, 0)
    assert tests["soup", "base"].verdict == "no difference shown"
    assert tests["alone-seed-7", "base"].verdict == "alone-seed-7 above"
    assert luck(record) == (
        "The verdicts cover the luck of training with 3 training seeds of soup; the other policies are one training run "
        "each, and intervals of single points do not cover it."
    )
    assert "3 training seeds of soup" in " ".join(sentences(record))


def test_seeds_measured_at_other_preferences_are_not_compared_and_the_report_says_so() -> None:
    record = recorded(judged({"soup-seed-1": np.ones((5, 2)), "soup-seed-2": np.ones((3, 2))}))
    assert not record.comparisons and len(record.uncompared) == 2
    assert "measure every seed at the same ones" in " ".join(sentences(record))


def test_policies_without_a_common_preference_are_not_compared_and_the_report_says_so(tmp_path) -> None:
    judgement = judged({"one": np.ones((2, 2)), "two": np.ones((2, 2))})
    first, second = judgement.evaluations.values()
    moved = measured("two", np.array([[0.9, 0.1], [0.8, 0.2]]), second.front.scores)
    again = judge(
        {"one": first, "two": moved},
        judgement.base,
        measured("corners", np.eye(2), first.front.scores),
        np.full(2, -3.0),
    )
    record = recorded(again)
    assert [(pair.first, pair.second) for pair in record.uncompared] == [("one", "two")]
    assert "no common preference" in write_report(record, tmp_path).read_text()


def test_of_equal_policies_none_is_called_above() -> None:
    record = recorded(judged({name: np.zeros((5, 2)) for name in "abcd"}))
    assert not any(
        test.verdict.endswith("above") for test in record.comparisons if "mixture" not in test.second
    )
    assert (
        "no difference from the base model is shown; between any two of them no difference is shown"
        in summary(record)
    )


# What cannot be said


@pytest.mark.parametrize(
    ("P", "scale", "caution"),
    [
        (1, 1.0, "One held-out prompt shows no spread"),
        (30, np.array([1.0, 0.0]), "Every answer has the score 0 on short"),
        (30, 0.0, "Every answer has the score 0 on good"),
        (2, 1.0, ""),
    ],
    ids=["one prompt", "one constant scorer", "two constant scorers", "two prompts"],
)
def test_scores_that_say_nothing_end_in_a_report_that_says_so(
    tmp_path, P: int, scale: Any, caution: str
) -> None:
    record = recorded(judged({"high": np.full((5, 2), 2.0), "anchors": np.ones((3, 2))}, P, scale))
    assert any(caution in text for text in record.cautions) or not caution
    page = write_report(record, tmp_path).read_text()
    write_card(record, tmp_path / "README.md")
    write_picture(record, tmp_path / "front.png")
    assert all(text in told(record) for text in record.cautions)
    assert caution in page and caution in (tmp_path / "README.md").read_text()
    if P == 1 or not np.any(scale):
        assert not record.comparisons and "above the base model" not in summary(record)
    figures = [policy.figures["hypervolume"] for policy in record.policies]
    figures += [point.score(m) for policy in record.policies for point in policy.points for m in range(2)]
    figures += [test.interval for test in record.comparisons]
    for figure in figures:
        assert math.isnan(figure.low) or figure.low < figure.high, "no interval has the width 0"
    surface = Surface.of(record, "high").for_choosing
    assert surface.expected(surface.preference(0)).mean["good"] is not None


@pytest.mark.slow
def test_one_held_out_prompt_is_refused_and_two_end_in_a_report_that_claims_nothing(lm, tmp_path) -> None:
    make_dataset(30).select([]).write(tmp_path / "data.jsonl")
    (tmp_path / "test.jsonl").write_text('{"prompt": "the only one"}\n', encoding="utf-8")
    config = {
        "folder": str(tmp_path / "run"),
        "model": lm.name,
        "dtype": "float32",
        "device": "cpu",
        "data": {
            "source": str(tmp_path / "data.jsonl"),
            "test": str(tmp_path / "test.jsonl"),
            "splits": {"train": 0.8, "validation": 0.2},
        },
        "score": [
            {"objective": "good", "rule": "regex", "pattern": "good"},
            {"objective": "short", "rule": "length", "unit": "words", "direction": "lower"},
        ],
        "methods": {"dpo-soup": {}},
        "preferences": 3,
        "train": {"steps": 2, "batch_pairs": 2, "rank": 2},
        "sampling": {"max_new_tokens": 4},
        "evaluate": {"resamples": 50},
    }
    with pytest.raises(DataError, match=r"test\.jsonl:1: 1 held-out prompt; expected at least 2"):
        run(parse_config(config))
    assert not (tmp_path / "run" / "adapters").exists(), "refused before training"
    (tmp_path / "test.jsonl").write_text('{"prompt": "one"}\n{"prompt": "two"}\n', encoding="utf-8")
    run(parse_config(config))
    record = FrontRecord.read(tmp_path / "run/front.json")
    assert len(record.comparisons) + len(record.uncompared) == 2
    assert all(test.verdict == "no difference shown" for test in record.comparisons)


# The distance from the base model


def test_the_log_ratio_at_temperature_one_is_the_divergence_from_the_base_model(lm) -> None:
    """Answers of one token: KL(policy || base) is a sum over the vocabulary."""
    objectives = ("good", "short")
    adapters = [random_adapter(lm.model, scale=1.0, seed=seed, base=lm.fingerprint) for seed in (1, 2)]
    policy = Policy.soup("soup", lm, objectives, adapters)
    prompt, preference = (Message("user", "tell me"),), Preference.uniform(objectives)
    scorers = [build_scorer({"objective": name, "rule": "length"}) for name in objectives]

    def estimate(temperature: float) -> np.ndarray:
        sampling = Sampling(max_new_tokens=1, temperature=temperature, batch_size=256)
        held_out = HeldOut([prompt], ["p"], scorers, sampling, samples=600)
        point = evaluate(policy, [preference], held_out).points[0]
        return (point.logps - point.base_logps)[0]

    encoded = lm.encode_prompt(prompt)
    base = Policy.base(lm, objectives)
    ours, theirs = (p.distribution(encoded, [lm.turn_end], preference)[0] for p in (policy, base))
    exact = float((ours.exp() * (ours - theirs)).sum())
    ratios = estimate(1.0)
    assert exact > 0.02
    assert ratios.mean() == pytest.approx(exact, abs=4 * ratios.std() / math.sqrt(len(ratios)))
    sharp = estimate(0.3)
    assert sharp.mean() > exact + 4 * sharp.std() / math.sqrt(len(sharp)), (
        "which is why it has another name there"
    )
