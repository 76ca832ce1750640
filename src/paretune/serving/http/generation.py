"""One request that is being answered: the events of its answers, and what its response says of them."""

from __future__ import annotations

import asyncio
import secrets
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from paretune.scoring.auto_head import AUTO
from paretune.serving.api_errors import ApiError
from paretune.serving.callers import Caller
from paretune.serving.events import Cancellable, End, Event, Piece
from paretune.serving.service import Resolved, Service


class Feed:
    """Events of all answers to one request, in the order of arrival."""

    def __init__(self) -> None:
        self.events: deque[tuple[int, Event]] = deque()
        self.ready = asyncio.Event()

    def put(self, index: int, event: Event) -> None:
        """Add an event of one answer."""
        self.events.append((index, event))
        self.ready.set()

    async def take(self) -> list[tuple[int, Event]]:
        """Wait for events and return all since the last call: a slow client gets many in one write."""
        await self.ready.wait()
        self.ready.clear()
        taken = list(self.events)
        self.events.clear()
        return taken


@dataclass
class Generation:
    """One request that is being answered: its answers, and the facts that its response states about them."""

    service: Service
    resolved: Resolved
    chat: bool
    count: int
    seed: int
    wants_usage: bool
    ignored: Sequence[str] = ()
    clamped: Mapping[str, float] = field(default_factory=dict)
    feed: Feed = field(default_factory=Feed)
    answers: list[Cancellable] = field(default_factory=list)
    prompt_tokens: dict[int, int] = field(default_factory=dict)
    cached_tokens: dict[int, int] = field(default_factory=dict)
    completion_tokens: int = 0
    started: float = field(default_factory=time.perf_counter)
    first: bool = True
    caller: Caller = field(default_factory=Caller)

    def __post_init__(self) -> None:
        self.id = ("chatcmpl-" if self.chat else "cmpl-") + secrets.token_hex(12)
        self.created = int(time.time())
        strength = self.resolved.strength
        expected, measured = self.service.expected(self.resolved.served, self.resolved.used)
        if strength != 1:  # the front was measured at 1
            expected, measured = None, False
        base = self.resolved.served is self.service.base
        upstream = None if base else self.service.backend.upstream_name(self.resolved.used)
        self.about = {
            "policy": self.resolved.served.name,
            "preference": None if base else self.resolved.used.as_dict(),
            "asked": None if base else self.resolved.asked.as_dict(),
            "snapped": self.resolved.asked != self.resolved.used,
            **_chosen(self.resolved),
            **({"interpolated": True} if self.resolved.served.is_interpolated(self.resolved.used) else {}),
            **({} if strength == 1 else {"strength": strength}),
            "expected": expected,
            "measured": measured,
            "seed": self.seed,
            **({} if upstream is None else {"upstream_model": upstream}),
            **({"ignored": list(self.ignored)} if self.ignored else {}),
            **({"clamped": dict(self.clamped)} if self.clamped else {}),
        }

    def cancel(self) -> None:
        """Cancel every answer."""
        for answer in self.answers:
            answer.cancel()

    def close(self) -> None:
        """Cancel what still runs, and give the caller's places back."""
        self.cancel()
        self.service.release(self.caller, self.count)

    def receive(self, index: int, event: Event) -> None:
        """Take an event from the backend; an answer is counted even if nobody waits for it any more."""
        if isinstance(event, End):
            self.service.metrics.answers.labels(self.resolved.served.name, event.reason).inc()
        self.feed.put(index, event)

    def note(self, event: Event, choice: int) -> None:
        """Count an event."""
        if self.first and isinstance(event, Piece):
            self.first = False
            self.service.metrics.first.observe(time.perf_counter() - self.started)
        if isinstance(event, End):
            self.completion_tokens += event.completion_tokens
            self.prompt_tokens[choice] = event.prompt_tokens
            self.cached_tokens[choice] = event.cached_tokens

    def usage(self, per_prompt: int) -> dict[str, Any]:
        """Return token counts; a prompt counts once for all answers to it."""
        prompt, cached = (
            sum(count for choice, count in counts.items() if choice % per_prompt == 0)
            for counts in (self.prompt_tokens, self.cached_tokens)
        )
        return {
            "prompt_tokens": prompt,
            "completion_tokens": self.completion_tokens,
            "total_tokens": prompt + self.completion_tokens,
            "prompt_tokens_details": {"cached_tokens": cached},
        }


def _chosen(resolved: Resolved) -> dict[str, Any]:
    """Return what a response says of a preference that a head chose; nothing where the request or the server stated it."""
    chosen = resolved.chosen
    if chosen is None:
        return {}
    bounded = {"bounded": True} if chosen.bounded else {}
    return {"chosen_by": AUTO, "constant": chosen.constant.as_dict(), **bounded}


def failure(event: End) -> ApiError | None:
    """Return the error that ended an answer, or None."""
    if event.reason == "timeout":
        return ApiError(504, "the answer took too long; ask for fewer tokens, or try again later", "timeout")
    if event.reason == "error":
        return ApiError(
            502 if event.message else 500, event.message or "the answer failed", "generation_failed"
        )
    if event.reason == "cancelled":
        return ApiError(503, "the server is stopping", "draining", retry_after=2)
    return None


def whole_calls(deltas: Sequence[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """Return the calls of a message from the entries of ``delta.tool_calls`` of which they are made."""
    calls: dict[int, dict[str, Any]] = {}
    for delta in deltas:
        call = calls.setdefault(
            delta["index"], {"id": "", "type": "function", "function": {"name": "", "arguments": ""}}
        )
        call["id"] = delta.get("id") or call["id"]
        for key, text in (delta.get("function") or {}).items():
            if key in call["function"] and text:
                call["function"][key] += text
    return [calls[index] for index in sorted(calls)]
