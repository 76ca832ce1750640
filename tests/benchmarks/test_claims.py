"""The verdicts on claims: how often they are wrong in worlds where the truth is known, and what they are made of."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from benchmarks import claims, cost_axis
from benchmarks.claims import (
    CLAIMS,
    FOLDER,
    MARGIN,
    MIXTURE,
    Claim,
    Measured,
    adjusted,
    found,
    judged,
    mixed,
    row,
    split,
    verdict,
)
from paretune.core.errors import ParetuneError
from paretune.core.files import read_json
from paretune.fronts.front import Front
from paretune.runs.parse import load_config

NAMES, WEIGHTS = ("concise", "warm"), np.array([[0.0, 1.0], [0.5, 0.5], [1.0, 0.0]])
PROMPTS = tuple(map(str, range(60)))


def fronts(
    rng: np.random.Generator,
    name: str,
    gain: float = 0.0,
    bulge: float = 0.0,
    luck: float = 0.02,
    seeds: int = 3,
) -> list[Front]:
    """Return the seeds of a method whose answers have a deviation of 1, with an advantage at every preference or between."""
    scores = []
    for _ in range(seeds):
        mean = WEIGHTS + gain + bulge * np.array([[0.0], [1.0], [0.0]]) + luck * rng.normal(size=(3, 2))
        scores.append(mean[:, None] + rng.normal(size=(3, len(PROMPTS), 2)))
    return [Front(name, NAMES, WEIGHTS, each, PROMPTS) for each in scores]


def policies(methods: dict[str, tuple[float, float]]) -> Any:
    """Return what a record says of cost and collapse: method -> seconds of training, and the share that collapsed."""
    return SimpleNamespace(
        policies=[
            SimpleNamespace(
                name=f"{name}-seed-0",
                cost=SimpleNamespace(seconds=seconds, tokens=1000),
                points=[SimpleNamespace(preference={"concise": 1.0, "warm": 0.0}, collapse_rate=collapsed)],
            )
            for name, (seconds, collapsed) in methods.items()
        ]
    )


def world(seed: int, costs: dict[str, tuple[float, float]] | None = None, **gains: float) -> Measured:
    rng = np.random.default_rng(seed)
    costs = costs or dict.fromkeys(gains, (100.0, 0.0))
    return Measured(
        {name: fronts(rng, name, gain) for name, gain in gains.items()},
        policies(costs),
        {f"{name}-seed-0": seconds for name, (seconds, _) in costs.items()},
    )


def claim(kind: claims.Kind, first: Sequence[str] = ("a",), second: str = "b", **more: Any) -> Claim:
    return Claim("it", "It is so", "a paper", "proof", kind, tuple(first), second, **more)


def said(asked: Claim, measured: Measured) -> str:
    entry = row(asked, found(asked, measured), measured)
    return verdict(entry, entry["p_value"])


@pytest.mark.parametrize(
    ("asked", "gains", "right"),
    [
        (claim("above"), {"a": 0.6, "b": 0.0}, "holds"),
        (claim("above"), {"a": -0.6, "b": 0.0}, "does not hold"),
        (claim("no worse"), {"a": 0.3, "b": 0.0}, "holds"),
        (claim("no worse"), {"a": -0.6, "b": 0.0}, "does not hold"),
        (claim("all above", ("a", "c")), {"a": 0.6, "b": 0.0, "c": 0.7}, "holds"),
        (claim("all above", ("a", "c")), {"a": 0.6, "b": 0.0, "c": -0.6}, "does not hold"),
        (claim("some above", ("a", "c")), {"a": 0.6, "b": 0.0, "c": -0.6}, "holds"),
        (claim("some above", ("a", "c")), {"a": -0.7, "b": 0.0, "c": -0.6}, "does not hold"),
    ],
)
def test_large_differences_are_told(asked: Claim, gains: dict[str, float], right: str) -> None:
    assert [said(asked, world(seed, **gains)) for seed in range(5)] == [right] * 5


@pytest.mark.parametrize(
    ("asked", "gains"),
    [
        (claim("above"), {"a": 0.0, "b": 0.0}),
        (claim("no worse"), {"a": -MARGIN, "b": 0.0}),
        (claim("all above", ("a", "c")), {"a": 0.6, "b": 0.0, "c": 0.0}),
        (claim("some above", ("a", "c", "d")), {"a": 0.0, "b": 0.0, "c": 0.0, "d": 0.0}),
    ],
)
def test_where_a_claim_is_just_false_it_seldom_holds(asked: Claim, gains: dict[str, float]) -> None:
    wrong = sum(said(asked, world(seed, **gains)) == "holds" for seed in range(120))
    assert wrong <= 7, "2.5 % of 120 are 3; 8 or more have a chance of 1 %"


def test_what_is_true_is_seldom_called_false() -> None:
    true = [said(claim("above"), world(seed, a=MARGIN, b=0.0)) for seed in range(120)]
    assert true.count("does not hold") <= 7
    equal = [said(claim("no worse"), world(seed, a=0.0, b=0.0)) for seed in range(120)]
    assert equal.count("does not hold") <= 7


def test_cost_and_collapse_are_conditions() -> None:
    cheap = claim("no worse", cost=1 / 3, collapse=True)
    for costs, right in (
        ({"a": (30.0, 0.01), "b": (100.0, 0.02)}, "holds"),
        ({"a": (40.0, 0.01), "b": (100.0, 0.02)}, "does not hold"),
        ({"a": (30.0, 0.03), "b": (100.0, 0.02)}, "does not hold"),
    ):
        assert said(cheap, world(0, costs, a=0.4, b=0.0)) == right
    facts = found(cheap, world(0, {"a": (40.0, 0.01), "b": (100.0, 0.02)}, a=0.4, b=0.0)).facts
    assert facts == (
        ("its training took 40 % of the processor time", False),
        ("1 % of answers at most collapsed, against 2 %", True),
    )


def test_the_mixture_is_that_of_a_methods_own_corners() -> None:
    rng = np.random.default_rng(0)
    (bent,) = fronts(rng, "bent", bulge=0.5, seeds=1)
    line = mixed(bent)
    assert np.allclose(line.scores[1], (bent.scores[0] + bent.scores[2]) / 2)
    assert np.array_equal(line.scores[[0, 2]], bent.scores[[0, 2]])
    shown = Measured({"a": fronts(rng, "a", bulge=1.5)}, policies({"a": (1.0, 0.0)}))
    assert said(claim("above", second=MIXTURE), shown) == "holds"


def test_two_policies_that_answer_alike_are_told_to_be_equal() -> None:
    same = fronts(np.random.default_rng(0), "a", luck=0.5)
    measured = Measured({"a": same, "b": same}, policies({"a": (1.0, 0.0), "b": (1.0, 0.0)}))
    assert said(claim("above", paired=True), measured) == "does not hold"
    assert said(claim("no worse", paired=True), measured) == "holds"
    assert said(claim("above"), measured) == said(claim("no worse"), measured) == "could not be seen"


def test_holm() -> None:
    assert adjusted([0.01, 0.04, 0.03]) == pytest.approx([0.03, 0.06, 0.06])
    assert adjusted([0.5, 0.9]) == pytest.approx([1.0, 1.0]) and adjusted([]) == []


def test_claims_are_judged_together_and_in_their_order() -> None:
    names = [each.name for each in CLAIMS[:2]]
    entry = {"effect": 1.0, "low": 0.5, "high": 1.5, "kind": "above", "facts": []}
    rows = judged([entry | {"claim": name, "p_value": 0.03} for name in reversed(names)])
    assert [each["claim"] for each in rows] == names
    assert [each["adjusted"] for each in rows] == [0.06, 0.06]
    assert {each["verdict"] for each in rows} == {"could not be seen"}


def test_collapse_is_that_of_the_worst_seed_at_its_worst_preference() -> None:
    def seed(number: int, *rates: float) -> SimpleNamespace:
        points = [
            SimpleNamespace(preference=dict(zip(NAMES, weights.tolist(), strict=True)), collapse_rate=rate)
            for weights, rate in zip(WEIGHTS, rates, strict=True)
        ]
        return SimpleNamespace(name=f"a-seed-{number}", points=points)

    record: Any = SimpleNamespace(policies=[seed(0, 0.04, 0.0, 0.01), seed(1, 0.0, 0.0, 0.05)])
    assert Measured({}, record).collapse("a") == 0.05


def test_a_claim_whose_methods_lose_their_sense_is_set_aside_and_said() -> None:
    asked = [replace(claim("above"), name=each.name) for each in CLAIMS[:2]]
    worlds = [world(0, {"a": (1.0, 0.0), "b": (1.0, collapsed)}, a=0.6, b=0.0) for collapsed in (0.031, 0.03)]
    rows = [row(one, found(one, each), each) for one, each in zip(asked, worlds, strict=True)]
    kept, aside = split(rows[::-1])
    assert [each["claim"] for each in kept] == [asked[1].name]
    assert kept[0]["adjusted"] == min(1, 2 * kept[0]["p_value"]), "what is set aside was tested too"
    assert [each["claim"] for each in aside] == [asked[0].name]
    text = claims.page(kept, aside)
    assert "Set aside, without a verdict, as more than 3 % of answers collapsed at some preference:" in text
    assert (
        text.count("- *It is so* (a paper, `configs/proof.yaml`): up to 3.1 %; a less b measured 0.51 [") == 1
    )
    assert "Set aside" not in claims.page(kept, [])


def test_a_method_that_was_not_measured_is_named() -> None:
    with pytest.raises(
        ParetuneError, match="proof: the run has no method 'c', which the claim 'it' compares"
    ):
        found(claim("above", second="c"), world(0, a=0.0, b=0.0))


@pytest.mark.slow
def test_every_claim_is_of_a_committed_config_that_has_its_methods() -> None:
    assert len({each.name for each in CLAIMS}) == len(CLAIMS) >= 9
    for each in CLAIMS:
        config = load_config(Path("configs") / f"{each.config}.yaml")
        assert set(each.first) | {each.second} <= {*config.methods, "base", MIXTURE}
        assert len(config.sweep.seeds) >= 3


def test_the_page_is_what_its_figures_give() -> None:
    claims.main(["--check"])
    cost_axis.main(["--check"])
    rows = read_json(FOLDER / "claims.json")
    assert all(max(each["collapsed"].values()) <= claims.SENSE for each in rows)
    again, _ = split(rows + read_json(FOLDER / "claims-set-aside.json"))
    assert len(again) == len(rows)
    assert [each["verdict"] for each in again] == [each["verdict"] for each in rows], (
        "they follow from the figures"
    )
    assert [each["adjusted"] for each in again] == pytest.approx(
        [each["adjusted"] for each in rows], rel=1e-4
    )
    assert len(rows) >= 9


@pytest.mark.parametrize("word", ["proof", "nothing=runs/x", "proof="])
def test_a_word_that_names_no_run_is_refused(word: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        claims.main([word])
    assert "expected CONFIG=RUN" in capsys.readouterr().err
