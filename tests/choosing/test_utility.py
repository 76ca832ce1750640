"""Choosing by scalarisations: closed forms on known fronts, laws of scale and order, anchors, and what is no scalarisation."""

from __future__ import annotations

import math

import numpy as np
import pytest

from paretune.choosing.utility import choose_by
from paretune.cli.choose import choose_facts, render
from paretune.core.errors import ParetuneError, PreferenceError
from paretune.core.preference import Preference
from paretune.core.scalarise import SCALARISATIONS
from paretune.fronts.scalarised import best_by, losses_of, scalarised
from support import records
from support.front_world import circle, noisy, permuted, quickstart, rescaled

EVEN = Preference(("a", "b"), (0.5, 0.5))


def weight_on_a(front, weights: Preference, by: str) -> float:
    (found,) = choose_by(front, weights, by)
    return found.preference.as_dict()["a"]


def test_on_a_front_that_bulges_even_weights_choose_its_middle_by_every_form() -> None:
    for kind in SCALARISATIONS:
        assert weight_on_a(circle(20), EVEN, kind) == pytest.approx(0.5, abs=0.01), kind


def test_where_the_front_bends_inwards_the_form_matters() -> None:
    """Scores w^2: the sum is best at an end, the worst objective in the middle. Closed forms on the measured points."""
    front = circle(20, power=2)
    found = {each.kind: each for each in best_by(front, EVEN)}
    assert set(found) == set(SCALARISATIONS)
    assert sorted(found["linear"].preference.weights) == [0, 1] and found["linear"].value == 0.5
    for kind in ("min", "quantile", "tchebycheff", "product"):
        assert found[kind].preference.weights == pytest.approx((0.5, 0.5), abs=0.011), kind
        assert found[kind].regret == pytest.approx(0, abs=1e-3)
    assert found["min"].value == pytest.approx(0.75) and found["product"].value == pytest.approx(
        -0.25, abs=1e-3
    )
    assert found["linear"].regret == pytest.approx(0.25)  # at w itself the sum is .75


def test_tchebycheff_balances_weighted_losses_and_the_product_is_nashs() -> None:
    """On the straight front s = (w, 1 - w): Tchebycheff has v (1 - w) = (1 - v) w, so w = v; Nash has w = v."""
    front = circle(50, power=1)
    for v in (0.2, 0.5, 0.8):
        asked = Preference(("a", "b"), (v, 1 - v))
        for kind in ("tchebycheff", "product"):
            assert weight_on_a(front, asked, kind) == pytest.approx(v, abs=1e-6), kind
        assert weight_on_a(front, asked, "linear") in ((1.0,) if v > 0.5 else (0.0,) if v < 0.5 else (0.5,))
        assert weight_on_a(front, asked, "min") == pytest.approx(0.5)


def test_one_hot_weights_choose_the_end_of_that_objective() -> None:
    for kind in SCALARISATIONS:
        for m, name in enumerate("ab"):
            (found,) = choose_by(circle(10), Preference.one_hot(name, ("a", "b")), kind)
            assert found.preference.weights[m] == pytest.approx(1, abs=0.02), kind


@pytest.mark.parametrize("kind", SCALARISATIONS)
def test_units_and_the_order_of_objectives_mean_nothing(kind: str) -> None:
    front, asked = noisy(10, M=3, seed=2), Preference(("a", "b", "c"), (0.5, 0.3, 0.2))
    (here,) = choose_by(front, asked, kind)
    (scaled,) = choose_by(rescaled(front, 40.0, -7.0), asked, kind)
    (turned,) = choose_by(permuted(front, (2, 0, 1)), asked, kind)
    assert scaled.preference.as_dict() == pytest.approx(here.preference.as_dict(), abs=3e-6)
    assert turned.preference.as_dict() == pytest.approx(here.preference.as_dict(), abs=3e-6)
    assert scaled.value == pytest.approx(here.value) == pytest.approx(turned.value)


@pytest.mark.parametrize("kind", SCALARISATIONS)
def test_nothing_tried_is_better_by_brute_force(kind: str) -> None:
    front, asked = noisy(10, seed=4), Preference(("a", "b"), (0.3, 0.7))
    (found,) = choose_by(front, asked, kind)
    for row in front.means:
        value = scalarised(row[None], asked.array()[None], kind, front.means)[0, 0]  # type: ignore[arg-type]
        assert value >= found.value - 1e-9
    own = scalarised(front.outcomes(asked.array()[None]), asked.array()[None], kind, front.means)  # type: ignore[arg-type]
    assert found.regret == pytest.approx(float(own[0, 0]) - found.value, abs=1e-9) and found.regret >= 0


def test_a_policy_with_anchors_chooses_among_them() -> None:
    front = quickstart(anchored=True)
    for found in best_by(front, Preference(("concise", "warm"), (0.45, 0.55))):
        assert any(np.allclose(found.preference.array(), row) for row in front.preferences)


def test_losses_are_shares_of_the_range_and_of_one_point_zero() -> None:
    points = np.array([[0.0, 5.0], [4.0, 5.0], [1.0, 5.0]])
    assert losses_of(points, points).tolist() == [[1, 0], [0, 0], [0.75, 0]]


def test_numbers_of_forms_are_heeded_and_checked() -> None:
    front = circle(20, power=2)
    three = Preference(("a", "b"), (0.6, 0.4))
    assert weight_on_a(front, three, "quantile=0") == pytest.approx(0.5) == weight_on_a(front, three, "min")
    assert weight_on_a(front, three, "quantile=0.9") in (0.0, 1.0)
    for named, message in {
        "minimum": "did you mean 'min'",
        "quantile=2": "expected quantile=NUMBER with a number from 0 to 1",
        "quantile=x": "expected quantile=NUMBER",
        "quantile=0_1": "expected quantile=NUMBER",
        "smooth-tchebycheff=0": "expected smooth-tchebycheff=NUMBER with a number of at least 1e-06",
        "min=0.1": "min takes no number; quantile, smooth-tchebycheff, augmented-tchebycheff do",
    }.items():
        with pytest.raises(ParetuneError, match=message):
            choose_by(front, EVEN, named)
    with pytest.raises(PreferenceError):
        choose_by(front, Preference(("a", "x"), (0.5, 0.5)), "min")
    with pytest.raises(ParetuneError, match="unknown scalarisation 'products': did you mean 'product'"):
        best_by(front, EVEN, ["products"])


def test_the_command_shows_each_form(tmp_path) -> None:
    import json

    from rich.console import Console

    front = circle(4)
    points = [
        records.point({"a": w[0], "b": w[1]}, [*y], [v - 0.1 for v in y], [v + 0.1 for v in y])
        for w, y in zip(front.preferences.tolist(), front.means.tolist(), strict=True)
    ]
    record = records.record(["a", "b"], [records.policy("soup", points)])
    (tmp_path / "front.json").write_text(json.dumps(record))
    facts = choose_facts(tmp_path, by="all", weights="a=0.7,b=0.3")
    assert [each["by"] for each in facts["by"]] == list(SCALARISATIONS) and "knee" not in facts
    json.dumps(facts, allow_nan=False)
    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    console.print(render(facts))
    text = console.export_text()
    assert "quantile" in text and "Lost by asking for these weights instead, in ranges: linear 0.0" in text
    assert choose_facts(tmp_path, by="min")["weights"] == {"a": 0.5, "b": 0.5}
    with pytest.raises(ParetuneError, match="are for --by, such as --by min"):
        choose_facts(tmp_path, weights="a=1")
    assert math.isclose(sum(facts["weights"].values()), 1)
