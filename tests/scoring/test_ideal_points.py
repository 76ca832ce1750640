"""Ideal points by hand, their laws, and planted people who are found again."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch
from scipy.optimize import minimize

from paretune.core.errors import ConfigError, DataError
from paretune.scoring import ideal_points as ip
from paretune.scoring import prototype_fit as pf
from paretune.scoring.ideal_points import Ballots, PALForm
from paretune.scoring.prototypes import simplex
from support.tastes import PEOPLE, Tastes, planted

SQUARED, NORM = PALForm(dimension=2), PALForm(dimension=2, distance="norm")
POINTS = {"item.out": np.eye(2), "prototypes": np.array([[3.0, 4.0], [0.0, 0.0]])}


def one_vote(first: list[float], second: list[float], sign: int = 1) -> Ballots:
    arrays = (np.array([first]), np.array([second]), np.zeros((1, 0)))
    return Ballots(*arrays, np.array([0]), np.array([sign]))


def logits_of(*weights: float) -> np.ndarray:
    return np.log(np.array([weights]))


# By hand


def test_margins_by_hand() -> None:
    """The first response is on the second prototype and 5 away from the first; the second response the other way round. At weights
    (0.2, 0.8) the person's point is (0.6, 0.8): 1 from the first response, 4 from the second."""
    vote = one_vote([0.0, 0.0], [3.0, 4.0])
    weights = logits_of(0.2, 0.8)
    assert ip.margins(NORM, POINTS, weights, vote) == pytest.approx([4.0 - 1.0])
    assert ip.margins(SQUARED, POINTS, weights, vote) == pytest.approx([16.0 - 1.0])
    assert ip.scores(NORM, POINTS, vote.first, vote.prompts) == pytest.approx(
        np.array([[-5.0, 0.0]]), abs=1e-5
    )
    assert ip.scores(SQUARED, POINTS, vote.first, vote.prompts).tolist() == [[-25.0, 0.0]]


def test_prototypes_of_model_b_turn_with_the_prompt() -> None:
    form = PALForm("B", dimension=2)
    turning = {**POINTS, "prototype.out": np.array([[[1.0], [0.0]], [[0.0], [1.0]]])}
    vote = replace(one_vote([1.0, 1.0], [0.0, 0.0]), prompts=np.array([[2.0]]))
    # The prototypes are (3 + 2, 4) and (0, 0 + 2).
    assert ip.scores(form, turning, vote.first, vote.prompts).tolist() == [[-25.0, -2.0]]
    assert ip.margins(form, turning, logits_of(1e-9, 1.0), vote) == pytest.approx([4.0 - 2.0], abs=1e-6)


def test_losses_by_hand() -> None:
    z, won, lost, tied = torch.tensor([np.log(3.0)]), torch.ones(1), -torch.ones(1), torch.zeros(1)
    assert float(ip.losses(SQUARED, z, won)) == pytest.approx(np.log(4 / 3))
    assert float(ip.losses(SQUARED, z, lost)) == pytest.approx(np.log(4))
    assert float(ip.losses(SQUARED, z, tied)) == pytest.approx((np.log(4 / 3) + np.log(4)) / 2)
    hinge = PALForm(loss="hinge")
    found = ip.losses(hinge, torch.tensor([2.0, 1.0, 0.0, -4.0, -6.0]), torch.ones(5))
    assert found.tolist() == pytest.approx([0.0, 0.0, 0.1, 2.5, 4.5]), "0, 0, 1/10, 25/10, and 1 - 2.5 + 6"
    assert float(ip.losses(hinge, torch.tensor([3.0]), lost)) == float(
        ip.losses(hinge, torch.tensor([-3.0]), won)
    )


# Laws


def random_model(form: PALForm, seed: int = 0) -> tuple[dict[str, np.ndarray], np.ndarray, Ballots]:
    random = np.random.default_rng(seed)
    parameters = ip.initial(form, 5, 3, seed)
    first, second = random.normal(size=(2, 9, 5))
    logits = random.normal(size=(3, form.prototypes))
    return (
        parameters,
        logits,
        Ballots(first, second, random.normal(size=(9, 3)), np.arange(9) % 3, np.ones(9)),
    )


@pytest.mark.parametrize("model", ["A", "B"])
@pytest.mark.parametrize("hidden", [0, 4])
def test_under_the_squared_distance_a_taste_is_a_preference_over_prototypes(model: str, hidden: int) -> None:
    """|f - u|^2 = sum_k w_k |f - p_k|^2 - a constant: the margin is that of the prototypes' scores, weighted."""
    form = PALForm(model, 3, 4, hidden)  # type: ignore[arg-type]
    parameters, logits, ballots = random_model(form)
    near, far = (
        ip.scores(form, parameters, each, ballots.prompts) for each in (ballots.first, ballots.second)
    )
    weighted = (simplex(logits)[ballots.users] * (near - far)).sum(1)
    assert ip.margins(form, parameters, logits, ballots) == pytest.approx(weighted)


@pytest.mark.parametrize("form", [SQUARED, NORM, PALForm("B", 3, 4, 4)])
def test_laws(form: PALForm) -> None:
    parameters, logits, ballots = random_model(form)
    found = ip.margins(form, parameters, logits, ballots)
    swapped = replace(ballots, first=ballots.second, second=ballots.first)
    assert ip.margins(form, parameters, logits, swapped) == pytest.approx(-found), (
        "the other way round is the opposite"
    )
    order = np.roll(np.arange(form.prototypes), 1)
    turned = {n: x[order] if n.startswith("prototype") else x for n, x in parameters.items()}
    assert ip.margins(form, turned, logits[:, order], ballots) == pytest.approx(found), (
        "prototypes have no order"
    )
    assert ip.margins(form, parameters, logits + 7.0, ballots) == pytest.approx(found), (
        "logits are up to a constant"
    )
    corner = np.where(np.arange(form.prototypes) == 1, 60.0, 0.0) + 0 * logits
    near, far = (
        ip.scores(form, parameters, each, ballots.prompts)[:, 1] for each in (ballots.first, ballots.second)
    )
    assert ip.margins(form, parameters, corner, ballots) == pytest.approx(near - far), (
        "one-hot is the prototype alone"
    )


# Planted people


@pytest.fixture(scope="module")
def quick() -> None:
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(pf, "L2_GRID", (3e-3, 1e-3))
        patch.setattr(pf, "STARTS", 2)
        yield


@pytest.fixture(scope="module", params=["A", "B"])
def learned(request: pytest.FixtureRequest, quick: None) -> tuple[Tastes, PALForm, pf.Learned]:
    world, form = planted(request.param, votes=60), PALForm(request.param, dimension=2)
    return world, form, pf.learn(form, world.ballots, world.prompts)


@pytest.mark.slow
def test_planted_people_are_found_again(learned: tuple[Tastes, PALForm, pf.Learned]) -> None:
    """Up to which prototype is which, each person's weights are those that were planted, as far as their votes tell."""
    world, _, found = learned
    weights = simplex(found.logits)
    gaps = [float(np.abs(weights[:, k] - world.weights[:, 0]).mean()) for k in range(2)]
    own = int(np.argmin(gaps))
    assert min(gaps) < 0.15 < 0.5 < max(gaps)
    assert np.corrcoef(weights[:, own], world.weights[:, 0])[0, 1] > 0.9


@pytest.mark.slow
def test_held_out_votes_are_predicted(learned: tuple[Tastes, PALForm, pf.Learned]) -> None:
    world, _, found = learned
    figures = found.figures
    assert figures["accuracy"] > world.best - 0.1 and figures["accuracy"] > figures["one_taste"] + 0.05
    assert figures["low"] < figures["accuracy"] < figures["high"]
    assert figures["unseen_users"] == int(0.2 * PEOPLE)


def test_the_accuracy_on_new_people_is_told_by_their_votes(
    learned: tuple[Tastes, PALForm, pf.Learned],
) -> None:
    curve = learned[2].figures["new_users"]
    assert list(curve) == ["0", "1", "2", "5", "10", "20", "50"], "as far as there are votes"
    assert curve["50"] >= curve["0"] and curve["50"] > 0.7


def test_people_are_found_from_one_vote_to_many(learned: tuple[Tastes, PALForm, pf.Learned]) -> None:
    """The mean error of the weights over all people falls with their votes; without one they are the mean of the others."""
    world, form, found = learned
    own = int(np.abs(simplex(found.logits)[:, 0] - world.weights[:, 0]).mean() > 0.3)
    scaled = pf.scaled_ballots(found.parameters, world.ballots)
    mean = found.parameters["logits"]

    def gap(count: int) -> float:
        errors = []
        for person in range(PEOPLE):
            votes = scaled[world.ballots.users == person][np.arange(count)]
            logits = ip.fit_user(form, found.parameters, votes, mean)
            assert count or logits.tolist() == mean.tolist()
            errors.append(abs(simplex(logits)[own] - world.weights[person, 0]))
        return float(np.mean(errors))

    gaps = [gap(count) for count in (0, 5, 60)]
    assert gaps[2] < gaps[1] < gaps[0] and gaps[2] < 0.15


def test_the_weights_of_a_new_person_are_the_best_on_a_grid() -> None:
    """An oracle: the logits of two prototypes matter by their difference alone, which is tried everywhere."""
    parameters, _, ballots = random_model(SQUARED, 3)
    mean = np.zeros(2)
    found = ip.fit_user(SQUARED, parameters, ballots, mean)

    def total(difference: float) -> float:
        logits = np.array([[difference, -difference]]) / 2
        alone = replace(ballots, users=np.zeros(9, dtype=np.int64))
        loss = 9 * ip.mean_loss(SQUARED, parameters, logits, alone)
        return loss + ip.PRIOR / 2 * float((logits**2).sum())

    best = min(np.linspace(-12, 12, 2401), key=total)
    assert found[0] - found[1] == pytest.approx(best, abs=0.02) and found.sum() == pytest.approx(
        0.0, abs=1e-4
    )
    polished = minimize(lambda x: total(float(x[0])), [best]).fun
    assert total(found[0] - found[1]) <= polished + 1e-6


def test_the_same_seed_gives_the_same_prototypes(quick: None) -> None:
    world, form = planted(votes=12), PALForm(dimension=2)
    one, two = (ip.fit(form, world.ballots, PEOPLE, 1e-2, 3) for _ in range(2))
    assert all(np.array_equal(one[0][name], two[0][name]) for name in one[0]) and np.array_equal(
        one[1], two[1]
    )
    other = ip.fit(form, world.ballots, PEOPLE, 1e-2, 4)
    assert not np.array_equal(one[1], other[1])


@pytest.mark.parametrize("form", [PALForm(dimension=2, distance="norm"), PALForm(dimension=2, loss="hinge")])
def test_the_forms_of_the_released_code_learn_too(form: PALForm) -> None:
    world = planted()
    parameters, logits, loss = ip.fit(form, world.ballots, PEOPLE, 1e-2)
    right = np.sign(ip.margins(form, parameters, logits, world.ballots)) == world.ballots.signs
    assert right.mean() > world.best - 0.05 and loss < 0.4


# Bad input


def test_too_few_votes_are_counted() -> None:
    world = planted(votes=3)
    with pytest.raises(
        DataError,
        match=r"too few votes for prototypes: train \d+, validation \d, test \d, of \d+ prompts and 16 people",
    ):
        pf.learn(PALForm(), world.ballots, world.prompts)


@pytest.mark.parametrize(
    "values",
    [{"prototypes": 0}, {"dimension": 0}, {"hidden": -1}, {"model": "C"}, {"distance": "x"}, {"loss": "y"}],
)
def test_settings_out_of_bounds(values: dict[str, object]) -> None:
    with pytest.raises(ConfigError, match=next(iter(values))):
        PALForm(**values)  # type: ignore[arg-type]
