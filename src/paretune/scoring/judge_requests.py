"""The questions of a judge over HTTP, to a server with OpenAI's API."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any

import httpx

from paretune.core.sampling import Sampling
from paretune.data.rows import Prompt
from paretune.generation.endpoint import Endpoint
from paretune.generation.http_client import Client, Failed
from paretune.scoring.asking import ask_rows
from paretune.scoring.judge_model import Replied, Reply
from paretune.scoring.rubric import LETTERS


def ask_server(
    endpoint: Endpoint,
    extra: Mapping[str, Any],
    questions: Sequence[Prompt],
    sampling: Sampling,
    seeds: Sequence[int],
    keep: Callable[[int, Reply], None],
    title: str,
    letter: bool = False,
) -> Replied:
    """Ask all questions, many at once, and return the replies; each is handed on as it comes.

    With ``letter`` a reply is the JSON of the chances of the letters A and B as the first token.
    """

    async def send(client: Client, rows: Sequence[int]) -> list[Reply]:
        (row,) = rows
        body = {
            "model": endpoint.model,
            "messages": [{"role": m.role, "content": m.content} for m in questions[row]],
            "max_tokens": sampling.max_new_tokens,
            "temperature": sampling.temperature,
            "top_p": sampling.top_p,
            "seed": seeds[row],
        }
        body = {key: value for key, value in {**body, **extra}.items() if value is not None}
        reply: Reply = await client.tries(
            "POST", "chat/completions", body, _read_chances if letter else _read
        )
        keep(row, reply)
        return [reply]

    groups = [[row] for row in range(len(questions))]
    asked = ask_rows(endpoint, groups, len(questions), send, "OpenAI's API", title)
    return Replied(asked.answers, asked.failed, asked.failure)


def _read(response: httpx.Response) -> Reply:
    content = response.json()
    (choice,) = content["choices"]
    text, reason = choice["message"]["content"], choice["finish_reason"]
    if reason == "content_filter":
        raise Failed(
            "finish_reason is 'content_filter': a filter withheld the answer", passing=False, status=200
        )
    if not isinstance(text, str | None):
        raise TypeError(f"content is {type(text).__name__}")
    usage = content.get("usage") or {}
    read, written = usage.get("prompt_tokens"), usage.get("completion_tokens")
    text = (text or "").encode("utf-8", "replace").decode()
    return Reply(text, reason == "length", _count(read), _count(written))


def _read_chances(response: httpx.Response) -> Reply:
    """Return the chances of the letters among the likeliest first tokens; of those further down nothing is known."""
    content = response.json()
    (choice,) = content["choices"]
    listed = (choice.get("logprobs") or {}).get("content") or []
    if not listed:
        raise Failed(
            "the answer has no logprobs, by which a letter is read; take a server that gives them, or let the judge write its "
            "verdict (verdicts: written)",
            passing=False,
            status=200,
        )
    chances = dict.fromkeys(LETTERS, 0.0)
    for token in listed[0]["top_logprobs"]:
        name = token["token"].strip()
        if name in chances:
            chances[name] += math.exp(token["logprob"])
    usage = content.get("usage") or {}
    return Reply(
        json.dumps(chances),
        False,
        _count(usage.get("prompt_tokens")),
        _count(usage.get("completion_tokens")),
    )


def _count(value: object) -> int:
    return value if isinstance(value, int) else 0
