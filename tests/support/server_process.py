"""`paretune serve` as a process of its own."""

from __future__ import annotations

import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from subprocess import Popen

import httpx
import pytest

from support.forked import COMMAND_LINE, Forked
from support.serve_world import OBJECTIVES, wait_until
from support.world import write_model


@pytest.fixture(scope="module", name="run")
def untrained_run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run folder with one policy that updates nothing: LoRAs as they begin."""
    import torch

    from paretune.models.adapter import Adapter
    from paretune.models.language_model import load
    from paretune.policies.policy import Policy

    os.environ["PARETUNE_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    lm = load(str(write_model(tmp_path_factory.mktemp("model"))), "float32", "cpu")
    path = "model.layers.0.self_attn.q_proj"
    adapters = [
        Adapter({path: (torch.full((64, 2), 0.1 * k), torch.full((2, 64), 0.1))}, 1.0, lm.fingerprint)
        for k in (1, 2)
    ]
    folder = tmp_path_factory.mktemp("run")
    Policy.soup("soup", lm, OBJECTIVES, adapters).save(folder / "policies/soup")
    return folder


@contextmanager
def process(
    *arguments: object, start: Callable[..., Popen[str]] = Forked
) -> Iterator[tuple[Popen[str], str]]:
    """Run ``paretune serve ARGUMENTS`` on a free port by a fork, or as ``start`` does; yield the process and its address."""
    command = [*COMMAND_LINE, "serve", *map(str, arguments), "--port", "0"]
    # A file: a pipe that nobody reads fills up, and the server would wait for it.
    with tempfile.TemporaryFile("w+") as log, httpx.Client() as client:
        made = start(command, stdout=log, stderr=log, text=True)

        def said() -> str:
            return os.pread(log.fileno(), 1_000_000, 0).decode()

        def healthy() -> bool:
            try:
                return client.get(f"{address}/health").status_code == 200
            except (
                httpx.TransportError
            ):  # the address is told when it is bound, a moment before anybody listens
                return False

        try:
            assert wait_until(lambda: "running on" in said() or made.poll() is not None, 180)
            found = re.search(r"running on (http://\S+)", said())
            assert found, said()
            address = found[1]
            ready = wait_until(lambda: made.poll() is not None or healthy(), 180)
            assert ready and made.poll() is None, said()
            yield made, address
        finally:
            made.kill()
            made.wait()
            print(said())  # pytest shows it where a test fails
