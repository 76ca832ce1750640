"""Scorers behind servers: each form against the same model here, failures counted and named, and nothing asked twice."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from paretune.core.errors import ConfigError, EndpointError, ScoreError
from paretune.data.rows import Message
from paretune.generation import http_client
from paretune.scoring.cache import ScoreCache
from paretune.scoring.endpoint_forms import Text
from paretune.scoring.scorer import build_scorer, score_texts
from support.model_program import started
from support.reward_models import llama, sequence_classifier

PROMPTS = [(Message("user", "How are you?"),), (Message("user", "what about the cat"),)]
TEXTS = ["fine", "fine thanks and you ?", "the cat", "what about the dog and the cat and the dog", "thanks"]
ROWS = [(PROMPTS[n % 2], text) for n, text in enumerate(TEXTS)]


@pytest.fixture(autouse=True)
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(http_client, "FIRST_WAIT", 0.01)


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return llama(tmp_path_factory.mktemp("models") / "llama", pad=True)


@pytest.fixture(scope="module")
def process(folder: Path) -> Iterator[str]:
    """The program `reward_server.py` on the model; its address."""
    with started("support.reward_server", folder) as address:
        yield address


@pytest.fixture
def server(process: str) -> str:
    control(process)
    return process


def control(url: str, **what: object) -> None:
    httpx.post(f"{url}/control", json=what).raise_for_status()


def asked(url: str) -> dict:
    return httpx.get(f"{url}/control").json()


def rated(scorer, rows=ROWS, cache=None) -> np.ndarray:
    return score_texts(scorer, [p for p, _ in rows], [r for _, r in rows], cache=cache, leave_out=True)


@pytest.fixture(scope="module")
def here(folder: Path) -> list[np.ndarray]:
    """The logits of the same model in this process."""
    return [rated(sequence_classifier("good", str(folder), index=i)) for i in (0, 1)]


def spec(url: str, **options: object) -> dict:
    return {"objective": "good", "endpoint": url, "retries": 1, **options}


@pytest.mark.parametrize(
    ("options", "index", "requests"),
    [
        ({"index": 1}, 1, 5),
        ({"api": "score"}, 0, 1),
        ({"api": "score", "batch_size": 2}, 0, 3),
        ({"api": "rerank"}, 0, 2),
        ({"api": "pooling", "index": 1}, 1, 5),
        ({"direction": "lower"}, 0, 5),
    ],
)
@pytest.mark.slow
def test_a_model_behind_a_server_scores_as_it_does_here(
    server: str, here: list[np.ndarray], options: dict, index: int, requests: int
) -> None:
    sign = -1 if options.get("direction") == "lower" else 1
    found = rated(build_scorer(spec(f"{server}/v1", model="tiny", **options)))
    assert np.allclose(found, sign * here[index], atol=1e-5)
    bodies = asked(server)["asked"]
    assert len(bodies) == requests and {body["model"] for body in bodies} == {"tiny"}


def test_a_server_squeezes_the_logit_only_where_it_is_asked_to(server: str, here: list[np.ndarray]) -> None:
    found = rated(build_scorer(spec(server, activation=True)))
    assert np.allclose(found, 1 / (1 + np.exp(here[1] - here[0])), atol=1e-5)


def test_texts_are_sent_together_as_they_are(server: str) -> None:
    rated(build_scorer(spec(server, send="text", batch_size=3)))
    sent = [body["input"] for body in asked(server)["asked"]]
    assert sorted(map(len, sent)) == [2, 3]
    assert {t for part in sent for t in part} == {f"{p[0].content}\n\n{t}" for p, t in ROWS}


def test_any_route_by_a_template_and_a_path(server: str, here: list[np.ndarray]) -> None:
    one = spec(
        f"{server}/rate",
        api="path",
        request={"question": "{prompt}", "candidate": "{response}", "n": 1},
        answer="result.grade",
    )
    many = spec(
        f"{server}/rate-many",
        api="path",
        request={"q": "{rows.prompt}", "c": "{rows.response}"},
        answer="scores[*].value",
        batch_size=4,
    )
    for entry, requests in ((one, 5), (many, 2)):
        control(server)
        assert np.allclose(rated(build_scorer(entry)), here[1], atol=1e-5)
        assert len(asked(server)["asked"]) == requests


def test_a_place_within_a_users_text_stays_text() -> None:
    from paretune.scoring.endpoint_forms import form

    made = form("path", "", 0, False, "messages", {"text": "Q: {prompt} A: {response}"}, "x")
    row = Text.of((Message("user", "what is {response}?"),), "a {prompt}")
    assert made.body([row]) == {"text": "Q: what is {response}? A: a {prompt}"}


def test_failures_are_counted_and_named_and_the_others_are_kept(
    server: str, here: list[np.ndarray], tmp_path: Path
) -> None:
    cache = ScoreCache(tmp_path / "scores.sqlite")
    control(server, refuse="dog", spoil="thanks and")
    scorer = build_scorer(spec(server, index=1))
    with pytest.raises(ScoreError) as failed:
        rated(scorer, cache=cache)
    message = str(failed.value)
    assert "2 of 5 responses got no score" in message and "The others are kept" in message
    assert "row 1: " in message and "None is no finite number" in message
    assert "row 3: status 400: This model's maximum context length" in message
    assert len(cache) == 3
    assert (scorer.usage.asked, scorer.usage.refused, scorer.usage.unread) == (3, 1, 1)
    # The same again, with a server in order: only the two are asked, and none is 0.
    control(server)
    assert np.allclose(rated(scorer, cache=cache), here[1], atol=1e-5)
    assert len(asked(server)["asked"]) == 2 and len(cache) == 5


def test_a_scorer_may_leave_out_what_has_no_score(server: str, here: list[np.ndarray]) -> None:
    control(server, refuse="dog")
    found = rated(build_scorer(spec(server, index=1, unscored="leave-out")))
    assert np.isnan(found[3])
    assert np.allclose(np.delete(found, 3), np.delete(here[1], 3), atol=1e-5)
    with pytest.raises(
        ScoreError, match="1 of 1 responses got no score"
    ):  # where every score is needed, as in training
        score_texts(build_scorer(spec(server, unscored="leave-out")), [PROMPTS[0]], ["dog"])


def test_one_refused_text_costs_its_batch_nothing(server: str, here: list[np.ndarray]) -> None:
    control(server, refuse="dog")
    found = rated(build_scorer(spec(server, api="score", unscored="leave-out")))
    assert np.isnan(found[3])
    assert np.allclose(np.delete(found, 3), np.delete(here[0], 3), atol=1e-5)


def test_a_server_that_goes_away_leaves_what_it_gave(server: str, tmp_path: Path) -> None:
    cache = ScoreCache(tmp_path / "scores.sqlite")
    control(server, most=2)
    scorer = build_scorer(spec(server, concurrency=1, retries=0, unscored="leave-out"))
    with pytest.raises(ScoreError, match=r"3 of 5 responses got no score.*503.*The others"):
        rated(scorer, cache=cache)
    assert len(cache) == 2


def test_a_server_that_cannot_be_used_is_one_message(server: str, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(EndpointError, match=r"cannot be reached.*is the server running"):
        rated(build_scorer(spec("http://127.0.0.1:9", retries=0)))
    with pytest.raises(EndpointError, match="404"):
        rated(build_scorer(spec(f"{server}/nowhere")))
    control(server, key="secret")
    with pytest.raises(EndpointError, match=r"401.*PARETUNE_SCORER_KEY is missing"):
        rated(build_scorer(spec(server)))
    monkeypatch.setenv("MY_KEY", "secret")
    assert np.isfinite(rated(build_scorer(spec(server, key="MY_KEY")))).all()


def test_a_server_is_asked_from_within_a_loop_of_events_too(server: str) -> None:
    async def within() -> np.ndarray:
        return rated(build_scorer(spec(server)))

    assert np.isfinite(asyncio.run(within())).all()


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"api": "clasify"}, "did you mean 'classify'"),
        ({"endpoint": "127.0.0.1:80"}, "is no address"),
        ({"index": -1}, "index must be at least 0, got -1"),
        ({"retries": 1.5}, "retries: expected a whole number"),
        ({"retries": -1}, "retries must be at least 0"),
        ({"timeout": "long"}, "timeout: expected a number, got 'long'"),
        ({"activation": "yes"}, "activation: 'yes': expected true or false"),
        ({"unscored": "zero"}, "unscored: 'zero'.*stop, leave-out"),
        ({"answer": "data[0]"}, "answer: belongs to api: path"),
        ({"api": "path"}, "api: path needs request"),
        ({"api": "path", "request": {"q": "{prompt}"}, "answer": "x"}, "holds no response"),
        ({"api": "path", "request": {"q": "{response}{rows.prompt}"}, "answer": "x"}, "mixes places"),
        ({"api": "path", "request": {"q": "{response}"}, "answer": "x[["}, "answer: 'x\\[\\[': no JMESPath"),
        ({"urgent": True}, "unknown key 'urgent'"),
    ],
)
def test_settings_that_cannot_be(options: dict, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        build_scorer({**spec("http://127.0.0.1:80"), **options})


def test_the_address_is_not_part_of_what_a_named_model_is() -> None:
    def mark(url: str, **options: object) -> str:
        return build_scorer(spec(url, **options)).fingerprint

    assert mark("http://a", model="m") == mark("http://b", model="m")
    assert mark("http://a") != mark("http://b")
    assert (
        len(
            {
                mark("http://a", model="m", **o)
                for o in ({}, {"index": 1}, {"api": "pooling"}, {"activation": True})
            }
        )
        == 4
    )
