"""In front of a llama.cpp server: every LoRA is named with its scale in each request, and blocks serve exactly the preference."""

from __future__ import annotations

import json
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import httpx
import pytest

from paretune.core.errors import ConfigError
from paretune.core.preference import Preference, preference_grid
from paretune.models.language_model import LanguageModel
from paretune.policies.export import export_grid
from paretune.policies.gguf_export import Blocks, export_blocks
from paretune.policies.policy import Policy
from paretune.serving.config import ServeConfig
from paretune.serving.service import Service
from paretune.serving.upstream import Upstream
from support.adapters import random_adapter
from support.serve_world import live

OBJECTIVES = ("short", "good")
CHAT = {"messages": [{"role": "user", "content": "red sun"}], "max_tokens": 4}


@contextmanager
def llama_server(loras: list[str]) -> Iterator[tuple[str, list[dict[str, Any]]]]:
    """A server that lists LoRAs as llama.cpp does and keeps what it is asked; yield its address and the bodies."""
    asked: list[dict[str, Any]] = []

    class Handler(BaseHTTPRequestHandler):
        def log_message(self, *_: object) -> None:
            """Nothing."""

        def send(self, raw: bytes) -> None:
            self.send_response(200)
            self.send_header("connection", "close")
            self.end_headers()
            self.wfile.write(raw)

        def do_GET(self) -> None:
            assert self.path == "/lora-adapters"
            listed = [{"id": n, "path": f"/models/{name}.gguf", "scale": 0.0} for n, name in enumerate(loras)]
            self.send(json.dumps(listed).encode())

        def do_POST(self) -> None:
            asked.append(json.loads(self.rfile.read(int(self.headers["content-length"]))))
            events = ({"delta": {"content": "hello"}}, {"delta": {}, "finish_reason": "stop"})
            told = b"".join(
                b"data: " + json.dumps({"choices": [event]}).encode() + b"\n\n" for event in events
            )
            self.send(told + b"data: [DONE]\n\n")

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True).start()
    try:
        yield f"http://127.0.0.1:{server.server_address[1]}", asked
    finally:
        server.shutdown()
        server.server_close()


@pytest.fixture
def soup(lm: LanguageModel) -> Policy:
    return Policy.soup("soup", lm, OBJECTIVES, [random_adapter(lm, seed) for seed in (0, 1)])


def ask(address: str, **body: object) -> dict[str, Any]:
    answer = httpx.post(f"{address}/v1/chat/completions", json={**CHAT, **body}, timeout=30)
    assert answer.status_code == 200, answer.text
    return answer.json()  # type: ignore[no-any-return]


def test_blocks_serve_exactly_the_preference(soup: Policy, tmp_path: Path) -> None:
    export_blocks(soup, tmp_path / "blocks")
    config = ServeConfig(floors={"good": 0.1}, default_tokens=4)
    with llama_server(["somebody-elses", "soup-good", "soup-short"]) as (url, asked):
        backend = Upstream.of(f"{url}/v1", tmp_path / "blocks/blocks.json", "llama.cpp", config)
        with live(Service(backend, None, config)) as address:
            preference = {"short": 0.37, "good": 0.63}
            answer = ask(address, model="soup", preference=preference)
            assert answer["choices"][0]["message"]["content"] == "hello"
            assert answer["paretune"]["preference"] == preference and not answer["paretune"]["snapped"]
            scales = Blocks.read(tmp_path / "blocks").scales(Preference.of(preference))
            assert asked[0]["lora"] == [
                {"id": 0, "scale": 0.0},
                {"id": 1, "scale": pytest.approx(scales[1])},
                {"id": 2, "scale": pytest.approx(scales[0])},
            ]
            assert asked[0]["cache_prompt"] is False, "what was computed at other scales is not taken again"
            assert asked[0]["samplers"] == ["temperature", "top_p"], "nothing else cuts off tokens"
            assert asked[0]["reasoning_format"] == "none", "all of the text is the answer"
            refused = httpx.post(
                f"{address}/v1/chat/completions", json={**CHAT, "model": "soup@short=1"}, timeout=30
            )
            assert refused.status_code == 422 and len(asked) == 1, "the bounds hold"


def test_exported_loras_are_named_all_and_one_is_on(soup: Policy, tmp_path: Path) -> None:
    export_grid(soup, preference_grid(OBJECTIVES, 2), tmp_path / "loras")
    names = list(json.loads((tmp_path / "loras/manifest.json").read_text())["adapters"])
    config = ServeConfig(default_tokens=4)
    with llama_server(names) as (url, asked):
        backend = Upstream.of(f"{url}/v1", tmp_path / "loras/manifest.json", "llama.cpp", config)
        with live(Service(backend, None, config)) as address:
            for weight, on in ((0.9, 0), (0.6, 1), (0.1, 2)):
                ask(address, model="soup", preference={"short": weight, "good": round(1 - weight, 2)})
                assert asked[-1]["lora"] == [{"id": n, "scale": float(n == on)} for n in range(3)]


def test_what_does_not_fit_is_one_message(soup: Policy, tmp_path: Path) -> None:
    export_blocks(soup, tmp_path / "blocks")
    manifest, config = tmp_path / "blocks/blocks.json", ServeConfig()
    with pytest.raises(ConfigError, match=r"blocks are for --upstream-kind llama\.cpp"):
        Upstream.of("http://127.0.0.1:1/v1", manifest, "vllm", config)
    with llama_server(["soup-short"]) as (url, _):
        backend = Upstream.of(f"{url}/v1", manifest, "llama.cpp", config)
        service = Service(backend, None, config)
        with pytest.raises(ConfigError, match=r"has no LoRA soup-good\.gguf; it has soup-short"):
            import asyncio

            asyncio.run(service.backend.start())
