"""``paretune judge`` and ``paretune compare``: verdicts on scores of any origin, and on finished runs side by side."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

from paretune.cli.options import ScorerDeviceOption, ScorerOwnDtypeOption
from paretune.cli.output import JsonOption, show, tell

if TYPE_CHECKING:
    from rich.console import Group

    from paretune.evaluation.rescored import Gain, Rescored
    from paretune.fronts.record import FrontRecord
    from paretune.runs.compare import ComparedRuns


def judge(
    scores: Annotated[
        list[Path],
        typer.Argument(
            help="Files of scores (JSONL, JSON, CSV, Parquet or Arrow), hub:owner/name, or folders of runs; several are one table."
        ),
    ],
    out: Annotated[
        Path | None,
        typer.Option(
            help="The new folder for front.json, front.png, report.html and new scores; by default nothing is written."
        ),
    ] = None,
    base: Annotated[
        str | None,
        typer.Option(help="The policy that is the base model; by default base, where it is there."),
    ] = None,
    corner: Annotated[
        list[str] | None,
        typer.Option(
            "--corner",
            help="A single-objective model as OBJECTIVE=POLICY, one for each objective; by default the policy corners.",
        ),
    ] = None,
    column: Annotated[
        list[str] | None,
        typer.Option(
            "--column",
            help="Where a column has another name: policy=NAME, preference=, prompt=, sample=, seed=, scorer=, or OBJECTIVE=.",
        ),
    ] = None,
    objectives: Annotated[
        str | None,
        typer.Option(help="The objectives, as a,b; by default those that the preferences name."),
    ] = None,
    common_prompts: Annotated[
        bool,
        typer.Option(
            "--common-prompts", help="Judge on the prompts that all policies have, and leave out the rest."
        ),
    ] = False,
    reference_point: Annotated[
        str | None,
        typer.Option(
            help="The reference point of the hypervolumes, as a=-10,b=0; by default a little below all means."
        ),
    ] = None,
    resamples: Annotated[int, typer.Option(help="Resamples of the prompts, for intervals.", min=20)] = 2000,
    scorer: Annotated[
        list[str] | None,
        typer.Option(
            "--scorer",
            help="Score the answers of runs anew by this scorer, such as '{objective: helpful, head: FOLDER}'; one for each "
            "objective.",
        ),
    ] = None,
    cache: Annotated[
        Path | None, typer.Option(help="A file that keeps the new scores, read and added to.")
    ] = None,
    device: ScorerDeviceOption = None,
    dtype: ScorerOwnDtypeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Judge policies trained and scored anywhere, by a table of their scores: fronts, tests and a report."""
    from paretune.cli.verdicts import facts_of, render
    from paretune.data.score_files import read_scores
    from paretune.evaluation.from_scores import Roles, judge_scores
    from paretune.evaluation.rescored import gains, with_facts

    roles = Roles(base, _assigned("--corner", corner or [], "OBJECTIVE=POLICY"))
    names = None if objectives is None else [name.strip() for name in objectives.split(",")]
    columns = _assigned("--column", column or [], "ROLE=NAME")
    anew = _anew(scores, scorer or [], columns, cache, device, dtype)
    table = read_scores(scores, columns, names, roles.unseeded) if anew is None else anew.other
    record = judge_scores(
        table,
        roles,
        None if reference_point is None else _numbers("--reference-point", reference_point),
        resamples,
        common_prompts,
        name=(scores[0] if out is None else out).name,
        model=", ".join(path.name for path in scores),
    )
    if anew is not None:
        record = with_facts(record, scores)
    report = None if out is None else _write(record, out, None if anew is None else anew.rows)
    gained = None if anew is None else gains(anew)
    if as_json:
        told = {} if gained is None else {"gains": gained}
        tell({"report": report, **facts_of(record), **told}, True, str)
        return
    show(render(record))
    if gained:
        show(_gains(gained))
    if report is not None:
        typer.echo(f"Report: {report}")


def _anew(
    runs: Sequence[Path],
    scorers: Sequence[str],
    columns: Mapping[str, str],
    cache: Path | None,
    device: str | None,
    dtype: str | None,
) -> Rescored | None:
    """Return the answers of runs with new scores; None without scorers.

    Raises:
        ConfigError: Options that do not go together.
    """
    from paretune.cli.scorer_option import built_scorer
    from paretune.core.errors import ConfigError
    from paretune.evaluation.rescored import rescored
    from paretune.scoring.cache import ScoreCache

    if not scorers:
        given = {"--cache": cache, "--device": device, "--dtype": dtype}
        if stray := [option for option, value in given.items() if value is not None]:
            raise ConfigError(f"{stray[0]}: is for new scores; give it with --scorer, or leave it out")
        return None
    if columns:
        raise ConfigError(
            "--column names columns of a table of scores; with --scorer the answers of runs are read"
        )
    made = [built_scorer(text, device, dtype) for text in scorers]
    return rescored(runs, made, None if cache is None else ScoreCache(cache))


def _gains(found: Sequence[Gain]) -> Group:
    """Return what was gained by the run's own scorers and by the others, as a table with a sentence."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from paretune.reports.wording import interval, number

    table = Table(title="Gain over the base model, in its deviations", title_justify="left")
    for name in ("policy", "objective", "weight", "by the run's scorer", "by the one given"):
        table.add_column(name)
    for each in found:
        figures = interval(each.own, 2), interval(each.other, 2)
        table.add_row(each.policy, each.objective, number(each.weight, 2), *figures)
    return Group(
        table,
        Text("What only the run's own scorer sees is overoptimisation. Seeds of one method are one row."),
    )


def _write(record: FrontRecord, folder: Path, scored: Sequence[dict[str, Any]] | None) -> Path:
    """Write the record, its picture, its report and new scores as a folder that replaces an earlier one of this command alone."""
    from paretune.core.files import atomic_path
    from paretune.core.folder_form import EXPORT, write_marker
    from paretune.data.readers import write_jsonl
    from paretune.fronts.record import FILE
    from paretune.fronts.score_table import FILE as SCORES
    from paretune.reports.picture import write_picture
    from paretune.reports.report import write_report

    with atomic_path(folder, EXPORT) as temporary:
        temporary.mkdir()
        record.write(temporary / FILE)
        if scored is not None:
            write_jsonl(temporary / SCORES, scored)
        write_picture(record, temporary / "front.png")
        report = write_report(record, temporary)
        write_marker(temporary)
    return folder / report.name


def _assigned(option: str, texts: Sequence[str], form: str) -> dict[str, str]:
    """Return ``{name: value}`` of options such as ``name=value``."""
    from paretune.core.errors import ConfigError

    found: dict[str, str] = {}
    for text in texts:
        name, sign, value = (part.strip() for part in text.partition("="))
        if not sign or not name or not value or name in found:
            raise ConfigError(f"{option} {text!r}: expected {form}, each name once")
        found[name] = value
    return found


def _numbers(option: str, text: str) -> dict[str, float]:
    """Return ``{name: number}`` of ``a=1,b=2``."""
    from paretune.core.errors import ConfigError
    from paretune.core.numbers import number_in

    found = {}
    for name, value in _assigned(option, text.split(","), "OBJECTIVE=NUMBER").items():
        try:
            found[name] = number_in(value)
        except ValueError:
            found[name] = math.nan
        if not math.isfinite(found[name]):
            raise ConfigError(f"{option}: {name}={value!r}: expected a number")
    return found


def compare(
    runs: Annotated[list[Path], typer.Argument(help="Two or more folders of finished runs.")],
    policy: Annotated[
        list[str] | None,
        typer.Option("--policy", help="Compare this policy of each run alone; repeat for more."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Compare the policies of finished runs at common preferences on common held-out prompts, or say why they do not compare."""
    from paretune.runs.compare import compare_runs

    compared = compare_runs(runs, policy or [])
    if as_json:
        tell(_facts(compared), True, str)
    else:
        show(_rendered(compared))


def _facts(compared: ComparedRuns) -> dict[str, Any]:
    from paretune.fronts.inference import sentence

    return {**compared.to_dict(), "verdicts": [sentence(each) for each in compared.comparisons]}


def _rendered(compared: ComparedRuns) -> Group:
    """Return compared runs as tables and sentences."""
    from rich.console import Group
    from rich.table import Table
    from rich.text import Text

    from paretune.fronts.front import Interval
    from paretune.fronts.inference import NOT_SHOWN, sentence
    from paretune.reports.wording import interval, number

    runs = Table(title="Runs", title_justify="left")
    for name in ("run", "model", "date", "policies", "held-out prompts"):
        runs.add_column(name)
    for run in compared.runs:
        named = ", ".join(policy.name for policy in run.record.policies)
        runs.add_row(run.label, run.record.model, run.record.created, named, str(len(run.prompts)))
    tests = Table(title="Mean utility, first less second, in deviations", title_justify="left")
    for name in ("first", "second", "verdict", "difference", "could have been seen"):
        tests.add_column(name)
    for each in compared.comparisons:
        seen = number(each.detectable, 2) if each.verdict == NOT_SHOWN else "-"
        figure = Interval(each.difference, each.low, each.high, each.level)
        tests.add_row(each.first, each.second, each.verdict, interval(figure, 2), seen)
    lines = [Text(f"- {sentence(each)}") for each in compared.comparisons]
    lines += [
        Text(f"- Not compared: {pair.first} and {pair.second} ({pair.reason}).")
        for pair in compared.uncompared
    ]
    return Group(runs, *[Text(f"{note}.", style="yellow") for note in compared.notes], tests, *lines)
