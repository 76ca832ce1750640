"""B9: from the start of a process to its help, and from the start of a server to the first token of an answer.

    python -m benchmarks.cli.cold_start [--rounds 5] [--tokens 8] [--port 8767]

Help is `--help` of the commands, each in a process of its own. For the first token `paretune serve` starts on a run of two
adapters that change nothing, `transformers serve` on the base model, and a script loads the base model and calls
`generate`; each is asked as soon as it can answer, and stays one thread in float32. Seconds by the clock, files in the
system's cache after a first round that does not count. They count only when every help says how the command is used, and
all three give the same text for the same prompt.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path

import httpx

from benchmarks.side_by_side import clocked, figure, in_turn, options, write
from paretune.models.loading import locate

PROMPT = "What is a good name for a grey cat?"
SCRIPT = """
import sys, torch
from transformers import AutoModelForCausalLM, AutoTokenizer
folder, prompt, tokens = sys.argv[1:]
tokenizer = AutoTokenizer.from_pretrained(folder)
model = AutoModelForCausalLM.from_pretrained(folder, dtype=torch.float32)
messages = [{"role": "user", "content": prompt}]
read = tokenizer.apply_chat_template(messages, add_generation_prompt=True, return_tensors="pt", return_dict=True)
model.generate(**read, max_new_tokens=1, do_sample=False)
print("first", flush=True)
drawn = model.generate(**read, max_new_tokens=int(tokens), do_sample=False)
print(tokenizer.decode(drawn[0, read["input_ids"].shape[1]:], skip_special_tokens=True), end="")
"""


def command(module: str) -> list[str]:
    """Return how to run the command line of a package with this interpreter."""
    entry = {
        "paretune": "paretune.cli.main",
        "trl": "trl.cli",
        "transformers": "transformers.cli.transformers",
    }[module]
    code = f"import sys; sys.argv[0] = {module!r}; from {entry} import main; main()"
    return [sys.executable, "-c", code]


def one_thread() -> dict[str, str]:
    """Return the environment of a process on one thread that asks no hub and keeps byte code, as installed packages do."""
    kept = {key: value for key, value in os.environ.items() if key != "PYTHONDONTWRITEBYTECODE"}
    return {**kept, "OMP_NUM_THREADS": "1", "HF_HUB_OFFLINE": "1"}


def help_of(module: str) -> None:
    """Ask a command for its help.

    Raises:
        SystemExit: it fails or does not say how it is used.
    """
    done = subprocess.run(
        [*command(module), "--help"], capture_output=True, text=True, env=one_thread(), check=False
    )
    if done.returncode or "usage" not in done.stdout.lower():
        sys.exit(
            f"{module} --help ended with {done.returncode}, so the figures mean nothing: {done.stdout}{done.stderr}"
        )


def empty_run(source: str, folder: Path) -> None:
    """Write a run with one policy whose adapters change nothing."""
    from dataclasses import replace

    import torch

    from benchmarks.training.inputs import OBJECTIVES, random_lora
    from paretune.models.language_model import load
    from paretune.policies.policy import Policy

    lm = load(source, "float32", "cpu")
    lora = random_lora(lm, ["q_proj", "k_proj", "v_proj", "o_proj"], seed=0)
    nothing = replace(lora, factors={path: (torch.zeros_like(U), V) for path, (U, V) in lora.factors.items()})
    Policy.soup("soup", lm, OBJECTIVES[:2], [nothing] * 2).save(folder / "policies/soup")


class Script:
    """A script that loads the model and generates.

    Attributes:
        texts: what it answered, one a start.
    """

    def __init__(self, folder: str, tokens: int) -> None:
        self.arguments, self.texts = [sys.executable, "-c", SCRIPT, folder, PROMPT, str(tokens)], list[str]()

    def first_token(self) -> float:
        """Run it; return the seconds from its start until one token is generated."""
        begin = time.perf_counter()
        with subprocess.Popen(
            self.arguments, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=one_thread()
        ) as process:
            assert process.stdout
            process.stdout.readline()
            seconds = time.perf_counter() - begin
            self.texts.append(process.stdout.read())
        return seconds


class Server:
    """A server in a process of its own, asked for one answer as soon as it listens.

    Attributes:
        texts: what it answered, one a start.
    """

    def __init__(self, arguments: list[str], port: int, model: str, tokens: int) -> None:
        self.arguments, self.address, self.texts = arguments, f"http://127.0.0.1:{port}", list[str]()
        self.body = {
            "model": model,
            "messages": [{"role": "user", "content": PROMPT}],
            "max_tokens": tokens,
            "temperature": 0.0,
            "stream": True,
        }

    def first_token(self) -> float:
        """Start it, stream an answer, stop it; return the seconds from the start to the first text."""
        with tempfile.TemporaryFile("w+") as log:
            begin = time.perf_counter()
            process = subprocess.Popen(self.arguments, stdout=log, stderr=log, env=one_thread())
            try:
                while not self._listens():
                    if process.poll() is not None or time.perf_counter() - begin > 300:
                        log.seek(0)
                        sys.exit(f"{' '.join(self.arguments)} does not answer: {log.read()}")
                    time.sleep(0.02)
                return self._ask() - begin
            finally:
                process.terminate()
                process.wait(60)

    def _listens(self) -> bool:
        try:
            return httpx.get(f"{self.address}/health", timeout=60).status_code == 200
        except httpx.HTTPError:
            return False

    def _ask(self) -> float:
        first, text = 0.0, ""
        with httpx.stream(
            "POST", f"{self.address}/v1/chat/completions", json=self.body, timeout=300
        ) as response:
            for line in response.iter_lines():
                if not line.startswith("data: {"):
                    continue
                for choice in json.loads(line[6:])["choices"]:
                    text += choice["delta"].get("content") or ""
                    first = first or (time.perf_counter() if text else 0.0)
        if not first:
            sys.exit(f"{' '.join(self.arguments)} answers without text")
        self.texts.append(text)
        return first


def starts(run: Path, arguments: argparse.Namespace) -> dict[str, Server | Script]:
    """Return what is started and asked for an answer."""
    folder, port = str(locate(arguments.model)), arguments.port
    ours = [*command("paretune"), "serve", str(run), "--port", str(port), "--dtype", "float32", "--no-store"]
    theirs = [
        *command("transformers"),
        "serve",
        folder,
        "--port",
        str(port + 1),
        "--dtype",
        "float32",
        "--device",
        "cpu",
    ]
    return {
        "paretune serve": Server(ours, port, "soup", arguments.tokens),
        "transformers serve": Server(theirs, port + 1, folder, arguments.tokens),
        "load and generate": Script(folder, arguments.tokens),
    }


def main(given: Sequence[str] | None = None) -> None:
    """Run the comparison and print it."""
    parser = options(__doc__ or "", "cold_start")
    parser.add_argument("--tokens", type=int, default=8)
    parser.add_argument("--port", type=int, default=8767)
    parser.add_argument("--uncounted", type=int, default=1, help="rounds before, to fill the cache of files")
    arguments = parser.parse_args(given)
    helps = {f"{module} --help": asked(module) for module in ("paretune", "trl", "transformers")}
    with tempfile.TemporaryDirectory() as folder:
        run = Path(folder, "run")
        empty_run(arguments.model, run)
        started = starts(run, arguments)
        ways = {**helps, **{name: start.first_token for name, start in started.items()}}
        in_turn(ways, arguments.uncounted)
        taken = in_turn(ways, arguments.rounds)
    texts = {name: start.texts for name, start in started.items()}
    if len({text.strip() for each in texts.values() for text in each}) > 1:
        sys.exit(f"the answers differ, so the figures mean nothing: {texts}")
    figures = [
        figure("help", taken, "paretune --help", f"{peer} --help", "s") for peer in ("trl", "transformers")
    ]
    figures += [figure("first token", taken, "paretune serve", peer, "s") for peer in list(started)[1:]]
    equal = [{"what": "answers", "ways": list(texts), "text": texts["paretune serve"][0]}]
    write(arguments, "B9", "Cold start", figures, equal)


def asked(module: str) -> Callable[[], float]:
    """Return the way that asks a command for its help, by the clock."""
    return clocked(lambda: help_of(module), time.perf_counter)


if __name__ == "__main__":
    main()
