"""Record what clients send: ``python -m support.record_sessions PYTHON [NAME ...]``, from the folder ``tests``.

PYTHON is an interpreter that has the clients (``pip install openai langchain-openai litellm llm``). Each session of
`support.client_sessions` is run against a live server over a tiny random model with tools, and its requests are written to
``serving/http/recorded/NAME.json``, without keys and without what differs between two runs.
"""

from __future__ import annotations

import json
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paretune.models.language_model import LanguageModel, load
from paretune.serving.http.app import make_app
from support import client_sessions, serve_world
from support.chat_models import HERMES, write_chat_model
from support.served_run import service_of
from support.studio_world import write_run

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Receive, Scope, Send

RECORDED = Path(__file__).parents[1] / "serving/http/recorded"
MARKS = ("<|im_start|>", "<|im_end|>")
KEPT = ("accept", "content-type", "user-agent")
"""Headers that are recorded; others name this machine, or hold a key."""


def tool_model(folder: Path) -> LanguageModel:
    """Return a tiny random model whose template has tools."""
    write_chat_model(folder, HERMES, eos=MARKS[1], added=MARKS, special=True, max_position_embeddings=1500)
    return load(str(folder), "float32", "cpu")


class Recorder:
    """An application that notes every request before another one answers it."""

    def __init__(self, app: ASGIApp, requests: list[dict[str, Any]]) -> None:
        self.app, self.requests = app, requests

    def __getattr__(self, name: str) -> Any:
        return getattr(self.app, name)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Note a request, whole."""
        if scope["type"] != "http" or scope["path"] == "/health":
            await self.app(scope, receive, send)
            return
        body = b""

        async def noted() -> Any:
            nonlocal body
            event = await receive()
            if event["type"] == "http.request":
                body += event.get("body", b"")
            return event

        await self.app(scope, noted, send)
        headers = {key.decode(): value.decode() for key, value in scope["headers"]}
        self.requests.append(
            {
                "method": scope["method"],
                "path": scope["path"],
                "headers": {key: headers[key] for key in KEPT if key in headers},
                "body": json.loads(body) if body else None,
            }
        )


def _recorded(requests: list[dict[str, Any]], *given: Any) -> Recorder:
    return Recorder(make_app(*given), requests)


def record(python: str, names: Sequence[str]) -> None:
    """Run sessions and write what they send."""
    with tempfile.TemporaryDirectory() as place:
        folder = Path(place)
        (folder / "run").mkdir()
        run = write_run(folder / "run", tool_model(folder / "model"), 2)
        for name in names:
            requests: list[dict[str, Any]] = []
            service = service_of(run, folder / "run", max_prompt_tokens=1200, max_tokens=200)
            serve_world.make_app = partial(_recorded, requests)  # type: ignore[assignment]
            try:
                with serve_world.live(service) as address:
                    command = [python, client_sessions.__file__, name, address]
                    done = subprocess.run(command, capture_output=True, text=True, check=False)
            finally:
                serve_world.make_app = make_app
            if done.returncode:
                sys.exit(f"{name} failed:\n{done.stderr}")
            versions = json.loads(done.stdout.splitlines()[-1])
            content = {"versions": versions, "requests": requests}
            (RECORDED / f"{name}.json").write_text(
                json.dumps(content, indent=1, ensure_ascii=False) + "\n", encoding="utf-8"
            )
            print(f"{name}: {len(requests)} requests of {versions}")


if __name__ == "__main__":
    record(sys.argv[1], sys.argv[2:] or list(client_sessions.SESSIONS))
