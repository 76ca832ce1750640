"""``auto``: a head chooses the preference by the last message of the user, within the bounds, and the answer says so."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import numpy as np
import pytest

from paretune.choosing.auto import Head
from paretune.choosing.bounds import Bounds
from paretune.core.errors import ConfigError, ModelError
from paretune.core.preference import Preference, preference_grid
from paretune.scoring import encoder as encode
from paretune.scoring.auto_head import AutoHead, AutoReport
from paretune.serving.auto import Chooser, within
from paretune.serving.backend import Served
from paretune.serving.config import ServeConfig
from paretune.serving.service import Service
from paretune.serving.store.store import Store
from support.auto_world import by_topic
from support.serve_world import CHAT, OBJECTIVES, FakeBackend, fake_service, live

SHORT, LONG, OTHER = "tell me of bread", "tell me of grief", "tell me"
REPORT = AutoReport("votes", 90, 30, 2, 90, 0.1, 0.02, 0.2, 0.8, 0.6, True, 0.01, 50, 0.1, 4.0, 0.2, 5, 1.0)


def head(policy: str = "soup", objectives: tuple[str, ...] = OBJECTIVES) -> AutoHead:
    """Weight 0.9 on the first objective for bread, 0.1 for grief, and half for other topics."""
    slopes = np.zeros((2, 5))
    slopes[0, :2] = np.log(9.0), -np.log(9.0)
    made = Head(objectives, np.zeros(5), np.eye(5), slopes, np.zeros(2), np.array([0.4, 0.6]), 0.2, 4.0)
    identity = encode.content_fingerprint(encode.locate("any"))
    return AutoHead(made, policy, "any", identity, REPORT)


@pytest.fixture(scope="module", autouse=True)
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with pytest.MonkeyPatch.context() as patch:
        yield by_topic(patch, tmp_path_factory.mktemp("world"))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory, world: Path) -> Iterator[tuple[str, Service]]:
    folder = tmp_path_factory.mktemp("served")
    head().save(folder / "auto")
    store = Store.open(f"sqlite:///{folder / 'store.sqlite'}")
    service = Service(FakeBackend(), store, ServeConfig(), Chooser.of(folder / "auto"))
    with live(service) as address:
        yield address, service


def test_a_key_beyond_its_rate_makes_no_head_read_its_message(tmp_path: Path, world: Path) -> None:
    head().save(tmp_path / "auto")
    service = Service(FakeBackend(), None, ServeConfig(rate=1), Chooser.of(tmp_path / "auto"))
    with live(service) as address:
        assert ask(address, SHORT, model="soup@auto").status_code == 200
        service.auto.choose = lambda *given: pytest.fail("the message was read")  # type: ignore[union-attr, method-assign]
        refused = ask(address, LONG, model="soup@auto")
    assert refused.status_code == 429 and refused.json()["error"]["code"] == "rate_used_up"


def ask(address: str, text: str, **more: object) -> httpx.Response:
    body = {"messages": [{"role": "user", "content": text}], "max_tokens": 2, "seed": 5, **more}
    return httpx.post(f"{address}/v1/chat/completions", json=body, timeout=60)


def test_the_topic_chooses_and_the_answer_says_who_chose(served: tuple[str, Service]) -> None:
    address, _ = served
    for text, short in ((SHORT, 0.9), (LONG, 0.1), (OTHER, 0.5)):
        for more in ({"preference": "auto"}, {"model": "soup@auto"}, {"model": "@auto"}):
            answer = ask(address, text, **more).json()
            about = answer["paretune"]
            assert about["preference"]["short"] == pytest.approx(short), (text, more, answer)
            assert about["chosen_by"] == "auto" and about["constant"] == {"short": 0.4, "good": 0.6}
            assert about["asked"] == about["preference"] and "bounded" not in about
            assert answer["choices"][0]["message"]["content"].startswith(f"{short:g}/5/0")
    given = ask(address, SHORT, preference={"short": 0.9, "good": 0.1}).json()
    chosen = ask(address, SHORT, preference="auto").json()
    assert given["usage"] == chosen["usage"] and given["choices"] == chosen["choices"]
    assert "chosen_by" not in given["paretune"]


def test_a_stream_and_the_audit_say_it_too(served: tuple[str, Service]) -> None:
    address, service = served
    lines = ask(address, LONG, preference="auto", stream=True).text.splitlines()
    chunks = [json.loads(line[6:]) for line in lines if line.startswith("data: {")]
    said = [chunk["paretune"]["chosen_by"] for chunk in chunks if "chosen_by" in chunk.get("paretune", {})]
    assert len(said) == 2  # the first chunk, and the one that ends the answer
    ask(address, OTHER, **{"model": "soup"})
    newest = httpx.get(f"{address}/api/audit?limit=2").json()["records"]
    assert "chosen_by" not in newest[0] and newest[0]["asked"] is None
    assert newest[1]["chosen_by"] == "auto" and newest[1]["asked"]["short"] == pytest.approx(0.1)
    assert "paretune_auto_seconds_count" in httpx.get(f"{address}/metrics").text
    assert service.store is not None


def test_the_last_turn_of_the_user_counts_and_is_read_once(
    served: tuple[str, Service], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, _ = served
    read: list[str] = []
    plain = encode.embed
    monkeypatch.setattr(
        encode, "embed", lambda frozen, texts, **more: read.extend(texts) or plain(frozen, texts)
    )
    turns = [
        ("system", "only of bread"),
        ("user", SHORT),
        ("assistant", "bread"),
        ("user", "now of grief, please"),
    ]
    messages = [{"role": role, "content": content} for role, content in turns]
    for _ in range(2):
        body = {"model": "soup@auto", "messages": messages, "max_tokens": 1}
        about = httpx.post(f"{address}/v1/chat/completions", json=body).json()["paretune"]
        assert about["preference"]["short"] == pytest.approx(0.1)
    assert read == ["now of grief, please"]


SYSTEM = [{"role": "system", "content": "be kind"}]


@pytest.mark.parametrize(
    ("body", "status", "said"),
    [
        ({"model": "anchors@auto"}, 409, "'auto' chooses preferences of soup, and not of anchors"),
        ({"model": "soup@short=1,good=0", "preference": "auto"}, 422, "give one of them"),
        ({"model": "soup@auto", "preference": "short=1,good=0"}, 422, "give one of them"),
        ({"model": "soup@auto", "messages": SYSTEM}, 422, "the last message of a user, and there is none"),
        ({"prompt": "red", "preference": "auto"}, 422, "ask /v1/chat/completions"),
    ],
)
def test_what_auto_cannot_do_is_refused(
    served: tuple[str, Service], body: dict[str, object], status: int, said: str
) -> None:
    path, whole = ("completions", body) if "prompt" in body else ("chat/completions", {**CHAT, **body})
    answer = httpx.post(f"{served[0]}/v1/{path}", json=whole)
    error = answer.json()["error"]
    assert (answer.status_code, error["code"]) == (
        status,
        "no_auto" if status == 409 else "invalid_preference",
    )
    assert said in error["message"]


def test_clients_find_the_name_and_no_preset_takes_it(served: tuple[str, Service]) -> None:
    address, _ = served
    listed = {entry["id"]: entry["paretune"] for entry in httpx.get(f"{address}/v1/models").json()["data"]}
    assert listed["soup@auto"]["chosen_by"] == "auto" and "anchors@auto" not in listed
    one = httpx.get(f"{address}/v1/models/soup@auto").json()
    assert one["id"] == "soup@auto" and one["paretune"]["constant"] == {"short": 0.4, "good": 0.6}
    answer = httpx.put(f"{address}/api/presets/auto", json={"preference": "short=1,good=0"})
    assert answer.status_code == 422 and "choose another name" in answer.json()["error"]["message"]


def test_the_bounds_hold_for_what_the_head_chooses_and_without_a_head_it_is_refused_by_name(
    tmp_path: Path,
) -> None:
    store = Store.open(f"sqlite:///{tmp_path / 'bounded.sqlite'}")
    floors = ServeConfig(floors={"short": 0.3})
    with live(Service(FakeBackend(), store, floors, Chooser(head()))) as address:
        about = ask(address, LONG, preference="auto").json()["paretune"]
        assert about["preference"]["short"] == pytest.approx(0.3) and about["bounded"] is True
        assert "bounded" not in ask(address, SHORT, preference="auto").json()["paretune"]
    service = fake_service(tmp_path)
    with live(service) as address:
        for more in ({"preference": "auto"}, {"model": "soup@auto"}):
            answer = ask(address, SHORT, **more)
            error = answer.json()["error"]
            assert (answer.status_code, error["code"]) == (409, "no_auto")
            assert "start it with --auto FOLDER" in error["message"]
        assert service.store is not None  # a preset that was saved before there was auto still answers
        service.store.save_preset("default", "auto", "soup", Preference(OBJECTIVES, (0.25, 0.75)))
        assert ask(address, SHORT, model="soup@auto").json()["paretune"]["preference"]["short"] == 0.25


def test_the_nearest_preference_within_bounds() -> None:
    names, random = ("a", "b", "c"), np.random.default_rng(0)
    bounds = Bounds.of({"a": 0.2, "b": 0.3}, names)
    grid = [p for p in preference_grid(names, 60) if bounds.admits(p)]
    for row in random.dirichlet(np.ones(3), size=30):
        asked = Preference(names, tuple((row / row.sum()).tolist()))
        found = bounds.nearest(asked)
        assert bounds.admits(found) and (not bounds.admits(asked) or found == asked)
        best = min(np.linalg.norm(p.array() - asked.array()) for p in grid)
        assert np.linalg.norm(found.array() - asked.array()) <= best + 1e-9
    full = Bounds.of({"a": 0.5, "b": 0.5}, names)
    assert full.nearest(Preference(names, (0.0, 0.0, 1.0))) == Preference(names, (0.5, 0.5, 0.0))


def test_an_anchor_outside_the_bounds_is_passed_over() -> None:
    anchors = preference_grid(OBJECTIVES, 2)  # good alone, half, short alone

    def snap(preference: Preference) -> Preference:
        return min(anchors, key=lambda anchor: abs(anchor["short"] - preference["short"]))

    facts = {"anchors": [anchor.as_dict() for anchor in anchors]}
    served = Served("soup", OBJECTIVES, anchors[1], snap, None, facts)
    bounds = Bounds.of({"good": 0.1}, OBJECTIVES)
    wanted = Preference(OBJECTIVES, (0.88, 0.12))  # its anchor is short alone
    assert within(wanted, served, bounds) == anchors[1]
    assert within(Preference(OBJECTIVES, (0.1, 0.9)), served, bounds)["short"] == pytest.approx(0.1)


def test_a_head_of_another_policy_or_encoder_is_refused_at_the_start(
    tmp_path: Path, world: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match="was fitted for 'mod', not for 'soup'"):
        Service(FakeBackend(), None, ServeConfig(), Chooser(head("mod")))
    with pytest.raises(ConfigError, match="has the objectives a, b, and soup short, good"):
        Service(FakeBackend(), None, ServeConfig(), Chooser(head("soup", ("a", "b"))))
    with pytest.raises(ModelError, match=r"auto\.json: no such file; expected the folder of a head of auto"):
        Chooser.of(tmp_path)
    head().save(tmp_path / "auto")
    other = tmp_path / "other"
    other.mkdir()
    (other / "model.safetensors").write_bytes(b"others")
    monkeypatch.setattr(encode, "locate", lambda name: other)
    with pytest.raises(ModelError, match="restore that encoder, or fit it again"):
        Chooser.of(tmp_path / "auto")
