"""What Open WebUI sends while a person begins a chat: the models, the streamed answer, the task that finds a title."""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest

from support.serve_world import fake_service, live

OWN = {
    "params": {},
    "tool_ids": ["calculator"],
    "tool_servers": [],
    "features": {"image_generation": False, "code_interpreter": False, "web_search": False, "memory": False},
    "variables": {"{{USER_NAME}}": "Ann", "{{CURRENT_DATE}}": "2026-01-02"},
    "model_item": {"id": "soup", "object": "model", "owned_by": "openai", "info": {"params": {}}},
    "session_id": "q3Zx0",
    "chat_id": "5c1b7d1e-0000-4000-8000-000000000000",
    "id": "9a2f6c3d-0000-4000-8000-000000000000",
    "background_tasks": {
        "title_generation": True,
        "tags_generation": True,
        "follow_up_generation": False,
    },
}
"""Fields for Open WebUI's own use, as its page sends them; filters and proxies pass them on."""
TITLE = {
    "stream": False,
    "max_tokens": 1000,
    "metadata": {"task": "title_generation", "chat_id": OWN["chat_id"]},
}
MOST = 8


@pytest.fixture(scope="module")
def strict(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with live(fake_service(tmp_path_factory.mktemp("strict"), max_tokens=MOST)) as found:
        yield found


@pytest.fixture(scope="module")
def lenient(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with live(fake_service(tmp_path_factory.mktemp("lenient"), max_tokens=MOST, lenient=True)) as found:
        yield found


def ask(address: str, **body: Any) -> httpx.Response:
    asked = {"model": "soup", "messages": [{"role": "user", "content": "red sun"}], **body}
    return httpx.post(f"{address}/v1/chat/completions", json=asked, timeout=20)


def test_a_lenient_server_answers_a_chat_and_its_title_and_lists_what_it_ignored(lenient: str) -> None:
    models = httpx.get(f"{lenient}/v1/models").json()["data"]
    assert OWN["model_item"]["id"] in [model["id"] for model in models]
    answer = ask(lenient, **OWN, stream=True, stream_options={"include_usage": True})
    assert answer.status_code == 200, answer.text
    *chunks, done = [line.removeprefix("data: ") for line in answer.text.splitlines() if line]
    assert done == "[DONE]"
    first, *_, last = [json.loads(chunk) for chunk in chunks]
    assert set(first["paretune"]["ignored"]) == set(OWN)
    assert last["choices"] == [] and last["usage"]["completion_tokens"]
    title = ask(lenient, **TITLE)
    assert title.status_code == 200, title.text
    about = title.json()["paretune"]
    assert set(about["ignored"]) == {"max_tokens", "metadata"} and about["clamped"] == {"max_tokens": MOST}
    assert title.json()["choices"][0]["message"]["content"]


@pytest.mark.parametrize("field", OWN)
def test_a_strict_server_names_the_field_that_it_does_not_know(strict: str, field: str) -> None:
    refused = ask(strict, **{field: OWN[field]}, stream=True)
    error = refused.json()["error"]
    assert refused.status_code == 400 and error["param"] == field and error["code"] == "unknown_parameter"
    assert f"unknown field '{field}'" in error["message"] and "--lenient" in error["message"]


@pytest.mark.parametrize("field", ["max_tokens", "max_completion_tokens"])
def test_a_title_that_may_be_too_long_is_refused_or_clamped_by_the_name_of_its_field(
    strict: str, lenient: str, field: str
) -> None:
    body = {"stream": False, field: 1000}
    refused = ask(strict, **body)
    assert refused.status_code == 422 and refused.json()["error"]["param"] == field
    assert f"{field}: 1000" in refused.json()["error"]["message"]
    assert ask(lenient, **body).json()["paretune"]["clamped"] == {field: MOST}
