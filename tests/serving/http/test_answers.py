"""Routes to what was measured and scored: the evaluation's answers, lists of scores compared, and what is learned of a taste."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import httpx
import numpy as np
import pytest

from paretune.data.readers import write_jsonl
from paretune.fronts.front import Front, mean_intervals
from paretune.reports.beside import ANSWERS_FILE, FOLDER
from paretune.serving.http.app import make_app
from paretune.serving.run_facts import RunFacts
from paretune.serving.service import Service
from support.serve_world import FakeBackend, fake_service, live

SCORES = {"short": -1.0, "good": 0.5}
VOTES = 8


def lines(count: int = 3) -> list[dict]:
    """Return answers of a soup to some prompts at two preferences, and those of another policy."""
    made = []
    for policy in ("soup", "base"):
        for weight in (0.5, 1.0):
            for n in range(count):
                made.append(
                    {
                        "policy": policy,
                        "preference": {"short": weight, "good": 1 - weight},
                        "prompt": [{"role": "user", "content": f"Question {n}"}],
                        "prompt_id": f"k{n}",
                        "sample": 0,
                        "answer": f"{policy} says {'SUN' if n else 'moon'} at {weight:g}",
                        "truncated": n == 1,
                        "scores": {**SCORES, "short": -float(n)},
                    }
                )
    return made


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("run")


@pytest.fixture(scope="module")
def service(folder: Path) -> Service:
    (folder / FOLDER).mkdir()
    write_jsonl(folder / FOLDER / ANSWERS_FILE, lines())
    backend = FakeBackend()
    backend.facts = replace(RunFacts(), folder=folder)
    return fake_service(folder, backend)


@pytest.fixture(scope="module")
def client(service: Service) -> Iterator[httpx.Client]:
    with live(service) as address, httpx.Client(base_url=address, timeout=20) as made:
        yield made


def test_measured_answers_with_their_own_scores(client: httpx.Client) -> None:
    found = client.get("/api/answers?policy=soup&preference=short=0.5,good=0.5").json()
    assert found["total"] == found["matching"] == 3 and found["preference"] == {"short": 0.5, "good": 0.5}
    assert [answer["text"] for answer in found["answers"]] == [
        "soup says moon at 0.5", "soup says SUN at 0.5", "soup says SUN at 0.5",
    ]  # fmt: skip
    second = found["answers"][1]
    assert second["scores"] == {"short": -1.0, "good": 0.5} and second["truncated"]
    assert second["messages"] == [{"role": "user", "content": "Question 1"}]
    few = client.get("/api/answers?preference=short=0.5,good=0.5&limit=1&search=sun").json()
    assert few["matching"] == 2 and few["total"] == 3 and len(few["answers"]) == 1
    assert client.get("/api/answers?preference=short=1,good=0&search=question 2").json()["matching"] == 1


@pytest.mark.parametrize(
    ("query", "status", "told"),
    [
        ("preference=short=0.3,good=0.7", 404, "the nearest measured preference is short=0.5"),
        ("preference=short=0.5,good=0.5&policy=anchors", 404, "no measured answers of anchors"),
        ("preference=short=0.5,good=0.5&policy=x", 404, "no model 'x'"),
        ("preference=shrt=1", 422, "shrt"),
        ("", 422, "preference"),
        ("preference=short=1&limit=0", 422, "limit"),
        ("preference=short=1&limit=1001", 422, "limit"),
    ],
)
def test_where_there_are_no_answers_the_reason_is_told(
    client: httpx.Client, query: str, status: int, told: str
) -> None:
    refused = client.get(f"/api/answers?{query}")
    assert refused.status_code == status and told in refused.json()["error"]["message"]


def test_without_a_run_or_its_file_there_is_a_conflict(
    client: httpx.Client, service: Service, folder: Path
) -> None:
    at = "/api/answers?preference=short=0.5,good=0.5"
    file, here = folder / FOLDER / ANSWERS_FILE, service.backend.facts
    kept = file.read_bytes()
    try:
        service.backend.facts = RunFacts()
        assert client.get(at).status_code == 409
        service.backend.facts = here
        file.unlink()
        told = client.get(at)
        assert told.status_code == 409 and "answers.jsonl.gz" in told.json()["error"]["message"]
        write_jsonl(file, [{"policy": "soup"}])
        told = client.get(at)
        assert told.status_code == 409 and "expected a measured answer" in told.json()["error"]["message"]
    finally:
        service.backend.facts = here
        file.write_bytes(kept)
    assert client.get(at).json()["total"] == 3, "a file that changed is read anew"


def test_paired_scores_have_the_intervals_of_the_front(client: httpx.Client) -> None:
    random = np.random.default_rng(3)
    first, second = random.normal(size=(20, 2)), random.normal(0.4, size=(20, 2))
    named = [[{"short": a, "good": b} for a, b in table.tolist()] for table in (first, second)]
    found = client.post("/api/score/paired", json={"first": named[0], "second": named[1]}).json()
    assert found["level"] == 0.95
    for m, name in enumerate(("short", "good")):
        told = found["objectives"][name]
        difference = (first - second)[:, m]
        ids = tuple(map(str, range(20)))
        low, high = mean_intervals(Front("x", (name,), np.ones((1, 1)), difference[None, :, None], ids))
        assert told["prompts"] == 20 and told["difference"]["mean"] == pytest.approx(difference.mean())
        assert told["difference"]["low"] == pytest.approx(low[0, 0])
        assert told["difference"]["high"] == pytest.approx(high[0, 0])
        assert told["first"]["mean"] == pytest.approx(first[:, m].mean())


def test_only_prompts_with_both_scores_are_compared(client: httpx.Client) -> None:
    body = {"first": [{"short": 1}, {}, {"short": 2}], "second": [{"short": 0}, {"short": 5}, {"good": 1}]}
    found = client.post("/api/score/paired", json=body).json()["objectives"]
    assert found.keys() == {"short"} and found["short"]["prompts"] == 1
    assert found["short"]["difference"] == {"mean": 1.0, "low": None, "high": None}


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"first": [{"short": 1}], "second": []}, "second"),
        ({"first": [{"short": 1}], "second": [{"short": 1}, {}]}, "expected one of each"),
        ({"first": [{"short": 1e12}], "second": [{"short": 1}]}, "no measurement"),
    ],
)
def test_lists_that_cannot_be_compared_are_refused(client: httpx.Client, body: dict, told: str) -> None:
    refused = client.post("/api/score/paired", json=body)
    assert refused.status_code == 422
    assert told in refused.json()["error"]["message"] + str(refused.json()["error"]["param"])


def test_the_front_says_each_points_chance_where_it_is_known(client: httpx.Client, service: Service) -> None:
    points = client.get("/api/front").json()["policies"][0]["points"]
    assert [point["on_front"] for point in points] == [None, None, None]
    surface = service.backend.served["soup"].surface
    assert surface is not None
    known = replace(surface, on_front=np.array([1.0, 0.25, np.nan]))
    assert [known.chance(n) for n in range(3)] == [1.0, 0.25, None]
    assert make_app(service).openapi()["paths"]["/api/answers"]["get"]


# What is learned of a taste, whichever side stood where


def voted(client: httpx.Client, person: str, shuffled: int | None, wanted: float = 0.7) -> dict:
    """Let somebody vote as they like; with ``shuffled``, a seed, the sides of each pair are exchanged at random."""
    random = np.random.default_rng(shuffled)
    for _ in range(VOTES):
        pair = client.post("/api/elicit/next", json={"profile": person}).json()
        sides = {side: {"text": side, **pair[side]} for side in ("first", "second")}
        worth = {}
        for side in sides:
            at = ",".join(f"{name}={weight}" for name, weight in pair[side]["preference"].items())
            means = client.get(f"/api/expected?preference={at}").json()["expected"]
            worth[side] = wanted * means["short"]["mean"] / 5 + (1 - wanted) * means["good"]["mean"] / 2
        winner = max(worth, key=lambda side: worth[side])
        if shuffled is not None and random.random() < 0.5:
            sides = {"first": sides["second"], "second": sides["first"]}
            winner = {"first": "second", "second": "first"}[winner]
        body = {"profile": person, "messages": [{"role": "user", "content": "x"}], **sides, "winner": winner}
        posterior = client.post("/api/votes", json=body).json()["posterior"]
    return posterior


@pytest.mark.slow
def test_shuffled_sides_teach_the_same_to_the_last_bit(client: httpx.Client, service: Service) -> None:
    """A name seeds the particles, so the same person votes again after having been forgotten."""
    plain = voted(client, "blind", None)
    for seed in (1, 2):
        assert client.delete("/api/profiles/blind").status_code == 200
        assert voted(client, "blind", seed) == plain, "mean, intervals, the best preference and its regret"
    assert plain["votes"] == VOTES and plain["regret"] < 0.1


def test_a_vote_that_is_taken_back_leaves_no_trace(client: httpx.Client) -> None:
    who = {"profile": "careful"}
    pair = client.post("/api/elicit/next", json=who).json()
    sides = {side: {"text": side, **pair[side]} for side in ("first", "second")}
    body = {**who, "messages": [{"role": "user", "content": "x"}], **sides}
    kept = client.post("/api/votes", json={**body, "winner": "first"}).json()["posterior"]
    before = client.post("/api/elicit/next", json=who).json()
    for winner in ("second", "tie"):
        client.post("/api/votes", json={**body, "winner": winner})
        client.post("/api/votes", json={**body, "winner": winner, "objective": "good"})
        client.post("/api/votes/undo", json=who)
        assert client.post("/api/votes/undo", json=who).json()["posterior"] == kept
    assert client.post("/api/elicit/next", json=who).json() == before
    client.post("/api/votes/undo", json=who)
    assert client.post("/api/elicit/next", json=who).json() == pair, "as if there had never been a vote"


def test_a_vote_on_one_objective_teaches_nothing_of_the_whole(client: httpx.Client) -> None:
    who = {"profile": "one by one"}
    pair = client.post("/api/elicit/next", json=who).json()
    sides = {side: {"text": side, **pair[side]} for side in ("first", "second")}
    body = {**who, "messages": [{"role": "user", "content": "x"}], **sides, "winner": "first"}
    assert (
        client.post("/api/votes", json={**body, "objective": "good"}).json()["posterior"] == pair["posterior"]
    )


def test_the_next_vote_says_what_it_would_teach(client: httpx.Client) -> None:
    told = client.post("/api/elicit/next", json={"profile": "curious"}).json()
    now = told["posterior"]
    assert now["enough"] == {"spread": 0.05, "regret": 0.01}
    for name, after in told["deviation_after"].items():
        assert 0 < after < now["deviation"][name]
        low, high = now["intervals"][name]
        assert low < 0.05 and high > 0.95, "nothing is known before the first vote"


def test_objectives_stand_in_the_order_of_the_policy(client: httpx.Client, service: Service) -> None:
    order = list(service.backend.served["soup"].objectives)
    assert order != sorted(order)
    told = client.post("/api/elicit/next", json={"profile": "orderly"}).json()
    sides = {side: {"text": side, **told[side]} for side in ("first", "second")}
    body = {"profile": "orderly", "messages": [{"role": "user", "content": "x"}], **sides, "winner": "first"}
    kept = client.post("/api/votes", json=body).json()["posterior"]
    for posterior in (told["posterior"], kept):
        for table in ("mean", "deviation", "intervals", "best"):
            assert list(posterior[table]) == order, table
    assert list(told["deviation_after"]) == order
    people = client.get("/api/population").json()
    tables = (people["mean"], people["deviation"], people["between"], people["people"]["orderly"])
    assert [list(table) for table in (*tables, people["clusters"][0]["centre"])] == [order] * 5
