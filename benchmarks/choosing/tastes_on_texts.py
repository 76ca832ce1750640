"""Votes of people with planted tastes on the quickstart's written answers, for `paretune pal fit` over real sentence embeddings.

    python -m benchmarks.choosing.tastes_on_texts VOTES.jsonl [--people 16] [--votes 60]
    paretune pal fit VOTES.jsonl FOLDER -k 2

Half of the people prefer the answer with fewer words, the others the one whose sentences sound more positive; a tenth of all votes
is turned around.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from paretune.data.load import load_data
from paretune.scoring.scorer import build_scorer, score_texts

RULES = ({"objective": "concise", "rule": "length"}, {"objective": "warm", "rule": "sentiment"})


def main() -> None:
    """Write the votes."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("file", type=Path)
    parser.add_argument("--people", type=int, default=16)
    parser.add_argument("--votes", type=int, default=60)
    given = parser.parse_args()
    rng, lines = np.random.default_rng(0), []
    rows = load_data("quickstart-written").rows
    flat = [(row.prompt, text) for row in rows for text in row.responses]
    prompts, texts = [prompt for prompt, _ in flat], [text for _, text in flat]
    scores = [score_texts(build_scorer(rule), prompts, texts) for rule in RULES]
    starts = np.cumsum([0, *(len(row.responses) for row in rows)])
    for person in range(given.people):
        for n in rng.permutation(len(rows))[: given.votes]:
            a, b = rng.permutation(len(rows[n].responses))[:2]
            own = scores[person % 2][starts[n] : starts[n + 1]]
            first = (own[a] > own[b]) != (rng.random() < 0.1)
            said = {
                "user": f"{RULES[person % 2]['objective']}-{person}",
                "prompt": rows[n].prompt[-1].content,
            }
            texts_ = {"first": rows[n].responses[a], "second": rows[n].responses[b]}
            lines.append(json.dumps({**said, **texts_, "winner": "first" if first else "second"}) + "\n")
    given.file.write_text("".join(lines), encoding="utf-8")


if __name__ == "__main__":
    main()
