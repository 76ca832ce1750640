"""The application: all routes over one service, and the form of every error."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any, Literal

from fastapi import FastAPI, Request
from fastapi.exceptions import RequestValidationError
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel
from starlette.exceptions import HTTPException

from paretune import __version__
from paretune.core.errors import ParetuneError, StoreError
from paretune.serving.address import Address
from paretune.serving.api_errors import ApiError, Failure, unreadable_body, validation_error
from paretune.serving.http import (
    answers,
    audit,
    conversations,
    front,
    openai,
    profiles,
    ranking,
    render,
    scores,
    studio,
    votes,
)
from paretune.serving.metrics import CONTENT_TYPE
from paretune.serving.service import Service
from paretune.serving.store.database import StoreGoneError

logger = logging.getLogger(__name__)


class Health(BaseModel):
    """How the server is, and how many answers are being generated and wait."""

    status: Literal["starting", "ok", "draining"]
    running: float | None = None
    waiting: float | None = None


HEALTHY: dict[str, Any] = {"model": Health}
NOT_HEALTHY: dict[str, Any] = {
    "model": Health,
    "description": "The model is being loaded, or the server stops.",
}
FIGURES: dict[str, Any] = {"content": {"text/plain": {"schema": {"type": "string"}}}}


def make_app(service: Service, address: Address = Address()) -> FastAPI:  # noqa: B008 - it is frozen
    """Return the application over a service; it loads the model once it runs, and answers ``/health`` meanwhile.

    Args:
        service: What is served.
        address: Where, for ``/openapi.json``: the root path, and whether a key is needed.
    """

    @asynccontextmanager
    async def lifespan(app: FastAPI) -> AsyncIterator[None]:
        async def load() -> None:
            await service.backend.start()
            if service.auto is not None:
                await asyncio.to_thread(service.auto.load)
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
        servers=[{"url": address.root_path}] if address.root_path else None,
        responses={
            "4XX": {
                "model": Failure,
                "description": "The message states what was given, what was expected and what to do.",
            },
            "5XX": {
                "model": Failure,
                "description": "The server, its store or the server behind it cannot answer now, or lacks what this needs.",
            },
        },
    )
    app.state.service = service
    for routes in (
        openai,
        front,
        answers,
        scores,
        ranking,
        render,
        profiles,
        votes,
        conversations,
        audit,
        studio,
    ):
        app.include_router(routes.router(service))
    _answer_errors(app)
    _declare_security(app, bool(address.keys.digests))

    @app.get("/health", tags=["server"], response_model=None, responses={200: HEALTHY, 503: NOT_HEALTHY})
    def health() -> Response:
        """Return whether the server answers: ``starting``, ``ok`` or ``draining``; 503 unless ok."""
        content = {
            "status": service.phase,
            **{name: figure for name, figure in service.stats().items() if name in ("running", "waiting")},
        }
        return JSONResponse(content, 200 if service.phase == "ok" else 503)

    @app.get("/metrics", tags=["server"], response_class=Response, responses={200: FIGURES})
    def metrics() -> Response:
        """Return figures in the format of Prometheus."""
        return Response(service.metrics.render(), media_type=CONTENT_TYPE)

    return app


def is_json(content_type: str) -> bool:
    """Return whether a content type is JSON's."""
    kind = content_type.partition(";")[0].strip().lower()
    return kind == "application/json" or (kind.startswith("application/") and kind.endswith("+json"))


def _declare_security(app: FastAPI, needs_key: bool) -> None:
    """Add the API key to ``/openapi.json``: needed by all routes but the health of the server, or needed by none."""
    plain = app.openapi

    def openapi() -> dict[str, Any]:
        schema = plain()
        key = {"type": "http", "scheme": "bearer", "description": "An API key, where the server needs one."}
        schema.setdefault("components", {}).setdefault("securitySchemes", {})["key"] = key
        schema["security"] = [{"key": []}] if needs_key else [{}, {"key": []}]
        schema["paths"]["/health"]["get"]["security"] = []
        return schema

    app.openapi = openapi  # type: ignore[method-assign]


def _unknown_address(app: FastAPI, request: Request) -> str:
    """Return the message for an address without a route; below ``/v1/`` it names the routes of OpenAI's API that there are.

    Elsewhere it is the message by which the studio finds that a server is older than its page.
    """
    path = request.scope["path"]
    if not path.startswith("/v1/"):
        return "no such address"
    served = [
        f"{method.upper()} {route}"
        for route, methods in app.openapi()["paths"].items()
        if route.startswith("/v1/")
        for method in methods
    ]
    return f"no such address: {path[:100]!r}; this server has {', '.join(served)}"


def _answer_errors(app: FastAPI) -> None:
    """Return every error in the form that OpenAI's clients read."""

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
                "the store cannot be used; the server's log has the reason",
                "store_unavailable",
                retry_after=2,
            )
        )

    @app.exception_handler(StoreGoneError)
    async def store_gone(_: Request, error: StoreGoneError) -> Response:
        logger.error("%s", error)
        message = "the store was deleted or cut, so nothing can be kept; restore a copy of it and start the server again"
        return answer(ApiError(503, message, "store_gone"))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        kind = request.headers.get("content-type", "")
        about_body = any(finding["loc"][:1] == ("body",) for finding in error.errors())
        if about_body and not is_json(kind):
            state = f"is sent as {kind[:100]!r}" if kind else "has no content type"
            message = f"the body {state}; send it with Content-Type: application/json"
            return answer(ApiError(415, message, "unsupported_media_type"))
        return answer(validation_error(error.errors()))

    @app.exception_handler(HTTPException)
    async def refused(request: Request, error: HTTPException) -> Response:
        if isinstance(error.__cause__, ApiError):  # why a body was not read
            return answer(error.__cause__)
        message, code = {
            404: (_unknown_address(app, request), "not_found"),
            405: (f"{request.method} is not possible here", "method_not_allowed"),
        }.get(error.status_code, (str(error.detail), "invalid_request"))
        if error.status_code == 400 and error.__cause__ is not None:
            message, code = unreadable_body(error.__cause__), "invalid_json"
        response = answer(ApiError(error.status_code, message, code))
        response.headers.update(error.headers or {})
        return response

    @app.exception_handler(Exception)
    async def unforeseen(_: Request, error: Exception) -> Response:
        return answer(ApiError(500, "an error in the server; its log has the details", "internal_error"))
