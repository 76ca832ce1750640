"""Sixteen answers at sixteen preferences batched continuously, against one at a time; both through the engine.

    python -m benchmarks.serving.serve [--rows 16] [--tokens 64] [--rounds 5] [--dtype float32] [--model smollm2-135m] [--run RUN]

A random policy of Panacea's form, or the policies of a run in turn, answers at `--rows` preferences, greedily and without
stopping early. Tokens a second count everything from the first submission to the last token, prompts included; beside the
clock's seconds stand the process's own (CPU), which other work on the machine disturbs less. Rounds of the two ways alternate
in one process; figures are medians. They count only when both give the same tokens, which is checked first in float32. Time
to first token is that of the jobs of a round, all submitted at once; the longest gap is between two tokens of a job that is
running while a prompt of `--long` words is read.
"""

from __future__ import annotations

import argparse
import itertools
import statistics
import sys
import time
from dataclasses import replace
from pathlib import Path

from benchmarks.training.inputs import random_panacea
from paretune.cli.allocator import keep_freed_memory
from paretune.core.files import write_json
from paretune.core.preference import Preference, simplex_grid
from paretune.core.sampling import Sampling
from paretune.data.rows import Message
from paretune.models.language_model import LanguageModel, load
from paretune.policies.policy import Policy
from paretune.serving.config import EngineLimits
from paretune.serving.engine.engine import Engine
from paretune.serving.engine.stream import Answer, gather
from paretune.serving.events import Event, Job

QUESTIONS = (
    "How do I tell my flatmate that the kitchen is a mess without starting a quarrel?",
    "My bread does not rise. What could be wrong?",
    "Give me a plan for a quiet Sunday in a small town by the sea, with two children and a dog.",
    "What is a good name for a grey cat?",
)


def policies_of(lm: LanguageModel, run: Path | None) -> dict[str, Policy]:
    """Return the policies of a run, or a random one."""
    if run is None:
        return {"random": random_panacea(lm)}
    return {
        folder.name: Policy.load(folder, lm)
        for folder in sorted((run / "policies").iterdir())
        if (folder / "policy.json").is_file()
    }


def together(engine: Engine, jobs: list[Job]) -> list[Answer]:
    """Submit all jobs at once."""
    return [gather(stream) for stream in [engine.submit(job) for job in jobs]]


def alone(engine: Engine, jobs: list[Job]) -> list[Answer]:
    """Submit each job when the one before has ended."""
    return [gather(engine.submit(job)) for job in jobs]


def longest_gap(engine: Engine, job: Job, long: Job) -> float:
    """Return the longest time between two tokens of ``job`` while the prompt of ``long`` is read."""
    times: list[float] = []

    def note(event: Event) -> None:
        times.append(time.perf_counter())

    quiet = engine.submit(replace(job, sampling=replace(job.sampling, max_new_tokens=256)), on_event=note)
    while len(times) < 4:
        time.sleep(0.01)
    gather(engine.submit(replace(long, sampling=replace(long.sampling, max_new_tokens=1))))
    quiet.cancel()
    return max(b - a for a, b in itertools.pairwise(times))


def main() -> None:
    """Run the comparison and print it."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--rows", type=int, default=16)
    parser.add_argument("--tokens", type=int, default=64)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--dtype", default="float32")
    parser.add_argument("--model", default="smollm2-135m")
    parser.add_argument("--run", type=Path)
    parser.add_argument("--long", type=int, default=1024)
    parser.add_argument("--out", type=Path, default=Path("benchmarks/results/serve.json"))
    arguments = parser.parse_args()
    keep_freed_memory()
    lm = load(arguments.model, arguments.dtype, "cpu")
    vars(lm)["stops"] = frozenset()  # both ways decode the same number of tokens
    policies = policies_of(lm, arguments.run)
    sampling = Sampling(arguments.tokens, temperature=0.0)
    turn = list(itertools.islice(itertools.cycle(policies), arguments.rows))
    jobs = [
        Job(
            name,
            (Message("user", QUESTIONS[number % len(QUESTIONS)]),),
            Preference(policies[name].objectives, tuple(weights)),
            sampling,
            number,
        )
        for number, (name, weights) in enumerate(
            zip(turn, simplex_grid(2, arguments.rows - 1).tolist(), strict=True)
        )
    ]
    long = replace(jobs[0], prompt="word " * arguments.long)
    ways = {"together": together, "one at a time": alone}
    seconds: dict[str, list[float]] = {name: [] for name in ways}
    processor: dict[str, list[float]] = {name: [] for name in ways}
    first: dict[str, list[float]] = {name: [] for name in ways}
    gaps: list[float] = []
    with Engine(policies, EngineLimits(max_rows=arguments.rows)) as engine:
        batched, single = together(engine, jobs), alone(engine, jobs)
        if arguments.dtype == "float32" and [a.tokens for a in batched] != [a.tokens for a in single]:
            sys.exit("the batch and the single answers differ, so the times mean nothing")
        if len({answer.tokens for answer in batched}) < 2:
            sys.exit("all preferences give the same text, so nothing is mixed")
        for _ in range(arguments.rounds):
            for name, way in ways.items():
                start, used = time.perf_counter(), time.process_time()
                answers = way(engine, jobs)
                seconds[name].append(time.perf_counter() - start)
                processor[name].append(time.process_time() - used)
                first[name] += [answer.end.first_token_seconds or 0.0 for answer in answers]
            gaps.append(longest_gap(engine, jobs[0], long))
            each = [f"{name} {seconds[name][-1]:.1f} s, CPU {processor[name][-1]:.1f} s" for name in ways]
            print(f"round: {'; '.join(each)}; longest gap {gaps[-1]:.2f} s", flush=True)
    drawn = arguments.rows * arguments.tokens
    for kind, times in (("clock", seconds), ("CPU", processor)):
        for name in ways:
            rates = [drawn / second for second in times[name]]
            print(
                f"{kind:5} {name:14} {statistics.median(rates):6.1f} tokens/s ({min(rates):.1f} to {max(rates):.1f})"
            )
        gain = [b / a for a, b in zip(times["together"], times["one at a time"], strict=True)]
        print(
            f"{kind:5} gain {statistics.median(gain):.2f}x ({min(gain):.2f} to {max(gain):.2f})", flush=True
        )
    for name in ways:
        print(
            f"first token, {name}: median {statistics.median(first[name]):.2f} s, largest {max(first[name]):.2f} s"
        )
    print(f"longest gap while {arguments.long} words are read: {statistics.median(gaps):.2f} s")
    write_json(
        arguments.out,
        {
            "seconds": seconds,
            "cpu_seconds": processor,
            "first_token_seconds": first,
            "longest_gaps": gaps,
            "settings": {
                name: str(value) if isinstance(value, Path) else value
                for name, value in vars(arguments).items()
            },
        },
    )


if __name__ == "__main__":
    main()
