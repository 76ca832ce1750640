"""Commands that use a finished run: ``serve``, ``chat``, ``choose`` and ``data from-votes``."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Optional

import typer

from paretune.cli.options import DeviceOption, DtypeOption, ModelOption, QuantizationOption, RevisionOption
from paretune.cli.output import JsonOption, tell
from paretune.core.bounds import SEEDS
from paretune.core.errors import ConfigError

Run = Annotated[
    Path,
    typer.Argument(
        help="A run's folder, the folder of one policy or its name on the hub, or exported LoRAs."
    ),
]
NEEDS = "this needs more packages: pip install 'paretune[serve]'"


def serve(
    run: Annotated[
        Optional[list[Path]],  # noqa: UP045
        typer.Argument(
            help="Runs' folders, folders of one policy, or exported LoRAs, all on one base model; none with --upstream."
        ),
    ] = None,
    host: Annotated[
        str | None,
        typer.Option(help="The address to listen on, by default 127.0.0.1; any other address needs a key."),
    ] = None,
    port: Annotated[
        int | None, typer.Option(help="The port, by default 8000; 0 takes a free one.", min=0, max=65535)
    ] = None,
    policy: Annotated[
        list[str] | None, typer.Option(help="A policy to serve; repeat for several, the default first.")
    ] = None,
    preference: Annotated[
        str | None, typer.Option("--preference", "-p", help="The preference of requests that give none.")
    ] = None,
    floor: Annotated[
        list[str] | None,
        typer.Option(
            help="The minimum weight (not score) of an objective in every request, as OBJECTIVE=WEIGHT; repeat for several."
        ),
    ] = None,
    api_key_file: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="A file with 'KEY' or 'NAME KEY' on each line; PARETUNE_API_KEY holds one more."),
    ] = None,
    no_key: Annotated[
        bool, typer.Option("--no-key", help="Accept requests from other machines without a key.")
    ] = False,
    allow_host: Annotated[
        list[str] | None, typer.Option(help="Another host name of this server; repeat for several.")
    ] = None,
    allow_origin: Annotated[
        list[str] | None,
        typer.Option(
            help="An origin such as https://app.example.org whose pages may call this server from the browser; repeat for several."
        ),
    ] = None,
    public_url: Annotated[
        str | None,
        typer.Option(
            help="The address at which people reach this server through a proxy, such as https://example.org/steer."
        ),
    ] = None,
    root_path: Annotated[
        str | None,
        typer.Option(
            help="The path at which a proxy serves it, such as /steer; by default that of --public-url."
        ),
    ] = None,
    store: Annotated[
        str | None,
        typer.Option(help="A SQLAlchemy URL or a SQLite file; by default store.sqlite in the run."),
    ] = None,
    no_store: Annotated[
        bool, typer.Option("--no-store", help="Keep no votes, presets or audit records.")
    ] = False,
    max_tokens: Annotated[int | None, typer.Option(help="The length limit of answers, in tokens.")] = None,
    max_prompt_tokens: Annotated[
        int | None, typer.Option(help="The length limit of prompts, in tokens.")
    ] = None,
    max_rows: Annotated[int | None, typer.Option(help="The number of rows decoded together.")] = None,
    queue: Annotated[int | None, typer.Option(help="The number of requests that may wait.")] = None,
    kept_tokens: Annotated[
        int | None,
        typer.Option(
            help="The positions of earlier texts kept for the next turns of conversations; 0 keeps none."
        ),
    ] = None,
    timeout: Annotated[float | None, typer.Option(help="The seconds until an answer times out.")] = None,
    lenient: Annotated[
        bool | None,
        typer.Option(
            "--lenient/--strict",
            help="Ignore fields that the server does not know and clamp what is beyond its limits, and say so in the answer.",
        ),
    ] = None,
    auto: Annotated[
        str | None,
        typer.Option(
            help="The folder of a head of `paretune auto fit`, which chooses the preference of requests that ask for 'auto'."
        ),
    ] = None,
    rate: Annotated[
        float | None, typer.Option(help="The number of requests a minute of one API key.")
    ] = None,
    share: Annotated[
        int | None, typer.Option(help="The number of answers of one API key that run or wait at once.")
    ] = None,
    max_connections: Annotated[
        int | None, typer.Option(help="The number of open connections, by default 512.", min=1)
    ] = None,
    log_level: Annotated[
        str | None,
        typer.Option(help="The least level of the log: debug, info (by default), warning or error."),
    ] = None,
    log_format: Annotated[
        str | None, typer.Option(help="The form of the log: text (by default) or json.")
    ] = None,
    model: ModelOption = None,
    revision: RevisionOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    quantization: QuantizationOption = None,
    upstream: Annotated[
        str | None, typer.Option(help="The URL of a LoRA server that generates the text; needs --manifest.")
    ] = None,
    manifest: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="The manifest.json of the LoRAs that the upstream server has loaded."),
    ] = None,
    upstream_kind: Annotated[
        str, typer.Option(help="The kind of upstream server: vllm (also paretune), sglang or llama.cpp.")
    ] = "vllm",
) -> None:
    """Serve policies to OpenAI's clients, each request at its own preference, with a studio in the browser."""
    # typer reads the options from this signature, hence its length; ServeConfig and Address give them their meaning.
    options = dict(locals())
    try:
        from paretune.serving.command import serve as serve_command
    except ImportError as error:
        raise ConfigError(f"{error}; {NEEDS}") from error
    serve_command(options, lambda text: typer.echo(text, err=True))


def chat(
    run: Run,
    preference: Annotated[
        str | None,
        typer.Option(
            "--preference", "-p", help="The preference to start with, such as concise=0.7,warm=0.3."
        ),
    ] = None,
    policy: Annotated[str | None, typer.Option(help="The policy of the run.")] = None,
    max_tokens: Annotated[
        int | None,
        typer.Option(
            help="The length limit of answers, in tokens; by default as the front was measured.", min=1
        ),
    ] = None,
    temperature: Annotated[
        float | None,
        typer.Option(help="The sampling temperature; 0 is greedy. By default likewise.", min=0, max=100),
    ] = None,
    top_p: Annotated[
        float | None,
        typer.Option(
            help="The probability that the tokens to draw from must reach. By default likewise.",
            min=0.01,
            max=1,
        ),
    ] = None,
    seed: Annotated[
        int,
        typer.Option(
            help="The seed of the first answer; each further answer adds one.", min=0, max=SEEDS - 1
        ),
    ] = 0,
    model: ModelOption = None,
    revision: RevisionOption = None,
    device: DeviceOption = None,
    dtype: DtypeOption = None,
    quantization: QuantizationOption = None,
) -> None:
    """Talk to a policy in the terminal; PageUp and PageDown change the preference."""
    try:
        from paretune.cli.chat import sampling_of, talk
    except ImportError as error:
        raise ConfigError(f"{error}; {NEEDS}") from error
    from paretune.policies.policy_file import BaseChoice

    talk(
        run,
        policy,
        preference,
        sampling_of(run, max_tokens, temperature, top_p),
        seed,
        BaseChoice(model, revision, device, dtype, quantization),
    )


def choose(
    run: Annotated[Path, typer.Argument(help="A run's folder, or its front.json.")],
    floors: Annotated[
        str | None, typer.Argument(help="Minimum scores, such as 'warm >= 0.5 and concise >= -6'.")
    ] = None,
    policy: Annotated[str | None, typer.Option(help="The policy of the run.")] = None,
    knee: Annotated[bool, typer.Option("--knee", help="Choose the knee of the front.")] = False,
    dial: Annotated[
        int, typer.Option(help="Print a dial along the front with this many equal steps in expected scores.")
    ] = 0,
    between: Annotated[
        str | None, typer.Option(help="The two objectives that the dial runs between, such as warm,concise.")
    ] = None,
    by: Annotated[
        str | None,
        typer.Option(
            help="The scalarisation whose best preference is chosen: min, quantile=0.1, product, ... or all."
        ),
    ] = None,
    weights: Annotated[
        str | None,
        typer.Option(help="What each objective counts for --by, as a=0.7,b=0.3; by default all the same."),
    ] = None,
    as_json: JsonOption = False,
) -> None:
    """Choose a preference: by floors on scores, by a scalarisation, the knee, or a dial along the front."""
    from paretune.cli.choose import choose_facts, render

    tell(choose_facts(run, policy, floors, knee, dial, between, by, weights), as_json, render)


def from_votes(
    store: Annotated[str, typer.Argument(help="A SQLAlchemy URL, or the SQLite file of a server.")],
    target: Annotated[Path, typer.Argument(help="The new file: .jsonl, .jsonl.gz, .parquet or .csv.")],
    profile: Annotated[
        str | None, typer.Option(help="The profile whose votes are written; by default all.")
    ] = None,
    objective: Annotated[str, typer.Option(help="The objective of votes that name none.")] = "preferred",
) -> None:
    """Write people's votes as preference data to train on."""
    try:
        from paretune.serving.store.vote_pairs import from_votes as write_votes
    except ImportError as error:
        raise ConfigError(f"{error}; {NEEDS}") from error
    typer.echo(f"{target}: {write_votes(store, target, profile, objective)}")
