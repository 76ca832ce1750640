"""Synthetic measured fronts for tests of choosing and eliciting."""

import numpy as np

from paretune.core.preference import simplex_grid
from paretune.fronts.surface import Surface

QUICKSTART = [
    # weight on concise, concise with its interval, warm with its interval: soups of the quickstart, 64 prompts
    (1.0, (-2.675, -3.125, -2.314), (0.694, 0.512, 0.902)),
    (0.75, (-3.645, -4.219, -3.075), (0.746, 0.478, 1.051)),
    (0.5, (-4.723, -5.402, -4.080), (1.019, 0.777, 1.291)),
    (0.25, (-5.505, -6.192, -4.828), (1.345, 1.059, 1.646)),
    (0.0, (-6.583, -7.345, -5.877), (1.612, 1.325, 1.916)),
]


def surface(preferences, means, names=None, width=0.1, anchored=False):
    means = np.asarray(means, dtype=float)
    names = names or tuple("abcdef"[: means.shape[1]])
    return Surface("made up", names, preferences, means, means - width / 2, means + width / 2, anchored)


def circle(divisions=10, power=0.5, M=2, names=None, anchored=False):
    """``power`` 0.5 a sphere, which bulges outwards; 1 flat; 2 bent inwards."""
    grid = simplex_grid(M, divisions)
    means = grid / np.linalg.norm(grid, axis=1, keepdims=True) if power == 0.5 else grid**power
    return surface(grid, means, names, anchored=anchored)


def noisy(divisions=10, M=2, size=0.05, seed=0):
    """A sphere with noise: not monotone, with dominated points."""
    base = circle(divisions, M=M)
    return surface(
        base.preferences, base.means + size * np.random.default_rng(seed).normal(size=base.means.shape)
    )


def quickstart(anchored=False):
    rows = QUICKSTART[::2] if anchored else QUICKSTART
    weights = np.array([[w, 1 - w] for w, _, _ in rows])
    tables = [np.array([[concise[k], warm[k]] for _, concise, warm in rows]) for k in range(3)]
    return Surface("soup", ("concise", "warm"), weights, *tables, anchored)


def permuted(front, order):
    """The same front with its objectives listed in another order."""
    order = list(order)
    names = tuple(front.objectives[m] for m in order)
    tables = (front.preferences, front.means, front.low, front.high)
    return Surface(front.policy, names, *(table[:, order] for table in tables), front.anchored)


def rescaled(front, factor, shift):
    """The same front in other units."""
    tables = (front.means, front.low, front.high)
    return Surface(
        front.policy,
        front.objectives,
        front.preferences,
        *(table * factor + shift for table in tables),
        front.anchored,
    )
