"""People's data, as the benchmarks split them: no prompt on both sides, everything there once, and votes of the tastes planted."""

from __future__ import annotations

import gzip
import json
import sys
from pathlib import Path
from typing import Any

import pytest

from benchmarks.choosing import tastes_on_texts
from benchmarks.data import contexts, halves
from paretune.data.load import load_data


def run(monkeypatch: pytest.MonkeyPatch, module: Any, *arguments: object) -> None:
    monkeypatch.setattr(sys, "argv", ["it", *map(str, arguments)])
    module.main()


def write(file: Path, records: list[dict[str, Any]]) -> None:
    with gzip.open(file, "wt", encoding="utf-8") as out:
        out.writelines(json.dumps(record) + "\n" for record in records)


def read(file: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in file.read_text(encoding="utf-8").splitlines()]


def test_a_prompt_of_hh_is_in_one_half_with_all_its_pairs(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def pair(n: int, turns: int = 1) -> dict[str, str]:
        before = f"\n\nHuman: question number {n}" + "\n\nAssistant: well\n\nHuman: and then?" * (turns - 1)
        return {side: f"{before}\n\nAssistant: {side} {n}" for side in ("chosen", "rejected")}

    for objective, numbers in {"helpful": range(40), "harmless": range(20, 60)}.items():
        write(tmp_path / f"{objective}.train.jsonl.gz", [pair(n, 1 + n % 2) for n in numbers])
        write(tmp_path / f"{objective}.test.jsonl.gz", [pair(100 + numbers[0]), pair(101, 2)])
    run(monkeypatch, halves, tmp_path, tmp_path / "out")
    out = tmp_path / "out"
    asked = {
        side: [halves.first(row) for file in (out / side).iterdir() for row in read(file)] for side in "ab"
    }
    assert len(asked["a"]) + len(asked["b"]) == 80
    assert not set(asked["a"]) & set(asked["b"])
    assert min(len(asked["a"]), len(asked["b"])) > 20
    prompts = [row["prompt"] for row in read(out / "prompts.jsonl")]
    assert prompts and set(prompts) <= {text for text in asked["a"] if int(text.split()[-1]) % 2 == 0}
    assert [row["prompt"] for row in read(out / "asked.jsonl")] == [
        "question number 100",
        "question number 120",
    ]


def test_a_dialogue_is_in_one_half_and_new_prompts_end_before_what_was_rated(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    aspects = (
        "understandability",
        "naturalness",
        "coherence",
        "engagingness",
        "groundedness",
        "overall",
    )

    def answers(n: int) -> list[dict[str, Any]]:
        turns = [f"dialogue {n} turn {t}" for t in range(1, 6)]
        return [
            {
                "source": " \n ".join(turns) + "\n\n",
                "context": "a fact of quite a few words\n" if n % 2 else "_nofact\n",
                "system_output": f"answer {k}",
                "scores": dict.fromkeys(aspects, float(k)),
            }
            for k in range(3)
        ]

    write(tmp_path / "topical_chat.train.jsonl.gz", [one for n in range(20) for one in answers(n)])
    write(tmp_path / "topical_chat.test.jsonl.gz", [one for n in (30, 31) for one in answers(n)])
    run(monkeypatch, contexts, tmp_path, tmp_path / "out", "--turns", 3, "--words", 4)
    kept = {
        name: load_data(tmp_path / "out" / f"{name}.jsonl").rows for name in ("a", "b", "a-test", "b-test")
    }
    first = {name: {row.prompt[-1].content.split()[1] for row in rows} for name, rows in kept.items()}
    assert sorted(map(int, first["a"] | first["b"])) == list(range(20)) and not first["a"] & first["b"]
    assert first["a-test"] == first["b"] | {"30", "31"} and first["b-test"] == first["a"] | {"30", "31"}
    row = next(row for rows in kept.values() for row in rows if row.prompt[0].role == "system")
    assert row.prompt[0].content == "a fact of quite" and len(row.prompt) == 4
    assert row.scores["groundedness"] == (0.0, 1.0, 2.0)
    asked = [row["prompt"] for row in read(tmp_path / "out/asked.jsonl")]
    assert asked and all(prompt[-1]["content"].endswith("turn 3") for prompt in asked)
    assert {prompt[-1]["content"].split()[1] for prompt in asked} == first["b"] | {"30", "31"}


def test_each_person_votes_by_the_planted_taste(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(monkeypatch, tastes_on_texts, tmp_path / "votes.jsonl", "--people", 2, "--votes", 100)
    votes = read(tmp_path / "votes.jsonl")
    assert len(votes) == 200 and {vote["user"] for vote in votes} == {"concise-0", "warm-1"}
    short = [
        (len(vote["first"].split()) < len(vote["second"].split())) == (vote["winner"] == "first")
        for vote in votes
        if vote["user"] == "concise-0" and len(vote["first"].split()) != len(vote["second"].split())
    ]
    assert sum(short) / len(short) > 0.8
