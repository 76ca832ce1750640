"""A LoRA server behind this one.

The nearest LoRA that was exported and loaded there answers each preference; or, where a llama.cpp server has loaded the blocks of a
policy, all of them at the scales of exactly the preference.
"""

from __future__ import annotations

import asyncio
import json
from collections.abc import AsyncIterator, Callable, Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, cast

import httpx

from paretune.core.errors import ConfigError, ParetuneError
from paretune.core.preference import Preference, nearest
from paretune.policies.catalogue import BLOCKS, exported, exported_blocks
from paretune.serving.backend import BASE, Served, served_base
from paretune.serving.config import ServeConfig
from paretune.serving.events import (
    End,
    Event,
    Job,
    Overloaded,
    PromptTooLong,
    Reason,
    Unavailable,
    Unsupported,
    UpstreamFailed,
    written,
)
from paretune.serving.run_facts import RunFacts
from paretune.serving.sources import serve_source
from paretune.serving.upstream_form import ended, offered, piece_of, turn

if TYPE_CHECKING:
    from paretune.policies.gguf_export import Blocks

Kind = Literal["vllm", "sglang", "llama.cpp"]
KINDS = ("vllm", "sglang", "llama.cpp")
CONNECT_SECONDS = 10.0
CHARACTERS = 8
"""Characters per token that a prompt has at most, see :meth:`Upstream._require_short`."""
_REASONS: dict[str, Reason] = {
    "stop": "stop",
    "length": "length",
    "content_filter": "content_filter",
    "tool_calls": "tool_calls",
    "function_call": "function_call",
}
_EXACTLY = {"cache_prompt": False, "samplers": ["temperature", "top_p"], "reasoning_format": "none"}
"""What a llama.cpp server does by default and the engine does not.

It keeps what it computed of earlier prompts, also that at other scales, and takes it for its own again. It cuts off improbable
tokens before the temperature counts, and by two rules more (top-k, min-p). It takes the thinking out of the text.
"""


class _Relayed:
    """An answer that an upstream server generates."""

    def __init__(self, task: asyncio.Task[None]) -> None:
        self._task = task

    def cancel(self) -> None:
        self._task.cancel()


class Upstream:
    """The backend that forwards requests to a LoRA server with OpenAI's API.

    Attributes:
        served: The exported policy, under its name.
        base_model: The base model, as the upstream server has it.
        facts: Nothing, as LoRAs do not name their run.
        failure: Always empty, as an upstream server may come back.
    """

    failure = ""
    facts = RunFacts()

    def __init__(
        self,
        url: str,
        served: Mapping[str, Served],
        loras: Mapping[Preference, tuple[str, str]],
        base_model: str,
        kind: Kind,
        config: ServeConfig,
        key: str | None = None,
        chat_template: Mapping[str, Any] | None = None,
        blocks: Blocks | None = None,
    ) -> None:
        """Keep address and LoRAs.

        Args:
            url: The upstream server's address.
            served: What is offered.
            loras: Preference -> (name, text that its prompts end with); none where there are ``blocks``.
            base_model: The base model's name there.
            kind: How a LoRA is requested there.
            config: Limits.
            key: The upstream server's API key.
            chat_template: Arguments of the chat template, sent with each request.
            blocks: The blocks of the one policy that is served, whose scales follow the preference.
        """
        self._blocks = blocks
        self._chat_template = dict(chat_template or {})
        self.served = dict(served)
        self.base_model = served_base(served)
        self._loras, self._base, self._kind = dict(loras), base_model, kind
        self._max_running, self._held = config.max_rows + config.queue, 0
        self._max_prompt_tokens = config.max_prompt_tokens
        self._tasks: set[asyncio.Task[None]] = set()
        self._ids: dict[str, int] = {}
        headers = {"authorization": f"Bearer {key}"} if key else {}
        timeout = httpx.Timeout(config.timeout, connect=CONNECT_SECONDS)
        limits = httpx.Limits(max_connections=self._max_running)
        self._client = httpx.AsyncClient(
            base_url=url.rstrip("/"), headers=headers, timeout=timeout, limits=limits
        )

    @classmethod
    def of(cls, url: str, manifest: Path, kind: str, config: ServeConfig, key: str | None = None) -> Upstream:
        """Read the exported LoRAs from ``manifest``.

        Raises:
            ConfigError: The kind of server is unknown, or the URL is invalid.
            ParetuneError: The manifest cannot be read, or the default preference is outside the bounds.
        """
        if kind not in KINDS:
            raise ConfigError(f"--upstream-kind {kind}: expected one of {', '.join(KINDS)}")
        if not url.startswith(("http://", "https://")):
            raise ConfigError(f"--upstream {url}: expected an address such as http://127.0.0.1:8001/v1")
        blocks = None
        if manifest.name == BLOCKS:
            if kind != "llama.cpp":
                raise ConfigError(
                    f"--manifest {manifest}: blocks are for --upstream-kind llama.cpp, which adds LoRAs at scales; for {kind} give "
                    "the manifest.json of LoRAs that were exported with --grid"
                )
            from paretune.policies.gguf_export import Blocks

            blocks, together = Blocks.read(manifest.parent), exported_blocks(manifest.parent)
        else:
            together, _ = exported(manifest.parent)
        stated = Preference.parse(config.preference, together.objectives) if config.preference else None
        served = {together.name: serve_source(together, config.floors, stated)}
        ends = together.prompt_ends
        loras = (
            {} if blocks else dict(zip(together.anchors, zip(together.loras, ends, strict=True), strict=True))
        )
        how, template = cast(Kind, kind), together.chat_template
        return cls(url, served, loras, together.base_name, how, config, key, template, blocks)

    async def start(self) -> None:
        """List the LoRAs of a llama.cpp server, which numbers them; other servers take names in the request."""
        if self._kind != "llama.cpp":
            return
        address = str(self._client.base_url).rstrip("/").removesuffix("/v1") + "/lora-adapters"
        try:
            entries = (await self._client.get(address)).raise_for_status().json()
            self._ids = {Path(entry["path"]).stem: int(entry["id"]) for entry in entries}
        except (httpx.HTTPError, ValueError, KeyError, TypeError) as error:
            raise ConfigError(
                f"{address}: cannot list the LoRAs of the upstream server ({error!r})"
            ) from error
        wanted = self._blocks.names if self._blocks else [name for name, _ in self._loras.values()]
        missing = [name for name in wanted if name not in self._ids]
        if missing:
            raise ConfigError(
                f"{address}: the upstream server has no LoRA {missing[0]}.gguf; it has {', '.join(self._ids) or 'none'}"
            )

    async def stop(self) -> None:
        """Cancel running answers and close the connections."""
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)
        await self._client.aclose()

    async def submit(
        self, jobs: Sequence[Job], on_event: Callable[[int, Event], None], timeout: float
    ) -> Sequence[_Relayed]:
        """Forward jobs, all of them or none."""
        if len(jobs) > self._max_running:
            raise Unsupported(f"{len(jobs)} answers at once are more than this server holds; ask for fewer")
        if self._held + len(jobs) > self._max_running:
            raise Overloaded(f"{self._held} requests are running already; try again later", 2.0)
        for text in {written(job.prompt) for job in jobs}:
            self._require_short(text)
        if any(isinstance(job.prompt, str) and job.logprobs is not None for job in jobs):
            raise Unsupported(
                "logprobs of text completions are not passed on from an upstream server; ask in a chat"
            )
        self._held += len(jobs)
        opened = await asyncio.gather(*map(self._open, jobs), return_exceptions=True)
        failed = [outcome for outcome in opened if isinstance(outcome, BaseException)]
        responses = [outcome for outcome in opened if isinstance(outcome, httpx.Response)]
        if failed:
            self._held -= len(jobs)
            await asyncio.gather(*(response.aclose() for response in responses))
            raise failed[0]
        return [self._relay(response, partial(on_event, n), timeout) for n, response in enumerate(responses)]

    async def _open(self, job: Job) -> httpx.Response:
        """Return the stream of one answer, of which nothing was read yet."""
        path, body = self.request(job)
        try:
            response = await self._client.send(
                self._client.build_request("POST", path, json=body), stream=True
            )
        except httpx.TimeoutException as error:
            raise UpstreamFailed("the upstream server did not answer in time", timed_out=True) from error
        except httpx.TransportError as error:
            raise Unavailable(f"the upstream server cannot be reached ({type(error).__name__})") from error
        except httpx.HTTPError as error:
            raise UpstreamFailed(f"the upstream server cannot be used ({type(error).__name__})") from error
        if response.status_code != 200:
            try:
                raise await _refusal(response)
            finally:
                await response.aclose()
        return response

    def _relay(self, response: httpx.Response, on_event: Callable[[Event], None], timeout: float) -> _Relayed:
        relay = _Relay(response, on_event)
        task = asyncio.create_task(relay.run(timeout))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        task.add_done_callback(self._release)
        task.add_done_callback(relay.close)
        return _Relayed(task)

    def _release(self, _: asyncio.Task[None]) -> None:
        self._held -= 1

    def _require_short(self, text: str) -> None:
        """Refuse a prompt that is too long by any tokenizer; the upstream server counts the rest exactly.

        A token has no white space inside, so there are at least as many as words; and few texts have more than 8 characters per
        token.
        """
        most, words = self._max_prompt_tokens, len(text.split())
        if words > most or len(text) > CHARACTERS * most:
            raise PromptTooLong(
                f"the prompt has {words} words and {len(text)} characters, which is more than the {most} tokens that are accepted; "
                "shorten it"
            )

    def upstream_name(self, preference: Preference) -> str:
        """Return the upstream name of the LoRA nearest to a preference, or of the base model where blocks are added to it."""
        if self._blocks is not None:
            return self._base
        name, _ = self._loras[nearest(preference, list(self._loras))]
        return f"{self._base}:{name}" if self._kind == "sglang" else name

    def stats(self) -> Mapping[str, float]:
        """Return the number of running answers."""
        return {"running": len(self._tasks), "waiting": 0}

    def request(self, job: Job) -> tuple[str, dict[str, Any]]:
        """Return path and body of the upstream request."""
        base = self.base_model is not None and job.policy == BASE
        name, end = (
            ("", "") if base or self._blocks else self._loras[nearest(job.preference, list(self._loras))]
        )
        body: dict[str, Any] = {
            "model": self._base if base else self.upstream_name(job.preference),
            "max_tokens": job.sampling.max_new_tokens,
            "temperature": job.sampling.temperature,
            "top_p": job.sampling.top_p,
            "seed": job.seed,
            "stream": True,
            "stream_options": {"include_usage": True},
        }
        if job.stop:
            body["stop"] = list(job.stop)
        if job.schema is not None:
            stated = {"name": "answer", "schema": json.loads(job.schema), "strict": True}
            body["response_format"] = {"type": "json_schema", "json_schema": stated}
        if job.logprobs is not None:
            body |= {"logprobs": True, "top_logprobs": job.logprobs}
        if self._kind == "llama.cpp":
            body["model"] = self._base
            # Every LoRA is named: of one that is not, some versions keep the scale of the request before.
            scales = dict.fromkeys(self._ids, 0.0) | ({} if base else self._scales(job.preference, name))
            body["lora"] = [{"id": self._ids[each], "scale": scale} for each, scale in scales.items()]
            body |= _EXACTLY
        if isinstance(job.prompt, str):
            return "/completions", {**body, "prompt": job.prompt + end}
        if (
            job.prompt[-1].role == "assistant" and self._kind != "llama.cpp"
        ):  # which goes on from such a message by itself
            body |= {"continue_final_message": True, "add_generation_prompt": False}
        messages = [turn(message) for message in ended(job.prompt, end)]
        if job.tools is not None:
            body |= offered(job.tools)
        if self._chat_template:
            body["chat_template_kwargs"] = self._chat_template
        return "/chat/completions", {**body, "messages": messages}

    def _scales(self, preference: Preference, name: str) -> dict[str, float]:
        """Return LoRA -> scale at a preference."""
        if self._blocks is None:
            return {name: 1.0}
        return dict(zip(self._blocks.names, self._blocks.scales(preference), strict=True))


async def _refusal(response: httpx.Response) -> ParetuneError:
    """Return what a status other than 200 means for the client: its own mistake, a server that is busy, or one that failed."""
    status = response.status_code
    try:
        await response.aread()
        error = response.json()["error"]
        message, code = str(error["message"])[:500], error.get("code")
    except (httpx.HTTPError, ValueError, KeyError, TypeError, AttributeError):
        message, code = f"status {status}", None
    told = f"the upstream server: {message}"
    wait = response.headers.get("retry-after", "1")
    seconds = float(wait) if wait.isdecimal() and len(wait) < 6 else 1.0
    if status == 429:
        return Overloaded(told, seconds)
    if code == "context_length_exceeded" or "context length" in message or status == 413:
        return PromptTooLong(told)
    if status in (400, 422):
        return Unsupported(told)
    if status == 503:
        return Unavailable(told)
    if status in (401, 403):
        return UpstreamFailed(f"{told}; the server's owner must set PARETUNE_UPSTREAM_KEY to its key")
    if status == 404:
        return UpstreamFailed(f"{told}; the server's owner must check --upstream and the LoRAs it has loaded")
    if 300 <= status < 400:
        return UpstreamFailed(f"the upstream server sends elsewhere (status {status}); check --upstream")
    return UpstreamFailed(told, timed_out=status in (408, 504))


class _Relay:
    """A task that turns one upstream stream into events: pieces, then one End, even if it is cancelled before it starts."""

    def __init__(self, response: httpx.Response, on_event: Callable[[Event], None]) -> None:
        self._response, self._on_event = response, on_event
        self._end = End("cancelled", 0, 0)

    async def run(self, timeout: float) -> None:
        """Relay until the stream ends, for at most ``timeout`` seconds."""
        reason: Reason = "error"
        message, pieces, told, called = "the upstream server broke off the answer", 0, "", False
        usage: dict[str, Any] = {}
        try:
            async for chunk in _within(_events(self._response), timeout):
                usage = chunk.get("usage") or usage
                if "error" in chunk:
                    reason, message = "error", f"the upstream server: {str(chunk['error'])[:500]}"
                    break
                for choice in chunk.get("choices", ()):
                    piece = piece_of(choice)
                    if piece is not None:
                        pieces, called = pieces + bool(piece.text), called or bool(piece.calls)
                        self._on_event(piece)
                    if choice.get("finish_reason"):
                        told = str(choice["finish_reason"])[:100]
                        reason, message = _REASONS.get(told, "other"), ""
                        # Where a function was demanded by name, some servers end with ``stop``.
                        reason = "tool_calls" if called and reason == "stop" else reason
        except asyncio.CancelledError:
            reason, message = "cancelled", ""
        except (asyncio.TimeoutError, httpx.TimeoutException):
            reason, message = "timeout", ""
        except (httpx.HTTPError, ValueError, TypeError, AttributeError) as error:
            reason, message = "error", f"the upstream server broke off the answer ({type(error).__name__})"
        finally:
            tokens = int(usage.get("completion_tokens") or pieces)
            prompt, word = int(usage.get("prompt_tokens") or 0), told if reason == "other" else ""
            details = usage.get("prompt_tokens_details")
            cached = int(details.get("cached_tokens") or 0) if isinstance(details, dict) else 0
            self._end = End(reason, prompt, tokens, message=message, told=word, cached_tokens=cached)
            await self._response.aclose()

    def close(self, _: asyncio.Task[None]) -> None:
        """Send the End."""
        self._on_event(self._end)


async def _events(response: httpx.Response) -> AsyncIterator[dict[str, Any]]:
    """Yield the JSON of each server-sent event."""
    async for line in response.aiter_lines():
        if line.startswith("data:"):
            data = line[5:].strip()
            if data == "[DONE]":
                return
            event = json.loads(data)
            if isinstance(event, dict):
                yield event


async def _within(events: AsyncIterator[dict[str, Any]], seconds: float) -> AsyncIterator[dict[str, Any]]:
    """Yield events; raise a TimeoutError once ``seconds`` have passed."""
    loop = asyncio.get_running_loop()
    deadline = loop.time() + seconds
    while True:
        try:
            yield await asyncio.wait_for(anext(events), max(0.0, deadline - loop.time()))
        except StopAsyncIteration:
            return
