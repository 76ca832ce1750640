"""The dial on a weak front: equal stops are one, and where too few are left it turns by weights and says why."""

from __future__ import annotations

import numpy as np
import pytest

from paretune.choosing.dial import Dial, dial_stops
from paretune.core.errors import ParetuneError
from paretune.core.preference import Preference, simplex_grid
from paretune.serving.http.front import dial_facts
from support.front_world import circle, quickstart, surface

GRID = simplex_grid(2, 4)


def distinct(stops) -> bool:
    preferences = [preference for _, preference in stops]
    return len(set(preferences)) == len(preferences)


def test_on_a_good_front_all_stops_are_kept() -> None:
    front = circle()
    found = dial_stops(front, 21)
    assert found.by == "scores" and not found.why
    assert list(found.stops) == Dial.of(front).steps(21)


@pytest.mark.parametrize("count", [1, 10_001, 10**30])
def test_a_number_of_steps_that_cannot_be_is_refused_at_once(count: int) -> None:
    with pytest.raises(ParetuneError, match=f"a dial of {count} steps; give at (least 2|most 10,000)"):
        dial_stops(circle(), count)


def test_where_one_preference_is_best_on_everything_the_dial_turns_by_weights_and_says_so() -> None:
    best = surface(GRID, np.array([[1, 1], [2, 2], [5, 5], [3, 3], [0, 0]], dtype=float))
    found = dial_stops(best, 21)
    assert found.by == "weights" and distinct(found.stops) and len(found.stops) == 21
    assert "measured as no worse on every objective than all other preferences" in found.why
    assert found.stops[0][1] == Preference.one_hot(best.objectives[-1], best.objectives)
    assert found.stops[-1][1] == Preference.one_hot(best.objectives[0], best.objectives)
    assert [position for position, _ in found.stops] == np.linspace(0, 1, 21).tolist()
    # A page of two dials then begins at the two ends, by weights.
    facts = dial_facts(best)
    assert facts["dial"] == [] and facts["dial_by"] == found.why


def test_two_stops_alone_turn_by_weights_too() -> None:
    two = surface(GRID, np.array([[5, 0], [0, -1], [-1, -1], [-1, 0], [0, 5]], dtype=float))
    found = dial_stops(two, 21)
    assert found.by == "weights" and "are on the measured front" in found.why and len(found.stops) == 21


def test_equal_stops_are_merged_and_the_ends_stay_at_the_ends() -> None:
    found = dial_stops(quickstart(anchored=True), 30)
    positions = [position for position, _ in found.stops]
    assert found.by == "scores" and distinct(found.stops)
    assert (
        len(positions) == 3 and (positions[0], positions[-1]) == (0.0, 1.0) and positions == sorted(positions)
    )


def test_a_policy_of_anchors_turns_over_its_anchors_alone() -> None:
    weak = surface(GRID, np.array([[1, 1], [2, 2], [5, 5], [3, 3], [0, 0]], dtype=float), anchored=True)
    found = dial_stops(weak, 21)
    assert found.by == "weights" and distinct(found.stops)
    assert {preference for _, preference in found.stops} == {weak.preference(n) for n in range(5)}
