"""A server under clients that ask, leave, time out and send garbage: does it leak, and does anything get stuck?

    python -m benchmarks.serving.soak runs/quickstart --seconds 600

Ends with exit code 1 where the server's memory has grown by more than a tenth since the warm-up (the first fifth of the time), an
answer is still on its way after all clients have left, or anything was answered with 500 or not at all. Prints JSON.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import random
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path

import httpx
import psutil

GARBAGE = [
    b"",
    b"{",
    b"[]",
    b"\xff\xfe",
    b"[" * 5000,
    b'{"messages": 3}',
    b'{"model": "x"}',
    b" " * (3 << 20),
]
BAD = [
    {"preference": {"nothing": 1}},
    {"preference": {}},
    {"preference": "x"},
    {"max_tokens": 10**9},
    {"temperature": -1},
    {"messages": [{"role": "robot", "content": "x"}]},
    {"messages": [{"role": "user", "content": "word " * 100_000}]},
    {"tools": [{"type": "function"}]},
]


class Clients:
    """What clients do to a server, each thing by its share."""

    def __init__(
        self, address: str, objectives: list[str], models: list[str], tokens: int, seed: int
    ) -> None:
        self.address, self.objectives, self.models, self.tokens = address, objectives, models, tokens
        self.random = random.Random(seed)
        self.seen: Counter[str] = Counter()
        self.wrong: list[str] = []

    def body(self, **more: object) -> dict[str, object]:
        """Return a request at a random preference."""
        share = round(self.random.random(), 3)
        weights = dict.fromkeys(self.objectives, 0.0)
        first, second = self.random.sample(self.objectives, 2)
        weights[first], weights[second] = share, round(1 - share, 3)
        return {
            "model": self.random.choice(self.models),
            "messages": [{"role": "user", "content": f"tell me about {self.random.randint(0, 999)}"}],
            "max_tokens": self.random.randint(1, self.tokens),
            "preference": weights,
            **more,
        }

    async def work(self, until: float) -> None:
        """Be one client after another until the time is over."""
        deeds = [
            self.whole,
            self.stream,
            self.leave,
            self.give_up,
            self.garbage,
            self.mistake,
            self.raw,
            self.look,
        ]
        async with httpx.AsyncClient(base_url=self.address, timeout=300) as client:
            while time.monotonic() < until:
                deed = self.random.choices(deeds, [4, 4, 3, 3, 1, 2, 1, 1])[0]
                try:
                    await deed(client)
                    self.seen[deed.__name__] += 1
                except (httpx.WriteError, httpx.RemoteProtocolError, httpx.ReadError, ConnectionError):
                    self.seen[f"{deed.__name__}: connection closed"] += 1
                except httpx.HTTPError as error:
                    self.wrong.append(f"{deed.__name__}: {error!r}")

    def note(self, response: httpx.Response) -> None:
        """Count an answer."""
        self.seen[f"status {response.status_code}"] += 1
        if response.status_code == 500:
            self.wrong.append(response.text[:300])

    async def whole(self, client: httpx.AsyncClient) -> None:
        """Wait for an answer."""
        self.note(await client.post("/v1/chat/completions", json=self.body()))

    async def stream(self, client: httpx.AsyncClient) -> None:
        """Read a stream to its end."""
        async with client.stream("POST", "/v1/chat/completions", json=self.body(stream=True)) as response:
            self.note(response)
            text = "".join([part async for part in response.aiter_text()])
            if response.status_code == 200 and "[DONE]" not in text:
                self.wrong.append(f"a stream without an end: {text[-200:]}")

    async def leave(self, client: httpx.AsyncClient) -> None:
        """Leave in the middle of a stream."""
        body = self.body(stream=True, max_tokens=self.tokens)
        async with client.stream("POST", "/v1/chat/completions", json=body) as response:
            self.note(response)
            parts = response.aiter_raw()
            for _ in range(self.random.randint(0, 5)):
                await anext(parts, None)

    async def give_up(self, client: httpx.AsyncClient) -> None:
        """Wait less long than the answer takes."""
        try:
            body = self.body(max_tokens=self.tokens)
            self.note(
                await client.post("/v1/chat/completions", json=body, timeout=self.random.uniform(0.01, 0.5))
            )
        except httpx.TimeoutException:
            self.seen["gave up"] += 1

    async def garbage(self, client: httpx.AsyncClient) -> None:
        """Send what is no request."""
        kind = {"content-type": "application/json"}
        self.note(
            await client.post("/v1/chat/completions", content=self.random.choice(GARBAGE), headers=kind)
        )

    async def mistake(self, client: httpx.AsyncClient) -> None:
        """Ask for what is not possible."""
        self.note(await client.post("/v1/chat/completions", json={**self.body(), **self.random.choice(BAD)}))

    async def raw(self, client: httpx.AsyncClient) -> None:
        """Connect, say half a word, and go."""
        host, port = self.address.removeprefix("http://").split(":")
        _, writer = await asyncio.open_connection(host, int(port))
        writer.write(
            self.random.choice(
                [b"", b"GET", b"\x16\x03\x01\x00", b"POST /v1/completions HTTP/1.1\r\nhost: x\r\n"]
            )
        )
        await asyncio.sleep(self.random.uniform(0, 0.2))
        writer.close()

    async def look(self, client: httpx.AsyncClient) -> None:
        """Read what the server says of itself."""
        for path in ("/health", "/metrics", "/v1/models", "/api/front"):
            self.note(await client.get(path))


async def figure(client: httpx.AsyncClient, name: str) -> float:
    """Return one of the server's metrics."""
    found = re.search(rf"^paretune_{name} (\S+)$", (await client.get("/metrics")).text, re.MULTILINE)
    assert found, name
    return float(found[1])


async def soak(
    address: str, pid: int, seconds: float, count: int, tokens: int, seed: int = 0
) -> dict[str, object]:
    """Let ``count`` clients work for ``seconds``; return what was seen, with ``ok``."""
    server = psutil.Process(pid)
    async with httpx.AsyncClient(base_url=address, timeout=60) as client:
        policies = (await client.get("/api/front")).json()["policies"]
        clients = Clients(address, policies[0]["objectives"], [p["name"] for p in policies], tokens, seed)
        start = time.monotonic()
        working = [asyncio.create_task(clients.work(start + seconds)) for _ in range(count)]
        memory: list[tuple[float, float]] = []
        while not all(task.done() for task in working):
            memory.append((time.monotonic() - start, server.memory_info().rss / 2**20))
            await asyncio.sleep(min(1.0, seconds / 50))
        await asyncio.gather(*working)
        deadline = time.monotonic() + 30
        stuck = 1.0
        while stuck and time.monotonic() < deadline:
            stuck = await figure(client, "requests_active") + await figure(client, "running")
            await asyncio.sleep(0.1)
    warm = [rss for second, rss in memory if second < 0.2 * seconds]
    end = [rss for second, rss in memory if second >= 0.9 * seconds] or [memory[-1][1]]
    growth = (sum(end) / len(end)) / max(warm) - 1
    wrong = clients.wrong[:10]
    return {
        "seconds": round(time.monotonic() - start, 1),
        "seen": dict(clients.seen.most_common()),
        "wrong": wrong,
        "stuck": stuck,
        "rss_mb": {
            "warm": round(max(warm)),
            "end": round(sum(end) / len(end)),
            "most": round(max(r for _, r in memory)),
        },
        "growth": round(growth, 4),
        "open_files": server.num_fds(),
        "ok": not wrong and not stuck and growth < 0.1,
    }


def main() -> None:
    """Start a server and soak it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="a run folder")
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--clients", type=int, default=24)
    parser.add_argument("--tokens", type=int, default=32, help="the longest answer asked for")
    parser.add_argument("--port", type=int, default=8765)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        code = "from paretune.cli.main import main; main()"
        arguments = [
            "serve",
            str(options.run),
            "--port",
            str(options.port),
            "--store",
            f"{folder}/store.sqlite",
            "--queue",
            "16",
        ]
        with Path(folder, "log").open("w") as log:
            server = subprocess.Popen([sys.executable, "-c", code, *arguments], stdout=log, stderr=log)
        try:
            address = f"http://127.0.0.1:{options.port}"
            for _ in range(600):
                try:
                    if httpx.get(f"{address}/health").status_code == 200:
                        break
                except httpx.HTTPError:
                    pass
                if server.poll() is not None:
                    sys.exit(Path(folder, "log").read_text())
                time.sleep(0.2)
            found = asyncio.run(soak(address, server.pid, options.seconds, options.clients, options.tokens))
        finally:
            server.terminate()
            server.wait(90)
    print(json.dumps(found, indent=2))
    sys.exit(0 if found["ok"] else 1)


if __name__ == "__main__":
    main()
