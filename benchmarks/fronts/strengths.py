"""What a dial for strength does, at the ends of policies of a finished run.

    python -m benchmarks.fronts.strengths RUN POLICY [POLICY ...] [--strengths 0.5 1 2] [--prompts 32]

Each policy answers the run's held-out prompts at full weight on each objective, at each strength, with the run's sampling, and the
run's scorers judge. Prints the mean score on that objective with its 95 % interval over prompts, the words of an answer, and the
share of answers that collapsed.
"""

from __future__ import annotations

import argparse
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from benchmarks.results import table
from paretune.core.preference import Preference
from paretune.data.dataset import ScoredDataset
from paretune.evaluation.evaluate import HeldOut, evaluate
from paretune.evaluation.judge import mean_interval
from paretune.fronts.front import Interval
from paretune.policies.policy import Policy
from paretune.policies.saving import load_policy
from paretune.reports.wording import interval, number, percent
from paretune.runs.parse import load_config
from paretune.scoring.scorer import build_scorer


@dataclass(frozen=True)
class AtStrength:
    """What a policy scores at an end and a strength.

    Attributes:
        policy: Its name.
        objective: The objective with all weight.
        strength: The strength.
        score: Mean score on that objective, with its interval over prompts.
        words: Mean number of words of an answer.
        collapsed: Share of answers that collapsed.
    """

    policy: str
    objective: str
    strength: float
    score: Interval
    words: float
    collapsed: float


def measured(policy: Policy, held_out: HeldOut, strengths: Sequence[float]) -> list[AtStrength]:
    """Return what a policy scores at each of its ends and strengths."""
    ends = [Preference.one_hot(objective, policy.objectives) for objective in policy.objectives]
    asked = [(m, end.at(t)) for m, end in enumerate(ends) for t in strengths]
    found = evaluate(policy, [preference for _, preference in asked], held_out)
    rows = []
    for (m, preference), point in zip(asked, found.points, strict=True):
        texts = [text for answers in point.responses for text in answers]
        rows.append(
            AtStrength(
                policy.name,
                policy.objectives[m],
                preference.strength,
                mean_interval(point.scores[:, :, m].mean(axis=1)),
                sum(len(text.split()) for text in texts) / len(texts),
                float(point.collapsed.mean()),
            )
        )
    return rows


def held_out_of(run: Path, prompts: int) -> HeldOut:
    """Return the first held-out prompts of a finished run, with its scorers and its sampling."""
    config = load_config(run / "config.yaml")
    rows = list({row.key: row for row in ScoredDataset.read(run / "data" / "test.jsonl.gz").rows}.values())[
        :prompts
    ]
    scorers = [build_scorer(spec) for spec in config.score]
    return HeldOut(
        [row.prompt for row in rows],
        [row.key for row in rows],
        scorers,
        config.sampling,
        config.evaluate.samples,
        config.seed,
    )


def main() -> None:
    """Print a table."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("run", type=Path)
    parser.add_argument("policies", nargs="+", metavar="POLICY")
    parser.add_argument("--strengths", type=float, nargs="+", default=[0.5, 1.0, 2.0])
    parser.add_argument("--prompts", type=int, default=32)
    given = parser.parse_args()
    held_out = held_out_of(given.run, given.prompts)
    rows = []
    for name in given.policies:
        policy = load_policy(given.run / "policies" / name)
        for row in measured(policy, held_out, given.strengths):
            cells = [
                name,
                row.objective,
                number(row.strength, 2),
                interval(row.score, 2),
                number(row.words, 1),
            ]
            rows.append([*cells, percent(row.collapsed)])
    print(
        "\n".join(table(["policy", "all weight on", "strength", "score on it", "words", "collapsed"], rows))
    )


if __name__ == "__main__":
    main()
