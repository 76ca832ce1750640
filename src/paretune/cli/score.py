"""``paretune score ...``: score data by any scorer, compare pairs or rank by a judge.

:mod:`paretune.cli.fitting` fits rewards, and :mod:`paretune.cli.checking` checks scorers.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from enum import Enum
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from paretune.cli import checking, fitting
from paretune.cli.data import ObjectiveOption, PathOption, Source, SplitOption, load_source
from paretune.cli.options import (
    ScorerDeviceOption,
    ScorerOwnDtypeOption,
)
from paretune.cli.output import JsonOption, tell
from paretune.cli.scorer_option import built_scorer

if TYPE_CHECKING:
    from paretune.data.dataset import ScoredDataset
    from paretune.scoring.function_scorer import FunctionScorer

score = typer.Typer(
    help="Score data, compare pairs, rank, fit rewards, and check scorers.", no_args_is_help=True
)

score.command("fit")(fitting.score_fit)
score.command("check")(checking.score_check)

TargetArgument = Annotated[Path, typer.Argument(help="The new file: .jsonl, .jsonl.gz, .parquet or .csv.")]
ScorerOption = Annotated[
    str,
    typer.Option(
        "--scorer",
        help="A scorer as in a config: '{objective: kind, judge: kind.md, model: NAME, url: http://HOST:8000/v1}'.",
    ),
]


@score.command("rate")
def score_rate(
    source: Source,
    target: TargetArgument,
    scorer: ScorerOption,
    path: PathOption = None,
    objective: ObjectiveOption = None,
    split: SplitOption = None,
    device: ScorerDeviceOption = None,
    dtype: ScorerOwnDtypeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Score every response of a data set, to a new file; a stopped command goes on."""
    from paretune.data.dataset import new_data_file
    from paretune.scoring.cache import ScoreCache
    from paretune.scoring.scorer import score_dataset

    new_data_file(target, "scores are written")
    made = built_scorer(scorer, device, dtype)
    dataset = load_source(source, path, objective, split)
    cache = target.with_name(target.name + ".scores")
    with _telling_usage(made):
        scored = score_dataset(dataset, [made], ScoreCache(cache), leave_out=True)
    missing = sum(
        score != score for row in scored.rows for score in row.scores.get(made.objective, ())
    ) + sum(len(row.responses) for row in scored.rows if made.objective not in row.scores)
    facts = _written(scored, target, made, without_score=missing)
    cache.unlink(missing_ok=True)
    tell(facts, as_json, _rated)


@score.command("pairs")
def score_pairs(
    source: Source,
    target: TargetArgument,
    scorer: ScorerOption,
    path: PathOption = None,
    objective: ObjectiveOption = None,
    split: SplitOption = None,
    device: ScorerDeviceOption = None,
    dtype: ScorerOwnDtypeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let a judge compare the responses to each prompt, each pair in both orders, and write the labels to a new file."""
    from paretune.core.errors import ConfigError
    from paretune.data.dataset import new_data_file
    from paretune.scoring.pair_labels import label_dataset

    new_data_file(target, "labels are written")
    made = built_scorer(scorer, device, dtype)
    if made.comparing is None or not made.comparing.pairs:
        raise ConfigError(
            f"--scorer {scorer!r:.80}: compares no pairs; expected a judge with pairs, the largest number for each prompt, such as "
            "'{objective: kind, judge: kind.md, model: NAME, pairs: 3}'"
        )
    dataset = load_source(source, path, objective, split)
    with _telling_usage(made):
        labelled, missing = label_dataset(dataset, made)
    labels = [label for row in labelled.rows for label in row.labels.get(made.objective, ())]
    ties = sum(preference == 0 for _, _, preference in labels)
    facts = _written(labelled, target, made, pairs=len(labels), ties=ties, without_verdict=missing)
    tell(facts, as_json, _compared)


TriplesOption = Annotated[
    int,
    typer.Option(
        help="Triples whose pairs are all asked about, to see whether the judge contradicts itself.", min=0
    ),
]
RANKS = "'{objective: kind, judge: kind.md, model: NAME, sort: beam}'"


class Written(str, Enum):
    """What a ranking is written as."""

    labels = "labels"
    levels = "levels"


@score.command("rank")
def score_rank(
    source: Source,
    target: TargetArgument,
    scorer: ScorerOption,
    written: Annotated[
        Written,
        typer.Option(
            "--as", help="Labels of pairs, or levels from 0 to 1 as scores that compare within a prompt."
        ),
    ] = Written.labels,
    triples: TriplesOption = 1,
    seed: Annotated[int, typer.Option(help="Seed of the draw of triples.")] = 0,
    path: PathOption = None,
    objective: ObjectiveOption = None,
    split: SplitOption = None,
    device: ScorerDeviceOption = None,
    dtype: ScorerOwnDtypeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let a judge rank the responses to each prompt by a merge sort (PairS), and write labels or levels to a new file."""
    from dataclasses import asdict

    from paretune.data.dataset import new_data_file
    from paretune.scoring.ranked_labels import rank_dataset

    new_data_file(target, "rankings are written")
    made = _sorting(scorer, device, dtype)
    dataset = load_source(source, path, objective, split)
    with _telling_usage(made):
        ranked, report = rank_dataset(dataset, made, written.value, triples, seed)
    facts = _written(ranked, target, made, **asdict(report))
    tell(facts, as_json, lambda facts: f"{facts['file']}: {report} ({facts['objective']})")


@score.command("policies")
def score_policies(
    runs: Annotated[list[Path], typer.Argument(help="Folders of finished runs.")],
    scorer: ScorerOption,
    policy: Annotated[
        list[str] | None, typer.Option("--policy", help="Rank this policy alone; repeat for more.")
    ] = None,
    prompts: Annotated[int, typer.Option(help="Largest number of held-out prompts; 0 takes all.", min=0)] = 0,
    triples: TriplesOption = 3,
    seed: Annotated[int, typer.Option(help="Seed of the draw of prompts and triples.")] = 0,
    device: ScorerDeviceOption = None,
    dtype: ScorerOwnDtypeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Let a judge rank the measured policies of runs, each at each preference, by a merge sort over their answers (PairS)."""
    from paretune.cli.ranking import facts_of, render
    from paretune.core.errors import ConfigError
    from paretune.data.rows import Prompt
    from paretune.evaluation.ranked_policies import Contestant, chosen, rank_policies, read_answers
    from paretune.evaluation.rescored import ANSWERS

    made = _sorting(scorer, device, dtype)
    found: list[Contestant] = []
    asked: dict[str, Prompt] = {}
    for run in runs:
        file = run / ANSWERS
        if not file.is_file():
            raise ConfigError(
                f"{run}: no {ANSWERS}; expected the folder of a finished run, such as runs/quickstart"
            )
        contestants, texts = read_answers(file, run.name if len(runs) > 1 else "")
        found += contestants
        asked.update(texts)
    with _telling_usage(made):
        ranking = rank_policies(chosen(found, policy or []), asked, made, triples, prompts, seed)
    tell(facts_of(ranking), as_json, render)


def _sorting(text: str, device: str | None, dtype: str | None) -> FunctionScorer:
    """Return the scorer that an option states, which ranks.

    Raises:
        ConfigError: It does not.
    """
    from paretune.core.errors import ConfigError

    made = built_scorer(text, device, dtype)
    if made.comparing is None or made.comparing.sort is None:
        raise ConfigError(
            f"--scorer {text!r:.80}: ranks nothing; expected a judge with a sort, such as {RANKS}"
        )
    return made


@contextmanager
def _telling_usage(scorer: FunctionScorer) -> Iterator[None]:
    """Say in the end whom a scorer asked, how much, and what it cost, also where the command fails."""
    from paretune.core.progress import announce
    from paretune.scoring.usage import in_words

    try:
        yield
    finally:
        if scorer.judge and scorer.usage:
            announce(f"{scorer.objective}: judged by {scorer.judge}: {in_words(scorer.usage, scorer.prices)}")


def _written(dataset: ScoredDataset, target: Path, scorer: FunctionScorer, **counts: int) -> dict[str, Any]:
    """Write a data set to the new file; return its facts, with further ``counts``."""
    dataset.write(target)
    responses = sum(len(row.responses) for row in dataset.rows)
    sizes = {"prompts": len(dataset.rows), "responses": responses}
    return {"file": str(target), "objective": scorer.objective, **sizes, **counts}


def _rated(facts: dict[str, Any]) -> str:
    missing = f", {facts['without_score']} without a score" if facts["without_score"] else ""
    return f"{facts['file']}: {facts['prompts']} prompts, {facts['responses']} responses scored on {facts['objective']}{missing}"


def _compared(facts: dict[str, Any]) -> str:
    missing = f", {facts['without_verdict']} without a verdict" if facts["without_verdict"] else ""
    return (
        f"{facts['file']}: {facts['prompts']} prompts, {facts['pairs']} pairs compared on {facts['objective']}, "
        f"{facts['ties']} of them ties{missing}"
    )
