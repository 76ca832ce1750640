"""The server process: its address, signals, and an orderly shutdown."""

from __future__ import annotations

import asyncio
import logging
from types import FrameType
from typing import TYPE_CHECKING

import uvicorn
from fastapi import FastAPI
from starlette.middleware.cors import CORSMiddleware

from paretune.core.errors import ConfigError, ModelError, ParetuneError
from paretune.core.progress import silent
from paretune.serving.address import Address
from paretune.serving.http.app import make_app
from paretune.serving.http.connections import guarded, open_for, raise_file_limit
from paretune.serving.http.guard import Guard
from paretune.serving.http.logs import Logged, logging_config
from paretune.serving.metrics import Counted
from paretune.serving.service import Service

if TYPE_CHECKING:
    from starlette.types import ASGIApp

logger = logging.getLogger(__name__)

SPARE_FILES = 128
"""Open files beside connections: weights, the store, the log."""


class Server(uvicorn.Server):
    """uvicorn that finishes running answers when it is asked to stop, and exits if the model cannot be loaded."""

    def __init__(self, config: uvicorn.Config, service: Service, app: FastAPI) -> None:
        super().__init__(config)
        self.service, self.app = service, app
        self.failure: BaseException | None = None
        self._draining: asyncio.Task[None] | None = None
        self._asked = False

    async def on_tick(self, counter: int) -> bool:
        """Check whether the model has failed to load or run, and whether to stop."""
        loading = self.app.state.loading
        if loading.done() and not loading.cancelled() and loading.exception() is not None:
            self.failure = loading.exception()
            return True
        if self.service.backend.failure and not self._asked:
            self.failure = ModelError(f"{self.service.backend.failure}; start the server again")
            return True
        if self._asked and self._draining is None:
            logger.info("stopping: finishing %d answers", self.service.active)
            self._draining = asyncio.create_task(self._drain())
        return await super().on_tick(counter)

    async def _drain(self) -> None:
        await self.service.drain()
        self.should_exit = True

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop once all answers are finished; at the second signal, stop at once."""
        if self._asked:
            self.should_exit = self.force_exit = True
        self._asked = True


def configuration(app: FastAPI, address: Address) -> uvicorn.Config:
    """Return uvicorn's configuration for the application."""
    # The outermost layers, so that an unforeseen error is counted and carries the headers too.
    guarding: ASGIApp = Guard(app, address)
    if address.allow_origins:
        # A key is sent as a header and never as a cookie, so no credentials of the browser are needed.
        guarding = CORSMiddleware(
            guarding,
            allow_origins=[origin.rstrip("/").lower() for origin in address.allow_origins],
            allow_methods=["GET", "POST", "PUT", "PATCH", "DELETE"],
            allow_headers=["Authorization", "Content-Type"],
            expose_headers=["Retry-After"],
        )
    return uvicorn.Config(
        Logged(Counted(guarding, app.state.service.metrics)),
        host=address.host,
        port=address.port,
        http=guarded(address.max_connections),
        ws="none",
        loop="asyncio",
        lifespan="on",
        server_header=False,
        log_config=logging_config("error" if silent() else address.log_level, address.log_format),
        log_level=None,
        access_log=False,
        timeout_graceful_shutdown=5,
        timeout_keep_alive=15,
        backlog=min(2048, open_for(address.max_connections)),
    )


def run(service: Service, address: Address) -> None:
    """Serve until SIGTERM or Ctrl-C, then finish the running answers.

    Raises:
        ParetuneError: The model cannot be loaded, or the address is in use.
    """
    raise_file_limit(open_for(address.max_connections) + SPARE_FILES)
    app = make_app(service, address)
    config = configuration(app, address)
    try:
        sock = config.bind_socket()
    except SystemExit as error:
        raise ConfigError(
            f"cannot listen at {address.host}:{address.port}; another server may be using it; choose another --port"
        ) from error
    server = Server(config, service, app)
    with sock:
        server.run(sockets=[sock])
    if isinstance(server.failure, ParetuneError):
        raise server.failure
    if server.failure is not None:
        raise RuntimeError("the model cannot be loaded") from server.failure
