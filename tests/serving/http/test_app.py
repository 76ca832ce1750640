"""The server as its clients meet it: OpenAI's own client, and everything that is wrong with requests."""

from __future__ import annotations

import gzip
import json
import socket
import time
from collections.abc import Iterator
from pathlib import Path

import httpx
import openai
import pytest

from paretune.choosing.bounds import Bounds, parse_bounds
from paretune.core.errors import ConfigError, ParetuneError
from paretune.serving.address import Address, Keys
from paretune.serving.config import ServeConfig
from paretune.serving.service import Service
from support.serve_world import CHAT, OBJECTIVES, FakeBackend, fake_service, live, wait_until


@pytest.fixture(scope="module")
def service(tmp_path_factory: pytest.TempPathFactory) -> Service:
    return fake_service(tmp_path_factory.mktemp("store"))


@pytest.fixture(scope="module")
def address(service: Service) -> Iterator[str]:
    with live(service) as found:
        yield found


@pytest.fixture(scope="module")
def client(address: str) -> Iterator[openai.OpenAI]:
    with openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0) as made:
        yield made


def post(address: str, path: str = "/v1/chat/completions", **body: object) -> httpx.Response:
    return httpx.post(address + path, json={**CHAT, **body} if path.startswith("/v1") else body, timeout=20)


def test_the_official_client_whole_and_streaming(client: openai.OpenAI) -> None:
    asked = {"extra_body": {"preference": {"short": 0.7, "good": 0.3}}, "max_tokens": 3, "seed": 5}
    whole = client.chat.completions.create(**CHAT, **asked)
    assert whole.choices[0].message.content == "0.7/5/0 0.7/5/1 0.7/5/2 "
    assert whole.choices[0].finish_reason == "length" and whole.usage.prompt_tokens == 3
    about = whole.model_extra["paretune"]
    assert about["policy"] == "soup" and about["preference"] == {"short": 0.7, "good": 0.3}
    assert about["seed"] == 5 and about["snapped"] is False
    chunks = list(
        client.chat.completions.create(**CHAT, **asked, stream=True, stream_options={"include_usage": True})
    )
    assert (
        "".join(c.choices[0].delta.content or "" for c in chunks if c.choices)
        == whole.choices[0].message.content
    )
    assert chunks[0].choices[0].delta.role == "assistant" and chunks[0].model_extra["paretune"] == about
    assert (
        chunks[-1].usage == whole.usage
        and chunks[-1].model_extra["paretune"] == about
        and not chunks[-1].choices
    )
    assert chunks[-2].choices[0].finish_reason == "length"


def test_text_completions_and_several_choices(client: openai.OpenAI) -> None:
    made = client.completions.create(model="soup@short=1", prompt=["red", "blue"], n=2, max_tokens=1, seed=7)
    assert [choice.text for choice in made.choices] == [f"1/{seed}/0 " for seed in (7, 8, 9, 10)]
    assert made.usage.prompt_tokens == 6, "each prompt counts once"
    streamed = client.chat.completions.create(**CHAT, n=2, max_tokens=2, seed=1, stream=True)
    texts = {0: "", 1: ""}
    for chunk in streamed:
        texts[chunk.choices[0].index] += chunk.choices[0].delta.content or ""
    assert texts == {0: "0.5/1/0 0.5/1/1 ", 1: "0.5/2/0 0.5/2/1 "}
    assert (
        client.completions.create(model="soup", prompt="red", max_tokens=1).model_extra["paretune"]["seed"]
        >= 0
    )


def test_aliases_presets_and_snapping(client: openai.OpenAI, address: str) -> None:
    kept = {"policy": "anchors", "preference": {"short": 0.2, "good": 0.8}}
    assert httpx.put(f"{address}/api/presets/kind one", json=kept).json()["model"] == "anchors@kind one"
    for model in ("anchors@kind one", "@kind one", "anchors@short=0.2,good=0.8"):
        about = client.chat.completions.create(**{**CHAT, "model": model}, max_tokens=1).model_extra[
            "paretune"
        ]
        assert (
            about["policy"] == "anchors"
            and about["snapped"]
            and about["preference"] == {"short": 0.0, "good": 1.0}
        )
        assert about["asked"] == kept["preference"]
    names = [model.id for model in client.models.list()]
    assert names == ["soup", "anchors", "anchors@kind one"]
    assert (
        client.models.retrieve("soup@short=0.25,good=0.75").model_extra["paretune"]["preference"]["good"]
        == 0.75
    )
    assert httpx.get(f"{address}/api/presets").json()["presets"][0]["name"] == "kind one"
    assert httpx.delete(f"{address}/api/presets/kind one").status_code == 200
    with pytest.raises(openai.NotFoundError, match="no preset 'kind one'"):
        client.chat.completions.create(**{**CHAT, "model": "soup@kind one"})


WRONG = [
    ({"preference": {"shrt": 1}}, 422, "did you mean 'short'"),
    ({"preference": {"short": 1.5, "good": -0.5}}, 422, "short, good"),
    ({"preference": {"short": 1e308, "good": 1e308}}, 422, "short, good"),
    ({"preference": {"short": 0.2, "good": 0.2}}, 422, "sum to 0.4"),
    ({"preference": {}}, 422, "empty"),
    ({"preference": "short=nan,good=1"}, 422, "short, good"),
    ({"preference": {"short": True, "good": 0}}, 422, "number"),
    ({"preference": {"short": 1}, "model": "soup@good=1"}, 422, "give one of them"),
    ({"preference": [1, 2]}, 422, "preference"),
    ({"model": "sopu"}, 404, "did you mean 'soup'"),
    ({"model": "soup@"}, 404, "@"),
    ({"messages": []}, 422, "messages"),
    ({"messages": [{"role": "robot", "content": "x"}]}, 422, "'system'"),
    ({"messages": [{"role": "assistant", "content": "x"}]}, 422, "assistant"),
    ({"messages": [{"role": "user", "content": " "}]}, 422, "empty"),
    ({"messages": [{"role": "user", "content": [{"type": "image_url", "image_url": "x"}]}]}, 422, "text"),
    ({"messages": [{"role": "user", "content": "a" * 3000}]}, 400, "expected at most 2000"),
    ({"messages": [{"role": "user", "content": "\ud800"}]}, 422, "unicode"),
    ({"max_tokens": 0}, 422, "max_tokens"),
    ({"max_tokens": 100000}, 422, "512"),
    ({"max_completion_tokens": 100000}, 422, "512"),
    ({"temperature": -1}, 422, "temperature"),
    ({"top_p": 0}, 422, "top_p"),
    ({"seed": 1.5}, 422, "seed"),
    ({"seed": 10**30}, 422, "seed"),
    ({"n": 100}, 422, "n"),
    ({"stop": [""]}, 422, "stop"),
    ({"tools": [{"type": "function"}]}, 422, "tools.0.function: is missing"),
    ({"logprobs": 3}, 422, "logprobs"),
    ({"top_logprobs": 3}, 400, "needs logprobs"),
    ({"response_format": {"type": "json_schema"}}, 400, "needs json_schema"),
    ({"response_format": "json"}, 422, "response_format"),
    ({"frequency_penalty": 0.5}, 400, "not supported"),
    ({"stream_options": {"include_usage": True}}, 400, "stream"),
    ({"prefrence": {"short": 1}}, 400, "did you mean 'preference'"),
]


@pytest.mark.parametrize(("body", "status", "message"), WRONG)
def test_wrong_requests_are_told_what_is_wrong(address: str, body: dict, status: int, message: str) -> None:
    raw = json.dumps({**CHAT, **body})
    response = httpx.post(
        f"{address}/v1/chat/completions", content=raw, headers={"content-type": "application/json"}
    )
    error = response.json()["error"]
    assert response.status_code == status, error
    assert message in error["message"] and set(error) == {"message", "type", "param", "code"}
    assert httpx.get(f"{address}/health").json()["status"] == "ok"


def test_neutral_and_telling_fields_are_admitted(address: str) -> None:
    more = {
        "tools": None,
        "logprobs": False,
        "presence_penalty": 0.0,
        "response_format": {"type": "text"},
        "user": "me",
    }
    assert post(address, max_tokens=1, **more).status_code == 200
    parts = [
        {"role": "developer", "content": "x"},
        {"role": "user", "content": [{"type": "text", "text": "y"}]},
    ]
    assert post(address, max_tokens=1, messages=parts).status_code == 200


@pytest.mark.parametrize("raw", [b"{", b"", b"[]", b"\xff", b'{"model": NaN}', b"[" * 20000, b"9" * 5000])
def test_damaged_json(address: str, raw: bytes) -> None:
    response = httpx.post(
        f"{address}/v1/chat/completions", content=raw, headers={"content-type": "application/json"}
    )
    assert response.status_code in (400, 422) and response.json()["error"]["message"]


@pytest.mark.parametrize(
    ("raw", "reason"),
    [
        ('{"messages": "café"}'.encode("latin-1"), "it is not UTF-8"),
        (gzip.compress(b"{}"), "it is not UTF-8"),
        (b"[" * 100_000, "it is nested too deeply"),
        (b'{"seed": ' + b"9" * 5000 + b"}", "Exceeds the limit"),
    ],
    ids=["latin-1", "compressed", "deep", "digits"],
)
def test_a_body_that_cannot_be_read_says_why(address: str, raw: bytes, reason: str) -> None:
    headers = {"content-type": "application/json"}
    response = httpx.post(f"{address}/v1/chat/completions", content=raw, headers=headers)
    error = response.json()["error"]
    assert (response.status_code, error["code"]) == (400, "invalid_json")
    assert error["message"].startswith(f"the body is not valid JSON ({reason}")
    assert error["message"].endswith("send JSON in UTF-8 that is not compressed")


def test_nan_in_the_body(address: str) -> None:
    raw = json.dumps({**CHAT, "preference": {"short": float("nan"), "good": 1}})
    response = httpx.post(
        f"{address}/v1/chat/completions", content=raw, headers={"content-type": "application/json"}
    )
    assert response.status_code == 422 and "finite" in response.json()["error"]["message"]


def test_large_bodies_also_in_chunks(address: str) -> None:
    def chunks() -> Iterator[bytes]:
        for _ in range(64):
            yield b" " * 65536

    for content in (b" " * (1 << 21), chunks()):
        try:
            response = httpx.post(
                f"{address}/v1/chat/completions",
                content=content,
                headers={"content-type": "application/json"},
            )
            assert response.status_code == 413 and response.json()["error"]["code"] == "request_too_large"
        except httpx.HTTPError:
            pass  # the server closed before the client had sent everything
    assert httpx.get(f"{address}/health").status_code == 200


def test_unknown_addresses_and_methods(address: str) -> None:
    assert httpx.get(f"{address}/v2/x").json()["error"]["code"] == "not_found"
    response = httpx.get(f"{address}/v1/chat/completions")
    assert response.status_code == 405 and response.headers["allow"] == "POST"


def test_headers_for_the_browser_and_no_other_origins(address: str) -> None:
    response = httpx.get(f"{address}/health")
    assert "default-src 'none'" in response.headers["content-security-policy"]
    assert response.headers["x-content-type-options"] == "nosniff" and "server" not in response.headers
    assert "access-control-allow-origin" not in response.headers
    for headers in ({"host": "evil.example"}, {"origin": "https://evil.example"}, {"origin": "null"}):
        assert httpx.get(f"{address}/v1/models", headers=headers).status_code == 403
    assert httpx.get(f"{address}/v1/models", headers={"origin": address}).status_code == 200


def test_votes_profiles_and_audit(address: str) -> None:
    assert httpx.post(f"{address}/api/profiles", json={"name": "anna"}).status_code == 201
    given = {
        "first": {"text": "a", "preference": {"short": 1}},
        "second": {"text": "b", "preference": {"good": 1}},
    }
    vote = {"profile": "anna", "policy": "soup", "messages": CHAT["messages"], **given, "winner": "first"}
    made = httpx.post(f"{address}/api/votes", json=vote)
    assert made.status_code == 201 and made.json()["id"] >= 1
    assert httpx.post(f"{address}/api/votes", json={**vote, "winner": "both"}).status_code == 422
    assert httpx.post(f"{address}/api/votes", json={**vote, "profile": "../x"}).status_code == 422
    assert "anna" in [one["name"] for one in httpx.get(f"{address}/api/profiles").json()["profiles"]]
    identity = post(address, max_tokens=1, preference={"short": 0.25, "good": 0.75}).json()["id"]
    newest = httpx.get(f"{address}/api/audit", params={"limit": 1}).json()["records"][0]
    assert newest["request"] == identity and newest["used"] == {"short": 0.25, "good": 0.75}


def test_what_pages_ask_about_the_front(address: str) -> None:
    front = httpx.get(f"{address}/api/front").json()
    policy = front["policies"][0]
    assert front["default"] == "soup" and len(policy["points"]) == 3 and len(policy["dial"]) == 21
    assert policy["dial"][0]["preference"] == {"short": 0.0, "good": 1.0} and policy["knee"] == {
        "short": 0.5,
        "good": 0.5,
    }
    expected = httpx.get(f"{address}/api/expected", params={"preference": "short=0.25,good=0.75"}).json()
    assert expected["expected"]["short"]["mean"] == pytest.approx(-4.5) and expected["measured"] is False
    choice = httpx.post(f"{address}/api/choose", json={"floors": {"short": -4, "good": 1}}).json()
    assert choice["reachable"] and choice["allowed"] and 0.3 < choice["preference"]["short"] < 0.7
    assert (
        httpx.post(f"{address}/api/choose", json={"floors": {"short": 5}})
        .json()["nearest"]
        .startswith("not reachable")
    )
    assert httpx.post(f"{address}/api/choose", json={"floors": {"shrt": 5}}).status_code == 422
    assert (
        httpx.post(f"{address}/api/choose", json={"policy": "anchors", "floors": {"short": 5}}).status_code
        == 409
    )
    stops = httpx.get(f"{address}/api/dial", params={"start": "good", "end": "short"}).json()["dial"]
    assert stops[0]["preference"] == {"short": 0.0, "good": 1.0}


def test_votes_find_a_persons_tastes(address: str) -> None:
    asked = {"profile": "berta", "policy": "soup"}
    spreads = []
    for _ in range(8):
        pair = httpx.post(f"{address}/api/elicit/next", json=asked).json()
        spreads.append(pair["posterior"]["spread"])
        sides = {side: {"text": side, **pair[side]} for side in ("first", "second")}
        # Berta wants it short.
        winner = (
            "first"
            if pair["first"]["preference"]["short"] > pair["second"]["preference"]["short"]
            else "second"
        )
        vote = {**asked, "messages": CHAT["messages"], **sides, "winner": winner}
        posterior = httpx.post(f"{address}/api/votes", json=vote).json()["posterior"]
    assert (
        posterior["votes"] == 8
        and posterior["spread"] < min(spreads[:2])
        and posterior["mean"]["short"] > 0.6
    )
    population = httpx.get(f"{address}/api/population").json()
    assert "berta" in population["people"] and population["mean"]["short"] > 0.5


def test_metrics(address: str) -> None:
    post(address, max_tokens=2)
    text = httpx.get(f"{address}/metrics").text
    assert 'paretune_http_requests_total{route="/v1/chat/completions",status="200"}' in text
    assert 'paretune_answers_total{policy="soup",reason="length"}' in text and "paretune_running 0.0" in text
    assert 'route="/v2/x"' not in text


# What the limits are for


def test_a_full_queue_says_when_to_come_back(tmp_path: Path) -> None:
    backend = FakeBackend(pace=0.05, most=1)
    with live(fake_service(tmp_path, backend)) as address, httpx.Client() as client:
        with client.stream(
            "POST", f"{address}/v1/chat/completions", json={**CHAT, "stream": True, "max_tokens": 500}
        ) as held:
            stream = held.iter_raw()  # a generator that is dropped closes the connection
            next(stream)
            response = post(address)
            assert response.status_code == 429 and response.headers["retry-after"] == "3"
            # Half of a request is not begun.
            assert post(address, n=2).status_code == 429
        assert wait_until(lambda: backend.running == 0), "the client that left frees its row"
        assert post(address, max_tokens=1).status_code == 200


def test_a_client_that_leaves_a_whole_answer_frees_its_row(tmp_path: Path) -> None:
    backend = FakeBackend(pace=0.05)
    with live(fake_service(tmp_path, backend)) as address:
        with pytest.raises(httpx.ReadTimeout):
            httpx.post(f"{address}/v1/chat/completions", json={**CHAT, "max_tokens": 500}, timeout=0.4)
        assert wait_until(lambda: backend.running == 0, 3)
        assert 'reason="cancelled"' in httpx.get(f"{address}/metrics").text or wait_until(
            lambda: backend.running == 0
        )


def test_timeouts_are_errors(tmp_path: Path) -> None:
    backend = FakeBackend(pace=0.1)
    with live(fake_service(tmp_path, backend, timeout=0.3)) as address:
        response = post(address, max_tokens=100)
        assert response.status_code == 504 and response.json()["error"]["code"] == "timeout"
        client = openai.OpenAI(base_url=f"{address}/v1", api_key="none", max_retries=0)
        with pytest.raises(openai.APIError, match="took too long"):
            list(client.chat.completions.create(**CHAT, max_tokens=100, stream=True))


def test_a_client_that_never_reads_is_given_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    from paretune.serving.http.connections import GuardedProtocol

    monkeypatch.setattr(GuardedProtocol, "stall_seconds", 0.5)
    backend = FakeBackend(word="x" * 100_000)
    service = fake_service(tmp_path, backend)
    with live(service) as address:
        port = int(address.rsplit(":", 1)[1])
        body = json.dumps({**CHAT, "stream": True, "max_tokens": 400}).encode()
        with socket.create_connection(("127.0.0.1", port)) as held:
            head = f"POST /v1/chat/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: {len(body)}\r\n"
            head += "content-type: application/json\r\n\r\n"
            held.sendall(head.encode() + body)
            assert wait_until(lambda: service.active == 1, 3)
            assert post(address, max_tokens=1).status_code == 200, "others are served meanwhile"
            assert wait_until(lambda: service.active == 0, 5), "its request ends"


def test_hundreds_of_open_connections(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those that ask for nothing make room for those that ask; when all are busy a new one is refused."""
    from paretune.serving.http.connections import GuardedProtocol

    backend = FakeBackend(pace=0.05)
    with live(fake_service(tmp_path, backend), Address(port=0, max_connections=100)) as address:
        port = int(address.rsplit(":", 1)[1])
        held = [socket.create_connection(("127.0.0.1", port)) for _ in range(400)]
        assert post(address, max_tokens=1).status_code == 200
        monkeypatch.setattr(GuardedProtocol, "idle_seconds", 0.2)
        late = socket.create_connection(("127.0.0.1", port), timeout=5)
        assert late.recv(10) == b"", "one that never asks is closed"
        for one in (*held, late):
            one.close()
    with (
        live(fake_service(tmp_path, backend), Address(port=0, max_connections=1)) as address,
        httpx.Client() as client,
    ):
        body = {**CHAT, "stream": True, "max_tokens": 400}
        with client.stream("POST", f"{address}/v1/chat/completions", json=body) as busy:
            stream = busy.iter_raw()
            next(stream)
            response = post(address, max_tokens=1)
            assert response.status_code == 503 and response.json()["error"]["code"] == "overloaded"


def test_slow_bodies_end(tmp_path: Path) -> None:
    with live(fake_service(tmp_path), Address(port=0, body_seconds=0.3)) as address:
        port = int(address.rsplit(":", 1)[1])
        with socket.create_connection(("127.0.0.1", port), timeout=5) as slow:
            slow.sendall(b"POST /v1/completions HTTP/1.1\r\nhost: localhost\r\ncontent-length: 100\r\n\r\n{")
            assert b"408" in slow.recv(4096)


def test_keys(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("# people\nanna 0123456789abcdef\nfedcba9876543210\n")
    keys = Keys.read(file, "an-environment-key")
    assert [keys.owner(k) for k in ("0123456789abcdef", "fedcba9876543210", "an-environment-key", "x", "")] == [
        "anna", "key-3", "environment", None, None,
    ]  # fmt: skip
    service = fake_service(tmp_path)
    with live(service, Address(port=0, keys=keys)) as address:
        assert httpx.get(f"{address}/v1/models").status_code == 401
        assert (
            httpx.get(f"{address}/metrics").status_code == 401
            and httpx.get(f"{address}/health").status_code == 200
        )
        with pytest.raises(openai.AuthenticationError):
            openai.OpenAI(base_url=f"{address}/v1", api_key="wrong", max_retries=0).models.list()
        client = openai.OpenAI(base_url=f"{address}/v1", api_key="0123456789abcdef")
        assert client.chat.completions.create(**CHAT, max_tokens=1).choices
        records = httpx.get(
            f"{address}/api/audit", headers={"authorization": "Bearer 0123456789abcdef"}
        ).json()["records"]
        assert records[0]["client"] == "anna"
    for text in ("short", "", "a b c"):
        file.write_text(text)
        with pytest.raises(ConfigError):
            Keys.read(file, None)


def test_other_machines_only_with_a_key() -> None:
    with pytest.raises(ConfigError, match="--no-key"):
        Address(host="0.0.0.0")
    assert Address(host="0.0.0.0", open_to_all=True).host_names == ()
    assert Address(host="::1").host_names and Address(host="0.0.0.0", keys=Keys({"a": b""})).host_names == ()


def test_check_boxes_are_equal_weights(tmp_path: Path) -> None:
    with live(fake_service(tmp_path)) as address:
        half = post(address, preference={"short": 0.5, "good": 0.5}, max_tokens=1).json()["paretune"]["asked"]
        for body in (
            {"preference": ["good", "short"]},
            {"preference": "short+good"},
            {"model": "soup@good+short"},
        ):
            response = post(address, max_tokens=1, **body)
            assert response.status_code == 200 and response.json()["paretune"]["asked"] == half
        one = post(address, preference=["good"], max_tokens=1).json()["paretune"]["asked"]
        assert one == {"short": 0.0, "good": 1.0}
        for wrong, message in (
            ([], "empty"),
            (["kind"], "unknown objective 'kind'"),
            (["good"] * 2, "twice"),
        ):
            response = post(address, preference=wrong)
            assert response.status_code == 422 and message in response.json()["error"]["message"]
    with live(fake_service(tmp_path / "bounded", SoupOnly(), floors={"good": 0.3})) as address:
        assert post(address, preference=["short", "good"], max_tokens=1).status_code == 200
        refused = post(address, preference=["short"])
        assert refused.status_code == 422
        assert refused.json()["error"]["code"] == "preference_out_of_bounds", "minimum weights hold"


def test_bounds_hold_for_what_is_asked_and_what_is_served(tmp_path: Path) -> None:
    with live(fake_service(tmp_path, SoupOnly(), floors={"good": 0.3})) as address:
        good = post(address, preference={"short": 0.7, "good": 0.3}, max_tokens=1)
        assert good.status_code == 200
        for body in ({"preference": {"short": 0.8, "good": 0.2}}, {"model": "soup@short=1"}):
            response = post(address, **body)
            assert response.status_code == 422 and "good 0" in response.json()["error"]["message"]
            assert response.json()["error"]["code"] == "preference_out_of_bounds"
    with pytest.raises(ParetuneError, match="outside the bounds"):
        Service(
            FakeBackend(), None, ServeConfig(floors={"good": 0.3})
        )  # the anchor of the default lies outside


class SoupOnly(FakeBackend):
    """Without anchors."""

    @property
    def served(self):  # type: ignore[no-untyped-def]
        return {"soup": super().served["soup"]}


def test_the_algebra_of_bounds() -> None:
    bounds = Bounds.of(parse_bounds(["good=0.4"]), OBJECTIVES)
    assert bounds.centre.as_dict() == pytest.approx({"short": 0.3, "good": 0.7}) and bounds.admits(
        bounds.centre
    )
    assert Bounds.of({}, OBJECTIVES).centre.weights == (0.5, 0.5)
    for wrong in (
        ["bad=0.1"],
        ["good=2"],
        ["good=0.6", "short=0.6"],
        ["good"],
        ["good=x"],
        ["good=nan"],
        ["good=0.1", "good=0.2"],
    ):
        with pytest.raises(ConfigError):
            Bounds.of(parse_bounds(wrong), OBJECTIVES)


def test_stopping_finishes_what_runs(tmp_path: Path) -> None:
    import threading

    backend = FakeBackend(pace=0.05)
    service = fake_service(tmp_path, backend)
    answers: list[httpx.Response] = []
    with live(service) as address:
        asking = threading.Thread(target=lambda: answers.append(post(address, max_tokens=20)))
        asking.start()
        assert wait_until(lambda: service.active == 1, 3)
        start = time.monotonic()
        service.phase = "draining"
        assert post(address).status_code == 503
        assert httpx.get(f"{address}/health").json()["status"] == "draining"
    asking.join(10)
    assert answers[0].status_code == 200 and time.monotonic() - start < 5
