"""The server's log: one line per request with its time and the name of the key, as text or as JSON; keys are never logged."""

from __future__ import annotations

import json
import logging
import time
from datetime import datetime, timezone
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

logger = logging.getLogger("paretune.serving.requests")

PROBES = ("/health", "/metrics")
"""Paths that are asked for all the time and say nothing about the server's work."""


class Logged:
    """ASGI middleware that logs each request once it is answered, but no probe."""

    def __init__(self, app: ASGIApp) -> None:
        self.app = app

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status, asked = time.perf_counter(), 0, quote(scope["path"])

        async def noted_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = message["status"]
            await send(message)

        try:
            await self.app(scope, receive, noted_send)
        finally:
            if scope["path"] not in PROBES:
                caller, address = scope.get("state", {}).get("caller"), scope.get("client")
                facts = {
                    "address": address[0] if address else "",
                    "key": caller.name if caller else "",
                    "method": scope["method"],
                    "path": asked,
                    "status": status or None,
                    "seconds": round(time.perf_counter() - start, 3),
                }
                text = "%(address)s %(key)s %(method)s %(path)s %(status)s %(seconds)s s"
                logger.info(text, facts, extra={"facts": facts})


class JsonFormatter(logging.Formatter):
    """One JSON object per line: time, level, logger, message, and the facts of a request."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the line of a record."""
        line: dict[str, Any] = {
            "time": datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
            "message": record.getMessage(),
            **getattr(record, "facts", {}),
        }
        if record.exc_info:
            line["error"] = self.formatException(record.exc_info)
        return json.dumps(line)


def logging_config(level: str, form: str) -> dict[str, Any]:
    """Return the configuration of the log on standard error, for uvicorn's messages and ours.

    Args:
        level: Least level that is logged: ``debug``, ``info``, ``warning`` or ``error``.
        form: ``text`` or ``json``.
    """
    text = {"format": "%(asctime)s %(levelname)-7s %(message)s"}
    formatter = {"()": JsonFormatter} if form == "json" else text
    handler = {"class": "logging.StreamHandler", "formatter": "line", "stream": "ext://sys.stderr"}
    ours = {"handlers": ["log"], "level": level.upper(), "propagate": False}
    return {
        "version": 1,
        "disable_existing_loggers": False,
        "formatters": {"line": formatter},
        "handlers": {"log": handler},
        "loggers": {"uvicorn": ours, "paretune.serving": ours},
    }
