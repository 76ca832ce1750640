"""``paretune score check``: what scorers are worth on data, as JSON values and as tables."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from paretune.cli.data import PathOption, Source, SplitOption, load_labelled
from paretune.cli.options import ScorerDeviceOption, ScorerOwnDtypeOption
from paretune.cli.output import JsonOption, tell
from paretune.cli.scorer_option import built_scorer

if TYPE_CHECKING:
    from rich.console import Group
    from rich.table import Table

    from paretune.evaluation.scorer_check import ScorerCheck


def score_check(
    source: Source,
    scorer: Annotated[
        list[str],
        typer.Option(
            help="A scorer as in a config: '{objective: helpful, reward: FOLDER}'; repeat for several."
        ),
    ],
    objective: Annotated[
        str | None,
        typer.Option(help="The objective whose labels are compared with; by default that of each scorer."),
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(help="A file that keeps the scores, read and added to.")
    ] = None,
    path: PathOption = None,
    split: SplitOption = None,
    device: ScorerDeviceOption = None,
    dtype: ScorerOwnDtypeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Check scorers on data: accuracy on labelled pairs, agreement with each other, and best of n."""
    from paretune.evaluation.scorer_check import check_scorers
    from paretune.scoring.cache import ScoreCache

    made = [built_scorer(text, device, dtype) for text in scorer]
    dataset = load_labelled(source, path, objective, split)
    kept = None if cache is None else ScoreCache(cache)
    tell(check_scorers(dataset, made, objective, kept), as_json, render)


def render(check: ScorerCheck) -> Group:
    """Return a check as tables with a sentence under each."""
    from rich.console import Group
    from rich.text import Text

    parts: list[Any] = []
    if check.accuracies:
        table = _table(
            "Right on labelled pairs",
            "scorer",
            "labels",
            "right",
            "longer",
            "where longer",
            "where shorter",
            "pairs",
        )
        for each in check.accuracies:
            table.add_row(
                each.scorer,
                each.objective,
                f"{each.accuracy:.1%} [{each.low:.1%}, {each.high:.1%}]",
                f"{each.longer:.1%}",
                _share(each.where_longer),
                _share(each.where_shorter),
                f"{each.pairs:,}",
            )
        unscored = sum(each.unscored for each in check.accuracies)
        parts += [
            table,
            Text(
                "longer: what preferring the longer response gets right; the next two are the scorer's share where the preferred "
                "response is the longer, and the shorter."
                + (f" {unscored:,} pairs are left out, as a response has no score." if unscored else "")
            ),
        ]
    if check.agreements:
        table = _table("Agreement", "first", "second", "prefer the same", "pairs", "undecided")
        for one in check.agreements:
            shown = f"{one.share:.1%} [{one.low:.1%}, {one.high:.1%}]"
            table.add_row(one.first, one.second, shown, f"{one.pairs:,}", f"{one.undecided:,}")
        parts.append(table)
    if check.best_of:
        table = _table("Best of n", "chosen by", "judged by", "n", "gain, deviations", "prompts")
        for best in check.best_of:
            bounds = "" if best.gain.low != best.gain.low else f" [{best.gain.low:.2f}, {best.gain.high:.2f}]"
            table.add_row(
                best.chosen_by,
                best.judged_by,
                str(best.n),
                f"{best.gain.value:.2f}{bounds}",
                f"{best.prompts:,}",
            )
        parts += [
            table,
            Text("The gain is over one response at random, in deviations of the judging scorer's scores."),
        ]
    return Group(*parts)


def _table(title: str, *columns: str) -> Table:
    from rich.table import Table

    table = Table(title=title, title_justify="left")
    for column in columns:
        table.add_column(column)
    return table


def _share(value: float | None) -> str:
    return "-" if value is None else f"{value:.1%}"
