import itertools
import json
import math
from functools import cache

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from benchmarks.choosing.voters import Session, Voter, regret, simulate
from paretune.choosing.elicit import (
    SAME,
    best_preference,
    expected_deviation,
    expected_regret,
    finished,
    next_pair,
    random_pair,
)
from paretune.choosing.population import cluster, population
from paretune.choosing.posterior import NOISE, Ballot, Posterior, ballot
from paretune.core.errors import ParetuneError, PreferenceError
from paretune.core.preference import Preference, sample_simplex, simplex_grid
from support.front_world import circle, noisy, permuted, quickstart, rescaled, surface

law = settings(deadline=None, max_examples=15)

FRONTS = {
    "circle": circle(),
    "flat": circle(power=1),
    "inwards": circle(power=2),
    "noisy": noisy(seed=3),
    "quickstart": quickstart(),
    "anchors": quickstart(anchored=True),
    "sphere of 3": circle(4, M=3),
    "noisy, 3": noisy(4, M=3, seed=1, size=0.03),
}
every_front = pytest.mark.parametrize("name", list(FRONTS))
VOTERS = 8
VOTES = 10
TWO = ("a", "b")


def votes_of(front, count, seed=0, ties=0.2):
    """Ballots between random preferences, a share of them ties."""
    random = np.random.default_rng(seed)
    points = random.dirichlet(np.ones(len(front.objectives)), size=(count, 2))
    found = []
    for first, second in points:
        scores = [
            dict(zip(front.objectives, row, strict=True))
            for row in front.outcomes(np.stack([first, second])).tolist()
        ]
        winner = "tie" if random.random() < ties else str(random.choice(["first", "second"]))
        found.append(Ballot(scores[0], scores[1], winner))
    return found


def by_grid(ballots, front, steps=401, noises=241):
    """The posterior of two objectives on a grid of (w, log noise): its mean and deviation of the first weight."""
    w = (np.arange(steps) + 0.5) / steps
    noise = np.exp(np.linspace(*np.log(NOISE), noises))
    density = np.zeros((steps, noises))
    for vote in ballots:
        gap = [
            (vote.first[n] - vote.second[n]) / unit
            for n, unit in zip(front.objectives, front.scale, strict=True)
        ]
        lead = (w * gap[0] + (1 - w) * gap[1])[:, None] / noise
        first, second = -np.logaddexp(0, -lead), -np.logaddexp(0, lead)
        density += {"first": first, "second": second, "tie": (first + second) / 2}[vote.winner]
    mass = np.exp(density - density.max())
    ends = np.ones(noises)
    ends[[0, -1]] = 0.5
    mass = mass @ ends
    mass /= mass.sum()
    mean = mass @ w
    return mean, math.sqrt(mass @ (w - mean) ** 2)


# The posterior


def test_before_any_vote_all_tastes_are_alike():
    posterior = Posterior.of(circle(3, M=3))
    np.testing.assert_allclose(posterior.mean.array(), 1 / 3, atol=0.02)
    assert posterior.spread == pytest.approx(math.sqrt(1 / 18), abs=0.02)
    assert not posterior.done
    assert (
        posterior.weights.min() >= 0
        and NOISE[0] <= posterior.noise.min()
        and posterior.noise.max() <= NOISE[1]
    )


@pytest.mark.parametrize("front", [circle(), quickstart(), noisy(seed=1)])
@pytest.mark.parametrize("count", [1, 4, 12, 30])
def test_particles_agree_with_a_grid(front, count):
    for seed in range(2):
        ballots = votes_of(front, count, seed)
        mean, deviation = by_grid(ballots, front)
        found = Posterior.of(front, ballots, seed=seed, particles=4000)
        assert found.mean[front.objectives[0]] == pytest.approx(mean, abs=0.02 + 0.08 * deviation)
        assert found.deviation[front.objectives[0]] == pytest.approx(deviation, rel=0.15, abs=0.005)


def test_one_vote_by_hand():
    """At one noise the posterior of one vote on (1, 0) against (0, 1) is sigmoid((2 w - 1) / noise)."""
    posterior = Posterior.start({"a": 1.0, "b": 1.0}, particles=20000)
    posterior = posterior.update(Ballot({"a": 1, "b": 0}, {"a": 0, "b": 1}, "first"))
    w, noise = posterior.weights[:, 0], posterior.noise
    likelihood = 1 / (1 + np.exp(-(2 * w - 1) / noise))
    # Particles of the prior weigh by the likelihood; those drawn anew have equal mass.
    if np.ptp(posterior.mass) > 0:
        np.testing.assert_allclose(posterior.mass, likelihood / likelihood.sum(), rtol=1e-9)
    assert posterior.mean["a"] == pytest.approx(
        by_grid(posterior.ballots, surface(np.eye(2), np.eye(2)))[0], abs=0.01
    )


def test_a_vote_for_an_answer_speaks_for_what_it_is_better_at():
    front = circle()
    for winner, sign in (("first", 1), ("second", -1)):
        vote = Ballot({"a": 1, "b": 0}, {"a": 0, "b": 1}, winner)
        assert sign * (Posterior.of(front, [vote]).mean["a"] - 0.5) > 0.15


def test_a_tie_speaks_for_equal_utility():
    vote = Ballot({"a": 1, "b": 0}, {"a": 0, "b": 1}, "tie")
    posterior = Posterior.of(circle(), [vote] * 6)
    assert posterior.mean["a"] == pytest.approx(0.5, abs=0.03)
    assert posterior.spread < 0.8 * Posterior.of(circle()).spread
    # An answer better on both is no tie to anybody: one who says so does not look closely.
    both = Posterior.of(circle(), [Ballot({"a": 1, "b": 1}, {"a": 0, "b": 0}, "tie")] * 4)
    assert both.to_dict()["noise"] > 2 * Posterior.of(circle()).to_dict()["noise"]


def test_swapping_the_answers_changes_nothing():
    swap = {"first": "second", "second": "first", "tie": "tie"}
    front = noisy(seed=2)
    ballots = votes_of(front, 8)
    swapped = [Ballot(vote.second, vote.first, swap[vote.winner]) for vote in ballots]
    assert Posterior.of(front, ballots).mean == Posterior.of(front, swapped).mean


def test_the_posterior_is_a_function_of_seed_and_votes():
    front = circle(4, M=3)
    ballots = votes_of(front, 12)
    first = Posterior.of(front, ballots, seed=7)
    again = Posterior.of(front, ballots[:5], seed=7)
    for vote in ballots[5:]:
        again = again.update(vote)
    np.testing.assert_array_equal(first.weights, again.weights)
    np.testing.assert_array_equal(first.mass, again.mass)
    assert next_pair(first, front) == next_pair(again, front)
    other = Posterior.of(front, ballots, seed=8)
    assert not np.array_equal(first.weights, other.weights)
    np.testing.assert_allclose(other.mean.array(), first.mean.array(), atol=0.03)


@pytest.mark.parametrize("front", [noisy(seed=2), circle(4, M=3), noisy(3, M=4, seed=1)])
def test_the_order_of_objectives_changes_nothing(front):
    ballots = votes_of(front, 6)
    first = Posterior.of(front, ballots)
    pair = next_pair(first, front)
    for order in list(itertools.permutations(range(len(front.objectives))))[1:4]:
        other = permuted(front, order)
        again = Posterior.of(other, ballots)
        assert again.mean == first.mean
        asked = next_pair(again, other)
        assert (asked.first.over(front.objectives), asked.second.over(front.objectives)) == (
            pair.first,
            pair.second,
        )
        assert best_preference(again, other).over(front.objectives) == best_preference(first, front)


def test_units_change_nothing():
    front = noisy(4, M=3, seed=5)
    factor, shift = np.array([100.0, 0.01, 3.0]), np.array([5.0, -7.0, 0.0])
    other = rescaled(front, factor, shift)
    ballots = votes_of(front, 6)
    scaled = [
        Ballot(
            *(
                {n: s[n] * factor[m] + shift[m] for m, n in enumerate(front.objectives)}
                for s in (vote.first, vote.second)
            ),
            vote.winner,
        )
        for vote in ballots
    ]
    first, again = Posterior.of(front, ballots), Posterior.of(other, scaled)
    np.testing.assert_allclose(again.mean.array(), first.mean.array(), atol=1e-3)
    assert best_preference(again, other) == best_preference(first, front)
    assert next_pair(again, other).information == pytest.approx(next_pair(first, front).information, abs=1e-3)


@pytest.mark.slow
def test_many_votes_narrow_it_down_to_the_truth():
    front = circle(5, M=3)
    for weights in ((0.6, 0.3, 0.1), (0.25, 0.15, 0.6)):
        session = simulate(front, Voter(Preference(front.objectives, weights)), votes=40)
        assert session.posterior.done
        np.testing.assert_allclose(session.posterior.mean.array(), weights, atol=0.05)


def test_contradictory_and_extreme_votes_break_nothing():
    front = circle()
    far = Ballot({"a": 1e6, "b": 0.0}, {"a": 0.0, "b": 1e6}, "first")
    back = Ballot({"a": 1e6, "b": 0.0}, {"a": 0.0, "b": 1e6}, "second")
    for ballots in (
        [far] * 5,
        [far, back] * 5,
        [far, Ballot({"a": 0.0, "b": 0.0}, {"a": 0.0, "b": 0.0}, "first")],
    ):
        posterior = Posterior.of(front, ballots)
        assert np.isfinite(posterior.weights).all() and posterior.mass.sum() == pytest.approx(1)
        assert 0 <= posterior.spread < 0.3
        assert next_pair(posterior, front) is not None
    assert Posterior.of(front, [far] * 5).mean["a"] > 0.7


def test_the_noise_of_a_voter_is_learned():
    front = circle()
    tastes = Preference(TWO, (0.3, 0.7))
    heard = {
        noise: simulate(
            front, Voter(tastes, noise=noise), votes=60, asking="random", seed=3
        ).posterior.to_dict()["noise"]
        for noise in (0.0, 0.6)
    }
    assert heard[0.0] < 0.05 < 0.25 < heard[0.6]


def test_the_law_of_total_probability():
    """The expected posterior after the next vote is the posterior now."""
    front = circle()
    posterior = Posterior.of(front, votes_of(front, 3), particles=20000)
    pair = next_pair(posterior, front)
    after = {
        winner: posterior.update(ballot(front, pair.first, pair.second, winner))
        for winner in ("first", "second")
    }
    vote = after["first"].ballots[-1]
    gap = np.array(
        [(vote.first[n] - vote.second[n]) / front.scale[m] for m, n in enumerate(front.objectives)]
    )
    chance = posterior.mass @ (1 / (1 + np.exp(-(posterior.weights @ gap) / posterior.noise)))
    mean = chance * after["first"].mean["a"] + (1 - chance) * after["second"].mean["a"]
    assert mean == pytest.approx(posterior.mean["a"], abs=0.01)


def test_a_posterior_is_shown_as_json():
    front = circle()
    shown = Posterior.of(front, votes_of(front, 2)).to_dict()
    assert json.loads(json.dumps(shown, allow_nan=False)) == shown
    assert set(shown) == {"mean", "deviation", "spread", "votes", "done", "noise"}


def test_the_intervals_of_a_posterior_hold_what_they_say():
    posterior = Posterior.of(circle(4, M=3), votes_of(circle(4, M=3), 6))
    for level in (0.5, 0.95):
        for name, (low, high) in posterior.intervals(level).items():
            column = posterior.weights[:, posterior.objectives.index(name)]
            assert posterior.mass[(column >= low) & (column <= high)].sum() == pytest.approx(level, abs=0.01)
            assert posterior.mass[column < low].sum() == pytest.approx((1 - level) / 2, abs=0.01)


# What is asked


@every_front
def test_a_vote_is_expected_to_narrow_the_weights_as_it_then_does_on_average(name):
    front = FRONTS[name]
    posterior = Posterior.of(front, votes_of(front, 2, seed=4))
    pair = next_pair(posterior, front)
    expected = expected_deviation(posterior, front, pair)
    scores = [front.expected(one).mean for one in (pair.first, pair.second)]
    gap = np.array([(scores[0][n] - scores[1][n]) / unit for n, unit in posterior.scale.items()])
    chance = float(posterior.mass @ (1 / (1 + np.exp(-(posterior.weights @ gap) / posterior.noise))))
    after = {
        winner: posterior.update(Ballot(scores[0], scores[1], winner)).deviation
        for winner in ("first", "second")
    }
    for objective, deviation in expected.items():
        square = chance * after["first"][objective] ** 2 + (1 - chance) * after["second"][objective] ** 2
        assert deviation == pytest.approx(math.sqrt(square), rel=0.06)
        assert deviation <= posterior.deviation[objective] + 1e-12


def exact_information(posterior, gap):
    """Mutual information of the vote and w at every fourth particle, noise independent of w."""
    ratio = (posterior.weights[::4] @ gap)[:, None] / posterior.noise[:400]
    chance = (1 / (1 + np.exp(-ratio))).mean(axis=1)
    entropy = lambda p: -p * np.log(p) - (1 - p) * np.log(1 - p)  # noqa: E731
    chance = np.clip(chance, 1e-12, 1 - 1e-12)
    return entropy(chance.mean()) - entropy(chance).mean()


def test_the_first_question_teaches_most():
    front = circle()
    posterior = Posterior.of(front)
    pair = next_pair(posterior, front)
    gap = (front.outcomes(pair.first.array()[None]) - front.outcomes(pair.second.array()[None]))[
        0
    ] / front.scale
    assert pair.information == pytest.approx(exact_information(posterior, gap), abs=0.03)
    grid = simplex_grid(2, 20)
    outcomes = front.outcomes(grid) / front.scale
    best = max(exact_information(posterior, a - b) for a, b in itertools.combinations(outcomes, 2))
    assert exact_information(posterior, gap) >= best - 0.02
    assert 0 < pair.information < math.log(2)
    # It splits the tastes in the middle.
    assert abs(gap @ [0.5, 0.5]) < 0.1


@every_front
def test_questions_are_about_different_outcomes_only(name):
    front = FRONTS[name]
    tastes = Preference(front.objectives, tuple(sample_simplex(1, len(front.objectives), seed=5)[0]))
    for ask in ("information", "random"):
        for pair in simulate(front, Voter(tastes), votes=6, asking=ask).asked:
            first, second = front.outcomes(np.stack([pair.first.array(), pair.second.array()])) / front.scale
            assert np.linalg.norm(first - second) >= SAME - 1e-6
            assert pair.information >= 0
            if front.anchored:
                measured = [front.preference(n) for n in range(len(front.preferences))]
                assert pair.first in measured and pair.second in measured


def test_where_all_outcomes_are_the_same_nothing_is_asked():
    grid = simplex_grid(2, 4)
    dull = surface(grid, np.ones((5, 2)) + 1e-4 * grid, width=0.1)
    dull = rescaled(dull, 1.0, 0.0)
    flat = surface(grid, np.ones((5, 2)))
    for front in (flat, surface(np.array([[0.5, 0.5]]), [[1.0, 2.0]])):
        posterior = Posterior.of(front)
        assert next_pair(posterior, front) is None and random_pair(posterior, front) is None
        assert finished(posterior, front)
        assert best_preference(posterior, front) == Preference.uniform(TWO)
        assert simulate(front, Voter(Preference.uniform(TWO)), votes=5).regrets == (0.0,)
    assert next_pair(Posterior.of(dull), dull) is not None  # tiny units are units all the same


def test_both_sides_are_asked_first():
    front = circle()
    sides = set()
    for seed in range(12):
        pair = next_pair(Posterior.of(front, seed=seed), front)
        sides.add(pair.first["a"] > pair.second["a"])
    assert sides == {True, False}


def test_asking_stops():
    """Rational people are asked a few times; nobody is dismissed before the first vote."""
    front = circle()
    assert not finished(Posterior.of(front), front)
    for weights in ((0.2, 0.8), (0.45, 0.55), (0.9, 0.1)):
        voter = Voter(Preference(TWO, weights))
        posterior, count = Posterior.of(front), 0
        while not finished(posterior, front):
            pair = next_pair(posterior, front)
            scores = [
                dict(zip(TWO, front.outcomes(p.array()[None])[0].tolist(), strict=True))
                for p in (pair.first, pair.second)
            ]
            gain = sum(voter.tastes[n] * (scores[0][n] - scores[1][n]) for n in TWO)
            posterior = posterior.update(Ballot(*scores, "first" if gain > 0 else "second"))
            count += 1
            assert count <= 20
        assert regret(front, voter, best_preference(posterior, front)) < 0.05


# What comes of it


def test_what_is_served_is_best_for_the_tastes_and_not_the_tastes_themselves():
    front = circle(power=2)  # bent inwards: the middle serves nobody
    vote = Ballot({"a": 1, "b": 0}, {"a": 0, "b": 1}, "first")
    posterior = Posterior.of(front, [vote])
    assert best_preference(posterior, front) == Preference.one_hot("a", TWO)
    against = surface(simplex_grid(2, 10), circle().means[::-1])  # the policy answers against its weights
    posterior = Posterior.of(against, [vote] * 3)
    assert best_preference(posterior, against)["a"] < 0.5


def test_expected_regret_falls_to_nothing():
    front = circle()
    session = simulate(front, Voter(Preference(TWO, (0.3, 0.7))), votes=15)
    assert (
        expected_regret(Posterior.of(front), front) > 0.1 > 0.02 > expected_regret(session.posterior, front)
    )


def test_regret_by_hand():
    front = surface(simplex_grid(2, 2), [[1.0, 0.0], [0.8, 0.8], [0.0, 1.0]])
    voter = Voter(Preference(TWO, (1.0, 0.0)))
    assert [regret(front, voter, front.preference(n)) for n in range(3)] == pytest.approx([0.0, 0.2, 1.0])
    assert regret(front, Voter(Preference.uniform(TWO)), front.preference(1)) == 0
    assert regret(front, voter, Preference(TWO, (0.75, 0.25))) == pytest.approx(0.1)


@cache
def sessions(name: str, kind: str, asking: str) -> tuple[Session, ...]:
    front = FRONTS[name]
    how = {"rational": {}, "noisy": {"noise": 0.1}, "indifferent": {"indifference": 0.05}}[kind]
    tastes = sample_simplex(VOTERS, len(front.objectives), seed=1)
    return tuple(
        simulate(front, Voter(Preference(front.objectives, tuple(w)), **how), VOTES, asking, seed=i)  # type: ignore[arg-type]
        for i, w in enumerate(tastes)
    )


def regrets(name: str, kind: str, asking: str) -> np.ndarray:
    """[VOTERS, VOTES + 1]; a session that ends early keeps its regret."""
    found = [session.regrets for session in sessions(name, kind, asking)]
    return np.array([[*each, *[each[-1]] * (VOTES + 1 - len(each))] for each in found])


@every_front
@pytest.mark.slow
def test_rational_voters_are_served_well_within_ten_votes(name):
    found = regrets(name, "rational", "information")
    assert np.median(found[:, VOTES]) < 0.05
    assert np.mean(found[:, VOTES]) < 0.05
    assert np.mean(found[:, VOTES]) <= np.mean(found[:, 0])


@every_front
@pytest.mark.slow
def test_questions_are_never_worse_than_random_pairs(name):
    informed, at_random = regrets(name, "rational", "information"), regrets(name, "rational", "random")
    assert np.median(informed[:, VOTES]) <= np.median(at_random[:, VOTES]) + 1e-9
    assert informed[:, VOTES].mean() <= at_random[:, VOTES].mean() + 1e-9
    # And on the way there, over all numbers of votes.
    assert informed[:, 1:].mean() <= at_random[:, 1:].mean() + 1e-9


@pytest.mark.parametrize("name", ["circle", "quickstart", "sphere of 3"])
@pytest.mark.parametrize("kind", ["noisy", "indifferent"])
@pytest.mark.slow
def test_noisy_and_indifferent_voters_are_served_too(name, kind):
    informed, at_random = regrets(name, kind, "information"), regrets(name, kind, "random")
    assert np.median(informed[:, VOTES]) < 0.05
    assert informed[:, 1:].mean() <= at_random[:, 1:].mean() + 1e-9


def test_a_voter_who_cannot_tell_anything_apart_costs_nothing():
    front = circle()
    session = simulate(front, Voter(Preference(TWO, (0.9, 0.1)), indifference=5.0), votes=12)
    assert all(vote.winner == "tie" for vote in session.posterior.ballots)
    assert np.isfinite(session.posterior.mean.array()).all()


@pytest.mark.slow
def test_votes_on_answers_that_scatter_about_the_front():
    front = circle()
    tastes = sample_simplex(12, 2, seed=4)
    found = [
        simulate(front, Voter(Preference(TWO, tuple(w))), votes=10, seed=i, scatter=0.3).regrets[-1]
        for i, w in enumerate(tastes)
    ]
    assert np.median(found) < 0.05


# Votes as they come


def test_answers_own_scores_come_before_expected_ones():
    front = quickstart()
    first, second = Preference(front.objectives, (1.0, 0.0)), Preference(front.objectives, (0.0, 1.0))
    own = {"concise": -3.0, "warm": 1.0}, {"concise": -4.0, "warm": 2.0}
    assert ballot(front, first, second, "first", *own).first == own[0]
    expected = ballot(front, first, second, "tie")
    assert expected.first == pytest.approx({"concise": -2.675, "warm": 0.694})
    # Half of them, or a part of one, is no comparison.
    assert ballot(front, first, second, "tie", own[0], None) == expected
    assert ballot(front, first, second, "tie", own[0], {"concise": -4.0, "warm": None}) == expected
    assert ballot(front, first, second, "tie", own[0], {"concise": -4.0, "warm": float("nan")}) == expected
    assert ballot(front, second.over(("warm", "concise")), first, "tie").second == expected.first


@pytest.mark.parametrize(
    ("vote", "message"),
    [
        ({"winner": "left"}, "winner 'left'; expected one of: first, second, tie"),
        ({"winner": "frist"}, "did you mean 'first'"),
        ({"first": {"a": float("nan"), "b": 0}}, "the score nan on 'a'"),
        ({"first": {"a": 1.0}}, "expected the same objectives"),
        ({"first": {}, "second": {}}, "at least one"),
    ],
)
def test_votes_that_cannot_be_read(vote, message):
    good = {"first": {"a": 1.0, "b": 0.0}, "second": {"a": 0.0, "b": 1.0}, "winner": "tie"}
    with pytest.raises(ParetuneError, match=message):
        Ballot(**{**good, **vote})


def test_votes_about_something_else():
    posterior = Posterior.of(circle())
    with pytest.raises(ParetuneError, match="a vote over c for tastes over a, b"):
        posterior.update(Ballot({"c": 1.0}, {"c": 0.0}, "first"))
    with pytest.raises(ParetuneError, match="expected the same objectives"):
        next_pair(posterior, quickstart())
    with pytest.raises(PreferenceError, match=r"'concise' has weight 1\.0 and cannot be dropped"):
        ballot(circle(), Preference.parse("concise=1"), Preference.parse("a=1"), "first")
    part = surface(np.array([[0.8, 0.2], [0.3, 0.7]]), [[1.0, 0.0], [0.0, 1.0]])
    with pytest.raises(ParetuneError, match=r"nothing was measured around a=1\.0,b=0\.0"):
        ballot(part, Preference.parse("a=1,b=0"), Preference.parse("a=0.5,b=0.5"), "first")


@pytest.mark.parametrize(
    ("scale", "particles", "message"),
    [
        ({"a": 0.0}, 100, "expected a number above 0"),
        ({"a": math.nan}, 100, "above 0"),
        ({}, 100, "no objectives"),
        ({"a": 1.0}, 1, "at least 10"),
    ],
)
def test_posteriors_that_cannot_start(scale, particles, message):
    with pytest.raises(ParetuneError, match=message):
        Posterior.start(scale, particles=particles)


@pytest.mark.parametrize("kwargs", [{"noise": -1.0}, {"noise": math.nan}, {"indifference": math.inf}])
def test_voters_that_cannot_be(kwargs):
    with pytest.raises(ParetuneError, match="of a voter"):
        Voter(Preference.uniform(TWO), **kwargs)


def test_bounds_on_weights_hold_for_questions_and_answers():
    for front in (circle(), circle(4, M=3)):
        part = front.within({"b": 0.3})
        # Units stay those of the whole front, in which the votes were read.
        posterior = Posterior.of(front)
        for _ in range(5):
            pair = next_pair(posterior, part)
            assert min(pair.first["b"], pair.second["b"]) >= 0.3 - 1e-6
            posterior = posterior.update(ballot(front, pair.first, pair.second, "first"))
        assert best_preference(posterior, part)["b"] >= 0.3 - 1e-6
        assert 0 <= expected_regret(posterior, part) <= 1


# Several people


def person(weights, front=circle(), votes=12, seed=0):  # noqa: B008
    return simulate(front, Voter(Preference(front.objectives, weights)), votes=votes, seed=seed).posterior


@cache
def crowd() -> dict[str, Posterior]:
    people = {f"concise {i}": person((0.85 + 0.02 * i, 0.15 - 0.02 * i), seed=i) for i in range(4)}
    return people | {f"warm {i}": person((0.1 + 0.02 * i, 0.9 - 0.02 * i), seed=i) for i in range(3)}


def test_two_groups_of_people_are_found():
    found = population(crowd())
    assert [cluster.members for cluster in found.clusters] == [
        tuple(f"concise {i}" for i in range(4)),
        tuple(f"warm {i}" for i in range(3)),
    ]
    assert found.clusters[0].centre["a"] > 0.75 and found.clusters[1].centre["a"] < 0.25
    means = np.array([posterior.mean["a"] for posterior in crowd().values()])
    assert found.mean["a"] == pytest.approx(means.mean(), abs=1e-5)
    assert found.between["a"] == pytest.approx(means.std(), abs=1e-5)
    assert found.deviation["a"] > found.between["a"]
    assert json.dumps(found.to_dict(), allow_nan=False)


def test_the_order_of_people_changes_nothing():
    names = list(crowd())[::-1]
    assert population({name: crowd()[name] for name in names}).to_dict() == population(crowd()).to_dict()


def test_people_of_one_mind_are_one_group():
    people = {f"{i}": person((0.6 + 0.01 * i, 0.4 - 0.01 * i), seed=i) for i in range(6)}
    assert len(population(people).clusters) == 1
    assert len(population({"alone": people["0"]}).clusters) == 1


def test_few_votes_tell_nobody_apart():
    people = {f"{i}": person((0.9, 0.1) if i % 2 else (0.1, 0.9), seed=i, votes=1) for i in range(6)}
    assert len(population(people).clusters) == 1


def test_people_without_votes_are_left_out():
    silent = Posterior.of(circle())
    found = population({**crowd(), "silent": silent})
    assert found.left_out == ("silent",) and "silent" not in found.people
    assert found.mean == population(crowd()).mean
    nobody = population({"silent": silent})
    assert nobody.mean is None and nobody.clusters == () and nobody.left_out == ("silent",)
    assert population({}).to_dict()["mean"] is None


def test_people_who_voted_on_other_objectives():
    with pytest.raises(ParetuneError, match="summarise people who voted on the same objectives"):
        population({"one": person((0.5, 0.5), votes=1), "two": person((0.5, 0.5), quickstart(), votes=1)})


@law
@given(st.integers(1, 4), st.integers(2, 4), st.integers(0, 1000))
def test_separate_groups_are_counted(k, M, seed):
    random = np.random.default_rng(seed)
    centres = np.eye(4)[:k, :M] if k <= M else np.concatenate([np.eye(M), np.full((1, M), 1 / M)])[:k]
    if len(centres) < k:
        return
    points = np.repeat(centres, 8, axis=0) + 0.02 * random.normal(size=(8 * k, M))
    groups = cluster(points, 0.02**2)
    assert groups.max() + 1 == k
    for start in range(0, 8 * k, 8):
        assert len(set(groups[start : start + 8].tolist())) == 1
    assert cluster(points, 0.5).max() == 0  # known no better than that, all are one


def test_equal_points_are_one_group():
    assert cluster(np.full((5, 3), 1 / 3), 0.0).max() == 0
    assert cluster(np.full((1, 3), 1 / 3), 0.0).tolist() == [0]
