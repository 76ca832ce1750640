"""Drawing responses from a server over HTTP: many requests at a time, patient with failures, and nothing that came is lost."""

from __future__ import annotations

import asyncio
import os
import random
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, nullcontext, suppress
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any
from urllib.parse import quote

import httpx

from paretune.core.errors import DataError, EndpointError, suggest
from paretune.core.files import fingerprint, read_json, write_json
from paretune.core.progress import Advance, progress
from paretune.core.sampling import Sampling
from paretune.generation.endpoint import LORA_PREFIX, Answer, Endpoint, LoRA, Question

PART = 64
"""Questions whose answers are written together."""

FIRST_WAIT, LONGEST_WAIT, LONGEST_ASKED = 0.5, 30.0, 60.0
"""Seconds before the second try, before any try, and before any try where the server says how long."""

CONNECT_SECONDS = 10.0
PASSING = {408, 409, 425, 429}
"""Statuses below 500 that another try may not meet."""

LOADING = "load_lora_adapter"
"""Where a server that runs takes a LoRA by ``lora_name`` and ``lora_path``: vLLM under its /v1 (docs/features/lora.md and
entrypoints/openai/models/serving.py of vLLM), SGLang beside it (srt/entrypoints/http_server.py of SGLang)."""

LOADED = ("already been loaded", "already loaded", "already exists")
"""What servers say, with status 400, of a LoRA that they have under its name: the first vLLM, the others SGLang."""


class _Failed(Exception):  # noqa: N818 - what came back, not yet an error
    """A try that failed: what to tell, whether another may succeed, the seconds the server asks to wait, and its status."""

    def __init__(self, told: str, passing: bool = True, after: float = 0.0, status: int = 0) -> None:
        super().__init__(told)
        self.passing, self.after, self.status = passing, after, status


@dataclass(eq=False)
class _Part:
    """Some questions and their answers so far; ``fresh`` counts those that are not on the disk."""

    file: Path
    first: int
    questions: Sequence[Question]
    answers: list[Answer | None]
    fresh: int = 0

    @property
    def missing(self) -> list[int]:
        return [place for place, answer in enumerate(self.answers) if answer is None]

    def write(self) -> None:
        if self.fresh:
            write_json(self.file, [a and [a.text, a.truncated, a.tokens] for a in self.answers])
            self.fresh = 0


def draw(
    endpoint: Endpoint,
    questions: Sequence[Question],
    sampling: Sampling,
    folder: Path,
    description: str,
    lora: LoRA | None = None,
) -> list[Answer]:
    """See :func:`paretune.generation.sample.ask`."""
    return asyncio.run(_draw(endpoint, questions, sampling, folder, description, lora))


async def _draw(
    endpoint: Endpoint,
    questions: Sequence[Question],
    sampling: Sampling,
    folder: Path,
    description: str,
    lora: LoRA | None,
) -> list[Answer]:
    """Name the model, read what is kept, ask for the rest."""
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
            _kept(folder, start, questions[start : start + PART], sampling)
            for start in range(0, len(questions), PART)
        ]
        wanted = {part.questions[place].model for part in parts for place in part.missing}
        if wanted:
            offered = await server.offered() if offered is None else offered
            if lora is None:
                await server.check(sorted(wanted), offered)
            done = len(questions) - sum(len(part.missing) for part in parts)
            async with nullcontext("") if lora is None else server.loaded(lora, offered) as name:
                with progress(description, len(questions), done) as advance:
                    await _ask_all(server, parts, sampling, advance, name)
    return [answer for part in parts for answer in part.answers if answer is not None]


async def _ask_all(
    server: _Server, parts: Sequence[_Part], sampling: Sampling, advance: Advance, name: str
) -> None:
    """Ask what is missing, in order; the first failure for good ends all, and what came is written.

    ``name`` is what the server calls the model of all questions; "": each names its own.
    """
    todo: Iterator[tuple[_Part, int]] = iter([(part, place) for part in parts for place in part.missing])

    async def work() -> None:
        for part, place in todo:
            question, where = part.questions[place], f"answer {part.first + place + 1}"
            question = replace(question, model=name or question.model)
            part.answers[place] = await server.answer(question, sampling, where)
            part.fresh += 1
            advance()
            if not part.missing:
                part.write()

    workers = [asyncio.create_task(work()) for _ in range(server.endpoint.concurrency)]
    try:
        await asyncio.gather(*workers)
    except EndpointError as error:
        total = sum(len(part.answers) for part in parts)
        kept = total - sum(len(part.missing) for part in parts)
        raise EndpointError(
            f"{error}. {kept} of {total} answers are kept; the same command goes on from there"
        ) from error
    finally:
        for worker in workers:
            worker.cancel()
        await asyncio.gather(*workers, return_exceptions=True)
        for part in parts:
            part.write()


def _kept(folder: Path, first: int, questions: Sequence[Question], sampling: Sampling) -> _Part:
    """Return a part with the answers that are on the disk."""
    asked = [[q.model, [[m.role, m.content] for m in q.prompt], q.seed] for q in questions]
    file = folder / f"{fingerprint('endpoint', asked, sampling.identity())}.json"
    if not file.is_file():
        return _Part(file, first, questions, [None] * len(questions))
    values = read_json(file)
    try:
        answers = [
            None if value is None else Answer(str(value[0]), bool(value[1]), value[2]) for value in values
        ]
    except (TypeError, IndexError, KeyError) as error:
        raise DataError(
            f"{file}: not a part of a draw ({error}); delete the file to have it drawn again"
        ) from error
    if len(answers) != len(questions):
        raise DataError(
            f"{file}: {len(answers)} answers, expected {len(questions)}; delete the file to have it drawn again"
        )
    return _Part(file, first, questions, answers)


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
        return await self._patiently("POST", "chat/completions", where, body, _answer)

    async def offered(self) -> list[str]:
        """Return the names of the models that are served."""
        return await self._patiently("GET", "models", "the list of models", None, _names)

    def chosen(self, offered: Sequence[str]) -> str:
        """Return the only model, beside LoRAs that a killed run has left there."""
        offered = [name for name in offered if not name.startswith(LORA_PREFIX)]
        if len(offered) != 1:
            raise EndpointError(
                f"{self.endpoint.url} offers {', '.join(offered) or 'no model'}; say which is to answer with --endpoint-model, or "
                "endpoint.model in a config"
            )
        return offered[0]

    async def check(self, wanted: Sequence[str], offered: Sequence[str]) -> None:
        """Raise an EndpointError unless the server has all models wanted; some have names beyond those they list."""
        for model in wanted:
            if model in offered:
                continue
            try:
                found = await self.client.get(f"models/{quote(model, safe='')}", timeout=CONNECT_SECONDS)
                known = found.status_code == 200
            except httpx.HTTPError:
                known = False
            if not known:
                raise EndpointError(
                    f"{self.endpoint.url} does not have the model {model!r}; {suggest(model, offered)}"
                )

    @asynccontextmanager
    async def loaded(self, lora: LoRA, offered: Sequence[str]) -> AsyncIterator[str]:
        """Have the server load ``lora`` for the length of the context; yield what a question calls it."""
        address = await self._load(lora)
        try:
            # SGLang's name of a LoRA is MODEL:NAME (its docs/advanced_features/lora.md).
            base = "" if address == LOADING else f"{self.endpoint.model or self.chosen(offered)}:"
            yield base + lora.served
        finally:
            # The answers are here, or an error is on its way: one try. What stays loaded takes room, but is in nobody's way.
            with suppress(httpx.HTTPError):
                await self.client.post(
                    address.replace(LOADING, f"un{LOADING}"),
                    json={"lora_name": lora.served},
                    timeout=CONNECT_SECONDS,
                )

    async def _load(self, lora: LoRA) -> str:
        """Have the server load ``lora`` unless it has it; return the address that took it."""
        url = self.endpoint.url.rstrip("/")
        beside = f"{url.removesuffix('/v1')}/{LOADING}"
        body = {"lora_name": lora.served, "lora_path": str(lora.folder)}
        cure = "or take the method out of endpoint.stages, to draw its answers here. What is done is kept"
        for address in (LOADING, beside):
            try:
                # 500 is how vLLM tells that a LoRA does not fit: another try would not help.
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
        """Do what :meth:`_patiently` does, but raise the last failure; the status ``settled`` is not tried again."""
        tries = 1 + self.endpoint.retries
        for attempt in range(tries):
            try:
                return await self._once(method, path, body, read)
            except _Failed as failed:
                if not failed.passing or failed.status == settled:
                    raise
                last = failed
            if attempt + 1 < tries:
                # At random, so that requests that were turned away together do not come back together.
                wait = min(LONGEST_WAIT, FIRST_WAIT * 2**attempt) * random.uniform(0.5, 1.0)
                await asyncio.sleep(max(wait, last.after))
        raise _Failed(f"{last}, at the last of {tries} tries", status=last.status) from last

    async def _once(self, method: str, path: str, body: Any, read: Read) -> Any:
        """Send a request once; return what ``read`` makes of the answer."""
        seconds = self.endpoint.timeout
        try:
            response = await asyncio.wait_for(self.client.request(method, path, json=body), seconds)
        except asyncio.TimeoutError as error:
            raise _Failed(f"no answer in {seconds:g} seconds") from error
        except httpx.ConnectError as error:
            # Before anything was answered: a wrong address, rather than a server that is away for a moment.
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
        """Say what a status other than 200 means."""
        status, told = response.status_code, response.text[:500]
        try:
            found = response.json()
            found = found.get("error", found)
            told = str(found.get("message", told) if isinstance(found, dict) else found)[:500]
        except (ValueError, AttributeError):
            pass  # not JSON, or no object: the text itself is told
        told = f"status {status}: {told or 'nothing said'}"
        if status in (401, 403):
            have = "is refused" if self.endpoint.key in os.environ else "is missing"
            told = f"{told}; the key in the variable {self.endpoint.key} {have}"
            return _Failed(told, passing=False, status=status)
        if listing and status in (404, 405):
            return _Failed(f"{told}; does the address lack its /v1?", passing=False, status=status)
        wait = response.headers.get("retry-after", "")
        after = min(LONGEST_ASKED, float(wait)) if wait.isdecimal() else 0.0
        return _Failed(told, status in PASSING or status >= 500, after, status)


Read = Callable[[httpx.Response], Any]
"""What is made of a response of status 200; raises ValueError, LookupError or TypeError where it is not as expected."""


def _names(response: httpx.Response) -> list[str]:
    names = [entry["id"] for entry in response.json()["data"]]
    if not all(isinstance(name, str) for name in names):
        raise TypeError("a model's id is no text")
    return names


def _answer(response: httpx.Response) -> Answer:
    content = response.json()
    (choice,) = content["choices"]
    text, reason = choice["message"]["content"], choice["finish_reason"]
    if not isinstance(text, str | None):
        raise TypeError(f"content is {type(text).__name__}")
    if reason not in ("stop", "length"):
        raise ValueError(f"finish_reason is {reason!r}")
    tokens = (content.get("usage") or {}).get("completion_tokens")
    text = (text or "").encode("utf-8", "replace").decode()  # half a surrogate pair is not text
    # Without the space around it, as the decoder of this library gives it.
    return Answer(text.strip(), reason == "length", tokens if isinstance(tokens, int) else None)
