"""Votes as preference data: nothing of a vote is lost or turned round, and a run trains on what comes out."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

pytest.importorskip("sqlalchemy", reason="the store needs paretune[serve]")

from paretune.core.errors import DataError, ParetuneError, StoreError
from paretune.core.preference import Preference
from paretune.data.dataset import ScoredDataset
from paretune.data.pairs import pairs
from paretune.data.rows import Message
from paretune.runs.parse import load_config
from paretune.serving.store.entries import Vote, VotedAnswer
from paretune.serving.store.store import Store
from paretune.serving.store.vote_pairs import from_votes, vote_data
from support.world import make_dataset

CONFIG = Path(__file__).parents[2] / "configs" / "votes.yaml"
HALF = Preference.of({"concise": 0.5, "warm": 0.5})
OTHER = Preference.of({"concise": 0.25, "warm": 0.75})


def vote(
    first: str, second: str, winner: str, prompt: str = "Hi", objective: str | None = None, **of_first: object
) -> Vote:
    return Vote(
        "modpo",
        (Message("user", prompt),),
        VotedAnswer(first, HALF, **of_first),
        VotedAnswer(second, OTHER),
        winner,
        objective,
        id=7,
    )


def test_what_a_vote_says() -> None:
    data = vote_data([vote("a", "b", "first"), vote("c", "d", "second"), vote("e", "f", "tie")])
    assert data.used == 3 and data.left_out == {} and data.dataset.objectives == ("preferred",)
    assert [(row.responses, row.labels) for row in data.dataset.rows] == [
        (("a", "b"), {"preferred": ((0, 1, 1.0),)}),
        (("c", "d"), {"preferred": ((0, 1, -1.0),)}),
        (("e", "f"), {"preferred": ((0, 1, 0.0),)}),
    ]
    chosen = [(pair.chosen, pair.rejected) for pair in pairs(data.dataset, "preferred")]
    assert chosen == [("a", "b"), ("d", "c")], (
        "what was liked better is what training chooses; a tie teaches no order"
    )
    assert data.dataset.rows[0].source == "vote 7" and data.dataset.rows[0].scores == {}


def test_votes_on_the_same_answers_share_a_row_whichever_came_first() -> None:
    cast = [vote("a", "b", "first"), vote("b", "a", "second"), vote("b", "a", "first"), vote("a", "b", "tie")]
    cast += [
        vote("a", "b", "second", objective="concise"),
        vote("a", "b", "first", prompt="Ho"),
        vote("a", "c", "first"),
    ]
    data = vote_data(cast)
    assert data.used == 7 and data.dataset.objectives == ("preferred", "concise")
    first, other_prompt, other_answer = data.dataset.rows
    assert first.labels == {
        "preferred": ((0, 1, 1.0), (1, 0, -1.0), (1, 0, 1.0), (0, 1, 0.0)),
        "concise": ((0, 1, -1.0),),
    }
    (pair,) = pairs(replace(data.dataset, rows=(first,)), "preferred")
    assert (pair.chosen, pair.gaps[0] != pair.gaps[0], pair.labels) == ("a", True, (0.25, -1.0))
    assert other_prompt.responses == ("a", "b") and other_answer.responses == ("a", "c")
    assert str(data) == "7 votes on 3 pairs of answers (preferred 6, concise 1)"


def test_the_name_of_the_objective() -> None:
    data = vote_data([vote("a", "b", "first", objective="warm"), vote("a", "b", "second")], objective="mine")
    assert data.dataset.objectives == ("mine", "warm")
    only = vote_data([vote("a", "b", "first", objective="warm")])
    assert only.dataset.objectives == ("warm",), "nobody said what he prefers as a whole"


def test_a_cut_answer_is_marked() -> None:
    data = vote_data([vote("a", "b", "first", truncated=True), vote("b", "a", "second", prompt="Ho")])
    assert [row.truncated for row in data.dataset.rows] == [(True, False), (False, False)]
    assert [(pair.chosen, pair.rejected) for pair in pairs(data.dataset, "preferred")] == [("a", "b")]


def test_votes_that_teach_nothing_are_counted() -> None:
    cast = [
        vote("a", "a", "first"),
        vote("", "b", "second"),
        vote(" \n", "b", "second"),
        vote("a", "b", "first"),
    ]
    data = vote_data(cast)
    assert data.used == 1 and data.left_out == {"two equal answers": 1, "an empty answer": 2}
    assert str(data).endswith("; left out 1: two equal answers; left out 2: an empty answer")
    with pytest.raises(DataError, match=r"no votes to learn from \(1 with two equal answers\)"):
        vote_data(cast[:1])
    with pytest.raises(DataError, match=r"no votes to learn from \(the store has none\); vote in the studio"):
        vote_data([])


@pytest.mark.parametrize("suffix", [".jsonl", ".jsonl.gz", ".parquet", ".csv"])
def test_from_a_store_to_a_file(tmp_path: Path, suffix: str) -> None:
    store = Store.open(str(tmp_path / "store.sqlite"))
    hard = 'line\nbreak, "quotes", \U0001f600'
    for profile, cast in (
        ("ann", vote(hard, "b", "first")),
        ("bob", vote("b", hard, "first")),
        ("bob", vote("c", "d", "tie")),
    ):
        store.add_vote(profile, cast)
    target = tmp_path / f"votes{suffix}"
    data = from_votes(str(tmp_path / "store.sqlite"), target)
    assert ScoredDataset.read(target) == data.dataset and data.used == 3
    assert data.dataset.rows[0].labels == {"preferred": ((0, 1, 1.0), (1, 0, 1.0))}
    assert [row.source for row in data.dataset.rows] == ["vote 1", "vote 3"]
    other = tmp_path / f"bob{suffix}"
    assert from_votes(str(tmp_path / "store.sqlite"), other, "bob").used == 2
    with pytest.raises(DataError, match="profile 'eve' has no votes; this store has ann, bob"):
        from_votes(str(tmp_path / "store.sqlite"), tmp_path / f"eve{suffix}", "eve")
    store.close()


def test_a_file_that_exists_is_never_overwritten(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "store.sqlite"))
    store.add_vote("ann", vote("a", "b", "first"))
    (tmp_path / "mine.jsonl").write_text("precious")
    with pytest.raises(ParetuneError, match=r"mine\.jsonl: exists already"):
        from_votes(str(tmp_path / "store.sqlite"), tmp_path / "mine.jsonl")
    assert (tmp_path / "mine.jsonl").read_text() == "precious"
    store.close()


def test_bad_input(tmp_path: Path) -> None:
    with pytest.raises(StoreError, match="no such store"):
        from_votes(str(tmp_path / "none.sqlite"), tmp_path / "votes.jsonl")
    assert not list(tmp_path.iterdir())
    store = Store.open(str(tmp_path / "store.sqlite"))
    with pytest.raises(DataError, match="no votes to learn from"):
        from_votes(str(tmp_path / "store.sqlite"), tmp_path / "votes.jsonl")
    store.add_vote("ann", vote("a", "b", "first"))
    with pytest.raises(DataError, match=r"unknown file type '.txt'"):
        from_votes(str(tmp_path / "store.sqlite"), tmp_path / "votes.txt")
    store.close()
    assert [path.name for path in tmp_path.iterdir()] == ["store.sqlite"]


# A run on votes


def vote_on(store: Store, dataset: ScoredDataset, scores: Sequence[Sequence[float]]) -> None:
    """Let somebody who likes the higher score better vote on the first and last answer to each prompt."""
    for row, values in zip(dataset.rows, scores, strict=True):
        difference = values[0] - values[-1]
        winner = "first" if difference > 0 else "second" if difference < 0 else "tie"
        first, second = (
            VotedAnswer(row.responses[place], preference, truncated=row.truncated[place])
            for place, preference in ((0, HALF), (-1, OTHER))
        )
        store.add_vote("ann", Vote("modpo", row.prompt, first, second, winner))


@pytest.mark.slow
def test_the_shipped_config_retrains_on_votes(lm, tmp_path: Path) -> None:
    """Store, votes, file, run on the tiny model: the front has the objective that nobody but the voters defined."""
    from paretune.runs.run import run

    store = Store.open(str(tmp_path / "store.sqlite"))
    world = make_dataset(140)
    vote_on(store, world, [row.scores["good"] for row in world.rows])
    store.close()
    from_votes(str(tmp_path / "store.sqlite"), tmp_path / "votes.jsonl")
    make_dataset(8, seed=5).select([]).write(tmp_path / "test.jsonl")
    config = load_config(
        CONFIG,
        [
            f"folder={tmp_path / 'run'}",
            f"data.source={tmp_path / 'votes.jsonl'}",
            f"data.test={tmp_path / 'test.jsonl'}",
            f"model={lm.name}",
            "device=cpu",
            "dtype=float32",
            # Answers of the tiny world have few words.
            "score=[{objective: preferred, head: fit}, {objective: concise, rule: length, direction: lower}]",
            "methods.panacea.groups=4",
            "train.steps=2",
            "methods.panacea.train.steps=2",
            "train.batch_pairs=1",
            "train.validate_every=2",
            "evaluate.prompts=2",
            "evaluate.preferences=3",
            "evaluate.resamples=100",
            "sampling.max_new_tokens=6",
        ],
    )
    report = run(config)
    facts = json.loads((report.parent / "front.json").read_text())
    assert facts["objectives"] == ["preferred", "concise"]
    assert {policy["name"] for policy in facts["policies"]} == {"dpo-soup", "panacea"}
    head = json.loads((tmp_path / "run/heads/preferred/head/head.json").read_text())
    assert head["objective"] == "preferred" and head["accuracy"] > 0.6, (
        "the head learned what the voter likes"
    )
    judge = facts["scorers"]["preferred"]
    assert (judge["accuracy"]["value"], judge["train_accuracy"]) == (head["accuracy"], head["train_accuracy"])
    assert judge["seen"] == 0, "held-out prompts are no training data of the head"
    assert "Can the judge be trusted?" in report.read_text(encoding="utf-8")
    train = ScoredDataset.read(tmp_path / "run/data/train.jsonl.gz")
    assert all(row.labels.keys() == {"preferred"} and row.scores.keys() == {"concise"} for row in train.rows)
