"""Conversations over HTTP: rights of keys, limits by name, downloads in which no turn passes for another one, votes on turns."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path

import httpx
import pytest
from markdown_it import MarkdownIt

from paretune.serving.address import Address, Keys
from paretune.serving.http.app import make_app
from paretune.serving.service import Service
from paretune.serving.store.vote_pairs import from_votes
from paretune.serving.transcript import quoted
from support.serve_world import FakeBackend, fake_service, live

ASK = {"role": "user", "content": "Why is the sky blue?"}
REPLY = {
    "role": "assistant",
    "content": "Light.",
    "side": "a",
    "policy": "soup",
    "preference": {"short": 1.0},
}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    folder = tmp_path_factory.mktemp("talk")
    with live(fake_service(folder)) as address:
        yield address, folder


@pytest.fixture
def client(world: tuple[str, Path]) -> Iterator[httpx.Client]:
    with httpx.Client(base_url=f"{world[0]}/api", timeout=20) as made:
        yield made
        for one in made.get("/conversations").json()["conversations"]:
            made.delete(f"/conversations/{one['id']}")


def begin(client: httpx.Client, **body: object) -> str:
    response = client.post("/conversations", json=body)
    assert response.status_code == 201, response.text
    return f"/conversations/{response.json()['id']}"


def say(client: httpx.Client, at: str, **turn: object) -> int:
    response = client.post(f"{at}/turns", json=turn)
    assert response.status_code == 201, response.text
    return int(response.json()["id"])


def test_a_conversation_from_its_first_turn_to_its_end(client: httpx.Client) -> None:
    at = begin(client, profile="ann", system="Be brief.")
    ask = say(client, at, **ASK)
    one = say(client, at, parent=ask, **REPLY, about={"seed": 3, "expected": {"short": [1, 2]}})
    two = say(client, at, parent=ask, role="assistant", content="Air.", side="b")
    kept = client.get(at).json()
    assert kept["head"] == two and kept["system"] == "Be brief." and kept["title"] == ASK["content"]
    assert [(t["id"], t["parent"]) for t in kept["turns"]] == [(ask, None), (one, ask), (two, ask)]
    first = kept["turns"][1]
    assert first.pop("created").endswith("Z") and first == {
        "id": one, "parent": ask, **REPLY, "about": {"seed": 3, "expected": {"short": [1, 2]}},
    }  # fmt: skip
    assert kept["turns"][2] | {"created": 0} == {
        "id": two, "parent": ask, "role": "assistant", "content": "Air.", "side": "b", "policy": None, "preference": None,
        "about": {}, "created": 0,
    }  # fmt: skip
    changed = client.patch(at, json={"title": "Sky", "head": one})
    assert changed.status_code == 200 and changed.json()["title"] == "Sky" and changed.json()["turns"] == 3
    listed = client.get("/conversations?profile=ann&search=AIR").json()["conversations"]
    assert [(c["title"], c["profile"], c["turns"]) for c in listed] == [("Sky", "ann", 3)]
    assert listed[0]["updated"] >= listed[0]["created"]
    assert client.get("/conversations?profile=bob").json() == {"conversations": []}
    assert client.get("/conversations?search=100%25").json() == {"conversations": []}
    number = int(at.rpartition("/")[2])
    assert client.get(f"/conversations?before={number}").json() == {"conversations": []}
    assert client.delete(at).json() == {"deleted": number}
    for answer in (
        client.get(at),
        client.delete(at),
        client.patch(at, json={}),
        client.post(f"{at}/turns", json=ASK),
    ):
        assert answer.status_code == 404 and answer.json()["error"]["code"] == "not_found"


@pytest.mark.parametrize(
    ("turn", "param", "words"),
    [
        ({"parent": 10**9}, "parent", "has no turn 1000000000"), ({"parent": 0}, "parent", "at least 1"),
        ({"role": "system"}, "role", "'user' or 'assistant'"), ({"side": "c"}, "side", "'a', 'b' or 'base'"),
        ({"content": None}, "content", "expected text"), ({"about": {"x": "y" * 20_000}}, "about", "at most 20000"),
        ({"about": [1]}, "about", "an object"), ({"preference": {"x": "1"}}, "preference.x", "expected a number"),
        ({"content": "x" * 1_000_001}, "content", "at most 1000000 characters"), ({"policy": ""}, "policy", "at least 1"),
        ({"more": 1}, "more", "unknown field"),
    ],
)  # fmt: skip
def test_a_turn_that_cannot_be_kept_names_its_field(
    client: httpx.Client, turn: dict, param: str, words: str
) -> None:
    at = begin(client)
    refused = client.post(f"{at}/turns", json={**ASK, **turn})
    error = refused.json()["error"]
    assert refused.status_code == 422 and error["param"] == param and words in error["message"]
    assert client.get(at).json()["turns"] == []


@pytest.mark.parametrize(
    "about", ['{"x": NaN}', '{"x": 1e999}', '{"x": "\\ud800"}', '{"x":' * 40 + "1" + "}" * 40]
)
def test_what_could_not_be_sent_back_is_not_kept(client: httpx.Client, about: str) -> None:
    at = begin(client)
    body = json.dumps(ASK)[:-1] + f', "about": {about}}}'
    refused = client.post(f"{at}/turns", content=body, headers={"content-type": "application/json"})
    assert refused.status_code == 422 and refused.json()["error"]["param"] == "about"
    assert client.get(at).status_code == 200


def test_a_full_conversation_is_a_named_error(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    from paretune.serving.store import conversations

    at = begin(client)
    monkeypatch.setattr(conversations, "MOST_TURNS", 0)
    monkeypatch.setattr(conversations, "MOST_CONVERSATIONS", 1)
    full = [client.post(f"{at}/turns", json=ASK), client.post("/conversations", json={})]
    assert [(r.status_code, r.json()["error"]["code"]) for r in full] == [
        (409, "conversation_full"), (409, "too_many_conversations"),
    ]  # fmt: skip


def test_without_a_store_there_are_no_conversations(tmp_path: Path) -> None:
    with live(Service(FakeBackend(), None)) as address, httpx.Client(base_url=f"{address}/api") as client:
        at = "/conversations/1"
        answers = [
            client.get("/conversations"), client.post("/conversations", json={}), client.get(at), client.delete(at),
            client.patch(at, json={}), client.post(f"{at}/turns", json=ASK), client.get(f"{at}/export"),
        ]  # fmt: skip
    assert {(a.status_code, a.json()["error"]["code"]) for a in answers} == {(409, "no_store")}


def test_a_key_has_its_own_conversations(tmp_path: Path) -> None:
    file = tmp_path / "keys"
    file.write_text("ann 0123456789abcdef\nbob fedcba9876543210\nroot 00112233445566778899 admin\n")
    with live(fake_service(tmp_path), Address(port=0, keys=Keys.read(file, None))) as address:
        ann, bob, root = (
            httpx.Client(base_url=f"{address}/api", headers={"authorization": f"Bearer {key}"})
            for key in ("0123456789abcdef", "fedcba9876543210", "00112233445566778899")
        )
        hers, shared = begin(ann, profile="ann"), begin(ann)
        say(ann, hers, **ASK)
        for at in (hers, shared):
            others = [
                bob.get(at), bob.delete(at), bob.patch(at, json={"title": "x"}), bob.post(f"{at}/turns", json=ASK),
                bob.get(f"{at}/export"), bob.get(f"/conversations?before={at.rpartition('/')[2]}"),
            ]  # fmt: skip
            assert {(r.status_code, r.json()["error"]["code"]) for r in others} == {(403, "not_yours")}
        assert bob.post("/conversations", json={"profile": "ann"}).status_code == 403
        assert bob.get("/conversations?search=sky").json()["conversations"] == []
        assert [len(one.get("/conversations").json()["conversations"]) for one in (ann, root)] == [2, 2]
        assert root.get(hers).json()["turns"][0]["content"] == ASK["content"]
        assert ann.delete("/profiles/ann").json() == {
            "deleted": "ann",
            "votes": 0,
            "presets": 0,
            "conversations": 1,
        }
        assert ann.get(hers).status_code == 404 and ann.get(shared).status_code == 200


HOSTILE = (
    "plain\n\n## 9. User\n\n<script>alert(1)</script>",
    "`<b>` and <b onclick=x>", "``` \n<i>\n", "```\n<i>\n```\n<i>", "    <i>\n<i>", "> <b>\n<i>",
    "<!-- x", "<https://a.b> <a@b.c>", "\\`<b>` `", "<?php", "<![CDATA[", "`` <b> ` <b> ``", "- <b>\n\n  <i>", "a\r## b\r\n# c\n",
    "`\n<b>`", "[x](javascript:alert(1)) ![x](http://a/b)", "a < b <3 x<y", "<b\n>", "`a\nb` <u>",
)  # fmt: skip


@pytest.mark.parametrize("text", HOSTILE)
def test_markdown_holds_a_turn_within_its_quote(text: str) -> None:
    tokens = MarkdownIt("commonmark").parse(f"# a\n\n{quoted(text)}\n\n# b\n")
    levels = [token.type for token in tokens if token.level == 0]
    around = ["heading_open", "inline", "heading_close"]
    assert [kind for kind in levels if kind != "inline"] == [
        kind for kind in (*around, "blockquote_open", "blockquote_close", *around) if kind != "inline"
    ]
    inner = [child.type for token in tokens for child in (token.children or [])]
    assert not {"html_block", "html_inline"} & {*inner, *(token.type for token in tokens)}


def test_code_in_markdown_stays_as_it_is() -> None:
    text = "Use `List<String>`:\n\n```java\nList<String> a;\n```\n\n<b>x</b> a < b"
    told = "> Use `List<String>`:\n>\n> ```java\n> List<String> a;\n> ```\n>\n> &lt;b>x&lt;/b> a < b"
    assert quoted(text) == told


def test_a_conversation_is_downloaded(client: httpx.Client) -> None:
    at = begin(client, profile="ann", title="Sky [1] <b>", system="Be brief.")
    ask = say(client, at, **ASK)
    say(client, at, parent=ask, role="assistant", content="Air.", side="b")
    head = say(client, at, parent=ask, **REPLY)
    number = at.rpartition("/")[2]
    whole = client.get(f"{at}/export?format=json")
    assert whole.json() == client.get(at).json() and "\n" in whole.text
    assert whole.headers["content-disposition"] == f'attachment; filename="conversation-{number}.json"'
    told = client.get(f"{at}/export?format=markdown")
    assert told.headers["content-type"] == "text/markdown; charset=utf-8" and f"{number}.md" in str(
        told.headers
    )
    lines = [line for line in told.text.splitlines() if line and "UTC" not in line]
    assert lines == [
        "# Sky \\[1\\] \\<b\\>", "## System", "> Be brief.", "## 1. User", "> Why is the sky blue?",
        "## 2. Assistant (a, soup, short=1)", "> Light.", "## Other branches", "### 3. Assistant (b), in reply to 1", "> Air.",
    ]  # fmt: skip
    assert client.patch(at, json={"head": head}).status_code == 200
    assert client.get(f"{at}/export?format=pdf").status_code == 422


def test_a_vote_on_several_turns_is_kept_listed_and_trained_on(
    world: tuple[str, Path], client: httpx.Client
) -> None:
    messages = [
        {"role": "system", "content": "Be brief."}, ASK, {"role": "assistant", "content": "Light."},
        {"role": "user", "content": "And at night?"},
    ]  # fmt: skip
    answers = {
        side: {"text": text, "preference": {"short": weight, "good": 1 - weight}}
        for side, text, weight in (("first", "Black.", 1.0), ("second", "It is dark then.", 0.0))
    }
    vote = {"profile": "turns", "messages": messages, **answers, "winner": "second"}
    assert client.post("/votes", json=vote).status_code == 201
    assert client.get("/votes?profile=turns").json()["votes"][0]["messages"] == messages
    (row,) = from_votes(str(world[1] / "store.sqlite"), world[1] / "votes.jsonl", "turns").dataset.rows
    assert [{"role": m.role, "content": m.content} for m in row.prompt] == messages
    assert json.loads((world[1] / "votes.jsonl").read_text())["prompt"] == messages
    assert row.labels == {"preferred": ((0, 1, -1.0),)}


def test_the_schema_describes_the_routes() -> None:
    paths = make_app(Service(FakeBackend(), None)).openapi()["paths"]
    routes = {path: set(methods) for path, methods in paths.items() if "conversations" in path}
    number = "/api/conversations/{number}"
    assert routes == {
        "/api/conversations": {"get", "post"}, number: {"get", "patch", "delete"}, f"{number}/turns": {"post"},
        f"{number}/export": {"get"},
    }  # fmt: skip
    answer = paths[number]["get"]["responses"]["200"]["content"]["application/json"]["schema"]
    assert answer["$ref"].endswith("WholeConversation")
    assert all("description" in method for path in routes for method in paths[path].values())


def test_texts_are_rendered(client: httpx.Client, monkeypatch: pytest.MonkeyPatch) -> None:
    from paretune.serving.http import render

    shown = client.post("/render", json={"texts": ["**b** <script>", "$x$"]}).json()["html"]
    assert shown[0] == "<p><strong>b</strong> &lt;script&gt;</p>\n" and "<math" in shown[1]
    for texts in ([], ["x"] * 257, [1], "x", ["x" * 1_000_001]):
        refused = client.post("/render", json={"texts": texts})
        assert refused.status_code == 422 and refused.json()["error"]["param"].startswith("texts")
    monkeypatch.setattr(render, "SECONDS", 0)
    assert client.post("/render", json={"texts": ["*late*"]}).json() == {
        "html": ['<pre class="plain">*late*</pre>']
    }
