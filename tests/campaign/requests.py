"""Requests: bodies of every route, mutated at random, to the real application over a trained policy.

No answer may be a 5xx, no row may stay in the engine, and afterwards every route answers a right request.
"""

from __future__ import annotations

import copy
import json
import random
import sys
import tempfile
import time
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from campaign.trial import Bench, Fault, Trial, done
from campaign.worlds import cache_in, world

KIND = "requests"
WHOLE, BLOCK = 2000, 100
AT_ONCE = 6
WORDS = {"good": 0.5, "kind": 0.5}
MESSAGES = [{"role": "system", "content": "red"}, {"role": "user", "content": "red sun"}]
ANSWERS = [{"text": "good sun", "preference": {"good": weight, "kind": 1 - weight}, "scores": {"good": 1.0, "kind": -0.5},
"truncated": False} for weight in (0.75, 0.25)]  # fmt: skip
RIGHT: Sequence[tuple[str, str, dict[str, Any]]] = (
    ("POST", "/v1/chat/completions", {"model": "dpo-soup", "messages": MESSAGES, "preference": WORDS, "max_tokens": 4,
    "temperature": 0.7, "top_p": 0.9, "seed": 3, "n": 2, "stop": ["moon"], "stream": False}),
    ("POST", "/v1/chat/completions", {"messages": [*MESSAGES, {"role": "assistant", "content": "sun"}, MESSAGES[1]],
    "preference": "good+kind", "max_completion_tokens": 3, "stream": True, "stream_options": {"include_usage": True}}),
    ("POST", "/v1/completions", {"model": "dpo-soup", "prompt": ["red sun", "moon"], "preference": "good=0.5,kind=0.5",
    "max_tokens": 3, "n": 1}),
    ("POST", "/api/choose", {"policy": "dpo-soup", "floors": {"good": 0.0}}),
    ("POST", "/api/profiles", {"name": "someone"}),
    ("PUT", "/api/presets/mine", {"profile": "someone", "policy": "dpo-soup", "preference": {"good": 0.4, "kind": 0.6}}),
    ("POST", "/api/votes", {"profile": "someone", "policy": "dpo-soup", "messages": MESSAGES[1:], "first": ANSWERS[0],
    "second": ANSWERS[1], "winner": "first", "objective": None}),
    ("POST", "/api/elicit/next", {"profile": "someone", "policy": "dpo-soup"}),
)  # fmt: skip
"""A right body of each route."""
READ = ("/api/front", "/api/profiles", "/api/presets?profile=someone", "/api/population", "/api/audit", "/v1/models",
"/metrics", "/health", "/api/expected?preference=good%2Bkind", "/")  # fmt: skip
"""Addresses that answer with 200 before and after."""
VALUES: Sequence[Any] = (
    None, True, False, 0, -1, 1, 7, 2**31, 2**63, -(2**63), 2**64, 10**400, 0.5, 1.5, -0.0, 1e308, -1e308, 5e-324,
    float("nan"), float("inf"), -float("inf"),
    "", " ", "\0", "\ud800", "good", "nonsense", "x" * 5000, "ü" * 50, "good=1,kind=0", "good=nan", "../../x", "a/b", "<pad>",
    "</s><u>", "{{ 1 }}", "'; DROP TABLE votes; --",
    [], [[]], [None], ["good"], ["good", "good"], [0.5, 0.5], [1] * 300, {}, {"a": 1}, {"good": 1.0}, {"good": 1e308,
    "kind": -1e308}, {"good": -1.0, "kind": 2.0}, {"type": "text", "text": "x"}, [{"type": "image_url", "image_url": {"url": "x"}}],
    {"role": "user", "content": "x"}, [{"role": "user", "content": None}], "first", "tie", "user", "assistant", "tool",
    "dpo-soup@mine", "dpo-soup@nonsense",
)  # fmt: skip
KEYS = ("refusal", "name", "tool_calls", "tools", "response_format", "logprobs", "logit_bias", "user", "n", "best_of", "top_k",
"min_p", "chat_template_kwargs", "metadata", "seed", "nonsense", "scores", "profile", "preference", "model", "a\0b",
"")  # fmt: skip


@dataclass(frozen=True)
class Sent:
    """A request: method, address, body, headers."""

    method: str
    path: str
    body: bytes
    headers: tuple[tuple[str, str], ...] = (("content-type", "application/json"),)


def mutated(chance: random.Random) -> Sent:
    """Return a right request with one to three changes, sometimes one that is no JSON."""
    method, path, right = chance.choice(RIGHT)
    body: Any = copy.deepcopy(right)
    for _ in range(chance.choice((1, 1, 1, 2, 3))):
        body = _changed(body, chance)
    raw = json.dumps(body).encode()
    kind = chance.random()
    if kind < 0.03:
        raw = raw[: chance.randrange(len(raw))]
    elif kind < 0.05:
        raw = raw.decode().encode("utf-16")
    elif kind < 0.07:
        raw = b"[" * 5000 + b"]" * 5000
    elif kind < 0.09:
        raw = bytes(chance.randrange(256) for _ in range(200))
    elif kind < 0.11:
        raw = raw[:-1] + b', "seed": 1, "seed": 2}'
    if path.startswith("/api/presets/") and chance.random() < 0.5:
        path = "/api/presets/" + chance.choice(
            ("a%2Fb", "%00", "..", "x" * 300, "%F0%9F%8C%9E", "%ED%A0%80", "a b")
        )
    if chance.random() < 0.04:
        return Sent(method, path, raw, (("content-type", chance.choice(("text/plain", "application/x-www-form-urlencoded",
        "multipart/form-data", "application/json; charset=latin-1"))),))  # fmt: skip
    return Sent(method, path, raw)


def _changed(value: Any, chance: random.Random) -> Any:
    """Change one place of a JSON value."""
    if isinstance(value, dict) and value and chance.random() < 0.85:
        key = chance.choice(sorted(value))
        what = chance.random()
        if what < 0.1:
            return {name: part for name, part in value.items() if name != key}
        if what < 0.25:
            return {**value, chance.choice(KEYS): chance.choice(VALUES)}
        return {**value, key: _changed(value[key], chance)}
    if isinstance(value, list) and value and chance.random() < 0.7:
        place = chance.randrange(len(value))
        if chance.random() < 0.15:
            return value[:place] + value[place + 1 :]
        if chance.random() < 0.1:
            return value * chance.choice((2, 50))
        return [*value[:place], _changed(value[place], chance), *value[place + 1 :]]
    return copy.deepcopy(chance.choice(VALUES))


def trials(count: int | None, chance: random.Random) -> Sequence[Trial]:
    """Return blocks of mutated requests; ``count`` is the number of requests."""
    whole = count or WHOLE
    sizes = [min(BLOCK, whole - start) for start in range(0, whole, BLOCK)]
    return [Trial(KIND, f"block-{number}", _bound(size)) for number, size in enumerate(sizes)]


def _bound(size: int) -> object:
    return lambda bench: tried(bench, size)


def tried(bench: Bench, size: int) -> str:
    """Send a block of requests to a server of its own process."""
    made = world(bench, "dpo-soup")
    code = f"from campaign.requests import fuzz\nfuzz({str(made.folder / 'run')!r}, {bench.chance.randrange(2**32)}, {size})"
    ended = bench.warm(code=code, cwd=bench.folder, env=cache_in(made.folder), timeout=300)
    done(ended, "the server with its requests")
    found = json.loads(ended.out.splitlines()[-1])
    if found["faults"]:
        raise Fault(f"{len(found['faults'])} faults in {size} requests: " + " | ".join(found["faults"][:4]))
    return f"answers by status: {found['statuses']}"


def fuzz(run: str, seed: int, size: int) -> None:
    """Serve a run, send requests, look whether all is well; print faults and statuses as JSON."""
    import httpx

    from paretune.policies.policy_file import BaseChoice
    from paretune.serving.config import ServeConfig
    from paretune.serving.local import LocalBackend
    from paretune.serving.service import Service
    from paretune.serving.store.store import Store
    from support.serve_world import live

    config = ServeConfig(max_prompt_tokens=64, max_tokens=32, timeout=20)
    backend = LocalBackend.of(Path(run), config, BaseChoice(dtype="float32", device="cpu"))
    chance, faults, statuses = random.Random(seed), list[str](), dict[str, int]()
    with tempfile.TemporaryDirectory() as folder:
        service = Service(backend, Store.open(f"sqlite:///{folder}/store.sqlite"), config)
        with live(service) as address, httpx.Client(base_url=address, timeout=60) as client:

            def send(sent: Sent, hasty: bool) -> None:
                began = time.monotonic()
                try:
                    with client.stream(
                        sent.method, sent.path, content=sent.body, headers=sent.headers
                    ) as response:
                        status = response.status_code
                        text = "" if hasty and status == 200 else response.read().decode("utf-8", "replace")
                except httpx.HTTPError as error:
                    faults.append(f"{type(error).__name__} for {shown(sent)}")
                    return
                statuses[str(status)] = statuses.get(str(status), 0) + 1
                if status >= 500:
                    faults.append(f"{status} {text[:200]} for {shown(sent)}")
                if time.monotonic() - began > 45:
                    faults.append(f"answered after {time.monotonic() - began:.0f} s: {shown(sent)}")

            requests = [(mutated(chance), chance.random() < 0.1) for _ in range(size)]
            with ThreadPoolExecutor(AT_ONCE) as pool:
                list(pool.map(lambda pair: send(*pair), requests))
            faults += after(client, backend)
    print(json.dumps({"faults": faults, "statuses": dict(sorted(statuses.items()))}))
    sys.stdout.flush()


def after(client: Any, backend: Any) -> list[str]:
    """Return what is not well after the requests."""
    faults = []
    deadline = time.monotonic() + 30
    while time.monotonic() < deadline and (backend.stats()["running"] or backend.stats()["waiting"]):
        time.sleep(0.05)
    if backend.stats()["running"] or backend.stats()["waiting"]:
        faults.append(f"rows are stuck in the engine: {dict(backend.stats())}")
    for method, path, body in RIGHT:
        response = client.request(method, path, json=body)
        if response.status_code not in (200, 201):
            faults.append(f"afterwards a right {path} is {response.status_code}: {response.text[:200]}")
    for path in READ:
        response = client.get(path)
        if response.status_code != 200:
            faults.append(f"afterwards {path} is {response.status_code}: {response.text[:200]}")
    return faults


def shown(sent: Sent) -> str:
    """Return a request in short."""
    return f"{sent.method} {sent.path[:60]} {sent.body[:300]!r}"
