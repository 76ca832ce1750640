"""Soups between anchors against the nearest anchor, from the answers of a finished run.

    python -m benchmarks.fronts.between RUN

Each policy of the run that answers between its anchors with a soup is compared with itself as it would be without: at a preference
between, the nearest anchor's answers to the same prompts stand in (of two that are as near, the first, as such a policy serves it).
Nothing is sampled for that, as the run has measured every anchor; a policy whose anchors it did not measure, such as a Bone Soup,
is left out and named. All comparisons are judged together (Holm).
"""

from __future__ import annotations

import argparse
from pathlib import Path

from paretune.core.errors import ParetuneError
from paretune.core.preference import nearest
from paretune.data.score_files import read_scores
from paretune.fronts.front import Front
from paretune.fronts.inference import Comparison, compare, holm, sentence
from paretune.fronts.record import FILE, FrontRecord, MeasuredPolicy
from paretune.fronts.score_table import PolicyScores


def snapped(policy: MeasuredPolicy, scores: PolicyScores) -> Front:
    """Return the front of a policy as its anchors alone, of which one is measured, would serve it."""
    between = [point.interpolated for point in policy.points]
    own = {tuple(point.preference.items()): flag for point, flag in zip(policy.points, between, strict=True)}
    anchors = [w for w in scores.preferences if not own[tuple(w.as_dict().items())]]
    answering = [scores.preferences.index(nearest(w, anchors)) for w in scores.preferences]
    front = scores.front
    return Front(
        f"{policy.name} at the nearest",
        front.objectives,
        front.preferences,
        front.scores[answering],
        front.prompts,
    )


def compared(folder: Path) -> tuple[list[Comparison], list[str]]:
    """Return the comparisons of a run's soups between anchors with the nearest anchor, judged together, and what was left out.

    Raises:
        ParetuneError: The folder has no finished run, or no policy of it answers between measured anchors with a soup.
    """
    record = FrontRecord.read(folder / FILE)
    table = read_scores(folder).policies()
    found, left_out = [], []
    for policy in record.policies:
        if not any(point.interpolated for point in policy.points):
            continue
        if all(point.interpolated for point in policy.points):
            left_out.append(policy.name)
            continue
        scores = table[policy.name].over(record.objectives)
        found.append(compare(scores.front, snapped(policy, scores)))
    if not found:
        raise ParetuneError(
            f"{folder}: no policy answers between anchors that were measured; set between: soup for one that has anchors"
        )
    return holm(found), left_out


def main() -> None:
    """Print a line for each policy."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    comparisons, left_out = compared(parser.parse_args().run)
    for comparison in comparisons:
        print(f"- {sentence(comparison)}")
    for name in left_out:
        print(f"- {name}: left out, as the run measured none of its anchors.")


if __name__ == "__main__":
    main()
