"""The command line: ``paretune run``, ``plan``, ``data``, ``score``, ``generate``, ``export``, ``serve``, ``chat``, ..."""

from __future__ import annotations

import json
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import typer

import paretune
from paretune.cli import auto as auto_commands
from paretune.cli import config as config_commands
from paretune.cli import data as data_commands
from paretune.cli import figures as figure_commands
from paretune.cli import generate as generate_commands
from paretune.cli import judge as judge_commands
from paretune.cli import methods as method_commands
from paretune.cli import options
from paretune.cli import pal as pal_commands
from paretune.cli import score as score_commands
from paretune.cli import serving as serve_commands
from paretune.cli import share as share_commands
from paretune.cli import start as start_commands
from paretune.cli.allocator import keep_freed_memory, limit_kernels
from paretune.cli.ending import open_streams, run_to_end
from paretune.cli.log import configure
from paretune.cli.output import JsonOption, show, tell, tell_report
from paretune.cli.threads import wait_briefly
from paretune.cli.usage import Commands

if TYPE_CHECKING:
    from paretune.core.preference import Preference
    from paretune.policies.export import Made
    from paretune.policies.policy import Policy
    from paretune.runs.config import RunConfig

app = typer.Typer(
    help="From preference data over several objectives to one language model that you steer along its measured Pareto front.",
    cls=Commands,
    no_args_is_help=True,
    pretty_exceptions_enable=False,
)
app.add_typer(data_commands.data, name="data")
app.add_typer(score_commands.score, name="score")
app.add_typer(pal_commands.pal, name="pal")
app.add_typer(auto_commands.auto, name="auto")
app.add_typer(config_commands.config, name="config")

# Modules that load torch are imported inside the commands, so that --help answers at once.

LONGEST_NAME = 200
"""Bytes of the longest name of a folder; the file system allows 255, and files beside it add some."""
MOST_LORAS = 10_000
"""Largest number of LoRAs of an export."""


def _print_version(wanted: bool) -> None:
    if wanted:
        typer.echo(f"paretune {paretune.__version__}")
        raise typer.Exit


@app.callback()
def _everywhere(
    version: Annotated[
        bool,
        typer.Option("--version", help="Print the version and stop.", is_eager=True, callback=_print_version),
    ] = False,
    verbose: Annotated[
        int, typer.Option("--verbose", "-v", count=True, help="Say more on standard error; -vv says most.")
    ] = 0,
    quiet: Annotated[
        bool, typer.Option("--quiet", "-q", help="No progress and no warnings; errors and results only.")
    ] = False,
) -> None:
    configure(verbose, quiet)


app.command()(start_commands.quickstart)
app.command()(start_commands.init)
app.command()(start_commands.advise)


@app.command()
def run(
    config: Annotated[
        Path, typer.Argument(help="A YAML file, or a config that ships with paretune, such as quickstart.")
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Settings to change, as key=value, for example train.steps=50.")
    ] = None,
    dry_run: Annotated[
        bool,
        typer.Option("--dry-run", help="Print the plan of the run on this machine and stop."),
    ] = False,
    device: options.RunDeviceOption = None,
    dtype: options.RunDtypeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run everything the config asks for: data, scores, training, front, report; a stopped run continues."""
    settings = _settings(config, options.with_options(overrides, device, dtype))
    if dry_run:
        _plan(settings, [], "here", as_json)
        return
    from paretune.runs.run import run as run_all

    report = run_all(settings, forecast=True)
    tell_report(report, as_json)


def _settings(config: Path, overrides: list[str] | None) -> RunConfig:
    """Return the settings of a run; a file that is not there and an unknown key are reported before torch is loaded."""
    from paretune.runs.keys import read_values

    file, values = read_values(config, overrides or [])
    from paretune.runs.parse import parse_config

    return parse_config(values, str(file))


@app.command("add-objective")
def add_objective_command(
    run: Annotated[Path, typer.Argument(help="The folder of a run of dpo-soup, mod or rewarded-soup.")],
    objective: Annotated[str, typer.Argument(help="The name of the new objective.")],
    score: Annotated[
        str,
        typer.Option(help="The scorer of the new objective, as in a config: '{rule: length, unit: words}'."),
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Settings to change, as key=value, for example preferences=4.")
    ] = None,
    device: options.RunDeviceOption = None,
    dtype: options.RunDtypeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Train one more adapter for a new objective; those of the others are reused, and the front is measured anew."""
    from paretune.core.errors import ConfigError
    from paretune.core.yaml_text import parse_yaml
    from paretune.runs.extend import add_objective

    try:
        scorer = parse_yaml(score)
    except ConfigError as error:
        raise ConfigError(f"--score {score!r:.80}: {error}") from error
    if not isinstance(scorer, dict):
        raise ConfigError(f"--score {score!r}: expected a mapping such as '{{rule: length, unit: words}}'")
    report = add_objective(
        run, objective, scorer, options.with_options(overrides, device, dtype), forecast=True
    )
    tell_report(report, as_json)


@app.command("status")
def status_command(
    run: Annotated[
        Path, typer.Argument(help="The folder of a run, running or not, such as runs/quickstart.")
    ],
    as_json: JsonOption = False,
) -> None:
    """Print how far a run is: stages done and to do, the stage at work, time left, who works there, the last error."""
    from paretune.cli.status import render
    from paretune.runs.status import status

    tell(status(run), as_json, render)


@app.command("plan")
def plan_command(
    config: Annotated[
        Path, typer.Argument(help="A YAML file, or a config that ships with paretune, such as quickstart.")
    ],
    overrides: Annotated[
        list[str] | None, typer.Argument(help="Settings to change, as key=value, for example train.steps=50.")
    ] = None,
    model: Annotated[
        list[str] | None,
        typer.Option(
            "--model", help="Model to plan for: 1b, 8b, 70b, or a name or folder; repeat to compare."
        ),
    ] = None,
    device: Annotated[
        str,
        typer.Option(
            help="Device to plan for: here, b200, h200, h100, a100, a100-40gb, l40s, a6000, rtx5090, rtx4090, rtx3090 or l4; "
            "8xh100 means eight."
        ),
    ] = "here",
    as_json: JsonOption = False,
) -> None:
    """Estimate the FLOP, time, memory and disk of a run, on this machine or another, without loading a model."""
    _plan(_settings(config, overrides), model or [], device, as_json)


def _plan(settings: RunConfig, models: list[str], device: str, as_json: bool) -> None:
    from paretune.cli.plan import render
    from paretune.runs.estimate import check_targets, estimate
    from paretune.runs.plan import plan

    check_targets(models or [settings.model], device)
    planned = plan(settings)
    estimates = [estimate(planned, settings, model, device) for model in models or [settings.model]]
    if as_json:
        tell([entry.to_dict() for entry in estimates], True, str)
        return
    for entry in estimates:
        show(render(entry, planned.runs))


@app.command()
def sweep(
    config: Annotated[
        Path, typer.Argument(help="A YAML file, or a config that ships with paretune, such as quickstart.")
    ],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Settings to change, as key=value, for example sweep.seeds=[0,1]."),
    ] = None,
    ray: Annotated[
        str | None,
        typer.Option(
            envvar="RAY_ADDRESS", help="Ray cluster to run on: host:port, auto or local; by default none."
        ),
    ] = None,
    device: options.RunDeviceOption = None,
    dtype: options.RunDtypeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Run a config as a queue of tasks (methods x preferences x seeds), here or on a Ray cluster, and write one report."""
    settings = _settings(config, options.with_options(overrides, device, dtype))
    from paretune.runs.sweep import sweep as sweep_all

    swept = sweep_all(settings, ray or None)
    counts = f"Tasks: {swept.done} done, {swept.reused} found finished, {len(swept.failed)} failed"
    typer.echo(counts, err=as_json)
    for outcome in swept.failed:
        reason = outcome.error.strip().splitlines()[-1]
        typer.secho(
            f"failed after {outcome.tries} {'try' if outcome.tries == 1 else 'tries'}: {outcome.name}: {reason}",
            fg="red",
            err=True,
        )
    if swept.report is not None:
        tell_report(swept.report, as_json)
    else:
        typer.secho(f"no report: {swept.why}", fg="red", err=True)
    if swept.failed or swept.report is None:
        raise typer.Exit(1)


@app.command()
def front(
    config: Annotated[Path, typer.Argument(help="A YAML file with data, scorers, sampling and preferences.")],
    overrides: Annotated[
        list[str] | None,
        typer.Argument(help="Settings to change, as key=value, for example folder=runs/mine."),
    ] = None,
    adapter: Annotated[
        list[str] | None,
        typer.Option(
            "--adapter", help="An adapter of paretune or a PEFT LoRA, as OBJECTIVE=FOLDER; one per objective."
        ),
    ] = None,
    by: Annotated[
        list[str] | None, typer.Option(help="How to combine the adapters: soup or mod; by default both.")
    ] = None,
    divergence: Annotated[
        str,
        typer.Option(
            help="The divergence under which the adapters were trained; DPO trains under reverse-kl."
        ),
    ] = "reverse-kl",
    alpha: Annotated[float, typer.Option(help="The alpha of the alpha divergence, between 0 and 1.")] = 0.5,
    device: options.RunDeviceOption = None,
    dtype: options.RunDtypeOption = None,
    as_json: JsonOption = False,
) -> None:
    """Measure the front of any adapters, one per objective, as a soup and by multi-objective decoding."""
    settings = _settings(config, options.with_options(overrides, device, dtype))
    from paretune.core.errors import ConfigError
    from paretune.generation.mixing import Mixing
    from paretune.models.adapter import load_any
    from paretune.runs.run import run_front

    named: dict[str, Path] = {}
    for text in adapter or []:
        objective, sign, folder = text.partition("=")
        if not sign or not objective or not folder or objective in named:
            raise ConfigError(f"--adapter {text!r}: expected OBJECTIVE=FOLDER, each objective once")
        named[objective] = Path(folder)
    for way in by or []:
        if way not in ("soup", "mod"):
            raise ConfigError(f"--by {way!r}: expected soup or mod")
    rule = Mixing(divergence, alpha)  # type: ignore[arg-type]
    adapters = {objective: load_any(folder) for objective, folder in named.items()}
    report = run_front(settings, adapters, by or ["soup", "mod"], rule)
    tell_report(report, as_json)


app.command()(generate_commands.generate)


@app.command("export")
def export_command(
    run: Annotated[
        Path, typer.Argument(help="A run's folder, the folder of one policy, or its name on the hub.")
    ],
    folder: Annotated[Path, typer.Argument(help="The new folder to write.")],
    preference: Annotated[
        str | None,
        typer.Option("--preference", "-p", help="The preference to export at, such as concise=0.7,warm=0.3."),
    ] = None,
    grid: Annotated[
        int,
        typer.Option(
            help="Write a LoRA for each of this many evenly spaced preferences, with a manifest, instead of one."
        ),
    ] = 0,
    policy: Annotated[str | None, typer.Option(help="The policy of the run, for example panacea.")] = None,
    form: Annotated[
        str,
        typer.Option(
            "--format", help="The format to write: lora (PEFT), gguf (llama.cpp) or dense (transformers)."
        ),
    ] = "lora",
    with_base: Annotated[
        bool,
        typer.Option("--with-base", help="Beside GGUF LoRAs, write the base model as GGUF too."),
    ] = False,
    base_type: Annotated[
        str | None,
        typer.Option(
            help="With --with-base, the format of its matrices: f32, f16, bf16 or q8_0; by default as they are."
        ),
    ] = None,
    model: options.ModelOption = None,
    revision: options.RevisionOption = None,
    device: options.DeviceOption = None,
    dtype: options.DtypeOption = None,
    quantization: options.QuantizationOption = None,
    dequantize: Annotated[
        bool, typer.Option("--dequantize", help="Write a dense model of a quantised base model, dequantised.")
    ] = False,
    allow_extrapolation: options.ExtrapolationOption = False,
) -> None:
    """Write a policy at fixed preferences as PEFT LoRAs or as a dense model, or as GGUF blocks for any preference."""
    from paretune.cli.gguf import base_form, write_gguf
    from paretune.core.errors import ConfigError
    from paretune.core.preference import Preference, preference_grid
    from paretune.policies.catalogue import find_policy
    from paretune.policies.export import export, export_grid
    from paretune.policies.policy_file import BaseChoice, PolicyFile
    from paretune.policies.saving import load_policy
    from paretune.policies.shared import due_front

    if form not in ("lora", "dense", "gguf") or (grid and form == "dense"):
        raise ConfigError(f"--format {form}: expected lora, gguf or dense, and lora with --grid")
    if form == "gguf" and grid:
        raise ConfigError(
            "--format gguf writes blocks that llama.cpp adds at any preference; leave --grid out, or give one --preference"
        )
    base = base_form(with_base, base_type, form)
    if form != "gguf" and (preference is None) == (grid == 0):
        raise ConfigError("give either --preference or --grid")
    if dequantize and form != "dense":
        raise ConfigError("--dequantize writes a dense model; give --format dense with it")
    if grid == 1 or grid < 0:
        raise ConfigError(f"--grid {grid}: expected at least 2, the corners")
    if folder.is_file():
        raise ConfigError(f"{folder}: is a file; name a new folder")
    if len(folder.name.encode()) > LONGEST_NAME:
        raise ConfigError(
            f"{str(folder)!r:.60}...: the name is longer than {LONGEST_NAME} bytes; choose a shorter one"
        )
    source = find_policy(run, policy)
    objectives = PolicyFile.read(source).objectives
    asked = None if preference is None else Preference.parse(preference, objectives, allow_extrapolation)
    points = preference_grid(objectives, grid - 1) if grid else []
    if len(points) > MOST_LORAS:
        raise ConfigError(f"--grid {grid}: makes {len(points)} LoRAs; expected at most {MOST_LORAS}")
    loaded = load_policy(source, **vars(BaseChoice(model, revision, device, dtype, quantization)))
    if form == "gguf":
        typer.echo(write_gguf(loaded, asked, folder, due_front(source), base))
        _say_template(loaded.lm.chat_template)
        return
    if asked is not None:
        one = export(loaded, asked, folder, form, dequantise=dequantize)  # type: ignore[arg-type]
        _say_export(loaded, asked, one, folder)
        return
    manifest = export_grid(loaded, points, folder, due_front(source))
    _say_template(loaded.lm.chat_template)
    made = list(manifest["adapters"].values())
    scored = sum(entry["scores"] is not None for entry in made)
    typer.echo(
        f"{folder}: {len(made)} LoRAs of {loaded.name} and manifest.json, with measured scores of {scored} of them"
    )


def _say_export(policy: Policy, asked: Preference, made: Made, folder: Path) -> None:
    snapped = "" if made.preference == asked else f", the anchor nearest to {asked}"
    typer.echo(f"{folder}: {policy.name} at {made.preference}{snapped}")
    if made.rounding is not None:
        typer.echo(str(made.rounding))
        if made.rounding.dtype != "float32":
            typer.echo("With --dtype float32 it is written without this rounding, in twice the space.")
    if end := policy.prompt_end(made.preference):
        typer.echo(f"It reads the preference in the prompt: end the last user turn with {end!r}")
    _say_template(policy.lm.chat_template)


def _say_template(arguments: Mapping[str, Any]) -> None:
    if arguments:
        typer.echo(
            f"Its prompts are written with these arguments of the chat template: {json.dumps(dict(arguments))}"
        )


app.command()(serve_commands.serve)
app.command()(serve_commands.chat)
app.command()(serve_commands.choose)
app.command()(share_commands.push)
app.command()(share_commands.pull)
app.command()(judge_commands.judge)
app.command()(judge_commands.compare)
app.command()(figure_commands.figures)
app.command()(figure_commands.report)


app.command()(method_commands.methods)


@app.command()
def doctor(as_json: JsonOption = False) -> None:
    """Print what this machine can do: versions, device, bfloat16, the embedded model, the hub."""
    from paretune.cli.doctor import diagnose, render

    tell(diagnose(), as_json, render)


def main() -> None:
    """Run the command line; a user's mistake ends in one clear message and exit code 2."""
    open_streams()
    keep_freed_memory()
    limit_kernels()
    wait_briefly()
    sys.exit(run_to_end(app))
