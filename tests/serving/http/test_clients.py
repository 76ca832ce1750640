"""What clients send every day: responses sent back, fields of other servers, several answers at once, keys side by side."""

from __future__ import annotations

import json
import socket
import threading
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest

from paretune.core.errors import ConfigError
from paretune.serving.address import Address, Keys
from paretune.serving.api_errors import ApiError
from paretune.serving.caller_limits import CallerLimits
from paretune.serving.callers import Caller
from paretune.serving.events import Overloaded
from paretune.serving.http.app import make_app
from support.serve_world import CHAT, FakeBackend, fake_service, live, wait_until

USER = {"role": "user", "content": "red sun"}


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with live(fake_service(tmp_path_factory.mktemp("store"))) as found:
        yield found


def chat(address: str, **body: object) -> httpx.Response:
    return httpx.post(f"{address}/v1/chat/completions", json={**CHAT, "max_tokens": 1, **body}, timeout=20)


def test_a_message_of_a_response_can_be_sent_back(address: str) -> None:
    with openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as client:
        made = client.chat.completions.create(**CHAT, max_tokens=1).choices[0].message
        for again in (made, made.model_dump()):
            client.chat.completions.create(model="soup", messages=[USER, again, USER], max_tokens=1)


@pytest.mark.parametrize(
    "message",
    [
        {"role": "assistant", "content": None},
        {"role": "assistant", "content": "x", "tool_calls": None, "function_call": None, "audio": None},
        {"role": "assistant", "content": "x", "tool_calls": [], "annotations": [], "refusal": None},
        {
            "role": "assistant",
            "content": "x",
            "reasoning_content": "hm",
            "provider_specific_fields": {"a": 1},
        },
        {"role": "user", "content": "x", "name": "bob", "reasoning_content": None},
        {"role": "user", "content": [{"type": "text", "text": "x", "cache_control": {"type": "ephemeral"}}]},
    ],
)
def test_messages_as_other_libraries_keep_them_are_taken(address: str, message: dict) -> None:
    response = chat(address, messages=[USER, message, USER], n=None, stop=None, stream=None, seed=None)
    assert response.status_code == 200, response.text


def test_what_a_message_says_and_the_server_cannot_do_is_refused(address: str) -> None:
    for message, told in [
        (
            {"role": "assistant", "content": None, "tool_calls": [{"id": "1"}]},
            "tool_calls.0.function: is missing",
        ),
        ({"role": "assistant", "content": None, "function_call": {"name": "f"}}, "send tool_calls"),
        (
            {"role": "user", "content": "x", "tool_calls": [{"id": "1"}]},
            "messages.1.tool_calls: unknown field",
        ),
        ({"role": "user", "content": None}, "without content"),
        ({"role": "user", "content": "x", "weight": 3}, "messages.1.weight: unknown field"),
    ]:
        response = chat(address, messages=[USER, message, USER])
        assert response.status_code in (400, 422) and told in response.json()["error"]["message"]


def test_null_says_nothing_inside_fields_and_beside_the_api_of_openai_too(address: str) -> None:
    assert chat(address, stream=True, stream_options={"include_usage": None}).status_code == 200
    answer = {"text": "a", "preference": {"short": 1, "good": 0}, "scores": None, "truncated": None}
    other = {**answer, "preference": {"short": 0, "good": 1}}
    body = {"profile": None, "messages": [USER], "first": answer, "second": other, "winner": "tie"}
    response = httpx.post(f"{address}/api/votes", json={**body, "objective": None})
    assert response.status_code == 201, response.text
    missing = httpx.post(f"{address}/api/votes", json={**body, "winner": None})
    assert missing.status_code == 422 and missing.json()["error"]["param"] == "winner"


@pytest.mark.parametrize("kind", ["image_url", "input_audio", "input_text", "file"])
def test_a_part_that_is_no_text_is_named(address: str, kind: str) -> None:
    message = {"role": "user", "content": [{"type": "text", "text": "x"}, {"type": kind, kind: {"url": "x"}}]}
    error = chat(address, messages=[USER, message]).json()["error"]
    assert error["param"] == "messages.1" and f"a part of the type '{kind}'" in error["message"]
    assert "'text' only" in error["message"]


def test_what_is_ignored_is_said(address: str) -> None:
    about = chat(address, messages=[{**USER, "name": "bob"}]).json()["paretune"]
    assert about["ignored"] == ["messages.0.name"]
    null = {**USER, "tool_calls": None, "reasoning_content": None, "annotations": [], "weight": None}
    assert "ignored" not in chat(address, messages=[null]).json()["paretune"], "null says nothing"
    assert "ignored" not in chat(address).json()["paretune"]
    padded = chat(address, stream=True, stream_options={"include_obfuscation": True}).text
    assert '"ignored": ["stream_options.include_obfuscation"]' in padded
    assert "ignored" not in chat(address, stream=True, stream_options={"include_obfuscation": False}).text


@pytest.mark.parametrize("prompt", [[1, 2, 3], [[1, 2], [3]], ["red sun", 4]])
def test_token_ids_are_refused_by_name(address: str, prompt: list) -> None:
    response = httpx.post(f"{address}/v1/completions", json={"prompt": prompt})
    error = response.json()["error"]
    assert response.status_code == 422 and error["param"] == "prompt"
    assert error["message"] == "prompt: token ids are not read; send text"


def test_an_unknown_route_of_openai_is_named_beside_those_that_there_are(address: str) -> None:
    for path in ("/v1/responses", "/v1/embeddings", "/v1/chat/x"):
        response = httpx.post(f"{address}{path}", json={})
        error = response.json()["error"]
        assert (response.status_code, error["type"], error["code"]) == (404, "not_found_error", "not_found")
        assert error["message"].startswith(f"no such address: '{path}'; this server has ")
        for route in ("POST /v1/chat/completions", "POST /v1/completions", "GET /v1/models"):
            assert route in error["message"]
    elsewhere = httpx.get(f"{address}/api/x").json()["error"]
    assert elsewhere["message"] == "no such address", "the page compares it"


EVERYDAY = {
    "top_k": 40,
    "min_p": 0.05,
    "repetition_penalty": 1.1,
    "chat_id": "a",
    "session_id": "b",
    "ignore_eos": False,
    "chat_template_kwargs": {"enable_thinking": False},
    "frequency_penalty": 0.3,
    "stream_options": {"include_usage": True},
}


def test_a_lenient_server_ignores_and_clamps_and_says_so(address: str, tmp_path: Path) -> None:
    for field, value in EVERYDAY.items():
        assert chat(address, **{field: value}).status_code == 400, field
    with live(fake_service(tmp_path, lenient=True, max_tokens=4)) as lenient:
        body = {**EVERYDAY, "max_tokens": 4096, "temperature": 3, "messages": [{**USER, "weight": 1}]}
        answer = chat(lenient, **body).json()
        assert set(answer["paretune"]["ignored"]) == {
            *EVERYDAY,
            "max_tokens",
            "temperature",
            "messages.0.weight",
        }
        assert answer["paretune"]["clamped"] == {"max_tokens": 4, "temperature": 2}
        assert answer["usage"]["completion_tokens"] <= 4
        assert chat(lenient, max_tokens=-1).status_code == 200
        streamed = chat(lenient, stream=True, top_k=3).text
        assert '"ignored": ["top_k"]' in streamed
        for field, value in {
            "functions": [{}],
            "audio": {"voice": "x"},
            "modalities": ["audio"],
        }.items():
            assert chat(lenient, **{field: value}).status_code == 400, "they change the form of an answer"


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"n": 100}, "n: 100: expected at most 8"),
        ({"seed": 1.5}, "seed: 1.5: expected a whole number"),
        ({"profile": "a/b"}, "expected a name of at most 64 letters"),
        ({"messages": [{"role": "robot", "content": "x"}]}, "expected one of 'system'"),
        ({"messages": None}, "messages: is missing"),
    ],
)
def test_errors_are_in_words_for_people(address: str, body: dict, told: str) -> None:
    assert told in chat(address, **body).json()["error"]["message"]


def test_a_missing_content_type_is_said(address: str) -> None:
    for kind in ("application/x-www-form-urlencoded", "text/plain"):
        response = httpx.post(
            f"{address}/v1/chat/completions", content=json.dumps(CHAT), headers={"content-type": kind}
        )
        assert response.status_code == 415 and "send it with Content-Type: application/json" in response.text


def test_a_name_with_a_slash_is_told_what_names_are(address: str) -> None:
    response = httpx.put(f"{address}/api/presets/a/b", json={"preference": {"short": 1}})
    assert response.status_code == 422 and "expected a name" in response.json()["error"]["message"]
    assert httpx.get(f"{address}/v1/models/").json()["object"] == "list"


def test_two_lengths_of_one_body_are_refused_and_the_rest_is_no_request(address: str) -> None:
    host, port = address.removeprefix("http://").split(":")
    with socket.create_connection((host, int(port)), timeout=10) as one:
        one.sendall(
            b"POST /v1/models HTTP/1.1\r\nhost: 127.0.0.1\r\ncontent-length: 5\r\ntransfer-encoding: chunked\r\n\r\n0\r\n\r\n"
            b"GET /v1/models HTTP/1.1\r\nhost: 127.0.0.1\r\n\r\n"
        )
        said = b""
        while part := one.recv(9999):
            said += part
    assert said.startswith(b"HTTP/1.1 400") and said.count(b"HTTP/1.1") == 1


def test_nobody_is_told_to_wait_for_minutes(tmp_path: Path) -> None:
    refuses = Overloaded("663 requests are waiting already", 663.0)
    backend = FakeBackend()

    async def submit(*_: object) -> None:
        raise refuses

    backend.submit = submit  # type: ignore[method-assign,assignment]
    with live(fake_service(tmp_path, backend)) as address:
        refused = chat(address)
    assert refused.status_code == 429 and refused.headers["retry-after"] == "30"


def test_a_key_that_stands_twice_is_refused_and_named(address: str) -> None:
    headers = {"content-type": "application/json"}
    for body, key in (
        ('{"messages": [{"role": "user", "content": "x"}], "seed": 1, "seed": 2}', "seed"),
        ('{"messages": [{"role": "user", "content": "x", "content": "y"}]}', "content"),
    ):
        refused = httpx.post(f"{address}/v1/chat/completions", content=body, headers=headers, timeout=20)
        error = refused.json()["error"]
        assert refused.status_code == 400 and error["param"] == key
        assert error["message"] == f"the key '{key}' stands twice in one object; keep one of them"


def test_every_route_with_a_body_refuses_keys_that_stand_twice(address: str) -> None:
    headers, asked = {"content-type": "application/json"}, 0
    for path, methods in httpx.get(f"{address}/openapi.json").json()["paths"].items():
        for method in (method for method, about in methods.items() if "requestBody" in about):
            url = f"{address}{path.replace('{name}', 'mine')}"
            refused = httpx.request(method, url, content='{"a": 1, "a": 2}', headers=headers)
            assert refused.status_code == 400 and "the key 'a' stands twice" in refused.text, (method, path)
            asked += 1
    assert asked > 8


def test_a_burst_beyond_the_limit_gets_503_and_no_reset(tmp_path: Path) -> None:
    body = json.dumps({**CHAT, "max_tokens": 3}).encode()
    head = b"POST /v1/chat/completions HTTP/1.1\r\nhost: 127.0.0.1\r\nconnection: close\r\ncontent-type: application/json\r\n"
    request = head + b"content-length: %d\r\n\r\n" % len(body) + body
    ends: Counter[bytes] = Counter()
    with live(fake_service(tmp_path, FakeBackend(0.2, 99)), Address(port=0, max_connections=16)) as address:
        port = int(address.rsplit(":", 1)[1])
        opened = [socket.create_connection(("127.0.0.1", port), timeout=20) for _ in range(60)]

        def ask(one: socket.socket) -> None:
            one.sendall(request)
            ends[one.recv(12)] += 1
            while one.recv(9999):
                pass
            one.close()

        threads = [threading.Thread(target=ask, args=(one,)) for one in opened]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    assert ends == {b"HTTP/1.1 200": 16, b"HTTP/1.1 503": 44}


def test_answers_that_nobody_waits_for_are_counted(tmp_path: Path) -> None:
    backend = FakeBackend(pace=0.05, most=16)
    with live(fake_service(tmp_path, backend, timeout=0.3)) as address:
        assert chat(address, n=8, max_tokens=100).status_code == 504
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(
                f"{address}/v1/chat/completions", json={**CHAT, "max_tokens": 100, "n": 2}, timeout=0.15
            )
        assert wait_until(lambda: backend.running == 0)
        lines = httpx.get(f"{address}/metrics").text.splitlines()
        counts = [float(line.split()[-1]) for line in lines if line.startswith("paretune_answers_total{")]
        assert sum(counts) == 10


# Keys


KEYS = "anna 0123456789abcdef\nben fedcba9876543210\nroot 00112233445566778 admin\n"
ANSWER = {"text": "x", "preference": {"short": 1, "good": 0}}
VOTE = {"messages": [USER], "first": ANSWER, "second": {**ANSWER, "text": "y"}, "winner": "first"}


@pytest.fixture
def keyed(tmp_path: Path) -> Iterator[dict[str, httpx.Client]]:
    """Clients of one server by the names of their keys."""
    (tmp_path / "keys").write_text(KEYS)
    at = Address(port=0, keys=Keys.read(tmp_path / "keys", None))
    with live(fake_service(tmp_path, FakeBackend(0.05), share=3, rate=600), at) as address:
        clients = {
            line.split()[0]: httpx.Client(
                base_url=address, headers={"authorization": f"Bearer {line.split()[1]}"}, timeout=20
            )
            for line in KEYS.splitlines()
        }
        yield clients
        for client in clients.values():
            client.close()


def test_a_key_owns_what_it_made(keyed: dict[str, httpx.Client]) -> None:
    anna, ben, root = keyed["anna"], keyed["ben"], keyed["root"]
    preset = {"preference": {"short": 1}}
    assert anna.put("/api/presets/mine", json=preset).status_code == 200
    vote = anna.post("/api/votes", json=VOTE).json()["id"]
    assert anna.post("/api/votes", json={**VOTE, "profile": "ann"}).status_code == 201
    assert anna.post("/v1/chat/completions", json={**CHAT, "max_tokens": 1}).status_code == 200
    for response in (
        ben.delete("/api/presets/mine"),
        ben.put("/api/presets/mine", json=preset),
        ben.delete(f"/api/votes/{vote}"),
        ben.post("/api/votes", json={**VOTE, "profile": "ann"}),
        ben.post("/api/votes/undo", json={"profile": "ann"}),
        ben.post("/api/elicit/next", json={"profile": "ann"}),
        ben.get("/api/presets?profile=ann"),
        ben.delete("/api/profiles/ann"),
        ben.delete("/api/profiles/default"),
    ):
        assert response.status_code == 403 and response.json()["error"]["code"] == "not_yours"
    assert ben.get("/api/votes").json()["votes"] == [] and ben.get("/api/audit").json()["records"] == []
    assert [p["name"] for p in ben.get("/api/profiles").json()["profiles"]] == ["default"]
    assert ben.get("/api/population").json()["people"].keys() == {"default"}
    assert ben.post("/api/votes/undo", json={}).status_code == 404, "the last vote of default is another's"
    assert (
        len(anna.get("/api/votes").json()["votes"]) == 2
        and len(anna.get("/api/audit").json()["records"]) == 1
    )
    assert (
        len(root.get("/api/votes").json()["votes"]) == 2
        and len(root.get("/api/audit").json()["records"]) == 1
    )
    assert root.delete("/api/profiles/ann").json() == {
        "deleted": "ann",
        "votes": 1,
        "presets": 0,
        "conversations": 0,
    }
    assert anna.delete("/api/presets/mine").status_code == 200


@pytest.mark.parametrize("needed", [False, True])
def test_the_schema_says_whether_a_key_is_needed(tmp_path: Path, needed: bool) -> None:
    keys = Keys.read(None, "0123456789abcdef0" if needed else None)
    service = fake_service(tmp_path)
    schema = make_app(service, Address(keys=keys)).openapi()
    assert schema["components"]["securitySchemes"]["key"]["scheme"] == "bearer"
    assert schema["security"] == ([{"key": []}] if needed else [{}, {"key": []}])
    assert schema["paths"]["/health"]["get"]["security"] == []
    service.close()


def test_no_key_takes_the_server_from_the_others(keyed: dict[str, httpx.Client]) -> None:
    anna, ben = keyed["anna"], keyed["ben"]
    with anna.stream(
        "POST", "/v1/chat/completions", json={**CHAT, "n": 3, "max_tokens": 500, "stream": True}
    ) as held:
        next(held.iter_raw())
        refused = anna.post("/v1/chat/completions", json={**CHAT, "max_tokens": 1})
        assert refused.status_code == 429 and refused.json()["error"]["code"] == "share_used_up"
        assert ben.post("/v1/chat/completions", json={**CHAT, "max_tokens": 1}).status_code == 200


def test_the_rate_of_a_key_recovers_with_time() -> None:
    now = [0.0]
    limits = CallerLimits(rate=60, share=None, places=10, clock=lambda: now[0])
    anna = Caller("anna", admin=False, has_peers=True)
    for _ in range(60):
        limits.take_rate(anna)
    with pytest.raises(ApiError, match="60 requests a minute") as caught:
        limits.take_rate(anna)
    assert caught.value.headers["retry-after"] == "1"
    limits.take_rate(Caller("ben", admin=False))
    now[0] = 1.0
    limits.take_rate(anna)


def test_the_rate_holds_for_answers_votes_and_scores(tmp_path: Path) -> None:
    with live(fake_service(tmp_path, rate=1)) as address:
        assert chat(address).status_code == 200
        scored = {"messages": [USER], "answers": [{"text": "x"}]}
        for refused in (
            chat(address),
            httpx.post(f"{address}/api/votes", json=VOTE),
            httpx.post(f"{address}/api/score", json=scored),
        ):
            assert refused.status_code == 429 and refused.json()["error"]["code"] == "rate_used_up"
        assert httpx.get(f"{address}/api/votes").json()["votes"] == []


def test_without_a_stated_share_each_of_several_keys_has_half() -> None:
    limits = CallerLimits(None, None, places=10)
    limits.take(Caller("anna", has_peers=True), 5)
    with pytest.raises(ApiError, match="may have 5"):
        limits.take(Caller("anna", has_peers=True), 1)
    limits.take(Caller("alone"), 8)
    limits.take(Caller("alone"), 8)


def test_keys_with_rights_are_read(tmp_path: Path) -> None:
    (tmp_path / "keys").write_text(KEYS)
    assert Keys.read(tmp_path / "keys", "an-environment-key").admins == {"root", "environment"}
    for line in ("anna 0123456789abcdef owner", "anonymous 0123456789abcdef"):
        (tmp_path / "keys").write_text(line)
        with pytest.raises(ConfigError, match="NAME KEY admin"):
            Keys.read(tmp_path / "keys", None)
