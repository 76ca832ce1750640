"""One row, and eight rows at eight preferences: the engine, against llama.cpp with the policy's blocks as LoRAs.

    python -m benchmarks.generation.llama_cpp [--rows 1 8] [--tokens 64] [--threads 2] [--rounds 5] [--bases f32 bf16 copy]
        [--python ENVIRONMENT/bin/python]

A policy of Panacea's form (random, see `benchmarks/training/inputs.py`) answers greedily and without stopping early. llama.cpp
is the HTTP server of the package xllamacpp, which need not be installed here: `--python` names the interpreter of an environment
that has it. It has a slot for each row, and is asked at the scales of each row's preference. Its base model is the same
in each format of `--bases`; copy is the file as it is, which must be GGUF. Seconds of the clock on `--threads` threads, prompts
included, one way after the other in each round. They count only when in float32 both drew the same tokens for every row.
"""

from __future__ import annotations

import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import ExitStack, contextmanager
from pathlib import Path
from typing import Any, cast

import httpx
import torch

from benchmarks.serving.serve import QUESTIONS, together
from benchmarks.side_by_side import clocked, figure, in_turn, options, same_tokens, start, write
from benchmarks.training.inputs import OBJECTIVES, random_panacea
from paretune.core.preference import Preference, simplex_grid
from paretune.core.sampling import Sampling
from paretune.data.rows import Message
from paretune.models.gguf_base import write_base
from paretune.models.gguf_file import BASE_FORMS, BaseForm
from paretune.models.language_model import LanguageModel, load
from paretune.policies.gguf_export import BASE, Blocks, export_blocks
from paretune.serving.config import EngineLimits
from paretune.serving.engine.engine import Engine
from paretune.serving.events import Job

SERVER = Path(__file__).with_name("llama_server.py")
OURS = "paretune"
NAMES = {
    "copy": "llama.cpp, the file as it is",
    "f32": "llama.cpp, F32",
    "f16": "llama.cpp, F16",
    "bf16": "llama.cpp, BF16",
    "q8_0": "llama.cpp, Q8_0",
}


class LlamaCpp:
    """A llama.cpp server that has loaded a policy's blocks."""

    def __init__(self, address: str, blocks: Blocks, lm: LanguageModel) -> None:
        """Ask which number each LoRA has there."""
        self._client = httpx.Client(base_url=address, timeout=None)
        listed = self._client.get("/lora-adapters").raise_for_status().json()
        self._ids = {Path(entry["path"]).stem: int(entry["id"]) for entry in listed}
        self._blocks, self._lm = blocks, lm

    def tokens(self, job: Job) -> list[int]:
        """Return the tokens of one answer."""
        scales = zip(self._blocks.names, self._blocks.scales(job.preference), strict=True)
        body = {
            "prompt": list(self._lm.encode_prompt(job.prompt)),  # type: ignore[arg-type]
            "n_predict": job.sampling.max_new_tokens,
            "temperature": 0.0,
            "ignore_eos": True,
            "return_tokens": True,
            "cache_prompt": False,
            "lora": [{"id": self._ids[name], "scale": scale} for name, scale in scales],
        }
        found = self._client.post("/completion", json=body).raise_for_status().json()
        return cast("list[int]", found["tokens"])

    def together(self, jobs: Sequence[Job]) -> list[list[int]]:
        """Return the tokens of answers that are asked for at once."""
        with ThreadPoolExecutor(len(jobs)) as pool:
            return list(pool.map(self.tokens, jobs))


@contextmanager
def server(python: str, base: Path, loras: Sequence[Path], *flags: object) -> Iterator[tuple[str, str]]:
    """Start a llama.cpp server; yield its address and version."""
    words = [python, SERVER, base, *loras, *flags]
    with subprocess.Popen(
        list(map(str, words)),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
    ) as process:
        assert process.stdin is not None and process.stdout is not None
        told = process.stdout.readline().split()
        if len(told) != 2:
            raise SystemExit(
                f"the llama.cpp server of {python} did not start; give its command: {' '.join(map(str, words))}"
            )
        try:
            yield told[0], told[1]
        finally:
            process.stdin.close()
            process.kill()


def jobs_of(name: str, rows: int, tokens: int) -> list[Job]:
    """Return greedy jobs at evenly spaced preferences; a single one is at the middle."""
    grid = simplex_grid(2, rows - 1).tolist() if rows > 1 else [[0.5, 0.5]]
    return [
        Job(
            name,
            (Message("user", QUESTIONS[number % len(QUESTIONS)]),),
            Preference(OBJECTIVES[:2], tuple(weights)),
            Sampling(tokens, temperature=0.0),
            number,
        )
        for number, weights in enumerate(grid)
    ]


def measure(arguments: Any, folder: Path) -> None:
    """Compare, and write the figures."""
    exact = load(arguments.model, "float32", "cpu")
    vars(exact)["stops"] = frozenset()  # all ways decode the same number of tokens
    policy = random_panacea(exact)
    names = export_blocks(policy, folder / "blocks", base="f32")
    blocks, loras = Blocks.read(folder / "blocks"), [folder / "blocks" / f"{name}.gguf" for name in names]
    most = max(arguments.rows)
    sets = {rows: jobs_of(policy.name, rows, arguments.tokens) for rows in arguments.rows}
    flags = ("--threads", arguments.threads, "--slots", most)
    base = folder / "blocks" / BASE
    with server(arguments.python, base, loras, *flags, "--exact") as (address, version):
        peer = LlamaCpp(address, blocks, exact)
        with Engine({policy.name: policy}, EngineLimits(max_rows=most)) as engine:
            equal = [
                same_tokens(
                    f"tokens of {rows} rows, float32",
                    {
                        OURS: [list(a.tokens) for a in together(engine, jobs)],
                        "llama.cpp": peer.together(jobs),
                    },
                )
                for rows, jobs in sets.items()
            ]
    print(f"xllamacpp {version}", flush=True)
    figures = []
    lm = load(arguments.model, arguments.dtype, "cpu")
    vars(lm)["stops"] = frozenset()
    fast = random_panacea(lm)
    with ExitStack() as stack:
        engine = stack.enter_context(Engine({fast.name: fast}, EngineLimits(max_rows=most)))
        peers: dict[str, LlamaCpp] = {}
        for form in arguments.bases:
            write_base(_source(arguments.model), folder / f"{form}.gguf", cast(BaseForm, form))
            there, _ = stack.enter_context(server(arguments.python, folder / f"{form}.gguf", loras, *flags))
            peers[NAMES[form]] = LlamaCpp(there, blocks, lm)
        for rows, jobs in sets.items():
            ways = {OURS: lambda jobs=jobs: together(engine, jobs)}
            ways |= {name: lambda jobs=jobs, peer=peer: peer.together(jobs) for name, peer in peers.items()}
            for way in ways.values():
                way()
            taken = in_turn(
                {name: clocked(way, time.perf_counter) for name, way in ways.items()}, arguments.rounds
            )
            what = f"{rows} rows of {rows} preferences, {arguments.tokens} tokens, {str(lm.model.dtype)[6:]}"
            for name, seconds in taken.items():
                print(
                    f"{what}: {name} {rows * arguments.tokens / sorted(seconds)[len(seconds) // 2]:.1f} tokens/s"
                )
            figures += [figure(what, taken, OURS, name, "s") for name in peers]
    write(arguments, "llama.cpp", "Mixed preferences, against llama.cpp", figures, equal, xllamacpp=version)


def _source(model: str) -> Path:
    from paretune.models.embedded import EMBEDDED, embedded_gguf

    file = embedded_gguf() if model == EMBEDDED else Path(model)
    if file is None or file.suffix != ".gguf":
        raise SystemExit(f"--model {model}: expected {EMBEDDED} or a GGUF file")
    return file


def main(given: Sequence[str] | None = None) -> None:
    """Run the comparison and print it."""
    parser = options(__doc__ or "", "llama_cpp")
    parser.add_argument("--rows", type=int, nargs="+", default=[1, 8])
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--dtype", choices=["auto", "float32", "bfloat16"], default="auto")
    parser.add_argument("--bases", choices=BASE_FORMS, nargs="+", default=["f32", "bf16", "copy"])
    parser.add_argument(
        "--python", default=sys.executable, help="interpreter of an environment with xllamacpp"
    )
    arguments = parser.parse_args(given)
    if subprocess.run([arguments.python, "-c", "import xllamacpp"], capture_output=True).returncode:
        print(
            f"not measured: {arguments.python} has no xllamacpp; pip install xllamacpp there, or give --python"
        )
        return
    start()
    torch.set_num_threads(arguments.threads)
    with tempfile.TemporaryDirectory() as folder:
        measure(arguments, Path(folder))


if __name__ == "__main__":
    main()
