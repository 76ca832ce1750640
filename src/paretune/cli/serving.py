"""Commands about using a finished run: ``serve``, ``chat``, ``choose`` and ``data from-votes``."""

from __future__ import annotations

import os
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Optional

import typer

from paretune.core.errors import ConfigError

if TYPE_CHECKING:
    from paretune.serving.backend import Backend

Run = Annotated[Path, typer.Argument(help="Run folder, the folder of one policy, or exported LoRAs.")]
STORE = "store.sqlite"
NEEDS = "this needs more packages: pip install 'paretune[serve]'"


def serve(
    run: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Argument(help="Run folder, the folder of one policy, or exported LoRAs; none with --upstream."),
    ] = None,
    host: Annotated[str, typer.Option(help="Where to listen; other machines need a key.")] = "127.0.0.1",
    port: Annotated[int, typer.Option(help="0 takes a free one.", min=0, max=65535)] = 8000,
    policy: Annotated[
        list[str] | None, typer.Option(help="Which to serve, the default first; repeat.")
    ] = None,
    preference: Annotated[
        str | None, typer.Option("--preference", "-p", help="Of requests that give none.")
    ] = None,
    floor: Annotated[
        list[str] | None, typer.Option(help="OBJECTIVE=WEIGHT that no request goes below; repeat.")
    ] = None,
    api_key_file: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="'KEY' or 'NAME KEY' a line; PARETUNE_API_KEY holds one more."),
    ] = None,
    no_key: Annotated[bool, typer.Option("--no-key", help="Admit other machines without a key.")] = False,
    allow_host: Annotated[
        list[str] | None, typer.Option(help="A further name of this server; repeat.")
    ] = None,
    store: Annotated[
        str | None, typer.Option(help="SQLAlchemy URL or SQLite file; by default store.sqlite in the run.")
    ] = None,
    no_store: Annotated[bool, typer.Option("--no-store", help="No votes, presets or audit.")] = False,
    max_tokens: Annotated[int | None, typer.Option(help="Longest answer.")] = None,
    max_prompt_tokens: Annotated[int | None, typer.Option(help="Longest prompt.")] = None,
    max_rows: Annotated[int | None, typer.Option(help="Rows decoded together.")] = None,
    queue: Annotated[int | None, typer.Option(help="Requests that may wait.")] = None,
    timeout: Annotated[float | None, typer.Option(help="Seconds until an answer is given up.")] = None,
    max_connections: Annotated[int, typer.Option(help="Open at once.", min=1)] = 512,
    dtype: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "auto",
    upstream: Annotated[
        str | None, typer.Option(help="Serve by a LoRA server at this URL instead, with --manifest.")
    ] = None,
    manifest: Annotated[
        Optional[Path],  # noqa: UP045
        typer.Option(help="manifest.json of the LoRAs that the upstream server has loaded."),
    ] = None,
    upstream_kind: Annotated[str, typer.Option(help="vllm (also paretune), sglang or llama.cpp.")] = "vllm",
) -> None:
    """Serve policies to OpenAI's clients, a preference a request, with a studio in the browser."""
    try:
        from paretune.serving.http import server
        from paretune.serving.http.app import Place
        from paretune.serving.http.guard import Keys
        from paretune.serving.service import Service, Settings
        from paretune.serving.store.store import Store
    except ImportError as error:
        raise ConfigError(f"{error}; {NEEDS}") from error
    from paretune.choosing.bounds import parse_bounds
    from paretune.policies.catalogue import ServeConfig, default_sampling, read_config

    if (upstream is None) != (manifest is None) or (run is None) == (upstream is None):
        raise ConfigError("give a run folder, or --upstream URL with --manifest FILE")
    keys = Keys.read(api_key_file, os.environ.get("PARETUNE_API_KEY"))
    place = Place(host, port, keys, no_key, tuple(allow_host or ()), max_connections)
    config = read_config(run) if run is not None else ServeConfig()
    stated = {
        "policies": policy,
        "preference": preference,
        "floors": parse_bounds(floor) if floor else None,
        "max_tokens": max_tokens,
        "max_prompt_tokens": max_prompt_tokens,
        "max_rows": max_rows,
        "queue": queue,
        "timeout": timeout,
    }
    try:
        config = ServeConfig(**{**config.model_dump(), **{k: v for k, v in stated.items() if v is not None}})
    except ValueError as error:
        raise ConfigError(f"cannot serve with these options: {error}") from error
    settings = Settings(
        max_tokens=config.max_tokens,
        timeout=config.timeout,
        floors=config.floors,
        **(default_sampling(run) if run is not None else {}),
    )
    backend: Backend
    if run is not None:
        backend, home = _local(run, config, dtype), run
    else:
        from paretune.serving.upstream import Upstream

        assert upstream is not None and manifest is not None
        backend = Upstream.of(
            upstream, manifest, upstream_kind, config, os.environ.get("PARETUNE_UPSTREAM_KEY")
        )
        home = manifest.parent
    opened = None if no_store else Store.open(store or str(home / STORE))
    names = ", ".join(backend.served)
    typer.echo(
        f"{names}: http://{host}:{port or '<port>'}/v1 for clients, http://{host}:{port or '<port>'}/ for the studio",
        err=True,
    )
    server.run(Service(backend, opened, settings), place)


def _local(run: Path, config: Any, dtype: str) -> Backend:
    from paretune.core.preference import Preference
    from paretune.policies.catalogue import find_sources
    from paretune.serving.backend import serve_source
    from paretune.serving.local import LocalBackend

    sources = find_sources(run, config.policies)
    served = {}
    for source in sources:
        stated = Preference.parse(config.preference, source.objectives) if config.preference else None
        served[source.name] = serve_source(source, config.floors, stated)
    return LocalBackend(
        sources,
        served,
        dtype,
        max_rows=config.max_rows,
        max_waiting=config.queue,
        max_prompt_tokens=config.max_prompt_tokens,
    )


def chat(
    run: Run,
    preference: Annotated[
        str | None, typer.Option("--preference", "-p", help="To begin with, such as concise=0.7,warm=0.3.")
    ] = None,
    policy: Annotated[str | None, typer.Option(help="Which policy of the run.")] = None,
    max_tokens: Annotated[int, typer.Option(help="Longest answer.", min=1)] = 256,
    temperature: Annotated[float, typer.Option(help="0 is greedy.", min=0.0)] = 0.7,
    seed: Annotated[int, typer.Option(help="Of the first answer; the next has the next.")] = 0,
    dtype: Annotated[str, typer.Option(help="auto, float32 or bfloat16.")] = "auto",
) -> None:
    """Talk to a policy in the terminal, with the preference on the arrow keys."""
    try:
        from paretune.cli.chat import talk
    except ImportError as error:
        raise ConfigError(f"{error}; {NEEDS}") from error
    talk(run, policy, preference, max_tokens, temperature, seed, dtype)


def choose(
    run: Annotated[Path, typer.Argument(help="A run's folder, or its front.json.")],
    floors: Annotated[str | None, typer.Argument(help="Such as 'warm >= 0.5 and concise >= -6'.")] = None,
    policy: Annotated[str | None, typer.Option(help="Which policy of the run.")] = None,
    knee: Annotated[bool, typer.Option("--knee", help="The knee of the front.")] = False,
    dial: Annotated[int, typer.Option(help="This many equal steps of outcome along the front.")] = 0,
    between: Annotated[
        str | None, typer.Option(help="Objectives the dial runs between: warm,concise.")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="Print JSON.")] = False,
) -> None:
    """The preference that meets floors on scores with the most to spare, the knee, or a dial along the front."""
    from paretune.cli.choose import choose_facts, render

    facts = choose_facts(run, policy, floors, knee, dial, between)
    if as_json:
        import json

        typer.echo(json.dumps(facts, indent=2))
        return
    from rich.console import Console

    Console().print(render(facts))


def from_votes(
    store: Annotated[str, typer.Argument(help="SQLAlchemy URL, or the SQLite file of a server.")],
    target: Annotated[Path, typer.Argument(help="New file: .jsonl, .jsonl.gz, .parquet or .csv.")],
    profile: Annotated[str | None, typer.Option(help="Of one person only.")] = None,
    objective: Annotated[str, typer.Option(help="What votes mean that name no objective.")] = "preferred",
) -> None:
    """Write people's votes as preference data, to train on."""
    try:
        from paretune.serving.store.vote_pairs import from_votes as write_votes
    except ImportError as error:
        raise ConfigError(f"{error}; {NEEDS}") from error
    typer.echo(f"{target}: {write_votes(store, target, profile, objective)}")
