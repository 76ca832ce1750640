"""``paretune data ...``: inspect, convert, sample and select preference data."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from paretune.cli import serving as serve_commands
from paretune.cli.options import ChatTemplateOption, DeviceOption, template_arguments
from paretune.cli.output import JsonOption, tell
from paretune.core.bounds import SEEDS

if TYPE_CHECKING:
    from paretune.runs.named_sources import NamedSource

MOST_RESPONSES = 100_000
"""Responses for a prompt that are sampled at most."""

data = typer.Typer(help="Inspect, convert, sample and select preference data.", no_args_is_help=True)

# Modules that load torch are imported inside the commands, so that --help answers at once. Typer reads the options of a command
# from its signature, so a command has as many parameters as it has options.

Source = Annotated[
    str,
    typer.Argument(
        help="A file or folder, a known data set (quickstart, hh-rlhf, ...), hub:owner/name, or a YAML column map."
    ),
]
ObjectiveOption = Annotated[
    str | None, typer.Option(help="The objective that the labels compare, for data that do not name it.")
]
PathOption = Annotated[
    Path | None, typer.Option("--path", help="The local file or folder of a known data set.")
]
SplitOption = Annotated[
    str | None,
    typer.Option(
        help="The part of the data to read, such as train or test; a folder or the hub gives train by default."
    ),
]


@data.command("sets")
def data_sets(as_json: JsonOption = False) -> None:
    """List the public data sets known by name, with their objectives and licences."""
    from paretune.data.known import KNOWN

    facts = [
        {
            "name": name,
            "hub": source.hub or None,
            "objectives": list(source.objectives),
            "licence": source.licence,
        }
        for name, source in KNOWN.items()
    ]
    tell(facts, as_json, _sets)


def _sets(facts: list[dict[str, Any]]) -> Any:
    from rich.table import Table

    table = Table(title="Public data sets")
    for column in ("name", "on the hub", "objectives", "licence"):
        table.add_column(column)
    for row in facts:
        table.add_row(
            row["name"], row["hub"] or "local files only", ", ".join(row["objectives"]), row["licence"]
        )
    return table


@data.command("inspect")
def data_inspect(
    source: Source,
    path: PathOption = None,
    objective: ObjectiveOption = None,
    split: SplitOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show objectives, counts, score distributions, missing values, lengths, conflicts and Pareto layers."""
    from paretune.cli.inspect import render
    from paretune.data.summary import inspect

    tell(inspect(_read(source, path, objective, split)), as_json, render)


@data.command("convert")
def data_convert(
    source: Source,
    target: Annotated[Path, typer.Argument(help="The new file: .jsonl, .jsonl.gz, .parquet or .csv.")],
    path: PathOption = None,
    objective: ObjectiveOption = None,
    split: SplitOption = None,
) -> None:
    """Write any data in the canonical form, to a new file."""
    from paretune.data.dataset import new_data_file

    new_data_file(target, "data are written")
    dataset = load_source(source, path, objective, split)
    dataset.write(target)
    typer.echo(f"{target}: {len(dataset.rows)} rows, objectives {', '.join(dataset.objectives) or '(none)'}")


@data.command("sample")
def data_sample(
    source: Source,
    target: Annotated[Path, typer.Argument(help="The new file: .jsonl, .jsonl.gz, .parquet or .csv.")],
    path: PathOption = None,
    objective: ObjectiveOption = None,
    split: SplitOption = None,
    model: Annotated[
        str, typer.Option(help="The model: an embedded name, a hub name, a folder or a GGUF file.")
    ] = "smollm2-135m",
    responses: Annotated[
        int, typer.Option(help="The number of responses per prompt.", min=1, max=MOST_RESPONSES)
    ] = 4,
    max_new_tokens: Annotated[
        int, typer.Option(help="The length limit of a response, in tokens.", min=1)
    ] = 160,
    temperature: Annotated[float, typer.Option(help="The sampling temperature.", min=0, max=100)] = 0.9,
    top_p: Annotated[float, typer.Option(help="The probability that nucleus sampling keeps.")] = 0.95,
    batch_size: Annotated[int, typer.Option(help="The number of rows decoded together.", min=1)] = 64,
    limit: Annotated[int, typer.Option(help="The largest number of prompts to use; 0 for all.", min=0)] = 0,
    seed: Annotated[int, typer.Option(help="The seed of the sampling.", min=0, max=SEEDS - 1)] = 0,
    dtype: Annotated[str, typer.Option(help="The number format: auto, float32 or bfloat16.")] = "auto",
    device: DeviceOption = None,
    revision: Annotated[
        str | None, typer.Option(help="The branch, tag or commit of a model on the hub; by default main.")
    ] = None,
    quantization: Annotated[
        str,
        typer.Option(
            help="How the model's matrices are held: none, nf4 (4 bits), int8, or auto for what its folder holds."
        ),
    ] = "auto",
    chat_template: ChatTemplateOption = None,
    endpoint: Annotated[
        str | None,
        typer.Option(
            help="Sample from the OpenAI-compatible server at this address, such as http://HOST:8000/v1."
        ),
    ] = None,
    endpoint_model: Annotated[
        str, typer.Option(help="The name of the server's model; by default its only one.")
    ] = "",
    concurrency: Annotated[
        int, typer.Option(help="The number of requests to the server at the same time.", min=1)
    ] = 32,
) -> None:
    """Sample responses from a language model for every prompt, to a new file."""
    from dataclasses import replace

    from paretune.core.sampling import Sampling
    from paretune.data.dataset import new_data_file
    from paretune.generation.endpoint import Endpoint
    from paretune.generation.resumable import remove_parts
    from paretune.generation.sample import sample_dataset, sample_remotely
    from paretune.models.language_model import load

    new_data_file(target, "samples are written")
    sampling, template = (
        Sampling(max_new_tokens, temperature, top_p, batch_size),
        template_arguments(chat_template),
    )
    dataset = load_source(source, path, objective, split)
    dataset = replace(dataset, rows=dataset.rows[: limit or None])
    parts = target.with_name(target.name + ".parts")
    counted = ""
    if endpoint is None:
        lm = load(model, dtype, device, revision, quantization, chat_template=template)
        sampled = sample_dataset(lm, dataset, responses, sampling, seed, parts)
    else:
        server = Endpoint(endpoint, endpoint_model, concurrency, chat_template=template)
        sampled, tokens = sample_remotely(server, dataset, responses, sampling, seed, parts)
        counted = f", {tokens} tokens"
    sampled.write(target)
    remove_parts(parts)
    cut = [truncated for row in sampled.rows for truncated in row.truncated]
    share = sum(cut) / max(1, len(cut))
    typer.echo(f"{target}: {len(sampled.rows)} prompts, {len(cut)} responses, {share:.1%} cut{counted}")


@data.command("select")
def data_select(
    source: Source,
    path: PathOption = None,
    objective: ObjectiveOption = None,
    split: SplitOption = None,
    k: Annotated[int, typer.Option(help="The number of responses per preference.")] = 100,
    preferences: Annotated[
        int, typer.Option(help="The number of evenly spaced preferences between two objectives.")
    ] = 11,
    layers: Annotated[
        Optional[int],  # noqa: UP045
        typer.Option(
            help="The number of non-dominated layers in the pool; by default as few as hold 5 k responses."
        ),
    ] = None,
    normalize: Annotated[str, typer.Option(help="How to scale scores: minmax, zscore or none.")] = "minmax",
    out: Annotated[Optional[Path], typer.Option(help="The new file of the picture, a PNG.")] = None,  # noqa: UP045
    jsonl: Annotated[Optional[Path], typer.Option(help="The new file of the chosen responses.")] = None,  # noqa: UP045
    as_json: JsonOption = False,
) -> None:
    """Choose the responses that ParetoHqD would train on, and show pool, rays and choice."""
    from paretune.cli.select import render_selection, select_command

    dataset = load_source(source, path, objective, split)
    facts = select_command(dataset, k, preferences, layers, normalize, out, jsonl)  # type: ignore[arg-type]
    tell(facts, as_json, render_selection)


data.command("from-votes")(serve_commands.from_votes)


def column_map(file: str) -> dict[str, Any]:
    """Return the column map that a YAML file holds; its path may be beside the file.

    Raises:
        ParetuneError: The file cannot be read, or holds something else.
    """
    from paretune.core.errors import DataError
    from paretune.core.yaml_text import read_yaml

    spec = read_yaml(file, "the column map")
    if not isinstance(spec, dict):
        raise DataError(
            f"{file}: expected a column map (path: and the columns, see docs/data.md), got {spec!r:.60}"
        )
    given = spec.get("path")
    if (
        isinstance(given, str)
        and "\0" not in given
        and not Path(given).exists()
        and (beside := Path(file).parent / given).exists()
    ):
        return {**spec, "path": str(beside)}
    return spec


def named_sources(texts: Sequence[str]) -> list[NamedSource]:
    """Return what ``SOURCE`` or ``OBJECTIVE=SOURCE`` on the command line names; a .yaml file is a column map.

    Raises:
        ParetuneError: A column map cannot be read.
    """
    from paretune.runs.named_sources import NamedSource

    found = []
    for text in texts:
        name, sign, place = text.partition("=")
        if not sign or not re.fullmatch(r"[\w-]+", name) or Path(text).exists():
            name, place = "", text
        spec = column_map(place) if place.endswith((".yaml", ".yml")) else place
        found.append(NamedSource(spec, place, name))
    return found


def load_source(source: str, path: Path | None, objective: str | None, split: str | None) -> Any:
    """Load data, and say what of them is left out."""
    from paretune.core.progress import announce

    dataset = _read(source, path, objective, split)
    for note in dataset.notes:
        announce(note, once=True)
    return dataset


def load_labelled(source: str, path: Path | None, objective: str | None, split: str | None) -> Any:
    """Load data as :func:`load_source` does; ``objective`` names labels that have no name, and is not needed by others."""
    from paretune.data.formats import UnnamedObjectiveError

    try:
        return load_source(source, path, None, split)
    except UnnamedObjectiveError:
        return load_source(source, path, objective, split)


def _read(source: str, path: Path | None, objective: str | None, split: str | None) -> Any:
    """Load data as `paretune.data.load` does; a .yaml file is a column map."""
    from paretune.core.errors import DataError
    from paretune.data.load import load_data

    if not source.endswith((".yaml", ".yml")):
        return load_data(source, split, path=path, objective=objective)
    try:
        return load_data(column_map(source), split, path=path, objective=objective)
    except DataError as error:
        raise DataError(
            f"{source}: {str(error).removeprefix('data: ')}"
            if str(error).startswith("data: ")
            else str(error)
        ) from error
