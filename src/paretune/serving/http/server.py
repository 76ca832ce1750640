"""The server process: an address, signals, and an orderly end."""

from __future__ import annotations

import asyncio
import copy
from types import FrameType
from typing import Any

import uvicorn
from fastapi import FastAPI

from paretune.core.errors import ConfigError, ModelError, ParetuneError
from paretune.serving.http.app import SPARE_FILES, Place, logger, make_app
from paretune.serving.http.connections import guarded, raise_file_limit
from paretune.serving.http.guard import Guard
from paretune.serving.metrics import Counted
from paretune.serving.service import Service


class Server(uvicorn.Server):
    """uvicorn that finishes what runs when it is asked to stop, and ends when the model cannot be loaded."""

    def __init__(self, config: uvicorn.Config, service: Service, app: FastAPI) -> None:
        super().__init__(config)
        self.service, self.app = service, app
        self.failure: BaseException | None = None
        self._draining: asyncio.Task[None] | None = None
        self._asked = False

    async def on_tick(self, counter: int) -> bool:
        """Look after the model that is being loaded, and after a wish to stop."""
        loading = self.app.state.loading
        if loading.done() and not loading.cancelled() and loading.exception() is not None:
            self.failure = loading.exception()
            return True
        if self.service.backend.failure and not self._asked:
            self.failure = ModelError(f"{self.service.backend.failure}; start the server again")
            return True
        if self._asked and self._draining is None:
            logger.info("stopping: %d answers are being finished", self.service.active)
            self._draining = asyncio.create_task(self._drain())
        return await super().on_tick(counter)

    async def _drain(self) -> None:
        await self.service.drain()
        self.should_exit = True

    def handle_exit(self, sig: int, frame: FrameType | None) -> None:
        """Stop once everything has been answered; asked a second time, stop now."""
        if self._asked:
            self.should_exit = self.force_exit = True
        self._asked = True


def configuration(app: FastAPI, place: Place) -> uvicorn.Config:
    """Return how uvicorn runs the application."""
    # Outside of everything, so that an unforeseen error is counted and carries the headers as well.
    guard = Guard(app, place.limits, place.keys)
    return uvicorn.Config(
        Counted(guard, app.state.service.metrics),
        host=place.host,
        port=place.port,
        http=guarded(place.max_connections),
        ws="none",
        loop="asyncio",
        lifespan="on",
        server_header=False,
        log_config=_logging(),
        timeout_graceful_shutdown=5,
        timeout_keep_alive=15,
        backlog=min(2048, 2 * place.max_connections),
    )


def run(service: Service, place: Place) -> None:
    """Serve until SIGTERM or Ctrl-C, then finish the running answers.

    Raises:
        ParetuneError: the model cannot be loaded, or the address is taken.
    """
    raise_file_limit(place.max_connections + SPARE_FILES)
    app = make_app(service)
    config = configuration(app, place)
    try:
        sock = config.bind_socket()
    except SystemExit as error:
        raise ConfigError(
            f"cannot listen at {place.host}:{place.port}; is another server there? Try --port"
        ) from error
    server = Server(config, service, app)
    with sock:
        server.run(sockets=[sock])
    if isinstance(server.failure, ParetuneError):
        raise server.failure
    if server.failure is not None:
        raise RuntimeError("the model cannot be loaded") from server.failure


def _logging() -> dict[str, Any]:
    """Return uvicorn's logging with ours beside it; no header, and so no key, is ever logged."""
    config: dict[str, Any] = copy.deepcopy(uvicorn.config.LOGGING_CONFIG)
    config["loggers"]["paretune.serving.http.app"] = {
        "handlers": ["default"],
        "level": "INFO",
        "propagate": False,
    }
    return config
