"""Filling gaps against an even grid: hypervolume a trained preference on fronts that are known, without training anything.

    python -m benchmarks.fronts.sweeps

A front is a curve: where an optimum of the weighted sum lies for each preference. Both choices start from the two corners.
Printed is the part of the hypervolume between the corners and the whole front that N preferences reach, and the runs that an even
grid needs for what the adaptive choice reaches with 9. Noisy fronts add a normal error to every measured mean, and are judged by
the true ones (mean of 20 draws).
"""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from paretune.fronts.indicators import hypervolume
from paretune.fronts.refinement import next_preferences

COUNTS = (3, 5, 7, 9, 13, 17)
Curve = Callable[[np.ndarray], np.ndarray]


def superellipse(power: float) -> Curve:
    """The best x, y of w x + (1 - w) y on x^p + y^p = 1: w enters with the power 1 / (p - 1)."""

    def curve(w: np.ndarray) -> np.ndarray:
        x, y = w ** (1 / (power - 1)), (1 - w) ** (1 / (power - 1))
        return np.stack([x, y], axis=-1) / ((x**power + y**power) ** (1 / power))[..., None]

    return curve


def threshold(middle: float, width: float) -> Curve:
    """A quarter circle that is passed within ``width`` of one weight: below and above it the preference changes little."""

    def curve(w: np.ndarray) -> np.ndarray:
        rise = [1 / (1 + np.exp(-(u - middle) / width)) for u in (w, np.zeros(1), np.ones(1))]
        angle = np.pi / 2 * (rise[0] - rise[1]) / (rise[2] - rise[1])
        return np.stack([np.sin(angle), np.cos(angle)], axis=-1)

    return curve


FRONTS: dict[str, Curve] = {
    "quarter circle (p = 2)": superellipse(2),
    "flat (p = 1.2)": superellipse(1.2),
    "round-cornered (p = 4)": superellipse(4),
    "threshold at 0.7": threshold(0.7, 0.05),
    "threshold at 0.9": threshold(0.9, 0.02),
}


def adaptive(curve: Curve, count: int, noise: float, seed: int) -> np.ndarray:
    """Return the weights on the first objective that are chosen one at a time."""
    random = np.random.default_rng(seed)
    weights = np.eye(2)
    means = curve(weights[:, 0]) + noise * random.normal(size=(2, 2))
    while len(weights) < count:
        chosen = next_preferences(weights, means, np.zeros((0, 2)))
        weights = np.concatenate([weights, chosen])
        means = np.concatenate([means, curve(chosen[:, 0]) + noise * random.normal(size=(1, 2))])
    return weights[:, 0]


def share(curve: Curve, weights: np.ndarray) -> float:
    """Return the hypervolume of the points at ``weights`` between that of the corners (0) and of the whole front (1)."""
    least, most, own = (
        hypervolume(curve(w), np.zeros(2)) for w in (np.array([0.0, 1.0]), np.linspace(0, 1, 20001), weights)
    )
    return float((own - least) / (most - least))


def main() -> None:
    """Print the table."""
    print(f"| front | choice | {' | '.join(f'N = {n}' for n in COUNTS)} | grid needs for N = 9 |")
    print(f"|---|---|{'---|' * (len(COUNTS) + 1)}")
    for name, curve in FRONTS.items():
        grid = {n: share(curve, np.linspace(0, 1, n)) for n in range(2, 200)}
        print(f"| {name} | grid | {' | '.join(f'{grid[n]:.3f}' for n in COUNTS)} | 9 |")
        for noise in (0.0, 0.05):
            found = {
                n: np.mean([share(curve, adaptive(curve, n, noise, s)) for s in range(20 if noise else 1)])
                for n in COUNTS
            }
            # Grids of more points need not hold more: counted is from where on they all do.
            needed = next((n + 1 for n in sorted(grid, reverse=True) if grid[n] < found[9]), 2)
            label = f"adaptive, noise {noise}" if noise else "adaptive"
            print(f"| {name} | {label} | {' | '.join(f'{found[n]:.3f}' for n in COUNTS)} | {needed} |")


if __name__ == "__main__":
    main()
