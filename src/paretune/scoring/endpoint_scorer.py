"""The scorer that asks a server: a reward model behind vLLM, a reranker, or any route by a template and a path."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from paretune.core.errors import ConfigError
from paretune.core.files import fingerprint
from paretune.data.rows import Prompt
from paretune.generation.endpoint import Endpoint
from paretune.scoring.function_scorer import (
    FunctionScorer,
    UnscoredError,
    choice,
    from_function,
    sign_of,
)
from paretune.scoring.usage import Usage

APIS = ("classify", "score", "rerank", "pooling", "path")
AGAIN = "the same command asks for them again; set unscored: leave-out to go on without them"
"""What helps where a server gave no score."""


def endpoint(
    objective: str,
    url: str,
    api: str = "classify",
    model: str = "",
    index: int = 0,
    direction: str = "higher",
    activation: bool = False,
    send: str = "messages",
    request: dict[str, Any] | None = None,
    answer: str = "",
    batch_size: int = 16,
    concurrency: int = 32,
    retries: int = 6,
    timeout: float = 120.0,
    key: str = "PARETUNE_SCORER_KEY",
    across_prompts: bool = True,
    unscored: str = "stop",
) -> FunctionScorer:
    """Score with a server: a reward model behind vLLM, a reranker, or any route.

    A text that the server refuses, or whose answer cannot be read, has no score: it is counted and named, and never a number.

    Args:
        objective: Name of the objective.
        url: Address of the server, such as ``http://127.0.0.1:8000``; for ``api: path`` the whole address of the route.
        api: Form of request and answer. ``classify``: a logit of a sequence-classification model (vLLM). ``score``: a
            cross-encoder on prompt and response (vLLM, ``text_1`` and ``text_2``). ``rerank``: the responses to a prompt together
            (vLLM, Jina, Cohere). ``pooling``: a reward head (vLLM; of one value a token, the last). ``path``: ``request`` and
            ``answer``.
        model: Name of the model at the server; by default none is sent.
        index: Number of the logit, from 0 (``classify``, ``pooling``).
        direction: ``higher`` or ``lower`` is better.
        activation: Whether the server squeezes the logit by the model's activation, such as a sigmoid. The logit itself tells good
            answers apart where all are close to 1.
        send: ``messages`` lets the server write the conversation by its chat template, one in a request; ``text`` sends prompt and
            response as one text, several in a request.
        request: For ``path``: body of a request, in which ``{prompt}``, ``{response}``, ``{messages}`` and ``{text}`` are those of
            a row, or ``{rows.prompt}`` and so on the lists of several rows.
        answer: For ``path``: JMESPath of the score in the answer, such as ``data[0].score``; of several rows, of the list of
            scores, such as ``results[*].score``.
        batch_size: Largest number of rows in a request.
        concurrency: Largest number of simultaneous requests.
        retries: Largest number of further tries of a request that failed for a reason that may pass.
        timeout: Seconds until a request times out.
        key: Environment variable that holds the API key.
        across_prompts: Whether its scores can be compared across prompts.
        unscored: What becomes of a text without a score, once all others are scored: ``stop`` ends the run with a message that
            counts them, ``leave-out`` leaves it out of training data and its prompt out of the measurement, which is counted too.

    Raises:
        ConfigError: Settings that do not fit together; the packages of the ``serve`` extra are not installed.
        EndpointError: When called: the server cannot be reached or refuses the key.
    """
    sign = sign_of(direction)
    choice("api", api, APIS)
    choice("send", send, ("messages", "text"))
    choice("unscored", unscored, ("stop", "leave-out"))
    for name, flag in (("activation", activation), ("across_prompts", across_prompts)):
        if not isinstance(flag, bool):
            raise ConfigError(f"{name}: {flag!r}: expected true or false")
    for name, value, least in (("index", index, 0), ("batch_size", batch_size, 1)):
        if isinstance(value, bool) or not isinstance(value, int) or value < least:
            raise ConfigError(f"{name}: {value!r}: expected a whole number of at least {least}")
    base = url if api == "path" else url.rstrip("/").removesuffix("/v1")
    server = served(base, model, concurrency, retries, timeout, key)
    form = _form(api, model, index, activation, send, request, answer)
    usage = Usage()

    def function(
        prompts: Sequence[Prompt], responses: Sequence[str], truncated: Sequence[bool]
    ) -> np.ndarray:
        return _rated(server, form, batch_size, objective, usage, prompts, responses, sign)

    what = [request, answer] if api == "path" else [model, index, activation, send]
    identity = ["endpoint", url if api == "path" or not model else "", api, direction, *what]
    scorer = from_function(objective, fingerprint(identity), function, across_prompts)
    shown = f"{model or 'the model'} at {url} (/{api})" if api != "path" else url
    return replace(scorer, judge=shown, usage=usage, leaves_out=unscored == "leave-out")


def served(url: str, model: str, concurrency: int, retries: int, timeout: float, key: str) -> Endpoint:
    """Return the settings of a server that scores, checked.

    Raises:
        ConfigError: A value of another kind, or out of its range.
    """
    for name, value in (("url", url), ("model", model), ("key", key)):
        if not isinstance(value, str):
            raise ConfigError(f"{name}: {value!r:.60}: expected text")
    for name, number in (("concurrency", concurrency), ("retries", retries)):
        if isinstance(number, bool) or not isinstance(number, int):
            raise ConfigError(f"{name}: {number!r}: expected a whole number")
    if isinstance(timeout, bool) or not isinstance(timeout, (int, float)):
        raise ConfigError(f"timeout: {timeout!r}: expected a number of seconds")
    return Endpoint(url, model, concurrency, retries, float(timeout), key)


def _form(
    api: str,
    model: str,
    index: int,
    activation: bool,
    send: str,
    request: Mapping[str, Any] | None,
    answer: str,
) -> Any:
    try:
        from paretune.scoring.endpoint_forms import form
    except ImportError as error:
        raise ConfigError(
            f"{error}; a scoring server needs more packages: pip install 'paretune[serve]'"
        ) from error
    return form(api, model, index, activation, send, request, answer)  # type: ignore[arg-type]


def _rated(
    server: Endpoint,
    form: Any,
    batch_size: int,
    objective: str,
    usage: Usage,
    prompts: Sequence[Prompt],
    responses: Sequence[str],
    sign: int,
) -> np.ndarray:
    """Return the scores ``[n]`` of n rows.

    Raises:
        UnscoredError: Rows without a score; it has the scores of the others.
        EndpointError: No row was answered, as the server cannot be used.
    """
    from paretune.generation.http_client import Client
    from paretune.scoring.asking import ask_rows
    from paretune.scoring.endpoint_forms import Text

    texts = [Text.of(prompt, response) for prompt, response in zip(prompts, responses, strict=True)]
    most = form.most or batch_size
    kinds: dict[str, list[int]] = {}
    for row, text in enumerate(texts):
        kinds.setdefault(text.prompt if form.by_prompt else "", []).append(row)
    groups = [rows[i : i + most] for rows in kinds.values() for i in range(0, len(rows), most)]
    path = form.path or server.url

    async def send(client: Client, rows: Sequence[int]) -> list[float]:
        body = form.body([texts[row] for row in rows])
        values: list[float] = await client.tries(
            "POST", path, body, lambda response: form.read(response.json(), len(rows))
        )
        return values

    asked = ask_rows(server, groups, len(texts), send, "a scoring server", f"asking for {objective}")
    usage.add(asked=len(asked.answers), refused=len(asked.refused), unread=len(asked.unread))
    if asked.failure is not None and not asked.answers:
        raise asked.failure
    scores = np.full(len(texts), np.nan)
    for row, value in asked.answers.items():
        scores[row] = sign * value
    reasons = dict(asked.failed)
    if asked.failure is not None:
        reasons |= {
            row: str(asked.failure)
            for row in range(len(texts))
            if np.isnan(scores[row]) and row not in reasons
        }
    if reasons:
        raise UnscoredError(scores, reasons, AGAIN, final=asked.failure is not None)
    return scores
