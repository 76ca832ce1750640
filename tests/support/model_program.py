"""A program of the tests that serves a model over HTTP: the part that servers of LoRAs and of reward models share.

It shares no code with the library. ``POST /control`` sets what the server is and forgets what it was asked, which ``GET /control``
tells. A program is started by :func:`started` and prints its port.
"""

from __future__ import annotations

import json
import sys
import threading
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from subprocess import PIPE
from typing import Any, Protocol

from support.forked import Forked


class Refused(Exception):  # noqa: N818 - an answer
    """A status and what is said: the message of an error as OpenAI's API has it, or the whole body."""


class Served(Protocol):
    """What a program serves, one question at a time."""

    def be(self, control: dict[str, Any]) -> None:
        """Be a server of this kind, which remembers no question."""

    def told(self, path: str) -> Any:
        """Return the answer to a GET."""

    def answer(self, path: str, body: dict[str, Any], headers: Mapping[str, str]) -> Any:
        """Return the answer to a POST, or raise :class:`Refused`."""


def serve(served: Served) -> None:
    """Serve on a free port of this machine, which is printed, until the process ends."""
    lock = threading.Lock()

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def log_message(self, *_: object) -> None:
            """Nothing."""

        def say(self, status: int, content: object) -> None:
            raw = json.dumps(content).encode()
            self.send_response(status)
            self.send_header("content-length", str(len(raw)))
            self.end_headers()
            self.wfile.write(raw)

        def do_GET(self) -> None:
            self.say(200, served.told(self.path))

        def do_POST(self) -> None:
            body = json.loads(self.rfile.read(int(self.headers["content-length"])))
            with lock:
                try:
                    if self.path == "/control":
                        served.be(body)
                        self.say(200, {})
                    else:
                        self.say(200, served.answer(self.path, body, self.headers))
                except Refused as refused:
                    status, said = refused.args
                    self.say(status, said if isinstance(said, dict) else {"error": {"message": said}})

    class Server(ThreadingHTTPServer):
        daemon_threads = True
        request_queue_size = 128

    server = Server(("127.0.0.1", 0), Handler)
    print(server.server_address[1], flush=True)
    server.serve_forever()


@contextmanager
def started(module: str, folder: str | Path) -> Iterator[str]:
    """Start a module of the tests, such as ``support.lora_server``, on the model in a folder; yield its address."""
    tests = Path(__file__).parents[1]
    command = [sys.executable, "-m", module, str(Path(folder).absolute())]
    with Forked(command, stdout=PIPE, text=True, cwd=tests) as process:
        try:
            assert process.stdout is not None
            yield f"http://127.0.0.1:{int(process.stdout.readline())}"
        finally:
            process.kill()
