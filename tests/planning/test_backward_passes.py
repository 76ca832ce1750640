"""The plan of runs whose gradients are kept apart."""

from __future__ import annotations

from dataclasses import replace

import pytest

from paretune.core.preference import Preference
from paretune.planning.cost import Model, Passes, packed
from paretune.planning.devices import Rates
from paretune.planning.shapes import Shape
from paretune.training.gradients import GradientRule, backward_passes


@pytest.mark.parametrize("checkpointing", [False, True])
def test_every_further_backward_pass_costs_what_the_first_does(checkpointing: bool) -> None:
    shape = Shape("tiny", 64, 128, 2, 4, 2, 16, 100, True)
    model = Model(shape, "float32", ((64, 64),), 4, checkpointing=checkpointing)
    rates = Rates(*(1e9,) * len(Rates.__dataclass_fields__))
    forward = Passes(1000, 500, 20_000, 10, 40, 4)
    once = replace(forward, backward=True)
    costs = [packed(work, model, rates) for work in (forward, once, replace(once, backwards=2.0))]
    for name in ("flops", "seconds"):
        none, one, two = (getattr(cost, name) for cost in costs)
        assert two - one == pytest.approx(one - none, rel=1e-6) and one > none
    assert costs[0].tokens == costs[2].tokens


def test_objectives_with_weight_have_one_each() -> None:
    preferences = [Preference.parse(text) for text in ("a=1,b=0,c=0", "a=0.5,b=0.5,c=0", "a=0.2,b=0.3,c=0.5")]
    assert [backward_passes(w, GradientRule("raco")) for w in preferences] == [1, 2, 3]
    assert [backward_passes(w, GradientRule("linear")) for w in preferences] == [1, 1, 1]
