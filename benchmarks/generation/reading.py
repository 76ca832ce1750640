"""Reading prompts: what they begin with once and the rest in parts of similar length, against all of them whole and at once.

    python -m benchmarks.generation.reading [--rows 200] [--rounds 3] [--dtype float32]

The prompts are the held-out ones that ship with the package; the embedded model's chat template begins each with the same 21
tokens. *Reading* ends with a first token for each prompt, *scoring* gives each prompt's answer its log-probability under the base
model, as every measured point does. CPU-seconds on one thread. In float32 both ways must draw the same greedy tokens and find the
same log-probabilities.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from itertools import cycle, islice
from unittest.mock import patch

from benchmarks.side_by_side import clocked, figure, in_turn, options, same, same_tokens, start, write
from paretune.core.sampling import Sampling
from paretune.data.dataset import ScoredDataset
from paretune.data.shipped import shipped_file
from paretune.generation import prefill
from paretune.generation.generate import generate, response_logps
from paretune.models import packing
from paretune.models.language_model import load

ANSWER = "Start with a short list of what matters most to you, and give each day one of these things."
OURS, WHOLE = "paretune", "prompts whole and at once"
NEVER = 10**9


@contextmanager
def whole() -> Iterator[None]:
    """Have prompts be read whole, and all in one forward."""
    with patch.object(packing, "BEGINNING", NEVER), patch.object(prefill, "READ_TOKENS", (NEVER, NEVER)):
        yield


def both(run: Callable[[], object]) -> dict[str, Callable[[], object]]:
    """Return the two ways to run something."""

    def plainly() -> object:
        with whole():
            return run()

    return {OURS: run, WHOLE: plainly}


def runs(
    source: str, dtype: str, rows: int
) -> tuple[Callable[[], list[list[int]]], Callable[[], list[float]]]:
    """Return what reads the prompts and draws a token behind each, and what scores an answer to each."""
    lm = load(source, dtype, "cpu")
    shipped = ScoredDataset.read(shipped_file("quickstart-prompts")).rows
    prompts = [lm.encode_prompt(row.prompt) for row in islice(cycle(shipped), rows)]
    groups = [(prompt, [lm.encode_response(ANSWER)]) for prompt in prompts]
    greedy = Sampling(1, temperature=0.0, batch_size=rows)

    def read() -> list[list[int]]:
        return [list(answer.tokens) for answer in generate(lm, prompts, greedy, range(rows))]

    def score() -> list[float]:
        return [float(logps) for logps in response_logps(lm, groups)]

    return read, score


def main(given: Sequence[str] | None = None) -> None:
    """Compare and print."""
    parser = options(__doc__ or "", "reading", rounds=3)
    parser.add_argument("--rows", type=int, default=200)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    arguments = parser.parse_args(given)
    start()
    read, score = runs(arguments.model, "float32", arguments.rows)
    equal = [
        same_tokens("first tokens, float32", {name: way() for name, way in both(read).items()}),
        same("log-probabilities, float32", {name: way() for name, way in both(score).items()}, 1e-4, 1e-3),
    ]
    if arguments.dtype != "float32":
        read, score = runs(arguments.model, arguments.dtype, arguments.rows)
    figures = []
    for what, run in (("reading", read), ("scoring an answer to each", score)):
        taken = in_turn({name: clocked(way) for name, way in both(run).items()}, arguments.rounds)
        figures.append(figure(f"{what}, {arguments.rows} prompts, {arguments.dtype}", taken, OURS, WHOLE))
    write(arguments, "reading", "Prompts that begin alike", figures, equal)


if __name__ == "__main__":
    main()
