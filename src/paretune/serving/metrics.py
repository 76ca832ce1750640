"""Figures of a running server in the format of Prometheus."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterable, Mapping
from typing import TYPE_CHECKING, Any

from prometheus_client import CollectorRegistry, Counter, Histogram, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

if TYPE_CHECKING:
    from starlette.types import ASGIApp, Message, Receive, Scope, Send

CONTENT_TYPE = "text/plain; version=0.0.4; charset=utf-8"
SECONDS = (0.01, 0.03, 0.1, 0.3, 1.0, 3.0, 10.0, 30.0, 100.0, 300.0)
COUNTERS = ("tokens", "prompt_tokens", "reused_tokens", "finished", "failed")
"""Figures of a backend that only grow; the others are current values."""


class _Current:
    """A collector of the figures of a backend at the moment of the request."""

    def __init__(self, stats: Callable[[], Mapping[str, float]]) -> None:
        self.stats = stats

    def collect(self) -> Iterable[Metric]:
        for name, value in self.stats().items():
            kind = CounterMetricFamily if name in COUNTERS else GaugeMetricFamily
            yield kind(f"paretune_{name}", f"{name.replace('_', ' ')} of the engine", value=float(value))


class Metrics:
    """Counters and timers of requests and answers."""

    def __init__(self, stats: Callable[[], Mapping[str, float]]) -> None:
        self.registry = CollectorRegistry()
        self.registry.register(_Current(stats))  # type: ignore[arg-type]
        ProcessCollector(registry=self.registry)
        made: dict[str, Any] = {"registry": self.registry}
        self.requests = Counter("paretune_http_requests", "requests answered", ["route", "status"], **made)
        self.seconds = Histogram(
            "paretune_http_seconds", "until the last byte", ["route"], buckets=SECONDS, **made
        )
        self.first = Histogram(
            "paretune_first_token_seconds", "from a request to its first text", buckets=SECONDS, **made
        )
        self.answers = Counter("paretune_answers", "answers by how they ended", ["policy", "reason"], **made)
        self.auto = Histogram(
            "paretune_auto_seconds", "to choose a preference for a conversation", buckets=SECONDS, **made
        )
        self.snapped = Counter(
            "paretune_snapped",
            "answers by the anchor nearest to the requested preference",
            ["policy"],
            **made,
        )

    def render(self) -> bytes:
        """Return all figures as text."""
        return generate_latest(self.registry)


class Counted:
    """ASGI middleware that counts and times each request by its route."""

    def __init__(self, app: ASGIApp, metrics: Metrics) -> None:
        self.app, self.metrics = app, metrics

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Forward one request."""
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        start, status = time.perf_counter(), "none"

        async def counted_send(message: Message) -> None:
            nonlocal status
            if message["type"] == "http.response.start":
                status = str(message["status"])
            await send(message)

        try:
            await self.app(scope, receive, counted_send)
        finally:
            # All other paths share one label, whatever strangers request.
            route = getattr(scope.get("route"), "path", "other")
            self.metrics.requests.labels(route, status).inc()
            self.metrics.seconds.labels(route).observe(time.perf_counter() - start)
