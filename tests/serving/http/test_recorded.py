"""What well-known clients send, replayed: each request is answered in the form that the client reads.

`support.record_sessions` records anew. The clients themselves parsed the answers when they were recorded.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from typing import Any

import httpx
import pytest
from openai.types import Model
from openai.types.chat import ChatCompletion, ChatCompletionChunk

from support.client_sessions import SESSIONS
from support.record_sessions import RECORDED, tool_model
from support.serve_world import live
from support.served_run import service_of
from support.studio_world import write_run

pytest.importorskip("llguidance")

REQUESTS = [
    pytest.param(request, id=f"{file.stem}-{number}")
    for file in sorted(RECORDED.glob("*.json"))
    for number, request in enumerate(json.loads(file.read_text(encoding="utf-8"))["requests"])
]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    folder = tmp_path_factory.mktemp("recorded")
    (folder / "run").mkdir()
    run = write_run(folder / "run", tool_model(folder / "model"), 2)
    with live(service_of(run, folder, max_prompt_tokens=1200, max_tokens=200)) as found:
        yield found


def test_there_are_sessions_without_secrets() -> None:
    assert {str(param.id).partition("-")[0] for param in REQUESTS} == set(SESSIONS)
    for file in RECORDED.glob("*.json"):
        text = file.read_text(encoding="utf-8").lower()
        assert "authorization" not in text and "cookie" not in text and "127.0.0.1" not in text


@pytest.mark.parametrize("request_sent", REQUESTS)
@pytest.mark.slow
def test_a_request_is_answered_in_the_form_that_its_client_reads(
    address: str, request_sent: dict[str, Any]
) -> None:
    body = request_sent["body"]
    answer = httpx.request(
        request_sent["method"],
        f"{address}{request_sent['path']}",
        json=body,
        headers=request_sent["headers"],
        timeout=60,
    )
    assert answer.status_code == 200, answer.text
    if body is None:
        assert all(Model.model_validate(model).id for model in answer.json()["data"])
        return
    forced = body.get("tool_choice") not in (None, "auto", "none")
    if not body.get("stream"):
        assert answer.headers["content-type"] == "application/json"
        (choice,) = ChatCompletion.model_validate(answer.json()).choices
        about = answer.json()["paretune"]
        reason, calls = choice.finish_reason, choice.message.tool_calls or []
    else:
        assert answer.headers["content-type"].startswith("text/event-stream")
        events = [line.removeprefix("data: ") for line in answer.text.splitlines() if line]
        assert events.pop() == "[DONE]"
        about = json.loads(events[0])["paretune"]
        chunks = [ChatCompletionChunk.model_validate_json(event) for event in events]
        ends = [choice.finish_reason for chunk in chunks for choice in chunk.choices if choice.finish_reason]
        (reason,) = ends
        calls = [
            call for chunk in chunks for choice in chunk.choices for call in choice.delta.tool_calls or []
        ]
    assert reason in ("stop", "length", "tool_calls")
    assert (reason == "tool_calls") >= (forced and reason != "length") and (not calls or reason != "stop")
    policy, _, stated = body["model"].rpartition("/")[2].partition("@")
    weights = {name: float(weight) for name, weight in (one.split("=") for one in stated.split(",") if one)}
    assert about["policy"] == policy and about["preference"].items() >= weights.items()
    assert "ignored" not in about
