"""Votes, profiles and scores over HTTP: what is kept can be listed, undone and deleted, and no single vote breaks the rest."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest

from paretune.core.preference import Preference
from paretune.data.rows import Message
from paretune.serving.run_facts import RunFacts
from paretune.serving.store.entries import Vote, VotedAnswer
from support.serve_world import OBJECTIVES, FakeBackend, fake_service, live

USER = [{"role": "user", "content": "red sun"}]
SHORT = {"text": "x", "preference": {"short": 1, "good": 0}}
GOOD = {"text": "a longer text", "preference": {"short": 0, "good": 1}}
VOTE = {"messages": USER, "first": SHORT, "second": GOOD, "winner": "first"}


@pytest.fixture
def client(tmp_path: Path) -> Iterator[httpx.Client]:
    with live(fake_service(tmp_path)) as address, httpx.Client(base_url=address, timeout=20) as made:
        yield made


def test_a_vote_can_be_listed_undone_and_deleted(client: httpx.Client) -> None:
    before = client.post("/api/elicit/next", json={"profile": "ann"}).json()["posterior"]["mean"]
    ids = [client.post("/api/votes", json={**VOTE, "profile": "ann"}).json()["id"] for _ in range(3)]
    listed = client.get("/api/votes?profile=ann&limit=2").json()["votes"]
    assert [vote["id"] for vote in listed] == [ids[2], ids[1]]
    assert (
        listed[0]["first"]["text"] == "x" and listed[0]["messages"] == USER and listed[0]["winner"] == "first"
    )
    assert [v["id"] for v in client.get(f"/api/votes?before={ids[1]}").json()["votes"]] == [ids[0]]
    undone = client.post("/api/votes/undo", json={"profile": "ann"}).json()
    assert undone["deleted"] == ids[2] and undone["posterior"]["votes"] == 2
    assert client.delete(f"/api/votes/{ids[0]}").json()["posterior"]["votes"] == 1
    assert client.delete(f"/api/votes/{ids[0]}").status_code == 404
    for address in ("/api/votes/1_0", f"/api/votes/{ids[0]}_0"):
        assert "expected a whole number" in client.delete(address).text
    for address in ("/api/votes?limit=1_0", "/api/votes?before=1_0", "/api/audit?limit=1_0"):
        assert "1_0" in client.get(address).json()["error"]["message"]
    client.post("/api/votes/undo", json={"profile": "ann"})
    assert client.post("/api/votes/undo", json={"profile": "ann"}).status_code == 404
    assert client.post("/api/elicit/next", json={"profile": "ann"}).json()["posterior"]["mean"] == before


def test_a_profile_is_deleted_with_all_that_is_in_it(client: httpx.Client) -> None:
    client.post("/api/votes", json={**VOTE, "profile": "ann"})
    client.put("/api/presets/mine", json={"profile": "ann", "preference": {"short": 1}})
    client.post("/api/votes", json=VOTE)
    assert [p["votes"] for p in client.get("/api/profiles").json()["profiles"]] == [1, 1]
    assert client.delete("/api/profiles/ann").json() == {
        "deleted": "ann",
        "votes": 1,
        "presets": 1,
        "conversations": 0,
    }
    assert client.delete("/api/profiles/ann").status_code == 404
    assert client.get("/api/votes?profile=ann").json()["votes"] == []
    assert client.get("/api/presets?profile=ann").json()["presets"] == []
    assert len(client.get("/api/votes").json()["votes"]) == 1
    assert client.get("/api/population").json()["people"].keys() == {"default"}


@pytest.mark.parametrize("score", [1e308, -1e308, 1e10])
def test_a_score_that_is_no_measurement_is_refused_before_it_is_kept(
    client: httpx.Client, score: float
) -> None:
    bad = {**VOTE, "first": {**SHORT, "scores": {"short": score, "good": -score}}}
    bad["second"] = {**GOOD, "scores": {"short": -score, "good": score}}
    refused = client.post("/api/votes", json=bad)
    assert refused.status_code == 422 and "no measurement" in refused.json()["error"]["message"]
    assert client.get("/api/votes").json()["votes"] == []
    assert client.post("/api/votes", json=VOTE).status_code == 201


def test_a_store_that_holds_such_a_vote_already_is_learned_from_without_it(tmp_path: Path) -> None:
    service = fake_service(tmp_path)
    at = [Preference.one_hot(name, OBJECTIVES) for name in OBJECTIVES]
    scores = [{"short": 1e308, "good": -1e308}, {"short": -1e308, "good": 1e308}]
    answers = [VotedAnswer(text, p, s) for text, p, s in zip("xy", at, scores, strict=True)]
    service.require_store().add_vote("default", Vote("soup", (Message("user", "red"),), *answers, "first"))
    with live(service) as address, httpx.Client(base_url=address, timeout=20) as client:
        assert client.post("/api/votes", json=VOTE).json()["posterior"]["votes"] == 1
        assert client.post("/api/elicit/next", json={}).status_code == 200
        assert client.get("/api/population").status_code == 200


def test_a_vote_on_an_objective_that_nothing_has_is_refused_by_name(client: httpx.Client) -> None:
    refused = client.post("/api/votes", json={**VOTE, "objective": "shrot"})
    error = refused.json()["error"]
    assert refused.status_code == 422 and error["param"] == "objective"
    assert "no objective 'shrot'; did you mean 'short'?" in error["message"]
    assert client.get("/api/votes").json()["votes"] == []
    assert client.post("/api/votes", json={**VOTE, "objective": "short"}).status_code == 201


def test_a_vote_may_be_on_what_the_run_scores_beside_the_policy(tmp_path: Path) -> None:
    backend = FakeBackend()
    backend.facts = RunFacts(
        tmp_path, meanings={"polite": "more is politer"}, score=({"objective": "plain"},)
    )
    with live(fake_service(tmp_path, backend)) as address:
        for objective in ("polite", "plain"):
            vote = {**VOTE, "objective": objective}
            assert httpx.post(f"{address}/api/votes", json=vote, timeout=20).status_code == 201


def test_own_scores_are_learned_from(client: httpx.Client) -> None:
    own = {
        "first": {**SHORT, "scores": {"short": -6.0, "good": 2.0}},
        "second": {**GOOD, "scores": {"short": -1.0, "good": 0.0}},
    }
    for _ in range(6):
        by_front = client.post("/api/votes", json={**VOTE, "profile": "front"}).json()["posterior"]
        by_scores = client.post("/api/votes", json={**VOTE, **own, "profile": "own"}).json()["posterior"]
    assert by_front["mean"]["short"] > 0.6 and by_scores["mean"]["short"] < 0.4, (
        "the answer was the better one, in truth"
    )
    unknown = {**VOTE, "first": {**SHORT, "scores": {"shrt": 1.0}}}
    assert "no objective 'shrt'" in client.post("/api/votes", json=unknown).json()["error"]["message"]


def test_answers_are_scored_by_the_scorers_of_the_run(tmp_path: Path) -> None:
    backend = FakeBackend()
    rule = {"objective": "short", "rule": "length", "unit": "words", "direction": "lower"}
    backend.facts = RunFacts(tmp_path, ("a prompt",), score=(rule, {"objective": "good", "function": "x:y"}))
    with live(fake_service(tmp_path, backend)) as address:
        answers = [{"text": "one two three"}, {"text": "one"}]
        scored = httpx.post(f"{address}/api/score", json={"messages": USER, "answers": answers}).json()
        assert (
            scored["scores"][0]["short"] < scored["scores"][1]["short"] and "good" not in scored["scores"][0]
        )
        assert "runs no code" in scored["missing"]["good"]
        front = httpx.get(f"{address}/api/front").json()
        assert front["prompts"] == ["a prompt"] and front["run"] == str(tmp_path)
        assert front["policies"][0]["scored"] == ["short"]
        assert httpx.post(f"{address}/api/score", json={"messages": USER, "answers": []}).status_code == 422


@pytest.mark.parametrize("harm", ["unlink", "cut"])
def test_a_store_that_is_gone_refuses_votes_and_the_server_stays(tmp_path: Path, harm: str) -> None:
    with live(fake_service(tmp_path)) as address:
        assert httpx.post(f"{address}/api/votes", json=VOTE).status_code == 201
        file = tmp_path / "store.sqlite"
        file.unlink() if harm == "unlink" else os.truncate(file, 0)
        for _ in range(2):
            refused = httpx.post(f"{address}/api/votes", json=VOTE)
            assert refused.status_code == 503 and "restore a copy" in refused.json()["error"]["message"]
        assert httpx.get(f"{address}/health").status_code == 200
