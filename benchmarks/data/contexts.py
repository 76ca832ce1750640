"""Topical-Chat in two halves of its dialogues, shortened, with new prompts from earlier turns.

    python -m benchmarks.data.contexts DATA OUT [--turns 3] [--words 60] [--prompts 3]

DATA holds `topical_chat.train.jsonl.gz` and the same with `test`: six responses to each dialogue, each rated by people. OUT gets

    a.jsonl, b.jsonl  the dialogues of each half, in the canonical form: policies are trained on half a, half b judges
    a-test.jsonl      the other half and the test part, on which a reward model of half a is tested; b-test.jsonl likewise
    asked.jsonl       earlier turns of half b and of the test part, whose responses nobody rated: policies are judged on them

A prompt keeps the last turns of its dialogue and the first words of the fact that the speakers had before them.
"""

from __future__ import annotations

import argparse
import hashlib
from dataclasses import replace
from pathlib import Path

from benchmarks.data.halves import write
from paretune.data.load import load_data
from paretune.data.rows import Message, Row, row_to_record


def side(row: Row) -> str:
    """Return the half, a or b, of a dialogue."""
    return "ab"[hashlib.sha256(f"half|{spoken(row)[0].content}".encode()).digest()[0] % 2]


def spoken(row: Row) -> tuple[Message, ...]:
    """Return the turns of a dialogue, without the fact."""
    return tuple(message for message in row.prompt if message.role != "system")


def shortened(prompt: tuple[Message, ...], turns: int, words: int) -> tuple[Message, ...]:
    """Return a prompt with its last turns, and with as many words of its fact."""
    fact = [replace(m, content=" ".join(m.content.split()[:words])) for m in prompt if m.role == "system"]
    return (*fact, *[m for m in prompt if m.role != "system"][-turns:])


def earlier(row: Row, prompts: int) -> list[tuple[Message, ...]]:
    """Return the prompts that end with the user's turns before the last, latest first, and hold two turns or more."""
    fact, said = row.prompt[: len(row.prompt) - len(spoken(row))], spoken(row)
    ends = range(len(said) - 2, 1, -2)
    return [(*fact, *said[:end]) for end in ends][:prompts]


def main() -> None:
    """Write the halves."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--turns", type=int, default=3, help="last turns of a prompt that are kept")
    parser.add_argument("--words", type=int, default=60, help="first words of a fact that are kept")
    parser.add_argument("--prompts", type=int, default=3, help="most new prompts from a dialogue")
    args = parser.parse_args()
    read = {
        part: [row for row in load_data("topical-chat", part, path=args.data).rows if spoken(row)]
        for part in ("train", "test")
    }
    halves = {name: [row for row in read["train"] if side(row) == name] for name in "ab"}
    facts = [
        m.content.split() for rows in read.values() for row in rows for m in row.prompt if m.role == "system"
    ]
    print(f"{sum(len(fact) > args.words for fact in facts)} of {len(facts)} facts cut to {args.words} words")
    others = {"a": "b", "b": "a"}
    tested = {f"{name}-test": [*halves[other], *read["test"]] for name, other in others.items()}
    for name, rows in {**halves, **tested}.items():
        short = [replace(row, prompt=shortened(row.prompt, args.turns, args.words)) for row in rows]
        write(args.out / f"{name}.jsonl", map(row_to_record, short))
    prompts = [p for row in (*read["test"], *halves["b"]) for p in earlier(row, args.prompts)]
    asked = dict.fromkeys(shortened(prompt, args.turns, args.words) for prompt in prompts)
    write(
        args.out / "asked.jsonl",
        ({"prompt": [{"role": m.role, "content": m.content} for m in prompt]} for prompt in asked),
    )


if __name__ == "__main__":
    main()
