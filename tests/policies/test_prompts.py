"""Scores in prompts: the tables and invariants of Rewards-in-Context, and what is refused."""

from __future__ import annotations

import itertools
import json
import math
from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from oracles.fronts import dominates
from paretune.core.errors import ConfigError, DataError, PreferenceError, TrainingError
from paretune.core.preference import Preference
from paretune.data.rows import Message
from paretune.policies.prompts import Prompting, gaussian_range, goals, mors, places

NAMES = ("helpful", "harmless", "humor")
FORMS = ("digits", "levels", "tokens")
TABLE = [
    ((0.5, 0.5), {"l2": (1.7, 1.7), "linf": (4, 4), "linear": (0, 0)}),
    ((1, 0), {"l2": (4, -4), "linf": (4, -4), "linear": (4, -4)}),
    ((0.2, 0.8), {"l2": (-2.1, 3.8), "linf": (-0.8, 4), "linear": (-2.4, 2.4)}),
    ((0.6, 0.2, 0.2), {"l2": (3.2, -1.6, -1.6), "linf": (4, 0.8, 0.8), "linear": (0.8, -2.4, -2.4)}),
]
LAMBDA = [(1.5, (0.061857, 0.989717)), (2.0, (0.242536, 0.970143)), (4.0, (0.607343, 0.964097))]
MAPS = [("l2", 2.0), ("linf", 2.0), ("linear", 2.0), ("lambda", 1.5), ("lambda", 4.0)]
WEIGHTS = st.lists(st.floats(0, 1), min_size=2, max_size=5).filter(lambda w: max(w) > 1e-3)


def made(count: int = 2, low: float = -4.0, high: float = 4.0, **changes: object) -> Prompting:
    """Return a prompting of M standardised scores, seen and asked for between ``low`` and ``high``."""
    ends = {"low": (low,) * count, "high": (high,) * count, "least": (low,) * count, "most": (high,) * count}
    values = {"mean": (0.0,) * count, "std": (1.0,) * count, **ends, **changes}
    return Prompting(NAMES[:count], **values)  # type: ignore[arg-type]


def user(*texts: str) -> tuple[Message, ...]:
    """Return a conversation in which user and assistant take turns."""
    return tuple(Message("assistant" if n % 2 else "user", text) for n, text in enumerate(texts))


# Maps


@pytest.mark.parametrize(("weights", "expected"), TABLE)
def test_1_table_of_targets(weights: tuple[float, ...], expected: dict[str, tuple[float, ...]]) -> None:
    preference = Preference(NAMES[: len(weights)], weights)
    for name, targets in expected.items():
        assert made(len(weights), map=name).targets(preference) == targets


@pytest.mark.parametrize(("lam", "expected"), LAMBDA)
def test_2_lambda_is_the_solution_of_its_convex_problem(lam: float, expected: tuple[float, ...]) -> None:
    w = np.array([0.2, 0.8])
    z = places(w, "lambda", lam)
    np.testing.assert_allclose(z, expected, atol=5e-7)
    assert (z**lam).sum() ** (1 / lam) == pytest.approx(1, abs=1e-12)
    first = np.linspace(0, 1, 2001)
    feasible = np.stack([first, (1 - first**lam) ** (1 / lam)], axis=1)
    assert (feasible @ w).max() <= w @ z + 1e-12
    np.testing.assert_allclose(places(w, "lambda", 2.0), places(w, "l2"), rtol=1e-15)
    np.testing.assert_allclose(places(w, "lambda", 1.01), [0, 1], atol=1e-9)
    np.testing.assert_allclose(places(w, "lambda", 1e6), [1, 1], atol=1e-4)
    assert places(np.array([0.0, 1.0]), "lambda", 1e6).tolist() == [0, 1]


@given(WEIGHTS)
def test_2_linf_is_the_capped_share_of_every_objective(weights: list[float]) -> None:
    w = np.array(weights)
    np.testing.assert_allclose(places(w, "linf"), np.minimum(len(w) * w / w.sum(), 1), atol=1e-12)


@given(WEIGHTS, st.sampled_from(MAPS), st.randoms(use_true_random=False), st.floats(0, 1))
def test_3_maps_permute_do_not_see_scale_and_rise(
    weights: list[float], how: tuple[str, float], random: object, more: float
) -> None:
    w = np.array(weights)
    z = places(w, *how)  # type: ignore[arg-type]
    assert np.all((z >= 0) & (z <= 1 + 1e-12))
    order = list(range(len(w)))
    random.shuffle(order)  # type: ignore[attr-defined]
    np.testing.assert_allclose(places(w[order], *how), z[order], rtol=1e-12)  # type: ignore[arg-type]
    np.testing.assert_allclose(places(w * 7.3, *how), z, rtol=1e-10)  # type: ignore[arg-type]
    raised = w.copy()
    raised[0] += more
    assert places(raised, *how)[0] >= z[0] - 1e-12  # type: ignore[arg-type]
    np.testing.assert_allclose(places(np.stack([w, raised]), *how)[0], z, rtol=1e-15)  # type: ignore[arg-type]


def test_targets_do_not_depend_on_the_order_of_names_and_one_objective_gets_the_best() -> None:
    prompting = made(2, low=-1.5, high=2.5)
    assert prompting.targets(Preference(("harmless", "helpful"), (0.8, 0.2))) == prompting.targets(
        Preference(("helpful", "harmless"), (0.2, 0.8))
    )
    assert prompting.targets(Preference(("helpful",), (1.0,))) == (2.5, -1.5)
    for name, lam in MAPS:
        assert made(1, map=name, lam=lam).targets(Preference(NAMES[:1], (1.0,))) == (4.0,)


def test_floor_clipping_and_ranges_of_one_point() -> None:
    corner = Preference(NAMES[:2], (1.0, 0.0))
    assert made(floor=0.25).targets(corner) == (4.0, -2.0)
    assert made(least=(-3.0, -1.2), most=(2.3, 3.0)).targets(corner) == (2.3, -1.2)
    ends = {"least": (-4.0, 0.5), "most": (4.0, 0.5)}
    flat = replace(made(), low=(-4.0, 0.5), high=(4.0, 0.5), **ends)
    assert [flat.targets(Preference(NAMES[:2], (w, 1 - w)))[1] for w in (0.0, 0.3, 1.0)] == [0.5] * 3
    assert flat.inert == ("harmless",) and made().inert == ()


def test_zero_is_written_without_a_sign() -> None:
    prompting = made()
    assert str(prompting.shown((-0.04, -0.0))) == "(0.0, 0.0)"
    assert prompting.prompt(user("x"), (-0.04, -0.06))[0].content == "x  <rm1_score> 0.0 <rm2_score> -0.1"
    assert "-0.0" not in str(
        made(low=-0.3, high=0.3, map="linear").targets(Preference(NAMES[:2], (0.5, 0.5)))
    )


# Offline statistics


def test_4_offline_scores_have_mean_0_and_deviation_1() -> None:
    raw = np.random.default_rng(0).normal([5, -3], [0.1, 40], (500, 2))
    prompting = Prompting.of(NAMES[:2], raw)
    z = prompting.standardise(raw)
    np.testing.assert_allclose(z.mean(axis=0), 0, atol=1e-6)
    np.testing.assert_allclose(z.std(axis=0), 1, atol=1e-6)
    assert prompting.low == prompting.least == tuple(round(v, 1) for v in z.min(axis=0).tolist())
    assert prompting.high == prompting.most == tuple(round(v, 1) for v in z.max(axis=0).tolist())
    moved = Prompting.of(NAMES[:2], raw * 3 + 2)  # what is shown does not know the units of the scores
    np.testing.assert_allclose(moved.standardise(raw * 3 + 2), z, atol=1e-9)
    assert moved.high == prompting.high


def test_a_constant_objective_shows_0_and_is_inert() -> None:
    raw = np.array([[0.1, 1.0], [0.1, 3.0], [0.1, 2.0]])
    prompting = Prompting.of(NAMES[:2], raw)
    assert prompting.inert == ("helpful",)
    assert prompting.standardise(raw)[:, 0].tolist() == [0, 0, 0]
    assert prompting.standardise(np.array([7.0, math.nan])).tolist()[0] == 0
    assert np.isnan(prompting.standardise(np.array([math.nan, math.nan]))).all()
    assert {prompting.targets(Preference(NAMES[:2], (w, 1 - w)))[0] for w in (0, 0.5, 1)} == {0.0}


def test_gaussian_reference_is_the_released_range_within_what_was_seen() -> None:
    low, high = gaussian_range(2, 50_000, 3)
    assert np.all((low < -3.3) & (low > -6) & (high > 3.3) & (high < 6))
    raw = np.random.default_rng(0).uniform(-1, 1, (400, 2))
    prompting = Prompting.of(NAMES[:2], raw, "gaussian", seed=3)
    assert (prompting.low, prompting.high) == (tuple(low), tuple(high))
    assert max(prompting.most) == pytest.approx(math.sqrt(3), abs=0.1)
    assert prompting.targets(Preference(NAMES[:2], (1.0, 0.0))) == (prompting.most[0], prompting.least[1])
    wide = replace(prompting, least=(-9, -9), most=(9, 9), map="linear")
    expected = tuple(round((a + b) / 2, 1) + 0.0 for a, b in zip(low.tolist(), high.tolist(), strict=True))
    assert wide.targets(Preference(NAMES[:2], (0.5, 0.5))) == expected


# Text


@given(
    st.lists(st.text(max_size=30), min_size=1, max_size=4),
    st.lists(st.floats(-9, 9), min_size=3, max_size=3),
    st.sampled_from(FORMS),
)
def test_4_tags_are_read_back_and_removed_byte_for_byte(
    texts: list[str], values: list[float], form: str
) -> None:
    prompting = made(3, form=form)
    prompt = user(*texts)
    asked = prompting.prompt(prompt, values)
    turn = (len(texts) - 1) // 2 * 2
    assert prompting.read(asked[turn].content) == prompting.shown(values)
    assert prompting.shown(prompting.shown(values)) == prompting.shown(values)
    assert [m for n, m in enumerate(asked) if n != turn] == [m for n, m in enumerate(prompt) if n != turn]
    assert prompting.strip(asked) == prompt
    if form == "digits":
        assert prompting.shown(values) == tuple(round(v, 1) for v in values)


def test_texts_of_both_forms() -> None:
    prompt = user("no one responds so", "yes", "And  ")
    digits = made(2).prompt(prompt, (1.2, -0.31))
    assert digits[2].content == "And    <rm1_score> 1.2 <rm2_score> -0.3"
    levels = made(2, form="levels")
    assert levels.prompt(prompt, (1.6, -9.0))[2].content == "And    <helpful: 7/10> <harmless: 0/10>"
    assert levels.read("<helpful: 1/10>  <helpful: 7/10> <harmless: 0/10>") == pytest.approx((1.6, -4.0))
    assert levels.targets(Preference(NAMES[:2], (0.5, 0.5))) == pytest.approx((1.6, 1.6))  # 0.707: level 7
    tool = (*user("q"), Message("tool", "42"))
    assert made(1).prompt(tool, (0,)) == (Message("user", "q  <rm1_score> 0.0"), Message("tool", "42"))
    alone = (Message("system", "s"),)
    assert made(1).strip(made(1).prompt(alone, (0,))) == alone


def test_whole_numbers_and_odd_names() -> None:
    whole = made(2, decimals=0)
    assert whole.prompt(user("x"), (-1.7, 0.2))[0].content == "x  <rm1_score> -2 <rm2_score> 0"
    assert whole.read("x  <rm1_score> -2 <rm2_score> 0") == (-2.0, 0.0)
    odd = Prompting(("a (b)*",), (0,), (1,), (-1,), (1,), (-1,), (1,), form="levels")
    assert odd.strip(odd.prompt(user("x"), (0.6,))) == user("x")


@pytest.mark.parametrize("form", FORMS)
def test_a_prompt_with_a_tag_is_refused_wherever_it_stands(form: str) -> None:
    prompting = made(2, form=form)
    tags = prompting.prompt(user("x"), (1, 1))
    for prompt in (tags, user("x", tags[0].content, "y")):
        with pytest.raises(DataError, match=r"already holds the tag '<.*remove it"):
            prompting.prompt(prompt, (1, 1))
    with pytest.raises(DataError, match="does not end with tags such as"):
        prompting.strip(user(tags[0].content + "."))
    with pytest.raises(DataError, match="finite one for each of helpful, harmless"):
        prompting.prompt(user("x"), (1.0, math.nan))
    with pytest.raises(DataError, match="finite one for each of helpful, harmless"):
        prompting.prompt(user("x"), (1.0,))


# As JSON


@pytest.mark.parametrize("form", FORMS)
def test_json_restores_everything(form: str) -> None:
    raw = np.random.default_rng(1).normal(size=(50, 2))
    prompting = Prompting.of(NAMES[:2], raw, "gaussian", map="lambda", lam=3.0, floor=0.1, form=form)  # type: ignore[arg-type]
    restored = Prompting.from_dict(json.loads(json.dumps(prompting.to_dict())))
    assert restored == prompting
    preference = Preference(NAMES[:2], (0.3, 0.7))
    assert restored.targets(preference) == prompting.targets(preference)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"mean": [0.0]}, "mean .*finite number for each of helpful, harmless"),
        ({"high": [1.0, math.inf]}, "high .*finite number"),
        ({"std": [1.0, -1.0]}, "std .*at least 0"),
        ({"low": [5.0, 0.0]}, "range from .* is empty"),
        ({"map": "l3"}, "unknown map 'l3'; expected one of: l2, linf"),
        ({"form": "digit"}, "unknown form 'digit'; did you mean 'digits'"),
        ({"lam": 1.0}, "lam must be a finite number above 1"),
        ({"floor": 1.5}, "floor is a place between 0 and 1"),
        ({"decimals": -1}, "decimals -1; expected a number from 0 to 6"),
        ({"colour": 1}, "not what to_dict writes .*colour"),
        ({"mean": None}, "not what to_dict writes"),
    ],
)
def test_bad_values_are_refused(change: dict[str, object], message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        Prompting.from_dict({**made().to_dict(), **change})


def test_bad_preferences_and_scores_are_refused() -> None:
    with pytest.raises(PreferenceError, match="negative weight, and no score stands for it"):
        made().targets(Preference.parse("helpful=1.2,harmless=-0.2", allow_extrapolation=True))
    with pytest.raises(PreferenceError, match="humor"):
        made().targets(Preference(("humor",), (1.0,)))
    for weights in ((0.0, 0.0), (1.0, -0.1), (1.0, math.nan), ()):
        with pytest.raises(PreferenceError, match="not all of them 0"):
            places(np.array(weights))
    with pytest.raises(DataError, match=r"shape \[3\]; expected \[..., 2\]"):
        made().standardise(np.zeros(3))
    with pytest.raises(TrainingError, match="1 of 3 responses have a score that is missing"):
        Prompting.of(NAMES[:2], np.array([[0, 1], [math.nan, math.nan], [1, 1]]))
    with pytest.raises(TrainingError, match="at least one response"):
        Prompting.of(NAMES[:2], np.zeros((0, 2)))
    with pytest.raises(ConfigError, match="unknown reference 'normal'"):
        Prompting.of(NAMES[:2], np.eye(2), "normal")  # type: ignore[arg-type]


# Goals and the filter


@given(st.integers(1, 4), st.integers(0, 50))
def test_5_goals_give_way_in_one_objective(count: int, seed: int) -> None:
    low, high = -np.arange(1.0, count + 1), np.arange(1.0, count + 1) * 2
    drawn = goals(64, low, high, np.random.default_rng(seed))
    assert drawn.shape == (64, count)
    assert np.all((drawn >= low) & (drawn <= high))
    assert np.all((drawn == high).sum(axis=1) >= count - 1)
    if count > 1:  # each objective gives way about equally often, however wide its range
        assert np.all((drawn < high).mean(axis=0) > 0.3 / count)
    else:
        assert np.all(drawn < high) and drawn.min() < -0.5 and drawn.max() > 1.5


@pytest.mark.parametrize("rule", ["released", "pareto"])
def test_5_the_filter_keeps_its_share(rule: str) -> None:
    for count, share in ((1, 0.3), (2, 0.51), (3, 0.657)):
        scores = np.random.default_rng(count).normal(size=(4000, count))
        kept = [mors(scores, q, rule) for q in (0.0, 0.3, 0.7, 0.95)]  # type: ignore[arg-type]
        assert kept[0].all()
        sizes = [k.sum() for k in kept]
        assert sizes == sorted(sizes, reverse=True) and sizes[-1] > 0
        slack = count / 4000 + (0.05 if rule == "pareto" else 0)  # whole layers only
        for q, k in zip((0.3, 0.7, 0.95), kept[1:], strict=True):
            assert 1 - q - slack <= k.mean() <= min(1, count * (1 - q)) + count / 4000
        assert kept[2].mean() == pytest.approx(share, abs=0.03 + slack)
        if rule == "released":
            assert all(np.all(large | ~small) for large, small in itertools.pairwise(kept))
        order = np.random.default_rng(9).permutation(4000)
        assert np.array_equal(mors(scores[order], 0.7, rule), kept[2][order])  # type: ignore[arg-type]


def test_the_pareto_filter_keeps_nothing_that_a_rejected_response_beats() -> None:
    scores = np.random.default_rng(4).integers(0, 6, (40, 2)).astype(float)
    kept = mors(scores, 0.7, "pareto")
    assert 0 < kept.sum() <= mors(scores, 0.7).sum() < 40
    assert not any(dominates(out, of) for out in scores[~kept] for of in scores[kept])
    # The released filter keeps a response that is best in one objective and worst in the other, whatever beats it.
    corner = np.array([[9.0, 0.0], [9.0, 5.0], [0.0, 0.0], [0.0, 0.0], [0.0, 1.0]])
    assert mors(corner, 0.8).tolist() == [True, True, False, False, False]
    assert mors(corner, 0.8, "pareto").tolist() == [False, True, False, False, False]


def test_ties_at_the_threshold_are_kept() -> None:
    two_valued = np.array([[0.0], [1.0], [1.0], [1.0]])
    assert mors(two_valued, 0.7).tolist() == [False, True, True, True]
    assert mors(np.ones((5, 2)), 0.7).all() and mors(np.ones((5, 2)), 0.7, "pareto").all()


def test_bad_filters_are_refused() -> None:
    with pytest.raises(TrainingError, match="1 of 2 responses have a score that is missing or not finite"):
        mors(np.array([[1.0, math.nan], [1.0, 1.0]]))
    with pytest.raises(TrainingError, match="at least one response"):
        mors(np.zeros((0, 2)))
    with pytest.raises(ConfigError, match="quantile must be at least 0 and below 1, got 1"):
        mors(np.zeros((1, 1)), 1)
    with pytest.raises(ConfigError, match="unknown filter 'best'"):
        mors(np.zeros((1, 1)), 0.5, "best")  # type: ignore[arg-type]
