"""Drawing responses from a server over HTTP: many requests at once, failures are retried, and no answer is lost."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Iterator, Mapping, Sequence
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
from paretune.generation.http_client import CONNECT_SECONDS, Client, Failed, connected, is_refusal, run
from paretune.generation.resumable import Part, split

PART = 64
"""Questions whose answers are kept together."""
ANSWER_VALUES = 3
"""Values of an answer in a part; a refused one has one more, the reason, and one with its tokens all of them."""

WHOLE = {"top_k": -1, "min_p": 0.0, "repetition_penalty": 1.0}
"""Settings of vLLM and SGLang that sample from the whole distribution; by default both take those of the model's publisher."""
TOKENS = {"logprobs": True, "return_token_ids": True}
"""Keys of a request for the tokens of an answer (vLLM, entrypoints/openai/protocol.py) and their log-probabilities (OpenAI)."""

MOST_REFUSED = 64
"""Prompts that may be refused before any was answered; then it is the server that cannot be used so."""

LOADING = "load_lora_adapter"
"""Route at which a running server loads a LoRA by ``lora_name`` and ``lora_path``: vLLM under its /v1 (docs/features/lora.md
and entrypoints/openai/models/serving.py of vLLM), SGLang beside it (srt/entrypoints/http_server.py of SGLang)."""

LOADED = ("already been loaded", "already loaded", "already exists")
"""Messages, with status 400, about a LoRA that is loaded under its name already: the first is vLLM's, the others SGLang's."""


def draw(
    endpoint: Endpoint,
    questions: Sequence[Question],
    sampling: Sampling,
    folder: Path,
    description: str,
    lora: LoRA | None = None,
    skip: bool = False,
    tokens: bool = False,
) -> list[Answer]:
    """Return one answer per question, see :func:`paretune.generation.sample.ask`."""
    return run(_draw(endpoint, questions, sampling, folder, description, lora, skip, tokens))


async def _draw(
    endpoint: Endpoint,
    questions: Sequence[Question],
    sampling: Sampling,
    folder: Path,
    description: str,
    lora: LoRA | None,
    skip: bool,
    tokens: bool,
) -> list[Answer]:
    """Name the model, read the answers that are kept, and request the rest."""
    async with connected(endpoint) as client:
        server = _Server(endpoint, client, {**TOKENS, **WHOLE} if tokens else {})
        offered: list[str] | None = None
        if not all(question.model for question in questions):
            offered = await server.offered()
            model = server.chosen(offered)
            questions = [replace(question, model=question.model or model) for question in questions]
        parts = [
            _opened(folder, numbers, questions, sampling, endpoint, tokens)
            for numbers in split(len(questions), PART)
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
    return [_kept(values) for part in parts for values in part.drawn]


def _kept(values: Sequence[Any]) -> Answer:
    """Return an answer from its values in a part."""
    answer = Answer(*values)
    return replace(answer, ids=tuple(answer.ids), logps=tuple(answer.logps))


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
                part.put(number, astuple(answer)[: None if server.more else ANSWER_VALUES])
                answered = True
            except EndpointError as error:
                if not is_refusal(error):
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


def _opened(
    folder: Path,
    numbers: range,
    questions: Sequence[Question],
    sampling: Sampling,
    endpoint: Endpoint,
    tokens: bool,
) -> Part:
    """Return the part of some questions with the answers that are on disk."""
    asked = [
        [question.model, [[m.role, m.content] for m in question.prompt], question.seed]
        for question in (questions[number] for number in numbers)
    ]
    template = [dict(endpoint.chat_template)] if endpoint.chat_template else []
    name = fingerprint("endpoint", asked, sampling.identity(), *template, *(["tokens"] if tokens else []))
    more = len(fields(Answer)) - ANSWER_VALUES if tokens else 1
    return Part.open(folder / f"{name}.json", numbers, ANSWER_VALUES, more)


@dataclass(frozen=True)
class _Server:
    """The endpoint with its open connections, and what is added to every request."""

    endpoint: Endpoint
    client: Client
    more: Mapping[str, Any]

    async def answer(self, question: Question, sampling: Sampling, where: str) -> Answer:
        """Draw one answer."""
        body = {
            "model": question.model,
            "messages": [{"role": m.role, "content": m.content} for m in question.prompt],
            "max_tokens": sampling.max_new_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": question.seed,
            **self.more,
        }
        if self.endpoint.chat_template:
            body["chat_template_kwargs"] = dict(self.endpoint.chat_template)
        return await self.client.patiently("POST", "chat/completions", where, body, _answer)

    async def offered(self) -> list[str]:
        """Return the names of the models that are served."""
        return await self.client.patiently("GET", "models", "the list of models", None, _names)

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
                response = await self.client.http.get(
                    f"models/{quote(model, safe='')}", timeout=CONNECT_SECONDS
                )
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
                await self.client.http.post(
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
                await self.client.tries("POST", address, body, lambda content: None, settled=500)
            except Failed as failed:
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
        raise Failed(
            "finish_reason is 'content_filter': a filter withheld the answer", passing=False, status=200
        )
    if not isinstance(text, str | None):
        raise TypeError(f"content is {type(text).__name__}")
    if reason not in ("stop", "length"):
        raise ValueError(f"finish_reason is {reason!r}")
    usage = content.get("usage") or {}
    tokens, read = usage.get("completion_tokens"), usage.get("prompt_tokens")
    ids, logps = _tokens(choice)
    text = (text or "").encode("utf-8", "replace").decode()  # half a surrogate pair is not text
    # Stripped, as this library's decoder strips its texts.
    return Answer(
        text.strip(),
        reason == "length",
        tokens if isinstance(tokens, int) else None,
        ids=ids,
        logps=logps,
        read=read if isinstance(read, int) else None,
    )


def _tokens(choice: Mapping[str, Any]) -> tuple[tuple[int, ...], tuple[float, ...]]:
    """Return the tokens of an answer and their log-probabilities, as far as the server tells them."""
    ids = tuple(map(int, choice.get("token_ids") or ()))
    told = (choice.get("logprobs") or {}).get("content") or ()
    return ids, tuple(float(token["logprob"]) for token in told)
