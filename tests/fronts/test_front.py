import json
import math
from functools import partial

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import paretune.fronts.front
from paretune.core.errors import ParetuneError, PreferenceError
from paretune.core.preference import simplex_grid
from paretune.fronts.front import Front, mean_intervals, mixture, reference_point, resampled
from paretune.fronts.indicators import INDICATORS, hypervolume, inner_product, mixture_hypervolume
from paretune.fronts.inference import compare

TWO = ("helpful", "harmless")
law = settings(deadline=None, max_examples=25)


def front_of(means, num_prompts=50, noise=0.3, seed=0, name="front", preferences=None):
    """A front whose scores scatter around ``means [N, M]``, most of it shared by all N of a prompt."""
    means = np.asarray(means, dtype=float)
    random = np.random.default_rng(seed)
    scatter = noise * random.normal(size=(1, num_prompts, means.shape[1]))
    scatter = scatter + noise / 4 * random.normal(size=(len(means), num_prompts, means.shape[1]))
    if preferences is None:
        preferences = simplex_grid(2, len(means) - 1)
    prompts = tuple(f"p{p}" for p in range(num_prompts))
    return Front(name, TWO, preferences, means[:, None] + scatter, prompts)


def arc(count=11):
    turn = np.linspace(math.pi / 2, 0, count)
    return np.stack([np.sin(turn), np.cos(turn)], axis=1)


area = partial(hypervolume, reference=np.array([-1.0, -1.0]))


def test_front_keeps_read_only_float_copies():
    scores = np.array([[[1, 2], [3, 6]]])
    front = Front("f", ["a", "b"], [[1, 0]], scores, ["x", "y"])
    scores[:] = 0
    np.testing.assert_array_equal(front.means, [[2.0, 4.0]])
    assert (front.objectives, front.prompts) == (("a", "b"), ("x", "y"))
    assert front.scores.dtype == front.preferences.dtype == np.float64
    with pytest.raises(ValueError, match="read-only"):
        front.scores[0, 0, 0] = 1.0


def test_front_methods_are_the_figures_of_its_means():
    front = front_of(arc())
    assert front.hypervolume(np.array([-1.0, -1.0])) == area(front.means)
    assert front.non_dominated().shape == (11,)


@pytest.mark.parametrize(
    ("changes", "error", "expected"),
    [
        (
            {"scores": np.zeros((2, 2, 2))},
            ParetuneError,
            r"scores \(2, 2, 2\) do not fit 3 prompts and 2 objectives",
        ),
        ({"scores": np.zeros((1, 3, 2))}, ParetuneError, r"preferences \(2, 2\) and scores \(1, 3, 2\)"),
        ({"preferences": 1.0}, ParetuneError, r"preferences \(\)"),
        ({"preferences": np.zeros((0, 2)), "scores": np.zeros((0, 3, 2))}, ParetuneError, "none empty"),
        ({"prompts": (), "scores": np.zeros((2, 0, 2))}, ParetuneError, "none empty"),
        ({"prompts": ("x", "y", "x")}, ParetuneError, "prompt 'x' is given twice"),
        ({"objectives": ("a", "a")}, ParetuneError, "objective 'a' is given twice"),
        ({"preferences": [[1, 0], [0.7, 0.2]]}, PreferenceError, r"preference 1 is \[0\.7, 0\.2\]"),
        ({"preferences": [[1.5, -0.5], [0, 1]]}, PreferenceError, r"preference 0 is \[1\.5, -0\.5\]"),
        ({"preferences": [[1, 0], [math.nan, 1]]}, PreferenceError, "preference 1"),
    ],
)
def test_a_front_that_does_not_fit_together_is_refused(changes, error, expected):
    fields = {
        "name": "f",
        "objectives": ("a", "b"),
        "preferences": np.eye(2),
        "scores": np.zeros((2, 3, 2)),
        "prompts": ("x", "y", "z"),
    }
    assert Front(**fields).means.shape == (2, 2)
    with pytest.raises(error, match=expected):
        Front(**{**fields, **changes})


@pytest.mark.parametrize("value", [math.nan, math.inf])
def test_a_missing_score_is_refused_with_its_preference_and_prompt(value):
    scores = np.zeros((2, 3, 2))
    scores[1, 2, 0] = value
    with pytest.raises(
        ParetuneError, match=r"'a' at preference 1 \[0\.0, 1\.0\] for prompt 'z' is (nan|inf) \(1 such"
    ):
        Front("f", ("a", "b"), np.eye(2), scores, ("x", "y", "z"))


@law
@given(st.integers(0, 2**32 - 1), st.integers(1, 4), st.integers(1, 4))
def test_json_round_trip_is_lossless(seed, num_points, num_prompts):
    random = np.random.default_rng(seed)
    scores = random.normal(size=(num_points, num_prompts, 3)) * 10.0 ** random.integers(-300, 300)
    prompts = tuple(f"p{p} é" for p in range(num_prompts))
    front = Front("f", ("a", "b", "c"), random.dirichlet(np.ones(3), num_points), scores, prompts)
    again = Front.from_dict(json.loads(json.dumps(front.to_dict(), allow_nan=False)))
    np.testing.assert_array_equal(again.scores, front.scores)
    np.testing.assert_array_equal(again.preferences, front.preferences)
    assert (again.name, again.objectives, again.prompts) == (front.name, front.objectives, front.prompts)


def test_reading_something_else_as_a_front_names_what_is_wrong():
    good = front_of(arc(3), 2).to_dict()
    with pytest.raises(ParetuneError, match="a front without scores, prompts"):
        Front.from_dict({key: good[key] for key in ("name", "objectives", "preferences")})
    with pytest.raises(ParetuneError, match=r"front 'front': .* expected tables of numbers"):
        Front.from_dict({**good, "scores": [["much"]]})
    with pytest.raises(ParetuneError, match="do not fit"):
        Front.from_dict({**good, "scores": [[[1.0, 2.0]]]})


def test_the_interval_of_a_mean_is_near_the_normal_one():
    front = front_of([[1.0, 2.0]], num_prompts=400, preferences=[[0.5, 0.5]])
    low, high = mean_intervals(front)
    assert low.shape == high.shape == (1, 2)
    sample = front.scores[0, :, 1]
    half = 1.96 * sample.std(ddof=1) / math.sqrt(400)
    assert low[0, 1] == pytest.approx(sample.mean() - half, abs=0.15 * half)
    assert high[0, 1] == pytest.approx(sample.mean() + half, abs=0.15 * half)


def test_bootstrap_covers_the_true_mean_about_as_often_as_it_says():
    covered = 0
    for seed in range(200):
        front = front_of([[1.0, 2.0]], num_prompts=60, seed=seed, preferences=[[0.5, 0.5]])
        low, high = mean_intervals(front, resamples=300, seed=seed)
        covered += int(low[0, 0] <= 1.0 <= high[0, 0])
    assert 0.88 <= covered / 200 <= 0.99


def test_resampling_takes_the_same_prompts_for_all_preferences():
    # A difficulty shared by all preferences cancels in a difference between two of them.
    difficulty = np.random.default_rng(0).normal(size=(40, 1))
    rows = np.array([[1.0, 0.0]]) + 5 * difficulty
    means = resampled(np.random.default_rng(0), rows, 200)
    np.testing.assert_allclose(means[:, 0] - means[:, 1], 1.0)
    assert np.ptp(means[:, 0]) > 1.0


def test_intervals_are_reproducible_and_widen_with_the_level():
    front = front_of(arc())
    narrow, again, other = (mean_intervals(front, 500, seed=seed, level=0.5) for seed in (0, 0, 1))
    wide = mean_intervals(front, 500, seed=0, level=0.99)
    np.testing.assert_array_equal(narrow, again)
    assert not np.array_equal(narrow, other)
    assert (wide[0] < narrow[0]).all() and (narrow[0] < narrow[1]).all() and (narrow[1] < wide[1]).all()


@pytest.mark.parametrize("block", [1, 33, 70])
def test_drawing_in_blocks_changes_nothing(monkeypatch, block):
    front = front_of(arc(), num_prompts=33)
    whole = mean_intervals(front, resamples=101)
    monkeypatch.setattr(paretune.fronts.front, "_BLOCK", block)
    np.testing.assert_allclose(mean_intervals(front, resamples=101), whole, atol=1e-12)


def test_what_shows_no_spread_has_no_bounds_and_none_has_zero_width():
    low, high = mean_intervals(front_of(arc(), num_prompts=1), 50)
    assert np.isnan(low).all() and np.isnan(high).all()
    scores = np.random.default_rng(0).normal(size=(3, 20, 2))
    scores[:, :, 1] = 4.0  # a scorer that never varies
    scores[0, :, 0] = 0.5  # answers that all collapsed to the same at one point
    low, high = mean_intervals(Front("f", TWO, simplex_grid(2, 2), scores, range(20)))
    assert np.isnan(low[:, 1]).all() and np.isnan(high[:, 1]).all()
    assert high[0, 0] - low[0, 0] == pytest.approx(2 * 1.96 / 20 * scores[:, :, 0].std(), rel=1e-3)
    undefined = front_of([[1.0, 2.0]], preferences=[[1, 0]]).summary(np.zeros(2), resamples=50)["sparsity"]
    assert undefined.to_dict() == {"value": None, "low": None, "high": None, "level": 0.95}


@pytest.mark.parametrize(
    ("options", "expected"), [({"resamples": 0}, "0 resamples"), ({"level": 95}, "level 95")]
)
def test_impossible_intervals_are_refused(options, expected):
    with pytest.raises(ParetuneError, match=expected):
        mean_intervals(front_of(arc()), **options)


def test_summary_gives_every_figure_and_bounds_to_those_that_noise_does_not_shift():
    front = front_of(arc(), num_prompts=30)
    summary = front.summary(np.array([-1.0, -1.0]), resamples=300)
    names = [name for key, indicator in INDICATORS.items() for name in indicator.names(key, TWO)]
    assert list(summary) == names
    assert names.count("hypervolume") == 1 and "controllability:harmless" in names
    assert summary["hypervolume"].value == area(front.means)
    hull = mixture_hypervolume(front.means, np.array([-1.0, -1.0]))
    assert summary["hull_hypervolume"].value == hull
    bounded = {name for name, figure in summary.items() if not math.isnan(figure.low)}
    assert bounded == {"inner_product", "controllability:helpful", "controllability:harmless"}
    product = summary["inner_product"]
    assert product.low < product.value == inner_product(front.preferences, front.means) < product.high
    assert summary["igd_plus"].value == 0, "the best points known are its own"
    better = front.summary(np.array([-1.0, -1.0]), resamples=50, target=front.means + 1.0)
    assert better["igd_plus"].value > 0.5
    assert summary["controllability:helpful"].value == pytest.approx(1.0)
    lone = front_of([[1.0, 2.0]], preferences=[[1, 0]]).summary(np.zeros(2), resamples=50)
    shown = {name: interval.to_dict()["value"] for name, interval in lone.items()}
    assert shown["hypervolume"] > 0
    assert all(shown[name] is None for name in ("sparsity", "spacing", "controllability:helpful"))


def test_a_mixture_averages_the_corners_prompt_by_prompt():
    ends = front_of([[0.0, 2.0], [4.0, 0.0]], num_prompts=5, name="ends", preferences=[[0, 1], [1, 0]])
    mixed = mixture(ends, np.array([[0.25, 0.75], [1.0, 0.0], [0.0, 1.0]]))
    np.testing.assert_allclose(mixed.scores[0], 0.25 * ends.scores[1] + 0.75 * ends.scores[0])
    np.testing.assert_array_equal(mixed.scores[1:], ends.scores[::-1])
    assert mixed.prompts == ends.prompts
    assert mixed.name == "mixture of ends"
    assert mixed.non_dominated().all()


def test_a_front_between_the_corners_is_above_their_mixture_only_when_it_bulges():
    ends = front_of([[1.0, 0.0], [0.0, 1.0]], noise=0.05, name="ends", preferences=np.eye(2))
    grid = simplex_grid(2, 10)
    line = mixture(ends, grid)
    bulging = Front("arc", TWO, grid, line.scores + 0.3 * grid.prod(axis=1)[:, None, None], line.prompts)
    sagging = Front("sag", TWO, grid, line.scores - 0.3 * grid.prod(axis=1)[:, None, None], line.prompts)
    assert compare(bulging, line).verdict == "arc above"
    assert compare(sagging, line).verdict == "mixture of ends above"
    # The dense mixture holds the ten steps.
    assert mixture_hypervolume(ends.means, np.array([-1.0, -1.0])) > area(line.means)


@pytest.mark.parametrize(
    "preferences", [[[1, 0], [1, 0]], [[1, 0], [0.5, 0.5]], [[1, 0], [0, 1], [0.5, 0.5]]]
)
def test_a_mixture_needs_one_policy_for_each_objective(preferences):
    means = np.zeros((len(preferences), 2))
    with pytest.raises(ParetuneError, match="exactly one policy for each of helpful, harmless"):
        mixture(front_of(means, preferences=preferences), np.eye(2))


def test_a_mixture_refuses_chances_of_another_shape_or_off_the_simplex():
    ends = front_of(np.eye(2), preferences=np.eye(2))
    with pytest.raises(ParetuneError, match=r"preferences \(2, 3\) for 2 objectives"):
        mixture(ends, np.ones((2, 3)) / 3)
    with pytest.raises(PreferenceError, match="sum to 1"):
        mixture(ends, np.ones((2, 2)))


def test_reference_point_is_below_all_fronts_by_a_share_of_the_range():
    first = Front("a", TWO, np.eye(2), [[[0.0, 5.0]], [[10.0, 1.0]]], ("p",))
    second = Front("b", TWO, [[0.5, 0.5]], [[[-10.0, 3.0]]], ("p",))
    np.testing.assert_allclose(reference_point(first, second), [-12.0, 0.6])
    np.testing.assert_allclose(reference_point(first, second, margin=0.0), [-10.0, 1.0])
    np.testing.assert_allclose(reference_point(second), [-10.1, 2.9])
    with pytest.raises(ParetuneError, match="0 fronts"):
        reference_point()
    with pytest.raises(ParetuneError, match="margin -1"):
        reference_point(first, margin=-1)
    with pytest.raises(ParetuneError, match="same objectives"):
        reference_point(first, Front("c", ("x", "y"), np.eye(2), first.scores, ("p",)))
