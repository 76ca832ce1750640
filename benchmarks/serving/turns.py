"""A conversation of several turns: each read on from the turn before, against each read from its beginning.

    python -m benchmarks.serving.turns [--turns 6] [--tokens 60] [--rounds 3] [--dtype float32]

The engine answers one conversation with a random adapter of Panacea's form at one preference, greedily and without stopping early;
each turn brings the answers before. CPU-seconds of the whole conversation on one thread, and seconds by the clock until the first
token of the last turn. They count only when both ways draw the same tokens in float32.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence

from benchmarks.side_by_side import clocked, figure, in_turn, options, same_tokens, start, write
from benchmarks.training.inputs import OBJECTIVES, random_panacea
from paretune.core.preference import Preference
from paretune.core.sampling import Sampling
from paretune.data.rows import Message
from paretune.models.language_model import load
from paretune.serving.config import EngineLimits
from paretune.serving.engine.engine import Engine
from paretune.serving.engine.stream import Answer, gather
from paretune.serving.events import Job

KEPT, ANEW = "read on", "read anew"
ASKED = (
    "I moved to a new city for work and know nobody here. How do I find friends without spending much money?",
    "I am rather shy. What would you do first if you were me, and what would you leave for later?",
    "And how do I tell my family that I will not come home for the holidays this year?",
)


def conversation(source: str, dtype: str, turns: int, tokens: int) -> Callable[[int], list[Answer]]:
    """Return what holds a conversation with so many kept tokens and returns its answers."""
    lm = load(source, dtype, "cpu")
    vars(lm)["stops"] = frozenset()  # every answer has the same length
    policy = random_panacea(lm)
    asked = Preference(OBJECTIVES[:2], (0.7, 0.3))

    def talk(kept: int) -> list[Answer]:
        said: list[Message] = []
        answers = []
        with Engine({policy.name: policy}, EngineLimits(kept_tokens=kept)) as engine:
            for turn in range(turns):
                said.append(Message("user", ASKED[turn % len(ASKED)]))
                answers.append(
                    gather(engine.submit(Job(policy.name, tuple(said), asked, Sampling(tokens, 0.0))))
                )
                said.append(Message("assistant", answers[-1].text))
        return answers

    return talk


def main(given: Sequence[str] | None = None) -> None:
    """Compare and print."""
    parser = options(__doc__ or "", "turns", rounds=3)
    parser.add_argument("--turns", type=int, default=6)
    parser.add_argument("--tokens", type=int, default=60)
    parser.add_argument("--dtype", choices=["float32", "bfloat16"], default="float32")
    arguments = parser.parse_args(given)
    start()
    sizes = arguments.turns, arguments.tokens
    exact = conversation(arguments.model, "float32", *sizes)
    drawn = {KEPT: exact(EngineLimits.kept_tokens), ANEW: exact(0)}
    tokens = {name: [list(answer.tokens) for answer in answers] for name, answers in drawn.items()}
    equal = [same_tokens("tokens of all turns, float32", tokens)]
    ends = [answer.end for answer in drawn[KEPT]]
    read = [f"{end.prompt_tokens - end.cached_tokens} of {end.prompt_tokens}" for end in ends]
    print(f"prompt tokens that are read: {', '.join(read)}", flush=True)
    talk = exact if arguments.dtype == "float32" else conversation(arguments.model, arguments.dtype, *sizes)
    last: dict[str, list[float]] = {KEPT: [], ANEW: []}

    def timed(name: str, kept: int) -> Callable[[], None]:
        def way() -> None:
            last[name].append(talk(kept)[-1].end.first_token_seconds or 0.0)

        return way

    ways = {KEPT: clocked(timed(KEPT, EngineLimits.kept_tokens)), ANEW: clocked(timed(ANEW, 0))}
    taken = in_turn(ways, arguments.rounds)
    what = f"{arguments.turns} turns, answers of {arguments.tokens} tokens, {arguments.dtype}"
    figures = [
        figure(f"conversation of {what}", taken, KEPT, ANEW),
        figure(f"first token of the last of {what}", last, KEPT, ANEW, "s", note="by the clock"),
    ]
    write(arguments, "turns", "The next turn of a conversation", figures, equal, read=read)


if __name__ == "__main__":
    main()
