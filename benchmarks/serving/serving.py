"""16 clients with 16 preferences at once against one at a time, over HTTP, on one server in one run.

    python -m benchmarks.serving.serving runs/quickstart --policy dpo-soup

Prints tokens a second and the time to the first text (median and worst) for both, counts equal answers, and writes
``benchmarks/results/serving.json``. Rounds alternate, so that a machine that is shared disturbs both alike.
"""

from __future__ import annotations

import argparse
import asyncio
import json
import statistics
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path

import httpx

PROMPTS = (
    "How do I tell my flatmate that the kitchen is a mess?",
    "What can I do with too many ripe bananas?",
    "Is it better to exercise in the morning or in the evening?",
    "I feel guilty whenever I rest.",
)


@dataclass(frozen=True)
class Answered:
    """One streamed answer: its text, tokens, and seconds to the first of it."""

    text: str
    tokens: int
    first: float


async def ask(
    client: httpx.AsyncClient, policy: str, objectives: list[str], k: int, count: int, tokens: int
) -> Answered:
    """Stream the answer of client ``k``, at its own preference."""
    share = k / max(1, count - 1)
    body = {
        "model": policy,
        "messages": [{"role": "user", "content": PROMPTS[k % len(PROMPTS)]}],
        "preference": {objectives[0]: share, objectives[1]: 1 - share},
        "max_tokens": tokens,
        "seed": k,
        "stream": True,
        "stream_options": {"include_usage": True},
    }
    start, first, text, used = time.perf_counter(), 0.0, [], 0
    async with client.stream("POST", "/v1/chat/completions", json=body) as response:
        async for line in response.aiter_lines():
            if not line.startswith("data: {"):
                continue
            chunk = json.loads(line[6:])
            for choice in chunk["choices"]:
                piece = choice["delta"].get("content")
                if piece:
                    first = first or time.perf_counter() - start
                    text.append(piece)
            used = (chunk.get("usage") or {}).get("completion_tokens", used)
    return Answered("".join(text), used, first)


async def measure(address: str, policy: str, count: int, tokens: int, rounds: int) -> dict[str, object]:
    """Return both ways' figures over all rounds."""
    ways: dict[str, list[tuple[float, list[Answered]]]] = {"at once": [], "one at a time": []}
    async with httpx.AsyncClient(
        base_url=address, timeout=600, limits=httpx.Limits(max_connections=count)
    ) as client:
        front = (await client.get("/api/front")).json()
        objectives = next(p for p in front["policies"] if p["name"] == policy)["objectives"]
        await ask(client, policy, objectives, 0, count, 4)
        for _ in range(rounds):
            start = time.perf_counter()
            together = await asyncio.gather(
                *(ask(client, policy, objectives, k, count, tokens) for k in range(count))
            )
            ways["at once"].append((time.perf_counter() - start, list(together)))
            start = time.perf_counter()
            alone = [await ask(client, policy, objectives, k, count, tokens) for k in range(count)]
            ways["one at a time"].append((time.perf_counter() - start, alone))
            for way, done in ways.items():
                seconds, answers = done[-1]
                print(f"{way}: {sum(a.tokens for a in answers) / seconds:.1f} tokens/s", flush=True)
    found: dict[str, object] = {"clients": count, "max_tokens": tokens, "policy": policy}
    rates = {}
    for way, done in ways.items():
        each = [sum(a.tokens for a in answers) / seconds for seconds, answers in done]
        first = sorted(a.first for _, answers in done for a in answers)
        rates[way] = each
        found[way] = {
            "tokens_per_second": [round(rate, 2) for rate in each],
            "first_text_seconds": {
                "median": round(statistics.median(first), 3),
                "worst": round(first[-1], 3),
            },
        }
    ratios = [fast / slow for fast, slow in zip(*rates.values(), strict=True)]
    found["ratio"] = {"rounds": [round(r, 2) for r in ratios], "median": round(statistics.median(ratios), 2)}
    pairs = zip(ways["at once"][0][1], ways["one at a time"][0][1], strict=True)
    found["same_answers"] = sum(a.text == b.text for a, b in pairs)
    return found


def main() -> None:
    """Start a server and measure it."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path, help="a run folder")
    parser.add_argument("--policy", default="dpo-soup")
    parser.add_argument("--clients", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--dtype", default="auto")
    parser.add_argument("--port", type=int, default=8766)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        code = "from paretune.cli.main import main; main()"
        arguments = [
            "serve",
            options.run,
            "--policy",
            options.policy,
            "--port",
            options.port,
            "--dtype",
            options.dtype,
        ]
        command = [
            sys.executable,
            "-c",
            code,
            *map(str, arguments),
            "--store",
            f"{folder}/store.sqlite",
            "--timeout",
            "600",
        ]
        with Path(folder, "log").open("w") as log:
            server = subprocess.Popen(command, stdout=log, stderr=log)
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
            found = asyncio.run(
                measure(address, options.policy, options.clients, options.tokens, options.rounds)
            )
        finally:
            server.terminate()
            server.wait(90)
    found["dtype"] = options.dtype
    print(json.dumps(found, indent=2))
    results = Path(__file__).parents[1] / "results"
    results.mkdir(exist_ok=True)
    (results / "serving.json").write_text(json.dumps(found, indent=2) + "\n")


if __name__ == "__main__":
    main()
