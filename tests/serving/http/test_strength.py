"""The strength of a request: what is served, what is recorded, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx
import pytest

from paretune.core.preference import Preference
from paretune.serving.config import ServeConfig
from paretune.serving.events import Job
from paretune.serving.service import Service
from support.serve_world import CHAT, FakeBackend, fake_service, live


class Steered(FakeBackend):
    """A soup whose update can be scaled, and a mixture that has none; it keeps the jobs."""

    def __init__(self) -> None:
        super().__init__()
        self.jobs: list[Job] = []
        self.lora: str | None = None

    @property
    def served(self) -> dict[str, Any]:
        soup = super().served["soup"]
        return {
            "soup": replace(soup, facts={"kind": "soup"}),
            "mixed": replace(soup, name="mixed", facts={"kind": "mod"}),
        }

    async def submit(self, jobs: Any, on_event: Any, timeout: float) -> Any:
        self.jobs += jobs
        return await super().submit(jobs, on_event, timeout)

    def upstream_name(self, preference: Preference) -> str | None:
        return self.lora


@pytest.fixture
def backend() -> Steered:
    return Steered()


@pytest.fixture
def address(backend: Steered, tmp_path: Path) -> Iterator[str]:
    with live(fake_service(tmp_path, backend)) as found:
        yield found


def ask(address: str, **body: Any) -> httpx.Response:
    return httpx.post(f"{address}/v1/chat/completions", json={**CHAT, "max_tokens": 2, **body}, timeout=20)


def test_a_strength_reaches_the_policy_and_the_record(backend: Steered, address: str) -> None:
    told = ask(address, strength=0.5, preference="short=0.7,good=0.3").json()["paretune"]
    (job,) = backend.jobs
    assert job.preference == Preference.parse("short=0.7,good=0.3").at(0.5)
    assert (
        told["strength"] == 0.5
        and told["preference"] == {"short": 0.7, "good": 0.3}
        and told["snapped"] is False
    )
    assert told["expected"] is None and told["measured"] is False  # the front was measured at 1
    plain = ask(address, preference="short=0.7,good=0.3").json()["paretune"]
    assert "strength" not in plain and plain["expected"] is not None
    newest, before = httpx.get(f"{address}/api/audit", timeout=20).json()["records"][:2]
    assert before["strength"] == 0.5 and "strength" not in newest


@pytest.mark.parametrize(
    ("body", "status", "words"),
    [
        ({"model": "mixed", "strength": 0.5}, 422, "the preference is not in the gates of one update"),
        ({"strength": -1}, 422, "strength"),
        ({"strength": 5}, 422, "strength"),
        ({"strength": "much"}, 422, "strength"),
    ],
)
def test_what_cannot_be_steered_is_refused(
    address: str, body: dict[str, Any], status: int, words: str
) -> None:
    response = ask(address, **body)
    assert response.status_code == status and words in response.text


def test_loras_upstream_have_the_strength_that_they_were_exported_at(backend: Steered, address: str) -> None:
    backend.lora = "short"
    response = ask(address, strength=2)
    assert response.status_code == 422 and "exported at" in response.json()["error"]["message"]


def test_floors_are_not_gone_round(backend: Steered) -> None:
    with live(Service(backend, None, ServeConfig(floors={"good": 0.3}))) as address:
        assert ask(address, strength=0.5).status_code == 422
        assert ask(address, strength=1.5).status_code == 200
