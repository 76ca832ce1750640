"""A server upstream that fails in every way: what it means for the client, and what passes through."""

from __future__ import annotations

import json
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import httpx
import pytest

from paretune.core.preference import Preference
from paretune.serving.backend import Served
from paretune.serving.config import ServeConfig
from paretune.serving.service import Service
from paretune.serving.upstream import Upstream
from support.serve_world import CHAT, OBJECTIVES, live, wait_until

Behaviour = Callable[[BaseHTTPRequestHandler], None]


def status(code: int, body: object = None, **headers: str) -> Behaviour:
    def behave(handler: BaseHTTPRequestHandler) -> None:
        raw = json.dumps(body or {"error": {"message": "as it is"}}).encode()
        handler.send_response(code)
        for name, value in {**headers, "content-length": str(len(raw))}.items():
            handler.send_header(name.replace("_", "-"), value)
        handler.end_headers()
        handler.wfile.write(raw)

    return behave


def stream(reason: str, **usage: object) -> Behaviour:
    def behave(handler: BaseHTTPRequestHandler) -> None:
        handler.send_response(200)
        handler.send_header("connection", "close")
        handler.end_headers()
        for choice in ({"delta": {"content": "hello"}}, {"delta": {}, "finish_reason": reason}):
            handler.wfile.write(b"data: " + json.dumps({"choices": [choice]}).encode() + b"\n\n")
        if usage:
            handler.wfile.write(b"data: " + json.dumps({"choices": [], "usage": usage}).encode() + b"\n\n")
        handler.wfile.write(b"data: [DONE]\n\n")

    return behave


def silent(handler: BaseHTTPRequestHandler) -> None:
    time.sleep(2)


@contextmanager
def router(behave: Behaviour, **settings: object) -> Iterator[tuple[str, list[str]]]:
    """A server before an upstream server that behaves so; yield its address and the paths that upstream was asked for."""
    asked: list[str] = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Nothing."""

        def do_POST(self) -> None:
            asked.append(self.path)
            self.rfile.read(int(self.headers["content-length"]))
            behave(self)

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    config = ServeConfig(**{"timeout": 10, "default_tokens": 8, **settings})  # type: ignore[arg-type]
    uniform = Preference.uniform(OBJECTIVES)
    served = {"soup": Served("soup", OBJECTIVES, uniform, lambda p: uniform, None, {})}
    url = f"http://127.0.0.1:{server.server_address[1]}/v1"
    backend = Upstream(url, served, {uniform: ("half", "")}, "base", "vllm", config)
    try:
        with live(Service(backend, None, config)) as address:
            yield address, asked
    finally:
        server.shutdown()
        server.server_close()


@pytest.mark.parametrize(
    ("behave", "expected", "code"),
    [
        (status(500), 502, "upstream_failed"),
        (status(302, location="http://127.0.0.1:1/"), 502, "upstream_failed"),
        (status(401), 502, "upstream_failed"),
        (status(403), 502, "upstream_failed"),
        (status(404), 502, "upstream_failed"),
        (status(502), 502, "upstream_failed"),
        (status(504), 504, "timeout"),
        (status(503, retry_after="3"), 503, "unavailable"),
        (status(429, retry_after="7"), 429, "queue_full"),
        (status(400), 400, "unsupported_parameter"),
        (status(422), 400, "unsupported_parameter"),
        (status(413), 400, "context_length_exceeded"),
        (status(400, {"error": {"message": "maximum context length is 9"}}), 400, "context_length_exceeded"),
        (status(500, ["no object"]), 502, "upstream_failed"),
        (status(200, ["no stream"]), 502, "generation_failed"),
    ],
)
@pytest.mark.slow
def test_a_failure_keeps_its_meaning(behave: Behaviour, expected: int, code: str) -> None:
    with router(behave) as (address, asked):
        response = httpx.post(f"{address}/v1/chat/completions", json=CHAT, timeout=20)
        assert (response.status_code, response.json()["error"]["code"]) == (expected, code), response.text
        assert ("retry-after" in response.headers) == (expected in (429, 503))
        assert len(asked) == 1


def test_one_that_does_not_answer_in_time_is_a_timeout() -> None:
    with router(silent, timeout=0.3) as (address, _):
        response = httpx.post(f"{address}/v1/chat/completions", json=CHAT, timeout=20)
        assert response.status_code == 504 and response.json()["error"]["code"] == "timeout"


@pytest.mark.parametrize(
    "reason", ["stop", "length", "content_filter", "tool_calls", "function_call", "abort"]
)
def test_reasons_to_finish_pass_through(reason: str) -> None:
    with router(stream(reason)) as (address, _):
        whole = httpx.post(f"{address}/v1/chat/completions", json=CHAT, timeout=20).json()
        assert whole["choices"][0]["finish_reason"] == reason
        assert whole["choices"][0]["message"]["content"] == "hello"
        streamed = httpx.post(
            f"{address}/v1/chat/completions", json={**CHAT, "stream": True}, timeout=20
        ).text
        assert f'"finish_reason": "{reason}"' in streamed


@pytest.mark.parametrize(
    "details, cached", [({"cached_tokens": 7}, 7), ({"cached_tokens": None}, 0), (None, 0)]
)
def test_usage_is_what_upstream_says(details: object, cached: int) -> None:
    with router(stream("stop", prompt_tokens=9, completion_tokens=2, prompt_tokens_details=details)) as (
        url,
        _,
    ):
        usage = httpx.post(f"{url}/v1/chat/completions", json=CHAT, timeout=20).json()["usage"]
    assert (usage["prompt_tokens"], usage["completion_tokens"]) == (9, 2)
    assert usage["prompt_tokens_details"] == {"cached_tokens": cached}


@pytest.mark.parametrize("text", ["word " * 21, "x" * 200], ids=["words", "characters"])
def test_prompts_are_limited_before_they_are_sent(text: str) -> None:
    with router(stream("stop"), max_prompt_tokens=20) as (address, asked):
        body = {**CHAT, "messages": [{"role": "user", "content": text}]}
        response = httpx.post(f"{address}/v1/chat/completions", json=body, timeout=20)
        assert response.status_code == 400 and response.json()["error"]["code"] == "context_length_exceeded"
        assert httpx.post(f"{address}/v1/chat/completions", json=CHAT, timeout=20).status_code == 200
        assert len(asked) == 1


def test_a_request_that_only_a_part_fits_of_is_not_forwarded() -> None:
    go, slow = threading.Event(), stream("stop")

    def behave(handler: BaseHTTPRequestHandler) -> None:
        go.wait(20)
        slow(handler)

    with router(behave, max_rows=2, queue=1) as (address, asked):
        url = f"{address}/v1/chat/completions"
        with ThreadPoolExecutor(1) as pool:
            held = pool.submit(httpx.post, url, json=CHAT, timeout=30)
            wait_until(lambda: len(asked) == 1)
            refused = httpx.post(url, json={**CHAT, "n": 3}, timeout=20)
            assert refused.status_code == 429 and refused.headers["retry-after"] == "2"
            go.set()
            assert held.result().status_code == 200 and len(asked) == 1


def test_all_answers_of_a_request_are_forwarded_or_none() -> None:
    with router(stream("stop"), max_rows=2, queue=1) as (address, asked):
        url = f"{address}/v1/chat/completions"
        assert httpx.post(url, json={**CHAT, "n": 4}, timeout=20).status_code == 400 and not asked
        for _ in range(3):
            assert len(httpx.post(url, json={**CHAT, "n": 3}, timeout=20).json()["choices"]) == 3
