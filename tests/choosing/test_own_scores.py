"""What the scores of the very answers are worth: people judge what they read, and answers scatter about the front."""

import numpy as np
import pytest

from paretune.choosing.elicit import next_pair
from paretune.choosing.posterior import Posterior, ballot
from support.front_world import quickstart

FRONT = quickstart()
SCATTER = np.array([2.8, 1.05])
"""The standard deviation of an answer's scores about the mean at its preference, as the quickstart measured it."""
WANTED = (0.1, 0.3, 0.5, 0.7, 0.9)
VOTES = 15


def learned(weight: float, seed: int, own: bool) -> float:
    """Return the weight on the first objective that is learned from a person who judges the answers that are shown."""
    random = np.random.default_rng(seed)
    taste = np.array([weight, 1 - weight]) / np.array(list(FRONT.scale))
    posterior = Posterior.of(FRONT, (), seed)
    for _ in range(VOTES):
        pair = next_pair(posterior, FRONT)
        assert pair is not None
        means = [
            [FRONT.expected(one).mean[name] for name in FRONT.objectives] for one in (pair.first, pair.second)
        ]
        shown = np.array(means) + SCATTER * random.standard_normal((2, 2))
        winner = "first" if taste @ shown[0] > taste @ shown[1] else "second"
        scores = (
            [dict(zip(FRONT.objectives, row, strict=True)) for row in shown.tolist()] if own else [None, None]
        )
        posterior = posterior.update(ballot(FRONT, pair.first, pair.second, winner, *scores))
    return posterior.mean.as_dict()[FRONT.objectives[0]]


def error(own: bool) -> float:
    """Return the mean distance of what is learned from what people want."""
    return float(np.mean([abs(learned(w, seed, own) - w) for w in WANTED for seed in range(3)]))


@pytest.mark.slow
def test_votes_with_own_scores_find_what_a_person_wants() -> None:
    expected, own = error(own=False), error(own=True)
    assert own < 0.07 < 0.1 < expected, (own, expected)
    assert own < expected / 2
