import itertools
import json
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oracles.fronts import dominates
from paretune.choosing.dial import Dial
from paretune.choosing.dual import dual
from paretune.choosing.floors import Choice, choose, knee_preference, parse_floors
from paretune.cli.choose import choose_facts, render
from paretune.core.errors import ParetuneError, PreferenceError
from paretune.core.preference import Preference, sample_simplex, simplex_grid
from paretune.data.dataset import ScoredDataset
from paretune.data.rows import Message, Row
from paretune.fronts.front import Front, mean_intervals
from paretune.fronts.indicators import has_knee
from paretune.fronts.intervals import bands, shrunk
from paretune.fronts.surface import Surface
from paretune.fronts.triangulation import barycentric, triangulate
from support import records
from support.front_world import circle, noisy, permuted, quickstart, rescaled, surface

law = settings(deadline=None, max_examples=25)
TWO = ("concise", "warm")

FRONTS = {
    "circle": circle(),
    "flat": circle(power=1),
    "inwards": circle(power=2),
    "noisy": noisy(seed=3),
    "quickstart": quickstart(),
    "sphere of 3": circle(5, M=3),
    "noisy, 3": noisy(5, M=3, seed=1),
    "sphere of 4": circle(3, M=4),
    "anchors": quickstart(anchored=True),
    "anchors of 3": circle(3, M=3, anchored=True),
    "scattered, 3": surface(sample_simplex(12, 3, seed=2), sample_simplex(12, 3, seed=3)),
}
every_front = pytest.mark.parametrize("name", list(FRONTS))


def grid_of(front, fine=None):
    M = len(front.objectives)
    points = simplex_grid(M, fine or {2: 2000, 3: 120, 4: 24}[M])
    if front.anchored:
        points = front.preferences
    points = np.concatenate([points, front.preferences])
    outcomes = front.outcomes(points)
    known = np.isfinite(outcomes).all(axis=1)
    return points[known], outcomes[known]


# Between measured preferences


@pytest.mark.parametrize(("M", "divisions"), [(1, 1), (2, 5), (3, 4), (4, 3), (5, 2), (6, 2)])
def test_triangulation_of_a_lattice_fills_the_simplex_with_equal_cells(M, divisions):
    grid = simplex_grid(M, divisions)
    cells = triangulate(grid)
    assert cells.max() < len(grid)
    volumes = np.abs(np.linalg.det(grid[cells]))
    np.testing.assert_allclose(volumes, divisions ** -(M - 1), rtol=1e-9)
    assert len(cells) == divisions ** (M - 1)


@law
@given(st.integers(2, 4), st.integers(1, 15), st.integers(0, 10**6))
def test_triangulation_of_any_points_fills_the_simplex_and_has_empty_spheres(M, N, seed):
    points = sample_simplex(N, M, seed=seed)
    cells = triangulate(points)
    vertices = np.concatenate([points, np.eye(M)])
    assert np.abs(np.linalg.det(vertices[cells])).sum() == pytest.approx(1.0, abs=1e-9)
    queries = sample_simplex(50, M, seed=seed + 1)
    shares = barycentric(points, cells, queries)
    inside = np.isfinite(shares).all(axis=1)
    np.testing.assert_allclose(shares[inside] @ points, queries[inside], atol=1e-7)
    for cell in cells[(cells < N).all(axis=1)]:
        # Delaunay: no other measured point in the sphere through the corners of a cell.
        basis = points[cell]
        weights = np.linalg.solve(basis, (basis**2).sum(axis=1))
        assert ((points**2).sum(axis=1) - points @ weights).min() > -1e-6


@every_front
def test_measured_preferences_answer_with_what_was_measured(name):
    front = FRONTS[name]
    for n in range(len(front.preferences)):
        expected = front.expected(front.preference(n))
        assert expected.measured and expected.used == front.preference(n)
        np.testing.assert_allclose(list(expected.mean.values()), front.means[n], atol=1e-6)
        np.testing.assert_allclose(list(expected.low.values()), front.low[n], atol=1e-6)


def test_between_two_measured_preferences_scores_are_linear():
    front = quickstart()
    expected = front.expected(Preference(TWO, (0.6, 0.4)))
    assert not expected.measured
    assert expected.mean["concise"] == pytest.approx(0.6 * -4.723 + 0.4 * -3.645)
    assert expected.high["warm"] == pytest.approx(0.6 * 1.291 + 0.4 * 1.051)


def test_a_linear_front_of_three_is_read_exactly_everywhere():
    matrix = np.array([[1.0, -0.2, 0.1], [0.3, 2.0, 0.0], [-1.0, 0.5, 3.0]])
    for grid in (simplex_grid(3, 3), np.concatenate([np.eye(3), sample_simplex(9, 3, seed=0)])):
        front = surface(grid, grid @ matrix)
        queries = sample_simplex(200, 3, seed=5)
        np.testing.assert_allclose(front.outcomes(queries), queries @ matrix, atol=1e-9)


def test_outside_of_what_was_measured_nothing_is_known():
    front = surface(np.array([[0.8, 0.2], [0.3, 0.7]]), [[1.0, 0.0], [0.0, 1.0]])
    for text in ("a=0.9,b=0.1", "a=1,b=0", "a=0.2,b=0.8"):
        expected = front.expected(Preference.parse(text))
        assert not expected.measured
        assert set(expected.mean.values()) == set(expected.low.values()) == {None}
    beyond = Preference.parse("a=1.2,b=-0.2", allow_extrapolation=True)
    assert front.expected(beyond).mean == {"a": None, "b": None}
    assert front.expected(Preference.parse("a=0.5,b=0.5")).mean["a"] == pytest.approx(0.4)


def test_two_measured_preferences_of_three_objectives_span_the_line_between():
    front = surface(np.array([[0.6, 0.3, 0.1], [0.2, 0.2, 0.6]]), [[1.0, 0, 0], [0.0, 0, 2]])
    assert front.expected(Preference.parse("a=0.4,b=0.25,c=0.35")).mean == pytest.approx(
        {"a": 0.5, "b": 0.0, "c": 1.0}
    )
    assert front.expected(Preference.parse("a=0.4,b=0.3,c=0.3")).mean["a"] is None
    choice = choose(front, {"a": 0.25, "c": 0.5})
    assert choice.preference == Preference.parse("a=0.4,b=0.25,c=0.35")
    assert choice.reachable and choice.margin == pytest.approx({"a": 0.25, "c": 0.25})


def test_a_single_measured_preference_is_the_answer_to_everything():
    front = surface(np.array([[0.5, 0.5]]), [[1.0, 2.0]])
    assert choose(front, {"a": 0}).preference == front.preference(0) == knee_preference(front)
    assert not choose(front, {"a": 5}).reachable
    assert Dial.of(front).preference(0.7) == front.preference(0)


def test_one_objective():
    front = surface(np.ones((1, 1)), [[1.5]])
    assert choose(front, {"a": 1}).preference == Preference(("a",), (1.0,))
    assert Dial.of(front).steps(2)[1][1] == Preference(("a",), (1.0,))


def test_anchors_answer_as_the_policy_snaps():
    front = quickstart(anchored=True)
    expected = front.expected(Preference(TWO, (0.7, 0.3)))
    assert expected.used == Preference(TWO, (0.5, 0.5)) and expected.measured
    assert expected.mean["concise"] == pytest.approx(-4.723)
    # A tie goes to the first anchor, as in paretune.models.gates.nearest_anchor.
    assert front.expected(Preference(TWO, (0.75, 0.25))).used == Preference(TWO, (1.0, 0.0))


def test_an_unknown_interval_does_not_hide_the_mean():
    means = np.array([[1.0, 0.0], [0.0, 1.0]])
    unknown = np.full((2, 2), np.nan)
    front = Surface("one prompt", ("a", "b"), np.eye(2), means, unknown, unknown)
    expected = front.expected(Preference.uniform(("a", "b")))
    assert expected.mean == {"a": 0.5, "b": 0.5} and expected.low == {"a": None, "b": None}
    choice = choose(front, {"a": 0.1})
    assert choice.reachable and not choice.sure
    assert json.dumps(choice.to_dict(), allow_nan=False)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"preferences": np.zeros((0, 2)), "means": np.zeros((0, 2))}, "at least one row"),
        ({"preferences": np.eye(2)[:1]}, "different length"),
        ({"means": np.zeros((2, 3))}, r"means of shape \(2, 3\)"),
        ({"means": np.array([[1.0, np.nan], [0, 0]])}, "are .*nan.*expected finite"),
        ({"preferences": np.array([[0.5, 0.6], [1, 0]])}, "sum to 1.1"),
        ({"objectives": ("a", "a")}, "listed twice"),
    ],
)
def test_fronts_that_cannot_be_used(change, message):
    good = {
        "objectives": ("a", "b"),
        "preferences": np.eye(2),
        "means": np.eye(2),
        "low": np.eye(2),
        "high": np.eye(2),
    }
    with pytest.raises(ParetuneError, match=message):
        Surface("x", **{**good, **change})


def test_bounds_on_weights_keep_a_part_of_the_front():
    for front in (circle(), circle(5, M=3), noisy(4, M=3)):
        part = front.within({"b": 0.33})
        assert part.preferences[:, 1].min() == pytest.approx(0.33)
        np.testing.assert_allclose(part.means, front.outcomes(part.preferences), atol=1e-9)
        assert choose(part, {"a": 5.0}).preference["b"] >= 0.33 - 1e-6
        assert min(w["b"] for _, w in Dial.of(part, "b", "a").steps(5)) >= 0.33 - 1e-6
    anchored = quickstart(anchored=True).within({"warm": 0.4})
    assert anchored.preferences[:, 1].tolist() == [0.5, 1.0]
    assert circle().within({}).preferences.shape == (11, 2)
    with pytest.raises(ParetuneError, match=r"nothing was measured with the weights at least concise 0\.3"):
        quickstart(anchored=True).within({"concise": 0.3, "warm": 0.6})
    with pytest.raises(ParetuneError, match="did you mean 'warm'"):
        quickstart().within({"warmth": 0.3})


# Floors


@every_front
def test_brute_force_over_a_fine_grid_agrees(name):
    front = FRONTS[name]
    _, outcomes = grid_of(front)
    random = np.random.default_rng(5)
    M = len(front.objectives)
    for trial in range(8):
        asked = [m for m in range(M) if trial == 0 or random.random() < 0.7] or [0]
        levels = front.means.min(0) + np.ptp(front.means, axis=0) * random.uniform(0, 1.1, size=M)
        floors = {front.objectives[m]: levels[m] for m in asked}
        choice = choose(front, floors)
        bounds = np.where(np.isin(np.arange(M), asked), levels, front.means.min(0))
        margins = ((outcomes - bounds) / front.scale).min(axis=1)
        mine = front.outcomes(choice.preference.array()[None])[0]
        least = ((mine - bounds) / front.scale).min()
        assert least >= margins.max() - 1e-5
        asked_margins = ((outcomes - bounds) / front.scale)[:, asked].min(axis=1)
        assert choice.reachable == (min(choice.margin.values()) >= 0)
        if asked_margins.max() > 1e-9:
            assert choice.reachable
        if not choice.reachable:
            # Floors left out decide nothing about what can be reached.
            assert min(choice.margin.values()) >= asked_margins.max() - 1e-6
            assert choice.nearest.startswith("not reachable; nearest is ")
        for m in asked:
            told = (choice.expected.mean[front.objectives[m]] - levels[m]) / front.scale[m]
            assert choice.margin[front.objectives[m]] == pytest.approx(told, abs=1e-4)


@every_front
def test_the_answer_is_not_dominated_by_any_preference_of_the_grid(name):
    front = FRONTS[name]
    _, outcomes = grid_of(front, 60 if len(front.objectives) == 3 else None)
    choice = choose(front, {front.objectives[0]: float(np.median(front.means[:, 0]))})
    mine = front.outcomes(choice.preference.array()[None])[0] / front.scale
    assert not any(dominates(row / front.scale - 1e-4, mine) for row in outcomes)


@every_front
def test_a_floor_at_the_measured_maximum_is_reached_with_margin_0(name):
    front = FRONTS[name]
    for m, objective in enumerate(front.objectives):
        best = int(front.means[:, m].argmax())
        choice = choose(front, {objective: front.means[best, m]})
        assert choice.reachable and choice.margin == {objective: 0.0}
        assert choice.preference == front.preference(best)
        above = choose(front, {objective: front.means[best, m] + 0.1 * front.scale[m]})
        assert not above.reachable and above.margin[objective] == pytest.approx(-0.1)


def test_one_hot_is_maximal_where_the_policy_follows_its_weights():
    for M in (2, 3, 4):
        front = circle(4, M=M)
        for objective in front.objectives:
            assert choose(front, {objective: 1.0}).preference == Preference.one_hot(
                objective, front.objectives
            )


def test_what_is_to_spare_is_spread_over_all_objectives():
    choice = choose(circle(40), {"a": 0.5})
    # On the unit circle a - 0.5 = b: (0.5 + s)^2 + s^2 = 1.
    assert choice.margin["a"] == pytest.approx((np.sqrt(7) - 1) / 4, abs=2e-3)
    assert choice.expected.mean["b"] == pytest.approx(choice.margin["a"], abs=1e-5)


@every_front
def test_the_order_of_objectives_changes_nothing(name):
    front = FRONTS[name]
    floors = {objective: float(np.median(front.means[:, m])) for m, objective in enumerate(front.objectives)}
    choice, dial_ends = choose(front, floors), front.objectives[:2]
    ends = (None, None) if len(front.objectives) == 2 else dial_ends
    for order in list(itertools.permutations(range(len(front.objectives))))[1:4]:
        other = permuted(front, order)
        again = choose(other, floors)
        np.testing.assert_allclose(
            again.preference.over(front.objectives).array(), choice.preference.array(), atol=2e-6
        )
        assert again.margin == pytest.approx(choice.margin, abs=1e-9)
        assert knee_preference(other).over(front.objectives) == knee_preference(front)
        if name == "scattered, 3":  # nothing was measured on its edges
            continue
        steps = Dial.of(front, *(ends if ends[0] else dial_ends)).steps(4)
        for (_, a), (_, b) in zip(
            steps, Dial.of(other, *(ends if ends[0] else dial_ends)).steps(4), strict=True
        ):
            np.testing.assert_allclose(b.over(front.objectives).array(), a.array(), atol=2e-6)


@every_front
def test_units_change_nothing(name):
    front = FRONTS[name]
    M = len(front.objectives)
    factor, shift = np.array([10.0, 0.01, 3.0, 700.0])[:M], np.array([-5.0, 100.0, 0.0, 2.0])[:M]
    other = rescaled(front, factor, shift)
    levels = np.median(front.means, axis=0)
    choice = choose(front, dict(zip(front.objectives, levels, strict=True)))
    again = choose(other, dict(zip(front.objectives, levels * factor + shift, strict=True)))
    np.testing.assert_allclose(again.preference.array(), choice.preference.array(), atol=2e-6)
    assert again.margin == pytest.approx(choice.margin, abs=1e-7)
    assert knee_preference(other) == knee_preference(front)
    if name == "scattered, 3":  # nothing was measured on its edges
        return
    ends = front.objectives[:2]
    for (_, a), (_, b) in zip(Dial.of(front, *ends).steps(5), Dial.of(other, *ends).steps(5), strict=True):
        np.testing.assert_allclose(b.array(), a.array(), atol=1e-5)


def test_a_policy_that_does_not_move_an_objective_answers_all_the_same():
    front = surface(simplex_grid(2, 4), np.stack([np.linspace(1, 0, 5), np.full(5, 3.0)], axis=1))
    assert front.scale.tolist() == pytest.approx([1.0, 0.1])
    assert choose(front, {"b": 2.9}).margin["b"] == pytest.approx(1.0)
    assert not choose(front, {"b": 3.1}).reachable
    dull = surface(simplex_grid(2, 4), np.full((5, 2), 3.0))
    choice = choose(dull, {"a": 3.0})
    assert choice.reachable and choice.preference == Preference.uniform(("a", "b"))
    assert [weights for _, weights in Dial.of(dull).steps(3)]


def test_anchored_policies_answer_with_measured_preferences_only():
    front = quickstart(anchored=True)
    measured = [front.preference(n) for n in range(3)]
    for concise in np.linspace(-7, -2, 12):
        for warm in np.linspace(0.5, 1.8, 12):
            choice = choose(front, {"concise": concise, "warm": warm})
            assert choice.preference in measured and choice.expected.measured
    assert all(weights in measured for _, weights in Dial.of(front).steps(30))


def test_a_floor_that_the_intervals_leave_open_is_met_but_not_sure():
    assert choose(quickstart(), {"warm": 0.5, "concise": -7.5}).sure
    choice = choose(quickstart(), {"warm": 1.55})
    assert choice.reachable and not choice.sure


def test_unreachable_floors_name_what_they_miss():
    choice = choose(quickstart(anchored=True), {"warm": 1.0, "concise": -4.7})
    assert choice.preference == Preference(TWO, (0.5, 0.5))
    assert choice.nearest.startswith(
        "not reachable; nearest is concise=0.5,warm=0.5 with concise -4.723 instead of -4.7"
    )
    assert "and warm" not in choice.nearest
    assert isinstance(choice, Choice) and not choice.sure


@pytest.mark.parametrize(
    ("text", "floors"),
    [
        ("warm >= 0.5 and concise >= -6", {"warm": 0.5, "concise": -6.0}),
        ("warm>=.5,concise>-6e0", {"warm": 0.5, "concise": -6.0}),
        ("concise ≥ -6; warm = 1", {"concise": -6.0, "warm": 1.0}),
        ("  warm => 1  AND  concise == 2 ", {"warm": 1.0, "concise": 2.0}),
    ],
)
def test_floors_are_read(text, floors):
    assert parse_floors(text, TWO) == floors


def test_objectives_may_hold_spaces_and_the_word_and():
    names = ("short and sweet", "and", "on brand")
    assert parse_floors("short and sweet >= 1 and and >= 2, on brand >= 3", names) == {
        "short and sweet": 1.0,
        "and": 2.0,
        "on brand": 3.0,
    }


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "no floors given"),
        ("  ", "no floors given"),
        ("warmth >= 1", "unknown objective 'warmth'; did you mean 'warm'"),
        ("warm", "'warm' is not OBJECTIVE >= NUMBER"),
        (">= 3", "'>= 3' is not OBJECTIVE >= NUMBER"),
        ("warm >=", "floor '' of objective 'warm' is not a finite number"),
        ("warm >= much", "floor 'much' of objective 'warm'"),
        ("warm >= 1_0", "floor '1_0' of objective 'warm' is not a finite number"),
        ("warm >= nan", "floor 'nan' of objective 'warm' is not a finite number"),
        ("warm >= inf", "is not a finite number"),
        ("warm >= 1 and warm >= 2", "'warm' has two floors"),
        ("warm <= 1", "is an upper bound"),
        ("warm >= 1 concise >= 2", "cannot read 'concise >= 2' after warm >= 1"),
        ("warm >= 1 and", "cannot read 'and' after warm >= 1"),
        ("warm >= 1 or concise >= 2", "cannot read 'or concise >= 2'"),
        ("warm >= 0,5", "'5' is not OBJECTIVE >= NUMBER"),
    ],
)
def test_floors_that_cannot_be_read(text, message):
    with pytest.raises(ParetuneError, match=message):
        parse_floors(text, TWO)


@law
@given(st.text(max_size=30))
def test_any_text_is_read_or_refused(text):
    try:
        floors = parse_floors(text, TWO)
    except ParetuneError:
        return
    assert floors and set(floors) <= set(TWO)


@pytest.mark.parametrize(
    ("floors", "message"),
    [
        ({}, "no floors given"),
        ({"warmth": 1}, "did you mean 'warm'"),
        ({"warm": float("nan")}, "not a finite number"),
        ({"warm": True}, "not a finite number"),
        ({"warm": None}, "not a finite number"),
        ({"warm": 10**400}, "not a finite number"),
    ],
)
def test_floors_that_are_refused(floors, message):
    with pytest.raises(ParetuneError, match=message):
        choose(quickstart(), floors)


# Knee and dial


def test_the_knee_is_the_bulge():
    assert knee_preference(circle()) == Preference.uniform(("a", "b"))
    assert knee_preference(circle(6, M=3)) == Preference.uniform(("a", "b", "c"))
    points = np.array([[1.0, 0.0], [0.9, 0.8], [0.5, 0.85], [0.0, 1.0]])
    assert knee_preference(surface(simplex_grid(2, 3), points)) == Preference.parse(
        "a=" + repr(2 / 3) + ",b=" + repr(1 / 3)
    )


def equal_steps(front, dial, count):
    """Distances between consecutive outcomes of a dial, in ranges."""
    weights = np.stack([weights.array() for _, weights in dial.steps(count)])
    outcomes = front.outcomes(weights) / front.scale
    return np.linalg.norm(np.diff(outcomes, axis=0), axis=1)


@pytest.mark.parametrize("scale", [(1.0, 1.0), (100.0, 0.02)])
def test_equal_steps_of_the_dial_are_equal_steps_of_outcome(scale):
    # Along the circle in the weights' own way most of the way goes by in the middle third of the weights.
    weights = np.linspace(1, 0, 101)
    angle = np.pi / 2 / (1 + np.exp(12 * (weights - 0.5)))
    angle = np.pi / 2 * (angle - angle[0]) / (angle[-1] - angle[0])
    front = surface(np.stack([weights, 1 - weights], 1), np.stack([np.cos(angle), np.sin(angle)], 1) * scale)
    steps = equal_steps(front, Dial.of(front), 11)
    np.testing.assert_allclose(steps, np.pi / 2 / 10, rtol=0.01)
    by_weight = np.diff(front.outcomes(simplex_grid(2, 10)) / front.scale, axis=0)
    assert np.ptp(np.linalg.norm(by_weight, axis=1)) > 0.2


@pytest.mark.parametrize("front", [circle(), circle(power=2), circle(40, power=2), quickstart()])
def test_a_dial_of_fine_steps_is_even_to_a_percent(front):
    steps = equal_steps(front, Dial.of(front), 201)
    inner = np.sort(steps)[10:-10]
    # At a corner of the broken line a step is cut short; elsewhere all are the same.
    np.testing.assert_allclose(inner, np.median(steps), rtol=0.01)


def test_a_flat_front_has_the_weights_for_a_dial():
    dial = Dial.of(circle(power=1))
    for position in (0, 0.1, 0.37, 0.5, 1):
        assert dial.preference(position)["a"] == pytest.approx(position, abs=1e-6)


@law
@given(st.floats(0, 1))
def test_position_and_preference_are_inverse(position):
    for front in (circle(), circle(power=2), quickstart()):
        dial = Dial.of(front)
        assert dial.position(dial.preference(position)) == pytest.approx(position, abs=1e-4)


def test_a_dial_steps_over_dominated_preferences():
    for seed in range(8):
        front = noisy(seed=seed, size=0.08)
        dial = Dial.of(front)
        assert dial.positions[0] == 0 and dial.positions[-1] == 1 and np.diff(dial.positions).min() >= 0
        shown = np.stack([weights.array() for _, weights in dial.steps(41)])
        outcomes = front.outcomes(shown) / front.scale
        # Position grows with the first objective, though the policy does not follow its weights everywhere.
        assert np.diff(outcomes[:, 0]).min() > -1e-4 and np.diff(outcomes[:, 1]).max() < 1e-4
        _, every = grid_of(front, 300)
        assert not any(dominates(row / front.scale - 0.02, mine) for row in every for mine in outcomes)


def test_a_policy_that_answers_against_its_weights_still_has_a_dial():
    grid = simplex_grid(2, 10)
    against = surface(grid, circle().means[::-1])
    dial = Dial.of(against)
    assert dial.preference(1.0) == Preference.one_hot("b", ("a", "b"))
    assert np.ptp(equal_steps(against, dial, 21)) < 0.01


def test_anchors_lie_on_the_dial_where_their_outcomes_are():
    front = quickstart(anchored=True)
    dial = Dial.of(front)
    legs = np.linalg.norm(np.diff(front.means / front.scale, axis=0), axis=1)
    middle = legs[1] / legs.sum()
    assert dial.position(Preference(TWO, (0.5, 0.5))) == pytest.approx(middle)
    assert dial.preference(middle / 2 + 0.01) == Preference(TWO, (0.5, 0.5))
    assert dial.preference(middle / 2 - 0.01) == Preference(TWO, (0.0, 1.0))


def test_a_dial_of_three_objectives_runs_between_two_of_them():
    front = circle(6, M=3)
    dial = Dial.of(front, "a", "c")
    assert dial.preference(0) == Preference.one_hot("a", front.objectives)
    assert dial.preference(1) == Preference.one_hot("c", front.objectives)
    assert all(weights["b"] == 0 for _, weights in dial.steps(9))
    inner = np.sort(equal_steps(front, dial, 101))[5:-5]
    np.testing.assert_allclose(inner, np.median(inner), rtol=0.01)
    low, high = Preference.parse("a=0.8,b=0.1,c=0.1"), Preference.parse("a=0.1,b=0.1,c=0.8")
    between = Dial.between(front, low, high)
    assert between.preference(0) == low and between.preference(1) == high


@pytest.mark.parametrize(
    ("ends", "message"),
    [
        ((None, None), r"needs two of them to run between"),
        (("a", None), r"needs two of them to run between"),
        (("a", "a"), "to itself"),
        (("a", "e"), "unknown objective 'e'"),
    ],
)
def test_dials_that_run_nowhere(ends, message):
    with pytest.raises(ParetuneError, match=message):
        Dial.of(circle(3, M=3), *ends)


@pytest.mark.parametrize("position", [-0.1, 1.1, float("nan"), float("inf"), True])
def test_positions_off_the_dial(position):
    with pytest.raises(ParetuneError, match="expected a number from 0 to 1"):
        Dial.of(circle()).preference(position)


def test_a_dial_has_two_ends():
    with pytest.raises(ParetuneError, match="at least 2"):
        Dial.of(circle()).steps(1)


# The dual on samples


def samples(P=40, K=6, M=2, seed=0):
    return np.random.default_rng(seed).normal(size=(P, K, M)) * np.array([2.0, 0.1, 30.0])[:M] + np.arange(M)


def reweighted(scores, multipliers):
    """Mean scores and KL of the softmax at multipliers on standardised scores, written out."""
    logits = (scores / scores.std(axis=(0, 1))) @ multipliers
    chosen = np.exp(logits - logits.max(axis=1, keepdims=True))
    chosen /= chosen.sum(axis=1, keepdims=True)
    kl = (chosen * np.log(chosen * scores.shape[1] + 1e-300)).sum(axis=1).mean()
    return np.einsum("pk,pkm->m", chosen, scores) / len(scores), kl


@pytest.mark.parametrize("M", [2, 3])
@pytest.mark.slow
def test_the_dual_meets_the_floors_at_the_least_divergence(M):
    names, scores = tuple("abc"[:M]), samples(M=M)
    deviation, base = scores.std(axis=(0, 1)), scores.mean(axis=(0, 1))
    for lift in (0.2, 0.5):
        floors = dict(zip(names, base + lift * deviation * np.linspace(1, 0.5, M), strict=True))
        found = dual(scores, names, floors)
        assert found.reachable and found.means == pytest.approx(floors, abs=1e-5)
        means, kl = reweighted(scores, found.preference.array() * found.strength)
        assert kl == pytest.approx(found.divergence, abs=1e-5)
        # Brute force over preferences and strengths: nobody meets the floors with less.
        least, at = np.inf, None
        for weights in simplex_grid(M, 100 if M == 2 else 25):
            for strength in np.linspace(0.1, 2.5, 49):
                means, kl = reweighted(scores, weights * strength)
                if (means >= np.array(list(floors.values())) - 1e-9).all() and kl < least:
                    least, at = kl, weights
        assert found.divergence <= least + 1e-9
        assert least - found.divergence < 0.06 and np.abs(at - found.preference.array()).max() < 0.15


@pytest.mark.parametrize("M", [2, 3])
def test_unreachable_floors_are_lowered_alike_to_the_nearest(M):
    names, scores = tuple("abc"[:M]), samples(M=M, seed=1)
    deviation = scores.std(axis=(0, 1))
    levels = scores.mean(axis=(0, 1)) + deviation * np.linspace(1.2, 1.8, M)
    found = dual(scores, names, dict(zip(names, levels, strict=True)))
    assert not found.reachable and found.strength == np.inf
    gaps = (scores - levels) / deviation
    # The best any reweighting can do, by the minimax theorem.
    best = min((gaps @ u).max(axis=1).mean() for u in simplex_grid(M, 400 if M == 2 else 100))
    short = (levels - np.array(list(found.nearest_floors.values()))) / deviation
    np.testing.assert_allclose(short, short[0], atol=1e-9)
    assert short[0] == pytest.approx(-best, abs=2e-3)
    assert dual(
        scores,
        names,
        {n: v - 0.01 * d for (n, v), d in zip(found.nearest_floors.items(), deviation, strict=True)},
    ).reachable
    assert json.dumps(found.to_dict(), allow_nan=False)


def test_floors_that_hold_anyway_need_no_steering():
    scores = samples()
    found = dual(scores, ("a", "b"), {"a": scores[..., 0].mean() - 0.1})
    assert (
        found.reachable
        and found.preference is None
        and found.strength == 0
        and found.divergence == pytest.approx(0)
    )
    same = dual(np.zeros((3, 2, 2)), ("a", "b"), {"a": 0.0})
    assert same.reachable and same.preference is None
    assert not dual(np.zeros((3, 2, 2)), ("a", "b"), {"a": 0.1}).reachable


def test_a_single_floor_steers_to_its_objective_alone():
    scores = samples()
    found = dual(scores, ("a", "b"), {"b": scores[..., 1].mean() + 0.05})
    assert found.preference == Preference.one_hot("b", ("a", "b"))


def test_the_dual_does_not_care_for_units_or_order():
    scores = samples(M=3)
    levels = scores.mean(axis=(0, 1)) + 0.4 * scores.std(axis=(0, 1))
    first = dual(scores, ("a", "b", "c"), dict(zip("abc", levels, strict=True)))
    order, factor = [2, 0, 1], np.array([7.0, 0.01, 300.0])
    names = tuple("abc"[m] for m in order)
    again = dual(
        (scores * factor)[..., order], names, dict(zip(names, (levels * factor)[order], strict=True))
    )
    np.testing.assert_allclose(
        again.preference.over(("a", "b", "c")).array(), first.preference.array(), atol=1e-4
    )
    assert again.strength == pytest.approx(first.strength, rel=1e-4)
    assert dual(scores, ("a", "b", "c"), first.floors, beta=0.1).strength == pytest.approx(
        first.strength / 10, rel=1e-6
    )


def test_a_policy_that_is_the_optimum_of_its_preference_gets_it_back():
    """Samples reweighted at a preference have mean scores; floors at these are met by that preference."""
    scores = samples(P=60, K=8, M=3, seed=4)
    asked = np.array([0.2, 0.5, 0.3])
    means, _ = reweighted(scores, asked * 1.0)
    found = dual(scores, ("a", "b", "c"), dict(zip("abc", means, strict=True)))
    np.testing.assert_allclose(found.preference.array(), asked, atol=1e-3)
    assert found.strength == pytest.approx(1.0, abs=1e-3)


def test_choosing_on_the_front_of_reweighted_samples_agrees_with_the_dual():
    """On the front of the optimal policies of a beta both answer floors that just can be met with the same preference."""
    scores = samples(P=60, K=8, seed=2)
    grid = simplex_grid(2, 200)
    front = surface(grid, np.stack([reweighted(scores, weights * 1.5)[0] for weights in grid]))
    for share in (0.3, 0.5, 0.7):
        floors = dict(zip(("a", "b"), reweighted(scores, np.array([share, 1 - share]) * 1.5)[0], strict=True))
        choice, found = choose(front, floors), dual(scores, ("a", "b"), floors)
        assert choice.preference["a"] == pytest.approx(share, abs=0.01)
        assert found.preference["a"] == pytest.approx(share, abs=0.01)
        assert found.strength == pytest.approx(1.5, abs=0.02)


@pytest.mark.parametrize(
    ("scores", "floors", "beta", "message"),
    [
        (np.zeros((2, 3)), {"a": 1}, 1.0, r"shape \(2, 3\); expected \[P, K, 2\]"),
        (np.zeros((0, 3, 2)), {"a": 1}, 1.0, "none empty"),
        (np.full((1, 2, 2), np.nan), {"a": 1}, 1.0, "sample 0 of prompt 0 has the score nan on 'a'"),
        (np.zeros((1, 2, 2)), {"c": 1}, 1.0, "unknown objective 'c'"),
        (np.zeros((1, 2, 2)), {}, 1.0, "no floors"),
        (np.zeros((1, 2, 2)), {"a": 1}, 0.0, "beta 0.0"),
    ],
)
def test_samples_that_cannot_be_used(scores, floors, beta, message):
    with pytest.raises(ParetuneError, match=message):
        dual(scores, ("a", "b"), floors, beta)


# The command


@pytest.fixture
def run(tmp_path):
    """A run's folder with a soup, anchors and scored samples of the base model."""
    soup, anchors = quickstart(), quickstart(anchored=True)

    def points(front):
        return [
            records.point(
                front.preference(n).as_dict(),
                front.means[n].tolist(),
                [None, front.low[n, 1]],
                [None, front.high[n, 1]],
            )
            for n in range(len(front.preferences))
        ]

    facts = records.record(
        ["concise", "warm"],
        [records.policy("soup", points(soup)), records.policy("modpo", points(anchors), anchored=True)],
    )
    (tmp_path / "front.json").write_text(json.dumps(facts))
    scores = samples(P=5, K=4)
    rows = tuple(
        Row(
            (Message("user", f"question {p}"),),
            tuple(f"answer {k}" for k in range(4)),
            {"warm": tuple(scores[p, :, 1]), "concise": tuple(scores[p, :, 0] - 5)},
        )
        for p in range(5)
    )
    ScoredDataset(("warm", "concise"), rows).write(tmp_path / "data" / "train.jsonl.gz")
    return tmp_path


def shown(facts):
    from rich.console import Console

    console = Console(width=200, record=True, file=open("/dev/null", "w"))  # noqa: SIM115, PTH123
    console.print(render(facts))
    return console.export_text()


def test_the_command_answers_floors_knee_and_dial(run):
    facts = choose_facts(run, "soup", "warm >= 0.9 and concise >= -5.5")
    assert json.loads(json.dumps(facts, allow_nan=False))["choice"]["reachable"]
    text = shown(facts)
    assert "floors" in text and "The floors are met" in text and "(4 to each of 5 training prompts)" in text
    text = shown(choose_facts(run, "modpo", "warm >= 1.5 and concise >= -3"))
    assert "not reachable; nearest is" in text and "with none between" in text
    text = shown(choose_facts(run / "front.json", "soup"))
    assert "knee" in text and "dial 0.25" in text and "not measured itself" in text
    assert "knee" not in choose_facts(run, "soup", dial=3)
    first = choose_facts(run, "soup", dial=3, between="concise,warm")["dial"][0]
    assert first["preference"] == {"concise": 1.0, "warm": 0.0}


def test_a_straight_front_is_said_to_have_no_knee(run):
    facts = choose_facts(run, "soup", knee=True)
    assert "No knee" in shown({**facts, "knee": {**facts["knee"], "bulges": False}})
    assert "No knee" not in shown({**facts, "knee": {**facts["knee"], "bulges": True}})
    assert facts["knee"]["bulges"] is has_knee(Surface.read(run / "front.json", "soup").for_choosing.means)


def test_the_command_finds_out_which_policies_have_anchors(run):
    assert not Surface.read(run / "front.json", "soup").anchored
    assert Surface.read(run / "front.json", "modpo").anchored


def test_a_run_without_scored_samples_has_no_dual(run):
    (run / "data" / "train.jsonl.gz").unlink()
    assert choose_facts(run, "soup", "warm >= 1")["dual"] is None
    assert "reweighted" not in shown(choose_facts(run, "soup", "warm >= 1"))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ("nothing", "no front.json; expected the folder"),
        ("[]", "not the front.json of a run"),
        ('{"policies": []}', "not the front.json of a run"),
        (json.dumps(records.record(["a"], [])), "no policy was measured"),
        (
            json.dumps(records.record(["a"], [{"name": "soup", "anchored": False}])),
            r"policies\.0\.points: Field required",
        ),
        (json.dumps(records.record(["a"], [records.policy("soup", [])])), "at least one row"),
        (
            json.dumps(
                records.record(["a"], [records.policy("soup", [records.point({"a": 1}, ["x"], [1], [1])])])
            ),
            r"policies\.0\.points\.0\.mean\.0: Input should be a valid number",
        ),
        ("{", "not valid JSON"),
    ],
)
def test_files_that_are_no_fronts(tmp_path, change, message):
    if change != "nothing":
        (tmp_path / "front.json").write_text(change)
    with pytest.raises(ParetuneError, match=message) as caught:
        choose_facts(tmp_path, "soup")
    assert str(tmp_path) in str(caught.value)


@pytest.mark.parametrize(
    ("kwargs", "message"),
    [
        ({}, "holds the policies soup, modpo; choose one"),
        ({"policy": "modop"}, "did you mean 'modpo'"),
        ({"policy": "soup", "floor": "warmth >= 1"}, "did you mean 'warm'"),
        ({"policy": "soup", "dial": 1}, "at least 2"),
        ({"policy": "soup", "between": "warm"}, "expected two objectives such as concise,warm"),
    ],
)
def test_bad_requests_to_the_command(run, kwargs, message):
    with pytest.raises(ParetuneError, match=message):
        choose_facts(run, **kwargs)


def test_a_preference_of_other_objectives_is_refused():
    with pytest.raises(PreferenceError, match="did you mean 'warm'"):
        quickstart().expected(Preference.parse("warmth=1"))


def test_choosing_and_eliciting_load_no_torch():
    choosing = ("floors", "dial", "elicit", "dual", "population")
    modules = ", ".join(["paretune.cli.choose", *(f"paretune.choosing.{name}" for name in choosing)])
    code = f"import sys, {modules}; sys.exit('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0


# After the choice


@pytest.mark.slow
def test_the_interval_of_a_chosen_point_covers_although_the_best_looking_is_flattered():
    """Nothing was trained: 11 points of equal true scores, of which the best looking is chosen."""
    random, worlds = np.random.default_rng(0), 200
    grid, true = simplex_grid(2, 10), np.array([-4.6, 1.15])
    covered = single = falsely_sure = 0
    bias = []
    for _ in range(worlds):
        scores = random.normal(size=(11, 64, 2)) * [2.8, 1.05] + true
        front = Front("policy", TWO, grid, scores, range(64))
        (low, high), (band_low, band_high) = mean_intervals(front, 500), bands(front, resamples=500)
        means = np.clip(shrunk(front), band_low, band_high)
        flattered = Surface("policy", TWO, grid, front.means, low, high)
        honest = Surface("policy", TWO, grid, front.means, low, high, False, means, band_low, band_high)
        floors = {"concise": true[0] + 0.3, "warm": true[1] + 0.1}
        for front_, count in ((flattered, 0), (honest, 1)):
            choice = choose(front_, floors)
            ends = [(choice.expected.low[name], choice.expected.high[name]) for name in TWO]
            holds = all(below <= value <= above for (below, above), value in zip(ends, true, strict=True))
            covered, single = covered + holds * count, single + holds * (1 - count)
            falsely_sure += choice.sure * count
            bias.append((choice.expected.mean["concise"] - true[0]) / 2.8)
    raw, corrected = np.mean(bias[::2]), np.mean(bias[1::2])
    assert covered / worlds >= 0.92 > single / worlds
    assert falsely_sure / worlds <= 0.05
    assert 0 <= corrected < 0.5 * raw


def test_a_choice_says_whose_responses_meet_the_floors(run):
    asked = run, "soup", "warm >= 0.9 and concise >= -5.5"
    assert "The responses of the data (4 to each of 5 training prompts)" in shown(choose_facts(*asked))
    (run / "samples" / "train").mkdir(parents=True)  # there where the run has sampled them
    assert "The base model's own answers (4 to each of 5 training prompts)" in shown(choose_facts(*asked))
