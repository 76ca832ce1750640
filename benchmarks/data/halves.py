"""HH-RLHF in two halves, so that policies are judged by reward models that saw none of the pairs they were trained against.

    python -m benchmarks.data.halves DATA OUT [--words 60]

DATA holds the pairs as JSON lines (`helpful.train.jsonl.gz`, `harmless.train.jsonl.gz`, and the same with `test`). OUT gets

    a/, b/       the training pairs of each half, by the hash of the first thing the person says: one reward model is fitted on each
    test/        all test pairs, on which the reward models are judged
    prompts.jsonl  half a's prompts of one turn and at most that many words: a model's own answers to them are trained on
    asked.jsonl  the same of the test pairs: the prompts that policies are judged on

A prompt is in one half, with all its pairs of both objectives. Prompts of helpful and of harmless pairs stand in turn.
"""

from __future__ import annotations

import argparse
import gzip
import hashlib
import json
from collections.abc import Iterable
from pathlib import Path
from typing import Any

OBJECTIVES = ("helpful", "harmless")
HUMAN, ASSISTANT = "\n\nHuman:", "\n\nAssistant:"


def pairs(folder: Path, objective: str, part: str) -> list[dict[str, Any]]:
    """Return the pairs of one objective, as {"chosen": dialogue, "rejected": dialogue}."""
    with gzip.open(folder / f"{objective}.{part}.jsonl.gz", "rt", encoding="utf-8") as lines:
        return [json.loads(line) for line in lines]


def first(pair: dict[str, Any]) -> str:
    """Return the first thing the person says."""
    said: str = pair["chosen"].split(HUMAN)[1].split(ASSISTANT)[0]
    return said.strip()


def half(pair: dict[str, Any]) -> str:
    """Return the half, a or b, of a pair's first human turn."""
    text = " ".join(first(pair).lower().split())
    return "ab"[hashlib.sha256(f"half|{text}".encode()).digest()[0] % 2]


def write(path: Path, records: Iterable[dict[str, Any]]) -> None:
    """Write records as JSON lines, and say how many."""
    path.parent.mkdir(parents=True, exist_ok=True)
    lines = [json.dumps(record, ensure_ascii=False) + "\n" for record in records]
    path.write_text("".join(lines), encoding="utf-8")
    print(f"{path}: {len(lines)} rows")


def asked(by_objective: Iterable[Iterable[dict[str, Any]]], words: int) -> list[dict[str, Any]]:
    """Return the prompts of one turn and 2 to ``words`` words, each once, of each objective in turn."""
    kept = []
    for rows in by_objective:
        texts = dict.fromkeys(first(pair) for pair in rows if pair["chosen"].count(HUMAN) == 1)
        kept.append([text for text in texts if 2 <= len(text.split()) <= words])
    return [{"prompt": text} for turn in zip(*kept, strict=False) for text in dict.fromkeys(turn)]


def main() -> None:
    """Write the halves."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("data", type=Path)
    parser.add_argument("out", type=Path)
    parser.add_argument("--words", type=int, default=60, help="most words of a prompt that is answered")
    args = parser.parse_args()
    train = {objective: pairs(args.data, objective, "train") for objective in OBJECTIVES}
    test = {objective: pairs(args.data, objective, "test") for objective in OBJECTIVES}
    sides: dict[str, list[list[dict[str, Any]]]] = {"a": [], "b": []}
    for objective, rows in train.items():
        for side, parts in sides.items():
            parts.append([row for row in rows if half(row) == side])
            write(args.out / side / f"{objective}.jsonl", parts[-1])
        write(args.out / "test" / f"{objective}.jsonl", test[objective])
    write(args.out / "prompts.jsonl", asked(sides["a"], args.words))
    write(args.out / "asked.jsonl", asked(test.values(), args.words))


if __name__ == "__main__":
    main()
