"""``paretune serve``: from the options of the command to a running server."""

from __future__ import annotations

import os
from collections.abc import Callable, Mapping, Sequence
from dataclasses import fields
from pathlib import Path
from typing import Any

from paretune.choosing.bounds import parse_bounds
from paretune.core.errors import ConfigError
from paretune.policies.policy_file import BaseChoice
from paretune.serving.address import Address, Keys
from paretune.serving.auto import Chooser
from paretune.serving.backend import Backend
from paretune.serving.config import ServeConfig
from paretune.serving.http import server
from paretune.serving.local import LocalBackend
from paretune.serving.run_facts import STORE
from paretune.serving.service import Service
from paretune.serving.several import run_configs
from paretune.serving.store.store import Store
from paretune.serving.upstream import Upstream


def serve(options: Mapping[str, Any], log: Callable[[str], None]) -> None:
    """Serve until SIGTERM or Ctrl-C.

    Args:
        options: Options of the command by the names of its parameters; None where one was not given.
        log: Function that prints one line to the terminal.

    Raises:
        ParetuneError: Options or config are invalid, there is nothing to serve, or the model cannot be loaded.
    """
    configs, address = configured(options)
    service = open_service(options, configs)
    shown = (
        address.public_url.rstrip("/")
        or f"http://{address.host}:{address.port or '<port>'}{address.root_path}"
    )
    log(f"{', '.join(service.backend.served)}: {shown}/v1 for clients, {shown}/ for the studio")
    server.run(service, address)


def configured(options: Mapping[str, Any]) -> tuple[list[ServeConfig], Address]:
    """Return how to serve each run and where to listen, from a run's section ``serve`` and the options, which override it.

    Where a server elsewhere generates the text, there is one config.

    Raises:
        ConfigError: An option or a setting is invalid, or neither a run nor an upstream server is given.
    """
    runs, upstream, manifest = options["run"] or [], options["upstream"], options["manifest"]
    if upstream is not None and manifest is None:
        raise ConfigError(
            "--upstream needs --manifest FILE: the manifest.json that `paretune export --grid` wrote beside that server's LoRAs"
        )
    if manifest is not None and upstream is None:
        raise ConfigError("--manifest needs --upstream URL: the server that has loaded its LoRAs")
    if bool(runs) == (upstream is not None):
        given = "got both" if runs else "got neither"
        raise ConfigError(f"give a run folder, or --upstream URL with --manifest FILE; {given}")
    if options.get("no_store") and options.get("store"):
        raise ConfigError(
            f"--no-store and --store {options['store']} contradict each other; give one of them"
        )
    renamed = {
        "policies": options["policy"] or None,
        "floors": parse_bounds(options["floor"]) if options["floor"] else None,
        "keys": Keys.read(options["api_key_file"], os.environ.get("PARETUNE_API_KEY")),
        "open_to_all": options["no_key"],
        "allow_hosts": tuple(options["allow_host"] or ()),
        "allow_origins": tuple(options["allow_origin"] or ()),
    }
    stated = {name: value for name, value in {**options, **renamed}.items() if value is not None}
    names = {field.name for field in fields(Address)}
    address = Address(**{name: value for name, value in stated.items() if name in names})
    return run_configs(runs, stated) if runs else [ServeConfig.read(None, stated)], address


def open_service(options: Mapping[str, Any], configs: Sequence[ServeConfig]) -> Service:
    """Return the service over the backend and the store that the options name; no model is loaded yet.

    Raises:
        ParetuneError: There is nothing to serve, or the store cannot be opened.
    """
    runs: list[Path] = options["run"] or []
    backend: Backend
    if runs:
        choice = BaseChoice(**{field.name: options[field.name] for field in fields(BaseChoice)})
        backend = LocalBackend.of_runs(list(zip(runs, configs, strict=True)), choice)
        folder = runs[0] if runs[0].exists() else Path()  # a policy on the hub has no folder of its own
    else:
        manifest: Path = options["manifest"]
        key = os.environ.get("PARETUNE_UPSTREAM_KEY")
        backend = Upstream.of(options["upstream"], manifest, options["upstream_kind"], configs[0], key)
        folder = manifest.parent
    auto = None if configs[0].auto is None else Chooser.of(configs[0].auto, backend.facts.device)
    store = None if options["no_store"] else Store.open(options["store"] or str(folder / STORE))
    return Service(backend, store, configs[0], auto)
