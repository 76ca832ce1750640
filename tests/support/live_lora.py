"""The LoRA server of the tests as a process of its own."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from paretune.models.language_model import LanguageModel
from support.model_program import started


class Live:
    """The program `lora_server.py` on the tiny model."""

    def __init__(self, address: str) -> None:
        self.address, self.url = address, f"{address}/v1"

    def be(self, **control: object) -> None:
        """Make it a fresh server of this kind, which remembers no question."""
        for name in self.told()["loaded"]:
            for root in ("/v1", ""):
                self.client().post(f"{root}/unload_lora_adapter", json={"lora_name": name})
        self.client().post("/control", json=control)

    def told(self) -> dict[str, Any]:
        return self.client().get("/control").json()  # type: ignore[no-any-return]

    def client(self) -> httpx.Client:
        return httpx.Client(base_url=self.address)


@pytest.fixture(scope="module", name="process")
def started_process(lm: LanguageModel) -> Iterator[Live]:
    with started("support.lora_server", lm.name) as address:
        yield Live(address)


@pytest.fixture(name="live")
def fresh_server(process: Live) -> Live:
    """The server as if it had just been started."""
    process.be()
    return process
