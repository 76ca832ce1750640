"""A front that is not convex: the sum of the losses reaches its ends alone, Tchebycheff's maximum all of it."""

from __future__ import annotations

import numpy as np
import pytest

from benchmarks.fronts.bent import losses, reach
from paretune.core.scalarise import Shape

torch = pytest.importorskip("torch")


def test_the_front_lies_below_the_line_between_its_ends() -> None:
    rewards = 1 - losses(torch.linspace(-0.9, 0.9, 21, dtype=torch.float64)).numpy()
    line = np.linspace(rewards[0], rewards[-1], 21)
    assert (rewards[1:-1] < line[1:-1]).all()


@pytest.mark.slow
def test_the_sum_reaches_the_ends_and_tchebycheff_what_lies_between() -> None:
    assert reach("linear").between == 0
    found = reach("tchebycheff")
    assert found.between == 9 and (np.diff(found.places) > 0.05).all()
    # At its optimum both weighted losses are equal, wherever both have weight.
    weighted = np.stack([found.weights, 1 - found.weights], axis=1) * (1 - found.rewards)
    assert weighted[1:-1, 0] == pytest.approx(weighted[1:-1, 1], abs=0.01)


@pytest.mark.slow
def test_a_smooth_form_reaches_as_far_as_it_is_sharp() -> None:
    assert reach("smooth-tchebycheff").between < reach("smooth-tchebycheff", Shape(mu=0.01)).between
