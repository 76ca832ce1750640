"""A judge behind a server that is a process of its own: grades, pairs in both orders, failures, cost, and what is kept."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from paretune.core.errors import EndpointError, ScoreError
from paretune.data.dataset import ScoredDataset
from paretune.data.rows import Message, Row
from paretune.scoring.function_scorer import FunctionScorer
from paretune.scoring.pair_labels import label_dataset
from paretune.scoring.scorer import build_scorer, score_texts
from paretune.scoring.usage import in_words
from support.command import call
from support.model_program import started

PROMPT = (Message("user", "How are you?"),)


@pytest.fixture(scope="module")
def process(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with started("support.judge_server", tmp_path_factory.mktemp("none")) as address:
        yield address


@pytest.fixture
def server(process: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setenv("PARETUNE_CACHE", str(tmp_path / "cache"))
    (tmp_path / "kind.md").write_text("A good answer is kind.\n")
    be(process)
    return process


def be(server: str, **control: object) -> None:
    httpx.post(f"{server}/control", json=control).raise_for_status()


def asked(server: str) -> list[dict]:
    return httpx.get(f"{server}/control").json()["asked"]


def judge(server: str, rubric: Path, **options: object) -> FunctionScorer:
    spec = {"objective": "kind", "judge": str(rubric), "model": "tiny", "url": f"{server}/v1", "retries": 0}
    return build_scorer({**spec, **options})


def rated(scorer: FunctionScorer, *responses: str) -> list[float]:
    return score_texts(scorer, [PROMPT] * len(responses), responses, leave_out=True).tolist()


def test_grades_and_cost_and_nothing_is_asked_twice(server: str, tmp_path: Path) -> None:
    prices = {"input": 1000.0, "output": 10000.0, "currency": "EUR"}
    scorer = judge(server, tmp_path / "kind.md", prices=prices)
    assert rated(scorer, "ab", "abcd", "ab") == [2, 4, 2]
    assert in_words(scorer.usage, scorer.prices) == "2 answers, 200 tokens read and 20 written, 0.40 EUR"
    assert rated(judge(server, tmp_path / "kind.md", direction="lower"), "ab") == [-2]
    assert len(asked(server)) == 2, "an answer that is kept was asked for again"


def test_what_cannot_be_read_is_counted_and_never_0(server: str, tmp_path: Path) -> None:
    be(server, mute="x")
    scorer = judge(server, tmp_path / "kind.md", tries=2)
    with pytest.raises(
        ScoreError, match=r"2 of 4 responses got no score.*cannot be read: it states no score"
    ):
        rated(scorer, "a", "bx", "ccc", "dx")
    assert (scorer.usage.unread, scorer.usage.asked) == (2, 6)
    found = rated(judge(server, tmp_path / "kind.md", tries=2, unscored="leave-out"), "a", "bx", "ccc", "dx")
    assert np.isnan(found).tolist() == [False, True, False, True] and 0 not in found


def test_pairs_are_asked_in_both_orders(server: str, tmp_path: Path) -> None:
    data = ScoredDataset((), (Row(PROMPT, ("a", "bbb", "cc")),))
    scorer = judge(server, tmp_path / "kind.md", pairs=2)
    labelled, missing = label_dataset(data, scorer)
    assert labelled.rows[0].labels["kind"] == ((0, 1, -1.0), (1, 2, 1.0)) and not missing
    assert len(asked(server)) == 4 and (scorer.usage.compared, scorer.usage.turned) == (2, 0)
    be(server, first=True)
    (tmp_path / "other.md").write_text("Another rubric.\n")
    biased = judge(server, tmp_path / "other.md", pairs=1)
    labelled, _ = label_dataset(data, biased)
    assert labelled.rows[0].labels["kind"] == ((0, 1, 0.0),) and biased.usage.turned == 1


def test_a_judge_that_breaks_down_goes_on_where_it_was(server: str, tmp_path: Path) -> None:
    be(server, down="zz")
    with pytest.raises(ScoreError, match=r"2 of 3 responses got no score.*500"):
        rated(judge(server, tmp_path / "kind.md", concurrency=1), "a", "zz", "ccc")
    be(server)
    scorer = judge(server, tmp_path / "kind.md", concurrency=1)
    assert rated(scorer, "a", "zz", "ccc") == [1, 2, 3]
    assert len(asked(server)) == 2 and (scorer.usage.asked, scorer.usage.kept) == (2, 1)


def test_a_key_that_is_missing_or_wrong_is_one_message(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    be(server, key="secret")
    with pytest.raises(EndpointError, match=r"401.*PARETUNE_JUDGE_KEY is missing"):
        rated(judge(server, tmp_path / "kind.md"), "a")
    monkeypatch.setenv("MY_KEY", "secret")
    assert rated(judge(server, tmp_path / "kind.md", key="MY_KEY"), "a") == [1]


def test_the_command_says_what_it_cost(
    server: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    data = tmp_path / "data.jsonl"
    ScoredDataset((), (Row(PROMPT, ("a", "bbb")),)).write(data)
    scorer = {
        "objective": "kind",
        "judge": str(tmp_path / "kind.md"),
        "model": "tiny",
        "url": f"{server}/v1",
        "prices": {"input": 1000, "output": 10000, "currency": "EUR"},
    }
    code, _, error = call(
        monkeypatch, capsys, "score", "rate", data, tmp_path / "out.jsonl", "--scorer", json.dumps(scorer)
    )
    assert code == 0 and "2 answers, 200 tokens read and 20 written, 0.40 EUR" in " ".join(error.split())
