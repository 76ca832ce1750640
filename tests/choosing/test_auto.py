"""A preference for each prompt: its slopes, the constant, laws, recovery of a true dependence, and silence where there is none."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest

from paretune.choosing import auto
from paretune.choosing.auto import Labels, Lessons, Votes, fit, fit_chosen, held_out, softmax, votes_of
from paretune.choosing.posterior import Ballot, Posterior
from paretune.core.errors import DataError
from support.auto_world import lessons


def test_slopes_are_those_of_the_loss() -> None:
    random = np.random.default_rng(0)
    logits, noise, step = random.normal(size=(6, 3)), 0.7, 1e-6
    votes = Votes(random.normal(size=(6, 3)), np.array([1.0, -1.0, 0.0, 1.0, 0.0, -1.0]))
    for targets in (votes, Labels(random.dirichlet(np.ones(3), size=6))):
        _, by_logits, by_noise = targets.losses(logits, noise)
        for m in range(3):
            moved = step * np.eye(3)[m]
            up, down = (targets.losses(logits + side * moved, noise)[0] for side in (1, -1))
            np.testing.assert_allclose(by_logits[:, m], (up - down) / (2 * step), atol=1e-7)
        up, down = (targets.losses(logits, noise * np.exp(side * step))[0] for side in (1, -1))
        np.testing.assert_allclose(by_noise, (up - down) / (2 * step), atol=1e-7)


def test_the_constant_of_votes_is_near_the_mean_of_the_posterior() -> None:
    given, _ = lessons(1, prompts=80, votes=1, M=3)
    votes = given.targets
    assert isinstance(votes, Votes)
    posterior = Posterior.start(dict.fromkeys(given.objectives, 1.0))
    for row, winner in zip(votes.differences.tolist(), votes.winners.tolist(), strict=True):
        side = {1.0: "first", -1.0: "second", 0.0: "tie"}[winner]
        first = dict(zip(given.objectives, row, strict=True))
        posterior = posterior.update(Ballot(first, dict.fromkeys(given.objectives, 0.0), side))  # type: ignore[arg-type]
    (head,) = fit(given, [0.0])
    np.testing.assert_allclose(head.constant, posterior.mean.array(), atol=0.05)
    assert 0.1 < head.noise < 0.6  # 0.3 in this world


def test_the_constant_of_labels_is_their_mean_with_one_row_of_equal_weights() -> None:
    given, _ = lessons(2, prompts=40, M=3, labels=True)
    assert isinstance(given.targets, Labels)
    (head,) = fit(given, [0.0])
    total = given.targets.weights.sum(0) + 1
    np.testing.assert_allclose(head.constant, total / total.sum(), atol=1e-4)


def test_the_order_of_objectives_does_not_matter() -> None:
    given, _ = lessons(3, prompts=40, effect=3.0, M=3)
    assert isinstance(given.targets, Votes)
    order = [2, 0, 1]
    turned = Votes(given.targets.differences[:, order], given.targets.winners)
    (head,) = fit(given, [3.0])
    (other,) = fit(replace(given, targets=turned), [3.0])
    both = [softmax(one.raw(given.embeddings)) for one in (head, other)]
    assert np.ptp(both[0], axis=0).max() > 0.3
    np.testing.assert_allclose(both[0][:, order], both[1], atol=2e-3)


def test_units_of_scores_and_the_side_of_an_answer_do_not_matter() -> None:
    random = np.random.default_rng(4)
    scale, names = np.array([0.5, 8.0]), ("a", "b")
    scores = random.normal(size=(30, 2, 2)) * scale
    embeddings = random.normal(size=(30, 4))

    def learned(factor: np.ndarray, turned: bool) -> np.ndarray:
        ballots = []
        for n, (one, two) in enumerate(scores * factor):
            sides = [dict(zip(names, side.tolist(), strict=True)) for side in (one, two)]
            winner = ("first", "second", "tie")[n % 3]
            if turned:
                sides.reverse()
                winner = {"first": "second", "second": "first", "tie": "tie"}[winner]
            ballots.append(Ballot(sides[0], sides[1], winner))  # type: ignore[arg-type]
        targets = votes_of(ballots, scale * factor, names)
        (head,) = fit(Lessons(embeddings, np.arange(30), targets, names), [1.0])
        return softmax(head.raw(embeddings))

    plain = learned(np.ones(2), False)
    np.testing.assert_allclose(learned(np.array([10.0, 0.25]), False), plain, atol=1e-6)
    np.testing.assert_allclose(learned(np.ones(2), True), plain, atol=1e-6)


@pytest.mark.parametrize("labels", [False, True])
@pytest.mark.slow
def test_weights_that_depend_on_the_topic_are_found(labels: bool) -> None:
    given, true = lessons(5, prompts=100, effect=3.0, votes=1 if labels else 3, labels=labels)
    shown = held_out(given)
    assert shown.better and shown.hits > shown.constant_hits + 0.03 and shown.low > 0
    assert shown.to_dict()["p_value"] < 0.05
    head = fit_chosen(given)
    found = softmax(head.raw(given.embeddings))
    apart = np.abs(found - true).sum(1).mean()
    assert head.spread > 0 and apart < 0.5 * np.abs(head.constant - true).sum(1).mean()


def test_where_nothing_depends_on_the_prompt_the_head_is_not_called_better(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(auto, "SPREADS", (0.0, 3.0))
    monkeypatch.setattr(auto, "FOLDS", 3)
    shown = [held_out(lessons(seed, prompts=30, votes=1)[0]) for seed in range(10)]
    assert not any(one.better for one in shown)
    assert min(one.low for one in shown) < 0 < max(one.high for one in shown)


def test_without_a_signal_the_head_is_the_constant_preference() -> None:
    given, _ = lessons(6, prompts=40)
    alike = replace(given, embeddings=np.ones((40, 24)))
    head = fit_chosen(alike)
    assert (
        head.spread == 0
        and head.preferences(np.random.default_rng(0).normal(size=(3, 24))) == [head.constant_preference] * 3
    )


def test_too_little_is_refused_with_what_is_needed() -> None:
    given, _ = lessons(7, prompts=29)
    with pytest.raises(
        DataError, match=r"58 rows on 29 prompts are too few .* at least 30 different prompts"
    ):
        held_out(given)
    given, _ = lessons(7, prompts=30, M=1)
    with pytest.raises(DataError, match="a is the only objective"):
        held_out(given)
    given, _ = lessons(7, prompts=30)
    equal = Votes(np.zeros((60, 2)), np.ones(60))
    with pytest.raises(DataError, match="two answers of every vote have the same scores"):
        held_out(replace(given, targets=equal))
