"""The server: the application, and the process that runs it until it is asked to stop."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass, field

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from starlette.exceptions import HTTPException

from paretune import __version__
from paretune.core.errors import ConfigError, ParetuneError, StoreError
from paretune.serving.bodies import ApiError, Failure, validation_error
from paretune.serving.http import openai as openai_routes
from paretune.serving.http import studio as studio_routes
from paretune.serving.http import votes as vote_routes
from paretune.serving.http.guard import Keys, Limits, is_loopback
from paretune.serving.metrics import CONTENT_TYPE
from paretune.serving.service import Service

logger = logging.getLogger("paretune.serving.http.app")

SPARE_FILES = 128
"""Open files beside connections: weights, the store, the log."""


@dataclass(frozen=True)
class Place:
    """Where a server listens and whom it lets in.

    Attributes:
        host, port: port 0 takes any free one.
        keys: API keys; none are needed where there are none.
        open_to_all: admit everybody who can reach the host, without a key.
        allow_hosts: further names of this server in the ``Host`` header.
        max_connections: open at once.
        body_bytes: of one request.
    """

    host: str = "127.0.0.1"
    port: int = 8000
    keys: Keys = field(default_factory=lambda: Keys({}))
    open_to_all: bool = False
    allow_hosts: tuple[str, ...] = ()
    max_connections: int = 512
    body_bytes: int = 1 << 20

    def __post_init__(self) -> None:
        if not is_loopback(self.host) and not self.keys.digests and not self.open_to_all:
            raise ConfigError(
                f"--host {self.host} can be reached from other machines; give --api-key-file (or PARETUNE_API_KEY), or "
                "--no-key to admit everybody"
            )

    @property
    def limits(self) -> Limits:
        """Names are checked where only this machine is meant, or where they are listed."""
        local = Limits().hosts if is_loopback(self.host) else ()
        return Limits((*local, *self.allow_hosts) if local or self.allow_hosts else (), self.body_bytes)


def make_app(service: Service) -> FastAPI:
    """Return the application over a service; it loads the model when it starts, and answers ``/health`` meanwhile."""

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async def load() -> None:
            await service.backend.start()
            service.phase = "ok"

        loading = app.state.loading = asyncio.create_task(load())
        try:
            yield
        finally:
            service.phase = "draining"
            loading.cancel()
            await asyncio.gather(loading, return_exceptions=True)
            await service.backend.stop()
            await asyncio.to_thread(service.close)

    app = FastAPI(
        title="paretune",
        version=__version__,
        description="One language model that a person steers along its measured Pareto front.",
        docs_url=None,
        redoc_url=None,
        lifespan=lifespan,
        responses={
            "4XX": {"model": Failure, "description": "What was given, what was expected, what to do."}
        },
    )
    app.state.service = service
    app.include_router(openai_routes.router(service))
    app.include_router(studio_routes.router(service))
    app.include_router(vote_routes.router(service))
    app.include_router(studio_routes.files())
    _answer_errors(app)

    @app.get("/health", tags=["server"], response_model=None)
    def health() -> Response:
        """Whether answers are given: ``starting``, ``ok`` or ``draining``; 503 unless ok."""
        content = {
            "status": service.phase,
            **{k: v for k, v in service.stats().items() if k in ("running", "waiting")},
        }
        return JSONResponse(content, 200 if service.phase == "ok" else 503)

    @app.get("/metrics", tags=["server"], response_model=None)
    def metrics() -> Response:
        """Figures in Prometheus' form."""
        return Response(service.metrics.render(), media_type=CONTENT_TYPE)

    return app


def _answer_errors(app: FastAPI) -> None:
    """Give every error the form OpenAI's clients read."""

    def answer(error: ApiError) -> Response:
        return Response(error.body, error.status, error.headers)

    @app.exception_handler(ApiError)
    async def api_error(_: Request, error: ApiError) -> Response:
        return answer(error)

    @app.exception_handler(ParetuneError)
    async def user_error(_: Request, error: ParetuneError) -> Response:
        return answer(ApiError(422, str(error)[:2000], "invalid_value"))

    @app.exception_handler(StoreError)
    async def store_error(_: Request, error: StoreError) -> Response:
        logger.error("%s", error)
        return answer(
            ApiError(
                503,
                "the store cannot be used; the log of the server says why",
                "store_unavailable",
                retry_after=2,
            )
        )

    @app.exception_handler(RequestValidationError)
    async def invalid(_: Request, error: RequestValidationError) -> Response:
        return answer(validation_error(error.errors()))

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> Response:
        told = {404: "no such address", 405: f"{request.method} is not possible here"}.get(
            error.status_code, str(error.detail)
        )
        code = {404: "not_found", 405: "method_not_allowed"}.get(error.status_code, "invalid_request")
        response = answer(ApiError(error.status_code, told, code))
        response.headers.update(error.headers or {})
        return response

    @app.exception_handler(Exception)
    async def unforeseen(_: Request, error: Exception) -> Response:
        return answer(ApiError(500, "an error in the server; its log says more", "internal_error"))
