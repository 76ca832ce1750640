"""OpenAI's routes: chat and text completions, whole or streamed, and the list of models."""

from __future__ import annotations

import asyncio
import json
import secrets
from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response

from paretune.core.errors import PreferenceError
from paretune.core.sampling import Sampling
from paretune.scoring.auto_head import AUTO
from paretune.serving.api_errors import ApiError
from paretune.serving.auto import Chooser
from paretune.serving.bodies import ChatRequest, CompletionRequest
from paretune.serving.body import Setback
from paretune.serving.callers import Caller
from paretune.serving.events import (
    Cancellable,
    End,
    Event,
    Job,
    Overloaded,
    Piece,
    PromptTooLong,
    Unavailable,
    Unsupported,
    UpstreamFailed,
)
from paretune.serving.http.generation import Generation, failure, whole_calls
from paretune.serving.http.guard import Calling
from paretune.serving.http.json_body import JsonRoute
from paretune.serving.http.logprobs import told_logprobs
from paretune.serving.service import Service

if TYPE_CHECKING:
    from starlette.types import Receive, Scope, Send

    from paretune.serving.backend import Served

MOST_SEED = 2**31
STREAMED: dict[str, Any] = {
    "description": "One object; with `stream`, events whose data are chunks of it, and `[DONE]` at the end.",
    "content": {"text/event-stream": {"schema": {"type": "string"}}},
}


async def begin(service: Service, request: Request, body: ChatRequest | CompletionRequest) -> Generation:
    """Check a request, record it and start its answers.

    Raises:
        ApiError: The request is invalid, or the queue is full or the key's share used up (429).
    """
    service.require_ready()
    caller: Caller = request.scope["state"]["caller"]
    setbacks = [*body.setbacks, *_beyond(body, service.config.max_tokens)]
    if setbacks and not service.config.lenient:
        raise setbacks[0].error
    prompts = [prompt for prompt in body.prompts() for _ in range(body.n)]
    service.limits.check(caller, len(prompts))  # before a head reads the message for it
    resolved = await service.resolve(
        body.model, body.preference, body.profile, caller, body.strength, prompts[0]
    )
    seed = secrets.randbelow(MOST_SEED) if body.seed is None else body.seed
    generation = Generation(
        service,
        resolved,
        isinstance(body, ChatRequest),
        len(prompts),
        seed,
        body.wants_usage,
        [*body.ignored, *dict.fromkeys(setback.field for setback in setbacks)],
        {setback.field: setback.clamped for setback in setbacks if setback.clamped is not None},
        caller=caller,
    )
    sampling = _sampling(service, resolved.served, body)
    jobs = [
        Job(
            resolved.served.name,
            prompt,
            resolved.asked if resolved.served is service.base else resolved.asked.at(resolved.strength),
            sampling,
            seed + n,
            body.stops,
            caller.name,
            body.schema_text,
            body.likely,
            body.callable,
        )
        for n, prompt in enumerate(prompts)
    ]
    service.take(caller, len(jobs))
    try:
        generation.answers += await submit(service, jobs, generation.receive)
        await service.record(audit_record(generation))
    except BaseException:
        generation.close()
        raise
    if generation.about["snapped"]:
        service.metrics.snapped.labels(resolved.served.name).inc()
    return generation


def _beyond(body: ChatRequest | CompletionRequest, most: int) -> list[Setback]:
    """Return the setback that more tokens are asked for than the server answers with."""
    if body.limit is None or body.limit <= most:
        return []
    field = "max_tokens" if body.limit == body.max_tokens else "max_completion_tokens"
    message = (
        f"{field}: {body.limit} tokens exceed this server's limit of {most} per answer; ask for fewer, or start the server with "
        "--lenient, which answers with as many as it may"
    )
    return [Setback(field, ApiError(422, message, "max_tokens_exceeded", field), most)]


def _sampling(service: Service, served: Served, body: ChatRequest | CompletionRequest) -> Sampling:
    """Return how a request's answers are sampled; what it does not state is as the front was measured."""
    default, most = service.config_of(served).sampling, service.config.max_tokens
    return Sampling(
        min(body.limit or default.max_new_tokens, most),
        default.temperature if body.temperature is None else body.temperature,
        default.top_p if body.top_p is None else body.top_p,
    )


async def submit(
    service: Service, jobs: Sequence[Job], on_event: Callable[[int, Event], None]
) -> Sequence[Cancellable]:
    """Submit the jobs of a request to the backend; a refusal becomes an ApiError."""
    try:
        return await service.backend.submit(jobs, on_event, service.config.timeout)
    except Overloaded as error:
        raise ApiError(429, str(error), "queue_full", retry_after=error.retry_after) from error
    except PromptTooLong as error:
        raise ApiError(400, str(error), "context_length_exceeded", "messages") from error
    except Unsupported as error:
        raise ApiError(400, str(error), "unsupported_parameter", error.field) from error
    except PreferenceError as error:
        raise ApiError(422, str(error)[:2000], "invalid_preference", "preference") from error
    except Unavailable as error:
        raise ApiError(503, str(error), "unavailable", retry_after=2) from error
    except UpstreamFailed as error:
        status, code = (504, "timeout") if error.timed_out else (502, "upstream_failed")
        raise ApiError(status, str(error), code) from error


def audit_record(generation: Generation) -> Any:
    """Return the audit record of one request."""
    from paretune.serving.store.entries import AuditRecord

    resolved = generation.resolved
    return AuditRecord(
        policy=resolved.served.name,
        used=resolved.used,
        asked=resolved.asked if resolved.stated else None,
        model=resolved.model,
        client=generation.caller.name,
        request_id=generation.id,
        strength=resolved.strength,
        chosen_by=AUTO if resolved.chosen is not None else "",
    )


async def leaving(receive: Receive, generation: Generation) -> None:
    """Cancel a generation when its client disconnects."""
    while (await receive())["type"] != "http.disconnect":
        pass
    generation.cancel()


async def whole(generation: Generation, body: ChatRequest | CompletionRequest, receive: Receive) -> Response:
    """Wait for all answers and return them in one response."""
    texts: list[list[str]] = [[] for _ in range(generation.count)]
    likely: list[list[Mapping[str, Any]]] = [[] for _ in range(generation.count)]
    conflicts: list[list[float]] = [[] for _ in range(generation.count)]
    calls: list[list[Mapping[str, Any]]] = [[] for _ in range(generation.count)]
    ends: dict[int, End] = {}
    watcher = asyncio.create_task(leaving(receive, generation))
    try:
        while len(ends) < generation.count:
            for index, event in await generation.feed.take():
                generation.note(event, index)
                if isinstance(event, Piece):
                    texts[index].append(event.text)
                    likely[index].extend(event.logprobs)
                    conflicts[index].extend(event.conflicts)
                    calls[index].extend(event.calls)
                else:
                    ends[index] = event
                    error = failure(event)
                    if error is not None:
                        raise error
    finally:
        generation.close()
        watcher.cancel()
    choices = []
    for index, parts in enumerate(texts):
        text = "".join(parts)
        content = {"message": _message(text, calls[index])} if generation.chat else {"text": text}
        told = told_logprobs(likely[index], generation.chat) if body.likely is not None else None
        choices.append(
            {"index": index, **content, "logprobs": told, "finish_reason": ends[index].finish_reason}
        )
    about = {**generation.about, **({"conflicts": conflicts} if any(conflicts) else {})}
    return JSONResponse({
        "id": generation.id,
        "object": "chat.completion" if generation.chat else "text_completion",
        "created": generation.created,
        "model": generation.resolved.model,
        "choices": choices,
        "usage": generation.usage(body.n),
        "paretune": about,
    })  # fmt: skip


def _message(text: str, calls: Sequence[Mapping[str, Any]]) -> dict[str, Any]:
    """Return the message of a choice, from its text and the entries of ``delta.tool_calls``."""
    message: dict[str, Any] = {"role": "assistant", "content": text, "refusal": None}
    if calls:
        message |= {"content": text or None, "tool_calls": whole_calls(calls)}
    return message


class EventStream(Response):
    """Answers as server-sent events, each sent as soon as it arrives."""

    def __init__(self, generation: Generation, per_prompt: int) -> None:
        super().__init__(media_type="text/event-stream", headers={"x-accel-buffering": "no"})
        del self.headers["content-length"]
        self.generation, self.per_prompt = generation, per_prompt
        self.written = Counter[int]()
        kind = "chat.completion.chunk" if generation.chat else "text_completion"
        head = {
            "id": generation.id,
            "object": kind,
            "created": generation.created,
            "model": generation.resolved.model,
        }
        # The part that all chunks share is encoded once.
        self.head = json.dumps(head)[:-1] + (', "usage": null' if generation.wants_usage else "")
        self.about = json.dumps(generation.about)

    def chunk(
        self,
        index: int,
        text: str | None,
        reason: str | None = None,
        about: str | None = None,
        told: str = "null",
        calls: Sequence[Mapping[str, Any]] = (),
    ) -> str:
        """Return one event; without ``text``, an answer begins, or ends for ``reason``."""
        if self.generation.chat:
            delta: dict[str, Any] = (
                {"role": "assistant", "content": ""} if text is None and reason is None else {}
            )
            if text is not None and (text or not calls):
                delta["content"] = text
            if calls:
                delta["tool_calls"] = list(calls)
            content = f'"delta": {json.dumps(delta)}'
        else:
            content = f'"text": {json.dumps(text or "")}'
        extra = "" if about is None else f', "paretune": {about}'
        choice = f'{{"index": {index}, {content}, "logprobs": {told}, "finish_reason": {json.dumps(reason)}}}'
        return f'data: {self.head}, "choices": [{choice}]{extra}}}\n\n'

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Send the stream; if the client disconnects, its answers are cancelled."""
        watcher = asyncio.create_task(leaving(receive, self.generation))
        try:
            await send({"type": "http.response.start", "status": 200, "headers": self.raw_headers})
            opening = [self.chunk(i, None, about=self.about) for i in range(self.generation.count)]
            await send({"type": "http.response.body", "body": "".join(opening).encode(), "more_body": True})
            left = self.generation.count
            while left:
                events = await self.generation.feed.take()
                parts, left = self._encode(events, left)
                await send({"type": "http.response.body", "body": "".join(parts).encode(), "more_body": True})
            await send({"type": "http.response.body", "body": self._closing(), "more_body": False})
        finally:
            self.generation.close()
            watcher.cancel()

    def _encode(self, events: Sequence[tuple[int, Event]], left: int) -> tuple[list[str], int]:
        parts = []
        for index, event in events:
            self.generation.note(event, index)
            if isinstance(event, Piece):
                about = json.dumps({"conflicts": event.conflicts}) if event.conflicts else None
                told = self._told(index, event)
                parts.append(self.chunk(index, event.text, about=about, told=told, calls=event.calls))
                continue
            left -= 1
            error = failure(event)
            parts.append(
                self.chunk(index, None, event.finish_reason, self.about)
                if error is None
                else f"data: {error.body.decode()}\n\n"
            )
        return parts, left

    def _told(self, index: int, piece: Piece) -> str:
        """Return the log-probabilities of a piece's tokens as JSON."""
        if not piece.logprobs:
            return "null"
        told = told_logprobs(piece.logprobs, self.generation.chat, self.written[index])
        self.written[index] += sum(len(entry["token"]) for entry in piece.logprobs)
        return json.dumps(told)

    def _closing(self) -> bytes:
        closing = "data: [DONE]\n\n"
        if self.generation.wants_usage:
            head = self.head.removesuffix(', "usage": null')
            usage = json.dumps(self.generation.usage(self.per_prompt))
            closing = (
                f'data: {head}, "choices": [], "usage": {usage}, "paretune": {self.about}}}\n\n{closing}'
            )
        return closing.encode()


def router(service: Service) -> APIRouter:
    """Return OpenAI's routes over ``service``."""
    routes = APIRouter(prefix="/v1", tags=["openai"], route_class=JsonRoute)

    async def complete(request: Request, body: ChatRequest | CompletionRequest) -> Response:
        generation = await begin(service, request, body)
        if body.stream:
            return EventStream(generation, body.n)
        return await whole(generation, body, request.receive)

    @routes.post("/chat/completions", response_model=None, responses={200: STREAMED})
    async def chat_completions(request: Request, body: ChatRequest) -> Response:
        """Answer a conversation at a preference."""
        return await complete(request, body)

    @routes.post("/completions", response_model=None, responses={200: STREAMED})
    async def completions(request: Request, body: CompletionRequest) -> Response:
        """Continue a text at a preference."""
        return await complete(request, body)

    def described(name: str, about: dict[str, Any]) -> dict[str, Any]:
        return {"id": name, "object": "model", "created": 0, "owned_by": "paretune", "paretune": about}

    def facts(name: str) -> dict[str, Any]:
        if service.base is not None and name == service.base.name:
            return dict(service.base.facts)
        served = service.backend.served[name]
        default = served.default.as_dict()
        return {"objectives": list(served.objectives), "default": default, **served.facts}

    def chosen_by_auto(auto: Chooser) -> dict[str, Any]:
        held = auto.held
        about = {**facts(held.policy), "chosen_by": AUTO, "constant": held.constant.as_dict()}
        return described(f"{held.policy}@{AUTO}", about)

    @routes.get("/models/", include_in_schema=False)
    @routes.get("/models")
    def models() -> dict[str, Any]:
        """List the model names: policies, and presets of the default profile as NAME@PRESET."""
        names = [*service.backend.served, *([] if service.base is None else [service.base.name])]
        listed = [described(name, facts(name)) for name in names]
        if service.auto is not None:
            listed.append(chosen_by_auto(service.auto))
        for preset in service.store.presets("default") if service.store else ():
            if preset.policy in service.backend.served:
                about = {**facts(preset.policy), "preference": preset.preference.as_dict()}
                listed.append(described(f"{preset.policy}@{preset.name}", about))
        return {"object": "list", "data": listed}

    @routes.get("/models/{name:path}")
    async def model(caller: Calling, name: str) -> dict[str, Any]:
        """Describe one model name, also NAME@PREFERENCE."""
        if service.auto is not None and name in (f"@{AUTO}", f"{service.auto.held.policy}@{AUTO}"):
            return {**chosen_by_auto(service.auto), "id": name}
        resolved = await service.resolve(name, None, "default", caller)
        about = facts(resolved.served.name)
        if resolved.served is service.base:
            return described(name, about)
        return described(
            name, {**about, "preference": resolved.used.as_dict(), "asked": resolved.asked.as_dict()}
        )

    return routes
