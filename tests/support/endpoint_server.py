"""An endpoint that behaves as it is told, well or badly."""

from __future__ import annotations

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer

import pytest

from paretune.generation import http_client, remote


def completion(text: object, reason: object = "stop", tokens: object = 3) -> bytes:
    choice = {"index": 0, "message": {"role": "assistant", "content": text}, "finish_reason": reason}
    return json.dumps({"choices": [choice], "usage": {"completion_tokens": tokens}}).encode()


class Server(ThreadingHTTPServer):
    """Answers each question by what it says and its seed; ``behave`` may do otherwise on try k of a question."""

    daemon_threads = True
    request_queue_size = 128

    def __init__(self, behave: Callable[[dict, int], Behaviour | None] = lambda body, k: None) -> None:
        self.behave, self.models = behave, ["tiny"]
        self.bodies: list[dict] = []
        self.keys: set[str | None] = set()
        self.together = self.most = 0
        self.lock = threading.Lock()
        super().__init__(("127.0.0.1", 0), Handler)

    @property
    def url(self) -> str:
        return f"http://127.0.0.1:{self.server_address[1]}/v1"

    def handle_error(self, request: object, client_address: object) -> None:
        """A client that leaves is no news."""


class Handler(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: Server

    def log_message(self, *_: object) -> None:
        """Nothing."""

    def say(self, status: int, headers: dict[str, str], content: bytes) -> None:
        self.send_response(status)
        for name, value in {"content-length": str(len(content)), **headers}.items():
            self.send_header(name, value)
        self.end_headers()
        self.wfile.write(content)

    def do_GET(self) -> None:
        self.server.keys.add(self.headers.get("authorization"))
        answer = self.server.behave({}, 1)
        if isinstance(answer, tuple):
            self.say(*answer)
        elif self.path == "/v1/models":
            self.say(200, {}, json.dumps({"data": [{"id": m} for m in self.server.models]}).encode())
        else:
            self.say(404, {}, b'{"error": {"message": "no such model"}}')

    def do_POST(self) -> None:
        server = self.server
        body = json.loads(self.rfile.read(int(self.headers["content-length"])))
        with server.lock:
            server.bodies.append(body)
            tries = sum(b == body for b in server.bodies)
            server.together += 1
            server.most = max(server.most, server.together)
        answer = server.behave(body, tries)
        if answer == "slow":
            time.sleep(1.5)
        with server.lock:
            server.together -= 1
        if answer == "reset":
            self.connection.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")
            self.close_connection = True
            self.rfile.close()  # the socket closes with the last of those that use it
            self.wfile.close()
            self.connection.close()
        elif isinstance(answer, tuple):
            self.say(*answer)
        else:
            self.say(200, {}, completion(f" {body['messages'][-1]['content']} {body['seed']} "))


@contextmanager
def serving(server: Server) -> Iterator[Server]:
    thread = threading.Thread(target=server.serve_forever, kwargs={"poll_interval": 0.02}, daemon=True)
    thread.start()
    try:
        yield server
    finally:
        server.shutdown()
        server.server_close()
        thread.join()


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_client, "FIRST_WAIT", 0.01)
    monkeypatch.setattr(http_client, "LONGEST_ASKED", 0.05)
    monkeypatch.setattr(remote, "PART", 4)


Behaviour = tuple[int, dict[str, str], bytes] | str
