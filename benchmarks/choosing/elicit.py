"""Simulated voters: the regret after every number of votes, asked by expected information and at random.

Prints medians and means over voters whose tastes are uniform on the simplex, for rational, noisy and indifferent voters, on
fronts of two and three objectives, and on the fronts of a finished run if one is given.
"""

import argparse
from pathlib import Path

import numpy as np

from benchmarks.choosing.voters import Voter, simulate
from paretune.core.preference import Preference, sample_simplex, simplex_grid
from paretune.fronts.surface import Surface

KINDS = {"rational": {}, "noisy": {"noise": 0.1}, "indifferent": {"indifference": 0.05}}
SHOWN = (0, 1, 2, 3, 5, 10)


def sphere(M, divisions, noise=0.0):
    """Return a front on the unit sphere, with noise."""
    grid = simplex_grid(M, divisions)
    means = grid / np.linalg.norm(grid, axis=1, keepdims=True)
    means = means + noise * np.random.default_rng(0).normal(size=means.shape)
    return Surface("sphere", tuple("abcd"[:M]), grid, means, means, means)


def main():
    """Run and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--voters", type=int, default=64)
    parser.add_argument("--run", type=Path, help="a finished run whose fronts are asked about as well")
    arguments = parser.parse_args()
    fronts = {
        "circle": sphere(2, 10),
        "circle, noisy": sphere(2, 10, 0.05),
        "sphere": sphere(3, 4),
        "sphere, noisy": sphere(3, 4, 0.03),
    }
    if arguments.run:
        from paretune.core.files import read_json

        file = arguments.run / "front.json"
        fronts |= {
            policy["name"]: Surface.read(file, policy["name"]) for policy in read_json(file)["policies"]
        }
    print("regret in ranges of a voter's utility over the front, median (mean), after votes", *SHOWN)
    for name, front in fronts.items():
        tastes = sample_simplex(arguments.voters, len(front.objectives), seed=1)
        for kind, how in KINDS.items():
            for asking in ("information", "random"):
                regrets = np.full((len(tastes), SHOWN[-1] + 1), np.nan)
                for i, weights in enumerate(tastes):
                    voter = Voter(Preference(front.objectives, tuple(weights)), **how)
                    found = simulate(front, voter, SHOWN[-1], asking, seed=i).regrets
                    regrets[i] = [*found, *[found[-1]] * (SHOWN[-1] + 1 - len(found))]
                cells = [f"{np.median(regrets[:, n]):.3f} ({regrets[:, n].mean():.3f})" for n in SHOWN]
                print(f"{name:14} {kind:12} {asking:12}", *cells, flush=True)


if __name__ == "__main__":
    main()
