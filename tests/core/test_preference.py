import doctest
import math
import re
import subprocess
import sys

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

import paretune.core.preference
from paretune.core.errors import PreferenceError
from paretune.core.preference import (
    Preference,
    preference_grid,
    sample_simplex,
    simplex_grid,
)

law = settings(deadline=None, max_examples=40)
TWO = ("helpful", "harmless")
THREE = ("helpful", "harmless", "concise")
NAMES = st.lists(
    st.text(min_size=1, max_size=8).filter(lambda name: name == name.strip() and not set(name) & set(",=@")),
    min_size=1,
    max_size=6,
    unique=True,
)


@st.composite
def preferences(draw):
    names = draw(NAMES)
    raw = np.array(draw(st.lists(st.floats(1e-9, 1.0), min_size=len(names), max_size=len(names))))
    zeros = np.array(draw(st.lists(st.booleans(), min_size=len(names), max_size=len(names))))
    raw = np.where(zeros & ~zeros.all(), 0.0, raw)
    return Preference(tuple(names), tuple((raw / raw.sum()).tolist()))


def test_docstring_examples():
    result = doctest.testmod(paretune.core.preference)
    assert result.attempted >= 2
    assert result.failed == 0


@law
@given(preferences())
def test_text_form_reads_back_to_the_same_preference(preference):
    assert Preference.parse(str(preference)) == preference
    assert Preference.parse(f"  {preference} ", preference.objectives) == preference


@law
@given(preferences(), st.randoms())
def test_over_a_reordered_superset_keeps_every_weight(preference, random):
    names = [*preference.objectives, "an objective not yet there"]
    random.shuffle(names)
    wider = preference.over(names)
    assert wider.objectives == tuple(names)
    assert {name: weight for name, weight in wider.as_dict().items() if name in preference.objectives} == (
        preference.as_dict()
    )
    assert wider.over(preference.objectives) == preference


def test_parse_orders_by_the_objectives_and_fills_with_zero():
    preference = Preference.parse(" concise = 0.25 , helpful=.75", THREE)
    assert preference.objectives == THREE
    assert preference.weights == (0.75, 0.0, 0.25)
    assert str(preference) == "helpful=0.75,harmless=0.0,concise=0.25"
    assert preference["concise"] == 0.25
    np.testing.assert_array_equal(preference.array(), [0.75, 0.0, 0.25])
    assert preference.array().dtype == np.float64


def test_check_boxes_are_equal_weights_over_the_checked():
    for text in ("concise+helpful", " helpful + concise "):
        assert Preference.parse(text, THREE).as_dict() == {"helpful": 0.5, "harmless": 0.0, "concise": 0.5}
    assert Preference.parse("harmless", THREE) == Preference.one_hot("harmless", THREE)
    assert Preference.parse("a+b+c").weights == (1 / 3, 1 / 3, 1 / 3)
    assert Preference.checked(THREE, THREE) == Preference.uniform(THREE)
    assert Preference.checked(["harmless"], THREE) == Preference.one_hot("harmless", THREE)
    plus = ["c++", "c"]  # a name may hold the sign
    assert Preference.parse("c++", plus).weights == (1.0, 0.0)
    for text, message in (
        ("helpful+kind", "unknown objective 'kind'"),
        ("helpful+helpful", "listed twice"),
        ("helpful+", "cannot be a name"),
        ("kind", "is not NAME=WEIGHT"),
    ):
        with pytest.raises(PreferenceError, match=message):
            Preference.parse(text, THREE)
    with pytest.raises(PreferenceError, match="no objectives given"):
        Preference.checked([], THREE)


def test_parse_without_objectives_keeps_the_order_given():
    assert Preference.parse("b=0.5,a=0.5").objectives == ("b", "a")


def test_one_hot_uniform_and_of():
    assert Preference.one_hot("harmless", THREE).weights == (0.0, 1.0, 0.0)
    assert Preference.uniform(THREE).weights == (1 / 3, 1 / 3, 1 / 3)
    assert Preference.of({"harmless": np.float32(0.5), "helpful": 0.5}, TWO).as_dict() == {
        "helpful": 0.5,
        "harmless": 0.5,
    }
    assert Preference.of({"a": 1}) == Preference(("a",), (1.0,))


def test_equal_preferences_are_one_dict_key():
    assert len({Preference.parse("a=0.5,b=0.5"), Preference.of({"a": 0.5, "b": 0.5})}) == 1


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "helpfull=1",
            r"unknown objective 'helpfull'; did you mean 'helpful'\? expected one of: helpful, harmless",
        ),
        ("helpful=0.5,helpful=0.5", "'helpful' is given twice"),
        ("helpful=much,harmless=0.3", "weight 'much' of objective 'helpful' is not a number from 0 to 1"),
        ("helpful=1.2,harmless=-0.2", "weight '-0.2' of objective 'harmless' is not a number from 0 to 1"),
        ("helpful=nan,harmless=0.5", "weight 'nan' of objective 'helpful'"),
        ("helpful=inf,harmless=0.5", "weight 'inf' of objective 'helpful'"),
        ("helpful=0_1,harmless=0", "weight '0_1' of objective 'helpful'"),
        ("helpful=,harmless=1", "weight '' of objective 'helpful'"),
        (
            "helpful 0.7,harmless=0.3",
            "'helpful 0.7' is not NAME=WEIGHT; write for example helpful=1.0,harmless=0.0",
        ),
        ("", "'' is not NAME=WEIGHT"),
        ("=1", "'=1' is not NAME=WEIGHT"),
        ("helpful=1,", "'' is not NAME=WEIGHT"),
        ("helpful=0,harmless=0", "all weights are 0"),
        ("helpful=0.7,harmless=0.2", "sum to 0.9, expected 1; did you mean helpful=0.7778,harmless=0.2222"),
        ("helpful=70,harmless=30", "sum to 100, expected 1; did you mean helpful=0.7,harmless=0.3"),
    ],
)
def test_bad_text_is_refused_with_the_cure(text, expected):
    with pytest.raises(PreferenceError, match=expected):
        Preference.parse(text, TWO)


def test_extrapolation_is_a_door_to_be_opened():
    beyond = Preference.parse("helpful=1.25,harmless=-0.25", TWO, allow_extrapolation=True)
    assert beyond.extrapolated and beyond.weights == (1.25, -0.25)
    assert beyond.over(["harmless", "helpful"]).weights == (-0.25, 1.25)
    inside = Preference.parse("helpful=0.75,harmless=0.25", TWO, allow_extrapolation=True)
    assert not inside.extrapolated and inside == Preference.parse(str(inside))


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("helpful=1.25,harmless=-0.5", "sum to 0.75, expected 1 off the simplex as well"),
        ("helpful=1,harmless=-1", "sum to 0, expected 1 off the simplex as well"),
        ("helpful=inf,harmless=-0.5", "'inf' of objective 'helpful' is not a finite number"),
    ],
)
def test_extrapolation_still_sums_to_one(text, expected):
    with pytest.raises(PreferenceError, match=expected):
        Preference.parse(text, TWO, allow_extrapolation=True)


@law
@given(st.lists(st.floats(0, 1e300), min_size=1, max_size=5).filter(lambda w: max(w) > 0))
def test_the_suggested_preference_can_be_typed(weights):
    text = ",".join(f"o{m}={weight!r}" for m, weight in enumerate(weights))
    try:
        Preference.parse(text)
    except PreferenceError as error:
        suggested = re.search(r"did you mean (\S+) \?", str(error))
        assert suggested is not None
        again = Preference.parse(suggested.group(1)).array()
        np.testing.assert_allclose(
            again, np.array(weights) / max(weights) / sum(np.array(weights) / max(weights)), atol=3e-4
        )
    else:
        assert abs(sum(weights) - 1) <= 1e-6


def test_weights_are_never_rescaled():
    within = (0.7, 0.3 + 5e-7)
    assert Preference(TWO, within).weights == within
    with pytest.raises(PreferenceError, match="sum to"):
        Preference(TWO, (0.7, 0.3 + 2e-6))


@pytest.mark.parametrize(
    ("objectives", "weights", "expected"),
    [
        ((), (), "no objectives given"),
        (("a", "a"), (0.5, 0.5), "'a' is listed twice"),
        (("a", ""), (0.5, 0.5), "objective '' cannot be a name"),
        (("a", " b"), (0.5, 0.5), "objective ' b' cannot be a name"),
        (("a=b",), (1.0,), "objective 'a=b' cannot be a name"),
        (("a@b",), (1.0,), "objective 'a@b' cannot be a name"),
        ("ab", (0.5, 0.5), "objectives 'ab' is one text"),
        (("a", "b"), (1.0,), "1 weights for 2 objectives"),
        (("a",), (True,), "weight True of objective 'a'"),
        (("a",), (None,), "weight None of objective 'a'"),
    ],
)
def test_bad_values_are_refused(objectives, weights, expected):
    with pytest.raises(PreferenceError, match=expected):
        Preference(objectives, weights)


def test_a_weight_above_zero_cannot_be_dropped():
    preference = Preference.of({"helpful": 0.7, "harmless": 0.3, "concise": 0.0})
    assert preference.over(["harmless", "helpful"]).weights == (0.3, 0.7)
    with pytest.raises(PreferenceError, match=r"'harmless' has weight 0\.3 and cannot be dropped"):
        preference.over(["helpful", "concise"])


def test_asking_for_an_unknown_objective_names_the_nearest():
    with pytest.raises(PreferenceError, match="did you mean 'harmless'"):
        Preference.uniform(TWO)["harmles"]


@law
@given(st.integers(1, 5), st.integers(1, 8))
def test_grid_is_the_whole_lattice(num_objectives, divisions):
    grid = simplex_grid(num_objectives, divisions)
    assert grid.shape == (math.comb(divisions + num_objectives - 1, num_objectives - 1), num_objectives)
    counts = np.rint(grid * divisions).astype(int)
    np.testing.assert_array_equal(grid, counts / divisions)
    assert np.all(counts >= 0)
    np.testing.assert_array_equal(counts.sum(axis=1), divisions)
    np.testing.assert_allclose(grid.sum(axis=1), 1.0, atol=1e-15)
    rows = [tuple(row) for row in counts.tolist()]
    assert rows == sorted(set(rows), reverse=True)


def test_preference_grid_prints_the_decimals_one_would_type():
    texts = [str(preference) for preference in preference_grid(TWO, 10)]
    assert texts[0] == "helpful=1.0,harmless=0.0"
    assert texts[3] == "helpful=0.7,harmless=0.3"
    assert texts[-1] == "helpful=0.0,harmless=1.0"
    assert len(texts) == 11


@pytest.mark.parametrize(("num_objectives", "divisions"), [(0, 5), (3, 0), (12, 50)])
def test_impossible_grids_are_refused(num_objectives, divisions):
    with pytest.raises(PreferenceError, match="grid"):
        simplex_grid(num_objectives, divisions)


@pytest.mark.parametrize("alpha", [0.01, 1.0, [2.0, 5.0, 1.0]])
def test_samples_lie_on_the_simplex_with_the_dirichlet_mean(alpha):
    draws = sample_simplex(4000, 3, alpha, seed=3)
    assert draws.shape == (4000, 3)
    assert np.all(draws >= 0)
    np.testing.assert_allclose(draws.sum(axis=1), 1.0, atol=1e-12)
    concentration = np.broadcast_to(np.asarray(alpha, dtype=float), 3)
    np.testing.assert_allclose(draws.mean(axis=0), concentration / concentration.sum(), atol=0.03)
    np.testing.assert_array_equal(draws, sample_simplex(4000, 3, alpha, seed=3))
    assert not np.array_equal(draws, sample_simplex(4000, 3, alpha, seed=4))


@pytest.mark.parametrize(
    ("count", "num_objectives", "alpha"),
    [(-1, 2, 1.0), (1, 0, 1.0), (1, 2, 0.0), (1, 2, [1.0]), (1, 2, math.nan)],
)
def test_impossible_draws_are_refused(count, num_objectives, alpha):
    with pytest.raises(PreferenceError):
        sample_simplex(count, num_objectives, alpha)


def test_importing_the_values_does_not_load_heavy_libraries():
    code = (
        "import sys, paretune.core.preference, paretune.fronts.front;"
        "print(sorted({'torch', 'moocore', 'scipy', 'transformers'} & set(sys.modules)))"
    )
    shown = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert shown.stdout.strip() == "[]"
