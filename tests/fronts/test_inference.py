import json
import math
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from scipy import stats

from paretune.core.errors import ParetuneError
from paretune.core.preference import simplex_grid
from paretune.fronts.front import Front, mixture
from paretune.fronts.indicators import hypervolume
from paretune.fronts.inference import Comparison, compare, holm, prompts_needed, sentence
from paretune.fronts.intervals import bands, interval, on_front, shrunk, sides

TWO = ("concise", "warm")
ROOT = np.linalg.cholesky([[2.8**2, -0.55 * 2.8 * 1.05], [-0.55 * 2.8 * 1.05, 1.05**2]])
BASE, SPREAD, REFERENCE = np.array([-4.6, 1.15]), np.array([2.8, 1.05]), np.array([-9.0, 0.0])
law = settings(deadline=None, max_examples=25)


def front_of(scores, preferences=None, name="policy", objectives=TWO):
    """A front of scores [N, P, M] with numbered prompts, at an even grid unless preferences are given."""
    scores = np.asarray(scores, dtype=float)
    if preferences is None:
        preferences = simplex_grid(2, max(1, len(scores) - 1))[: len(scores)]
    return Front(
        name, objectives[: scores.shape[2]], preferences, scores, tuple(map(str, range(scores.shape[1])))
    )


def drawn(means, num_prompts, seed, size=1.0):
    """Scores [N, P, 2] around means [N, 2] that vary as the quickstart's, three tenths of it common to a prompt."""
    random = np.random.default_rng(seed)
    common = random.normal(size=(1, num_prompts, 2))
    own = random.normal(size=(len(means), num_prompts, 2))
    return np.asarray(means)[:, None] + size * (math.sqrt(0.3) * common + math.sqrt(0.7) * own) @ ROOT.T


def line(count, half=0.0, bulge=0.0):
    at = np.linspace(1, -1, count)[:, None]
    return BASE + half * at * SPREAD * [1, -1] + bulge * (1 - at**2) * SPREAD


def pair(seed, lift=0.0, count=4, num_prompts=12):
    scores = drawn(np.concatenate([line(count) + lift * SPREAD, line(count)]), num_prompts, seed)
    return front_of(scores[:count]), front_of(scores[count:], name="other")


def with_z(z, name="a"):
    """A comparison with the p-value of a standard normal number."""
    return Comparison(name, "b", np.ones((1, 1)), z, np.ones(1), 1.0, 0.0, 1e9, 0.0, 50, (0, 0), None)


# Worked numbers


def test_a_comparison_by_hand():
    # One objective: differences -1, 1, 3, 5 of deviation 2.58 and no skewness; the eight scores have deviation 1.8540.
    first = front_of([[[0.0], [3], [4], [6]]], [[1.0]])
    second = front_of([[[1.0], [2], [1], [1]]], [[1.0]], "other")
    found = compare(first, second)
    unit = np.std([0, 3, 4, 6, 1, 2, 1, 1])
    assert found.difference == pytest.approx(2 / unit)
    assert found.error == pytest.approx(math.sqrt(20 / 3 / 4) / unit)
    test = stats.ttest_1samp([-1, 1, 3, 5], 0)
    assert found.p_value == pytest.approx(test.pvalue)
    low, high = test.confidence_interval()
    assert (found.low * unit, found.high * unit) == (pytest.approx(low), pytest.approx(high))
    assert found.verdict == "no difference shown"
    t = stats.t.ppf(0.975, 3) + stats.t.ppf(0.8, 3)
    assert found.detectable == pytest.approx(t * found.error)


def test_utility_by_hand():
    # At (1, 0) the first is 2 ahead on a, at (0, 1) 1 behind on b; other scores do not count.
    one = np.zeros((2, 2, 2))
    one[0, :, 0], one[1, :, 1], one[0, :, 1] = [2, 2], [-1, -1], [9, 7]
    two = np.zeros((2, 2, 2))
    two[1, :, 0] = [5, 4]
    found = compare(front_of(one), front_of(two, name="other"))
    units = np.concatenate([one, two]).std(axis=(0, 1))  # each of the two tastes is a half
    assert found.difference == pytest.approx((2 / units[0] - 1 / units[1]) / 2)
    np.testing.assert_allclose(found.unit, units)


def test_tastes_are_shared_out_to_the_nearest_preference():
    # Three preferences serve a quarter, a half and a quarter of the simplex.
    random = np.random.default_rng(0)
    base = random.normal(size=(3, 40, 2))
    lifted = base + np.array([1.0, 2.0, 3.0])[:, None, None]
    found = compare(front_of(lifted), front_of(base, name="other"))
    by_hand = 0.25 * 1 / found.unit[0] + 0.5 * 2 * (0.5 / found.unit).sum() + 0.25 * 3 / found.unit[1]
    assert found.difference == pytest.approx(by_hand)


def test_holm_by_hand():
    # p .01, .04, .03, .005: judged at .05/3, never, .05/2, .05/4; adjusted .03, .06, .06, .02.
    ps = [0.01, 0.04, 0.03, 0.005]
    found = holm([with_z(stats.norm.isf(p / 2)) for p in ps])
    assert [each.adjusted for each in found] == pytest.approx([0.03, 0.06, 0.06, 0.02])
    assert [each.verdict for each in found] == ["a above", *["no difference shown"] * 2, "a above"]
    assert [1 - each.level for each in found] == pytest.approx([0.05 / 3, 0.05 / 2, 0.05 / 2, 0.05 / 4])
    assert [each.p_value for each in found] == pytest.approx(ps)
    assert holm([]) == []


def test_prompts_needed_by_hand():
    found = with_z(0.5)
    # (1.9600 + 0.8416)^2 / 0.5^2 = 31.395 times 50 prompts.
    assert prompts_needed(found) == 1570
    assert prompts_needed(found, difference=found.detectable) in (50, 51)
    assert prompts_needed(replace(found, difference=0.0)) is None
    assert prompts_needed(replace(found, seed_error=1.0)) is None
    assert prompts_needed(replace(found, difference=1e-17)) is None, (
        "a difference of rounding, not one that 1e30 prompts show"
    )


def test_sentences():
    assert sentence(with_z(0.5)) == (
        "a and b: no difference shown (+0.50 deviations [−1.46, +2.46], over 1 preference and 50 prompts); a difference of "
        "2.80 deviations could have been seen; about 1,600 prompts would show one as small as observed."
    )
    assert sentence(with_z(3.0), str.upper).startswith("A is above B by 3.00 deviations [1.04, 4.96], over")
    assert sentence(with_z(-3.0)).startswith("b is above a by 3.00 deviations [1.04, 4.96], over")
    assert sentence(with_z(0.0)).endswith("2.80 deviations could have been seen.")
    assert "no 100,000 prompts would show one" in sentence(with_z(0.01))
    several = replace(with_z(3.0), seeds=(3, 0))
    assert sentence(several).endswith("over 1 preference, 50 prompts and 3 training seeds of a.")


def test_one_point_and_no_noise_to_speak_of_has_its_own_volume():
    front = front_of(1.0 + 1e-4 * np.random.default_rng(0).normal(size=(1, 50, 2)), [[0.5, 0.5]])
    found = interval(front, np.zeros(2))
    assert found.value == pytest.approx(1, abs=1e-3) and 0 < found.high - found.low < 1e-3


# Oracles


@given(st.integers(0, 10_000), st.integers(2, 3))
@law
def test_sides_are_roots_of_hypervolumes(seed, objectives):
    points = np.random.default_rng(seed).normal(size=(3, 6, objectives))
    reference = np.full(objectives, -0.5)
    found = sides(points, reference) ** objectives
    np.testing.assert_allclose(found, [hypervolume(each, reference) for each in points], atol=1e-12)


@given(st.integers(0, 10_000), st.floats(0.1, 2))
@law
def test_the_interval_agrees_with_the_p_value_however_skewed(seed, skew):
    random = np.random.default_rng(seed)
    scores = np.exp(skew * random.normal(size=(2, 15, 1)))
    found = compare(front_of(scores[:1], [[1.0]]), front_of(scores[1:], [[1.0]], "other"))
    assert (found.verdict == "no difference shown") == (found.p_value > 0.05)
    plain = stats.ttest_1samp((scores[0] - scores[1])[:, 0], 0)
    assert found.p_value >= plain.pvalue - 1e-12
    at_bound = replace(found, level=1 - found.p_value)
    assert min(abs(at_bound.low), abs(at_bound.high)) == pytest.approx(0, abs=1e-6)


def sharing(random, luck, own, lift, seeds=3, prompts=40):
    """Return the seeds of two methods: each seed has luck that both share, and luck of its own."""
    preferences, runs = [[1.0, 0.0], [0.5, 0.5], [0.0, 1.0]], ([], [])
    for _ in range(seeds):
        shared = luck * random.normal()
        for name, mean, fronts in (("late", lift, runs[0]), ("early", 0.0, runs[1])):
            scores = mean + shared + own * random.normal() + random.normal(size=(3, prompts, 2))
            fronts.append(front_of(scores, preferences, name))
    return runs


@pytest.mark.parametrize("own", [0.0, 0.15])
def test_pairs_of_seeds_are_seldom_wrong_and_see_more(own):
    random = np.random.default_rng(0)
    equal = [sharing(random, 0.5, own, 0.0) for _ in range(300)]
    assert (
        sum(compare(*pair, paired=True).verdict != "no difference shown" for pair in equal) <= 24
    )  # 5 % are 15
    better = [sharing(random, 0.5, own, 0.5) for _ in range(60)]
    seen = [
        sum(compare(*pair, paired=paired).verdict == "late above" for pair in better)
        for paired in (True, False)
    ]
    assert seen[0] > 3 * seen[1] + 10


def test_pairs_of_seeds_are_equally_many():
    first, second = sharing(np.random.default_rng(0), 0.1, 0.1, 0.0)
    with pytest.raises(
        ParetuneError, match="'late' has 3 training seeds and 'early' 2; pairs of seeds need equally many"
    ):
        compare(first, second[:2], paired=True)
    with pytest.raises(ParetuneError, match="0"):
        compare(first[0], second[0], paired=True)


def test_skewness_is_corrected_as_hall_says():
    random = np.random.default_rng(1)
    first, second = front_of(np.exp(random.normal(size=(1, 30, 1))), [[1.0]]), None
    second = front_of(np.full((1, 30, 1), 0.5), [[1.0]], "other")
    found = compare(first, second)
    d = (first.scores - second.scores)[0, :, 0]
    g, n = stats.skew(d), 30
    x = d.mean() / d.std(ddof=1)
    corrected = math.sqrt(n) * (x + g * x**2 / 3 + g**2 * x**3 / 27 + g / (6 * n))
    t = math.sqrt(n) * x
    assert found.p_value == pytest.approx(2 * stats.t.sf(min(t, corrected), n - 1))


def test_two_levels_by_hand():
    random = np.random.default_rng(0)
    ones, twos = random.normal(size=(2, 3, 1, 20, 1))
    found = compare(
        [front_of(s, [[1.0]], f"one {i}") for i, s in enumerate(ones)],
        [front_of(s, [[1.0]], f"two {i}") for i, s in enumerate(twos)],
    )
    unit = np.concatenate([ones, twos]).std()
    d = (ones.mean(axis=0) - twos.mean(axis=0))[0, :, 0] / unit
    parts = [
        d.var(ddof=1) / 20,
        *(each.mean(axis=(1, 2, 3)).var(ddof=1) / 3 / unit**2 for each in (ones, twos)),
    ]
    assert found.prompt_error**2 == pytest.approx(parts[0])
    assert found.seed_error**2 == pytest.approx(parts[1] + parts[2])
    assert found.freedom == pytest.approx(
        sum(parts) ** 2 / (parts[0] ** 2 / 19 + (parts[1] ** 2 + parts[2] ** 2) / 2)
    )
    assert found.seeds == (3, 3)


# Laws


@given(st.integers(0, 10_000))
@law
def test_order_of_prompts_and_points_and_units_change_nothing(seed):
    random = np.random.default_rng(seed)
    first, second = pair(seed, lift=0.4)
    found, volume = compare(first, second, REFERENCE), interval(first, REFERENCE)
    prompts, points = random.permutation(12), random.permutation(4)
    scale, shift = np.exp(random.normal(size=2)), random.normal(size=2)

    def changed(front, rows):
        return Front(
            front.name,
            front.objectives,
            front.preferences[rows],
            scale * front.scores[rows][:, prompts] + shift,
            tuple(front.prompts[p] for p in prompts),
        )

    reference = scale * REFERENCE + shift
    other = compare(changed(first, points), changed(second, points[::-1]), reference)
    for key in ("difference", "low", "high", "p_value", "detectable"):
        assert getattr(other, key) == pytest.approx(getattr(found, key))
    assert other.verdict == found.verdict
    assert other.hypervolumes == pytest.approx(tuple(scale.prod() * v for v in found.hypervolumes))
    again = interval(changed(first, points), reference)
    for key in ("value", "low", "high"):
        assert getattr(again, key) == pytest.approx(scale.prod() * getattr(volume, key))


@given(st.integers(0, 10_000))
@law
def test_comparing_the_other_way_round_turns_the_sign(seed):
    first, second = pair(seed, lift=0.5)
    one, two = compare(first, second, REFERENCE), compare(second, first, REFERENCE)
    assert two.difference == pytest.approx(-one.difference)
    assert (two.low, two.high) == (pytest.approx(-one.high), pytest.approx(-one.low))
    assert two.p_value == pytest.approx(one.p_value) and two.verdict == one.verdict
    assert two.hypervolumes == one.hypervolumes[::-1]


def test_prompts_are_matched_by_id():
    first, second = pair(3)
    turned = Front("other", TWO, second.preferences, second.scores[:, ::-1], second.prompts[::-1])
    assert compare(first, turned).p_value == pytest.approx(compare(first, second).p_value)


def test_only_common_preferences_count():
    first, _ = pair(1, count=5)
    anchors = front_of(first.scores[[0, 2, 4]], first.preferences[[0, 2, 4]], "anchors")
    worse = first.scores.copy()
    worse[[1, 3]] -= 100
    found = compare(front_of(worse, first.preferences), anchors, np.array([-20.0, -5.0]))
    assert found.preferences.tolist() == [[0, 1], [0.5, 0.5], [1, 0]]
    assert found.difference == 0 and found.hypervolumes[0] == found.hypervolumes[1]


def test_a_front_of_one_point_serves_every_preference():
    first, other = pair(2)
    base = front_of(other.scores[:1], [[0.3, 0.7]], "base")
    everywhere = front_of(np.repeat(other.scores[:1], 4, axis=0), first.preferences, "base")
    found = compare(first, base)
    assert found.preferences.tolist() == sorted(first.preferences.tolist())
    same = compare(first, everywhere)
    assert (found.difference, found.p_value) == pytest.approx((same.difference, same.p_value))
    both = compare(base, front_of(first.scores[:1], [[1, 0]]))
    assert len(both.preferences) == 2


def test_a_preference_that_stands_twice_counts_once():
    first, second = pair(4)
    rows = [0, 1, 1, 2, 3]
    twice = front_of(first.scores[rows], first.preferences[rows])
    found, plain = compare(twice, second), compare(first, second)
    worse = twice.scores.copy()
    worse[1:3] += [[[1.0, 2.0]], [[-1.0, -2.0]]]
    assert len(found.preferences) == 4 and found.p_value == pytest.approx(plain.p_value)
    assert compare(front_of(worse, twice.preferences), second).difference == pytest.approx(
        plain.difference, abs=0.1
    )


def test_equal_fronts_show_no_difference_and_no_certainty():
    first, _ = pair(0)
    found = compare(first, replace(first, name="copy"))
    assert found.verdict == "no difference shown" and found.p_value == 1
    assert found.low < 0 < found.high and found.detectable > 0


def test_a_front_far_above_is_above():
    first, second = pair(0, lift=2.0)
    assert compare(first, second).verdict == "policy above"
    assert compare(second, first).verdict == "policy above"


def test_one_objective_that_never_varies_decides_nothing():
    first, second = (replace(each, scores=each.scores * [1, 0] + [0, 3.0]) for each in pair(5))
    found = compare(first, second, np.array([-30.0, 0.0]))
    assert found.unit[1] == 0 and math.isfinite(found.p_value)
    assert all(map(math.isfinite, found.hypervolumes))


def test_json():
    found = compare(*pair(0), REFERENCE).to_dict()
    assert json.loads(json.dumps(found))["verdict"] == found["verdict"]
    assert {"low", "high", "p_value", "detectable", "difference", "level"} <= found.keys()


# Points: interval, chance to be on the front, bands, shrunk means


def test_luck_is_taken_off_the_volume():
    front = front_of(drawn(line(11), 64, 0))
    found = interval(front, REFERENCE)
    truth = hypervolume(BASE[None], REFERENCE)
    assert front.hypervolume(REFERENCE) > found.value > found.low
    assert found.low <= truth <= found.high


def test_bounds_near_the_reference_stay_apart():
    front = front_of(drawn(line(3), 64, 1))
    found = interval(front, front.means.max(axis=0) + 0.02 * SPREAD)
    assert found.low == 0 and found.high > 0
    with pytest.raises(ParetuneError, match="below the front"):
        interval(front, BASE + 3 * SPREAD)


def test_more_seeds_widen_what_one_cannot_show():
    random = np.random.default_rng(0)
    runs = [front_of(drawn(line(5) + 0.5 * SPREAD * random.normal(), 64, i)) for i in range(3)]
    one, many = interval(runs[0], REFERENCE), interval(runs, REFERENCE)
    assert many.high - many.low > one.high - one.low


def test_chance_to_be_on_the_front():
    means = np.array([[0, 1.0], [0.5, 0.5], [1, 0], [0.1, 0.1]])
    quiet = front_of(drawn(means, 64, 0, size=1e-3))
    assert on_front(quiet, tolerance=0).tolist() == [1, 1, 1, 0]
    equal = on_front(front_of(drawn(line(5), 256, 0)), tolerance=0.3)
    assert (equal > 0.9).all()
    order = [2, 0, 3, 1]
    turned = front_of(quiet.scores[order], quiet.preferences[order])
    np.testing.assert_array_equal(on_front(turned), on_front(quiet)[order])
    with pytest.raises(ParetuneError, match="tolerance"):
        on_front(quiet, tolerance=-1)


def test_bands_are_wider_than_the_interval_of_one_mean():
    front = front_of(drawn(line(5), 64, 0))
    low, high = bands(front)
    error = front.scores.std(axis=1, ddof=1) / 8
    assert (high - low > 2 * 1.99 * error).all() and (high - low < 2 * 3.2 * error).all()
    np.testing.assert_allclose((low + high) / 2, front.means)


def test_shrinking_leaves_what_is_sure_and_takes_luck():
    sure = front_of(drawn(line(5, 1.0, 0.5), 64, 0, size=1e-3))
    np.testing.assert_allclose(shrunk(sure), sure.means, atol=1e-3)
    equal = front_of(drawn(line(11), 64, 2))
    assert np.ptp(shrunk(equal), axis=0).sum() < 0.6 * np.ptp(equal.means, axis=0).sum()
    np.testing.assert_allclose(shrunk(equal).mean(axis=0), equal.means.mean(axis=0))


# Bad input


def test_bad_comparisons():
    first, second = pair(0)
    one = front_of(first.scores[:, :1])
    constant = front_of(np.ones((4, 12, 2)))
    other_prompts = Front("other", TWO, second.preferences, second.scores, tuple("abcdefghijkl"))
    fewer = front_of(second.scores[:, :5], name="other")
    objectives = front_of(second.scores, name="other", objectives=("warm", "concise"))
    apart = front_of(second.scores[:2], [[0.9, 0.1], [0.8, 0.2]], "other")
    for a, b, match in (
        (first, other_prompts, "different prompts, such as '0'"),
        (first, fewer, "different prompts"),
        (fewer, first, "different prompts"),
        (first, objectives, "has the objectives"),
        (one, one, "one prompt"),
        (constant, constant, "never vary"),
        (first, apart, "no common preference"),
        ([first], [second], "1 training seed"),
        ([first, first], [second], "1 training seed"),
        ([], second, "0 training seed"),
        ([first, apart], second, "measure every seed"),
        ([first, other_prompts], second, "different prompts"),
    ):
        with pytest.raises(ParetuneError, match=match):
            compare(a, b)
    with pytest.raises(ParetuneError, match="level 95"):
        compare(first, second, level=95)
    with pytest.raises(ParetuneError, match="is nan"):
        front_of(np.full((1, 3, 2), np.nan))


def test_bad_intervals():
    first, _ = pair(0)
    with pytest.raises(ParetuneError, match="one prompt"):
        interval(front_of(first.scores[:, :1]), REFERENCE)
    for judge in (lambda front: interval(front, REFERENCE), bands, on_front):
        with pytest.raises(ParetuneError, match="same score on 'warm'"):
            judge(front_of(first.scores * [1, 0]))
    with pytest.raises(ParetuneError, match="reference point"):
        interval(first, np.zeros(3))
    with pytest.raises(ParetuneError, match="reference point"):
        interval(first, np.array([np.nan, 0]))
    with pytest.raises(ParetuneError, match="level 0"):
        interval(first, REFERENCE, level=0)


def test_a_score_that_is_the_same_at_one_point_is_not_certain_there():
    scores = drawn(line(3), 30, 0)
    scores[0, :, 1] = 1.5
    low, high = bands(front_of(scores))
    assert (high - low > 0).all()


# Worlds, small: the benchmark has them all


def rival(kind, scores, grid):
    """The front that a policy at ``grid`` meets, made of the scores [n, P, 2] that are left."""
    if kind == "base":
        return front_of(scores, grid[:1], "base")
    if kind == "anchors":
        return front_of(scores, name="anchors")
    return mixture(front_of(scores, np.eye(2), "corners"), grid)


@pytest.mark.parametrize(
    "kind, half, count, others", [("base", 0, 11, 1), ("anchors", 0.4, 5, 3), ("mixture", 0.1, 11, 2)]
)
@pytest.mark.slow
def test_false_alarms_and_coverage(kind, half, count, others):
    means, grid = line(count, half), simplex_grid(2, count - 1)
    truth = hypervolume(means, REFERENCE)
    above = below = covered = 0
    for seed in range(200):
        scores = drawn(np.concatenate([means, line(others, half)]), 64, seed)
        policy = front_of(scores[:count], grid)
        found = compare(policy, rival(kind, scores[count:], grid))
        above += found.low > 0
        below += found.high < 0
        volume = interval(policy, REFERENCE, resamples=400)
        covered += volume.low <= truth <= volume.high
    # 5 of 200 are right; 12 or more would come by luck in 0.4 % of tries.
    assert max(above, below) < 12 and covered >= 0.92 * 200


def test_power_at_a_bulge_and_a_dent():
    seen = {0.141: 0, -0.141: 0}
    for bulge in seen:
        means = line(11, 0.8, bulge)
        grid = simplex_grid(2, 10)
        for seed in range(100):
            scores = drawn(np.concatenate([means, line(11, 0.8)[[0, -1]]]), 256, seed)
            verdict = compare(front_of(scores[:11], grid), rival("mixture", scores[11:], grid)).verdict
            seen[bulge] += verdict == ("policy above" if bulge > 0 else "mixture of corners above")
    assert min(seen.values()) >= 89


@pytest.mark.slow
def test_the_benchmark_runs(tmp_path, monkeypatch):
    monkeypatch.syspath_prepend(str(Path(__file__).parents[2] / "benchmarks"))
    monkeypatch.delitem(sys.modules, "inference", raising=False)
    import inference

    inference.main(["--worlds", "2", "--json", str(tmp_path / "found.json")])
    rows = json.loads((tmp_path / "found.json").read_text())["worlds"]
    assert len(rows) > 40 and {row["truth"] for row in rows} == {"equal", "first above", "second above"}
