"""Drawing responses from a server over HTTP: many requests at once, failures are retried, and no answer is lost."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, nullcontext, suppress
from dataclasses import astuple, dataclass, fields, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from paretune.core.errors import EndpointError, suggest
from paretune.core.files import fingerprint
from paretune.core.progress import Advance, progress
from paretune.core.sampling import Sampling
from paretune.generation.endpoint import LORA_PREFIX, Answer, Endpoint, LoRA, Question
from paretune.generation.resumable import Part, split

PART = 64
"""Questions whose answers are kept together."""
ANSWER_VALUES = len(fields(Answer)) - 1
"""Values of an answer in a part; a refused one has one more, the reason."""

FIRST_WAIT, LONGEST_WAIT, LONGEST_ASKED = 0.5, 30.0, 60.0
"""Longest waits in seconds: before the second try, before any try, and before a try that the server delays."""

CONNECT_SECONDS = 10.0
PASSING = {408, 409, 425, 429}
"""Statuses below 500 for which another try may succeed."""
REFUSING = {400, 413, 422}
"""Statuses by which a server refuses one prompt, such as one that is too long."""
MOST_REFUSED = 64
"""Prompts that may be refused before any was answered; then it is the server that cannot be used so."""

LOADING = "load_lora_adapter"
"""Route at which a running server loads a LoRA by ``lora_name`` and ``lora_path``: vLLM under its /v1 (docs/features/lora.md
and entrypoints/openai/models/serving.py of vLLM), SGLang beside it (srt/entrypoints/http_server.py of SGLang)."""

LOADED = ("already been loaded", "already loaded", "already exists")
"""Messages, with status 400, about a LoRA that is loaded under its name already: the first is vLLM's, the others SGLang's."""


class _Failed(Exception):  # noqa: N818 - one failed try, not yet an error
    """A try that failed: why, whether another may succeed, the seconds the server asks to wait, and its status.

    The status is 200 for an answer that a filter withheld.
    """

    def __init__(self, message: str, passing: bool = True, after: float = 0.0, status: int = 0) -> None:
        super().__init__(message)
        self.passing, self.after, self.status = passing, after, status


def draw(
    endpoint: Endpoint,
    questions: Sequence[Question],
    sampling: Sampling,
    folder: Path,
    description: str,
    lora: LoRA | None = None,
    skip: bool = False,
) -> list[Answer]:
    """Return one answer per question, see :func:`paretune.generation.sample.ask`."""
    return asyncio.run(_draw(endpoint, questions, sampling, folder, description, lora, skip))


async def _draw(
    endpoint: Endpoint,
    questions: Sequence[Question],
    sampling: Sampling,
    folder: Path,
    description: str,
    lora: LoRA | None,
    skip: bool,
) -> list[Answer]:
    """Name the model, read the answers that are kept, and request the rest."""
    key = os.environ.get(endpoint.key, "").strip()
    async with httpx.AsyncClient(
        base_url=endpoint.url.rstrip("/") + "/",
        headers={"authorization": f"Bearer {key}"} if key else {},
        timeout=httpx.Timeout(None, connect=CONNECT_SECONDS),
        limits=httpx.Limits(max_connections=endpoint.concurrency),
    ) as client:
        server = _Server(endpoint, client)
        offered: list[str] | None = None
        if not all(question.model for question in questions):
            offered = await server.offered()
            model = server.chosen(offered)
            questions = [replace(question, model=question.model or model) for question in questions]
        parts = [
            _opened(folder, numbers, questions, sampling, endpoint) for numbers in split(len(questions), PART)
        ]
        wanted = {questions[number].model for part in parts for number in part.missing}
        if wanted:
            offered = await server.offered() if offered is None else offered
            if lora is None:
                await server.check(sorted(wanted), offered)
            done = len(questions) - sum(len(part.missing) for part in parts)
            async with nullcontext("") if lora is None else server.loaded(lora, offered) as name:
                with progress(description, len(questions), done) as advance:
                    named = [replace(question, model=name or question.model) for question in questions]
                    await _ask_all(server, parts, named, sampling, advance, skip)
    return [Answer(*values) for part in parts for values in part.drawn]


async def _ask_all(
    server: _Server,
    parts: Sequence[Part],
    questions: Sequence[Question],
    sampling: Sampling,
    advance: Advance,
    skip: bool,
) -> None:
    """Request the missing answers, in order. A permanent failure ends all, and the answers so far are kept.

    A refused prompt ends nothing: all others are asked first. With ``skip`` it is kept as refused once any prompt was answered;
    otherwise, and if all are refused, the error names the first.
    """
    missing: Iterator[tuple[Part, int]] = iter([(part, number) for part in parts for number in part.missing])
    answered = any(len(part.missing) < len(part.numbers) for part in parts)
    refused: list[tuple[Part, int, EndpointError]] = []

    def keep_refused() -> None:
        while skip and refused:
            part, number, error = refused.pop()
            part.put(number, ("", False, None, str(error.__cause__)))

    async def work() -> None:
        nonlocal answered
        for part, number in missing:
            source = f" ({questions[number].source})" if questions[number].source else ""
            try:
                answer = await server.answer(questions[number], sampling, f"answer {number + 1}{source}")
                part.put(number, astuple(answer)[:ANSWER_VALUES])
                answered = True
            except EndpointError as error:
                if not _is_refusal(error):
                    raise
                refused.append((part, number, error))
                if not answered and len(refused) >= MOST_REFUSED:
                    raise
            if answered:
                keep_refused()
            advance()

    workers = [asyncio.create_task(work()) for _ in range(server.endpoint.concurrency)]
    try:
        await asyncio.gather(*workers)
        if refused:
            raise min(refused, key=lambda entry: entry[1])[2]
    except EndpointError as error:
        kept = len(questions) - sum(len(part.missing) for part in parts)
        more = f"; {len(refused)} prompts are refused, the others go on" if refused else ""
        raise EndpointError(
            f"{error}. {kept} of {len(questions)} answers are kept; the same command goes on from there{more}"
        ) from error
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
        for part in parts:
            part.save()


def _is_refusal(error: EndpointError) -> bool:
    """Return whether the server refused this one prompt: by a status, or by a filter that withheld the answer."""
    cause = error.__cause__
    return isinstance(cause, _Failed) and (cause.status in REFUSING or cause.status == 200)


def _opened(
    folder: Path, numbers: range, questions: Sequence[Question], sampling: Sampling, endpoint: Endpoint
) -> Part:
    """Return the part of some questions with the answers that are on disk."""
    asked = [
        [question.model, [[m.role, m.content] for m in question.prompt], question.seed]
        for question in (questions[number] for number in numbers)
    ]
    template = [dict(endpoint.chat_template)] if endpoint.chat_template else []
    name = fingerprint("endpoint", asked, sampling.identity(), *template)
    return Part.open(folder / f"{name}.json", numbers, ANSWER_VALUES, more=1)


@dataclass(frozen=True)
class _Server:
    """The endpoint with its open connections."""

    endpoint: Endpoint
    client: httpx.AsyncClient

    async def answer(self, question: Question, sampling: Sampling, where: str) -> Answer:
        """Draw one answer."""
        body = {
            "model": question.model,
            "messages": [{"role": m.role, "content": m.content} for m in question.prompt],
            "max_tokens": sampling.max_new_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": question.seed,
        }
        if self.endpoint.chat_template:
            body["chat_template_kwargs"] = dict(self.endpoint.chat_template)
        return await self._patiently("POST", "chat/completions", where, body, _answer)

    async def offered(self) -> list[str]:
        """Return the names of the models that are served."""
        return await self._patiently("GET", "models", "the list of models", None, _names)

    def chosen(self, offered: Sequence[str]) -> str:
        """Return the only model, not counting LoRAs that a killed run has left loaded."""
        offered = [name for name in offered if not name.startswith(LORA_PREFIX)]
        if len(offered) != 1:
            raise EndpointError(
                f"{self.endpoint.url} offers {', '.join(offered) or 'no model'}; choose one with --endpoint-model, or with "
                "endpoint.model in a config"
            )
        return offered[0]

    async def check(self, wanted: Sequence[str], offered: Sequence[str]) -> None:
        """Raise an EndpointError unless the server has all wanted models; some servers know more names than they list."""
        for model in wanted:
            if model in offered:
                continue
            try:
                response = await self.client.get(f"models/{quote(model, safe='')}", timeout=CONNECT_SECONDS)
                known = response.status_code == 200
            except httpx.HTTPError:
                known = False
            if not known:
                raise EndpointError(
                    f"{self.endpoint.url} does not have the model {model!r}; {suggest(model, offered)}"
                )

    @asynccontextmanager
    async def loaded(self, lora: LoRA, offered: Sequence[str]) -> AsyncIterator[str]:
        """Load ``lora`` at the server for the length of the context; yield its model name."""
        address = await self._load(lora)
        try:
            # SGLang's name of a LoRA is MODEL:NAME (its docs/advanced_features/lora.md).
            base = "" if address == LOADING else f"{self.endpoint.model or self.chosen(offered)}:"
            yield base + lora.served
        finally:
            # One try, as the answers have arrived or an error is being raised. A LoRA that stays loaded only takes room.
            with suppress(httpx.HTTPError):
                await self.client.post(
                    address.replace(LOADING, f"un{LOADING}"),
                    json={"lora_name": lora.served},
                    timeout=CONNECT_SECONDS,
                )

    async def _load(self, lora: LoRA) -> str:
        """Load ``lora`` at the server unless it is loaded already; return the route that accepted it."""
        url = self.endpoint.url.rstrip("/")
        beside = f"{url.removesuffix('/v1')}/{LOADING}"
        body = {"lora_name": lora.served, "lora_path": str(lora.folder)}
        cure = "or remove the method from endpoint.stages, to sample its answers here. Finished work is kept"
        for address in (LOADING, beside):
            try:
                # vLLM answers 500 where a LoRA does not fit: another try would not help.
                await self._tries("POST", address, body, lambda content: None, settled=500)
            except _Failed as failed:
                unknown = failed.status in (404, 405) and lora.served not in str(failed)
                if unknown:
                    continue
                if failed.status != 400 or not any(words in str(failed) for words in LOADED):
                    raise EndpointError(
                        f"{url} does not load the LoRA {lora.folder} of rank {lora.rank}: {failed}. The server must see this "
                        f"folder under this path, run with --enable-lora and --max-lora-rank {lora.rank} or more (SGLang: with "
                        f"--lora-target-modules all, too), and allow loading (vLLM: VLLM_ALLOW_RUNTIME_LORA_UPDATING=True); {cure}"
                    ) from failed
            return address
        raise EndpointError(
            f"{url} knows neither {url}/{LOADING} nor {beside}, so it cannot load LoRAs while it runs; start vLLM with "
            f"--enable-lora and VLLM_ALLOW_RUNTIME_LORA_UPDATING=True in its environment, or SGLang with --enable-lora, {cure}"
        )

    async def _patiently(self, method: str, path: str, where: str, body: Any, read: Read) -> Any:
        """Send a request until it succeeds, at most ``1 + retries`` times; raise an EndpointError when it does not."""
        try:
            return await self._tries(method, path, body, read)
        except _Failed as failed:
            raise EndpointError(f"{self.endpoint.url}, {where}: {failed}") from failed

    async def _tries(self, method: str, path: str, body: Any, read: Read, settled: int | None = None) -> Any:
        """Send a request as :meth:`_patiently` does, but raise the last failure; the status ``settled`` is not retried."""
        tries = 1 + self.endpoint.retries
        for attempt in range(tries):
            try:
                return await self._once(method, path, body, read)
            except _Failed as failed:
                if not failed.passing or failed.status == settled:
                    raise
                last = failed
            if attempt + 1 < tries:
                # Random, so that requests that failed together are not repeated together.
                wait = min(LONGEST_WAIT, FIRST_WAIT * 2**attempt) * random.uniform(0.5, 1.0)
                await asyncio.sleep(max(wait, last.after))
        raise _Failed(f"{last}, at the last of {tries} tries", status=last.status) from last

    async def _once(self, method: str, path: str, body: Any, read: Read) -> Any:
        """Send a request once; return the value that ``read`` gives for the response."""
        seconds = self.endpoint.timeout
        try:
            response = await asyncio.wait_for(self.client.request(method, path, json=body), seconds)
        except asyncio.TimeoutError as error:
            raise _Failed(f"no answer in {seconds:g} seconds") from error
        except httpx.ConnectError as error:
            # The first request fails: the address is wrong, rather than the server away for a moment.
            first = method == "GET"
            raise _Failed(
                f"cannot be reached ({error}); is the server running?", passing=not first
            ) from error
        except httpx.HTTPError as error:
            raise _Failed(f"the connection broke ({type(error).__name__}: {error})") from error
        if response.status_code != 200:
            raise self._refused(response, listing=body is None)
        try:
            return read(response)
        except (ValueError, LookupError, TypeError, RecursionError) as error:
            raise _Failed(f"not an answer of OpenAI's API ({error}), but {response.text[:120]!r}") from error

    def _refused(self, response: httpx.Response, listing: bool) -> _Failed:
        """Return the failure that a status other than 200 means."""
        status, reason = response.status_code, response.text[:500]
        try:
            error = response.json()
            error = error.get("error", error)
            reason = str(error.get("message", reason) if isinstance(error, dict) else error)[:500]
        except (ValueError, AttributeError):
            pass  # not JSON, or no object: the reason is the text itself
        message = f"status {status}: {reason or 'without a message'}"
        if status in (401, 403):
            have = "is refused" if self.endpoint.key in os.environ else "is missing"
            message = f"{message}; the key in the variable {self.endpoint.key} {have}"
            return _Failed(message, passing=False, status=status)
        if listing and status in (404, 405):
            return _Failed(f"{message}; does the address lack its /v1?", passing=False, status=status)
        wait = response.headers.get("retry-after", "")
        after = min(LONGEST_ASKED, float(wait)) if wait.isdecimal() else 0.0
        return _Failed(message, status in PASSING or status >= 500, after, status)


Read = Callable[[httpx.Response], Any]
"""Reader of a response of status 200; raises ValueError, LookupError or TypeError where it is not as expected."""


def _names(response: httpx.Response) -> list[str]:
    names = [entry["id"] for entry in response.json()["data"]]
    if not all(isinstance(name, str) for name in names):
        raise TypeError("a model's id is no text")
    return names


def _answer(response: httpx.Response) -> Answer:
    content = response.json()
    (choice,) = content["choices"]
    text, reason = choice["message"]["content"], choice["finish_reason"]
    if reason == "content_filter":
        raise _Failed(
            "finish_reason is 'content_filter': a filter withheld the answer", passing=False, status=200
        )
    if not isinstance(text, str | None):
        raise TypeError(f"content is {type(text).__name__}")
    if reason not in ("stop", "length"):
        raise ValueError(f"finish_reason is {reason!r}")
    tokens = (content.get("usage") or {}).get("completion_tokens")
    text = (text or "").encode("utf-8", "replace").decode()  # half a surrogate pair is not text
    # Stripped, as this library's decoder strips its texts.
    return Answer(text.strip(), reason == "length", tokens if isinstance(tokens, int) else None)
