"""Conversations in the store: trees that come back as they went in, are found by their text, and survive a kill."""

from __future__ import annotations

import json
import signal
import sqlite3
import sys
from pathlib import Path
from subprocess import PIPE

import pytest

sa = pytest.importorskip("sqlalchemy", reason="the store needs paretune[serve]")

from paretune.core.errors import StoreError  # noqa: E402
from paretune.serving.store import conversations  # noqa: E402
from paretune.serving.store.conversations import RefusedError, title_of  # noqa: E402
from paretune.serving.store.entries import Turn  # noqa: E402
from paretune.serving.store.store import Store  # noqa: E402
from support.forked import Forked  # noqa: E402

STORM = Path(__file__).parents[2] / "support" / "turn_storm.py"
HARD = "\0 \U0001f31e é\ud7ff \\ \"%_' \u2028 </script>"


@pytest.mark.slow
def test_a_tree_comes_back_as_it_went_in(store: Store) -> None:
    talks = store.conversations
    made = talks.add("Zoë", system=HARD, owner="key")
    assert (made.title, made.head, made.turns) == ("", None, ())
    ask = talks.add_turn(made.id, Turn("user", f"  \n Was tun?  {HARD}"))
    weights = {"warm": 0.1 + 0.2, "concise": 1 - (0.1 + 0.2)}
    answers = [
        Turn("assistant", HARD, ask, "a", "panacea", weights, {"seed": 2**60, "scores": {"x": [1.5, None]}}),
        Turn("assistant", "", ask, "b", "panacea", {"warm": 1.0}),
        Turn("assistant", "no", ask, "base"),
    ]
    ids = [talks.add_turn(made.id, answer) for answer in answers]
    kept = talks.get(made.id)
    assert [turn.id for turn in kept.turns] == [ask, *ids] and kept.count == 4 and kept.head == ids[-1]
    assert [(t.content, t.side, t.policy, t.preference, t.about) for t in kept.turns[1:]] == [
        (t.content, t.side, t.policy, t.preference, t.about) for t in answers
    ]
    assert (kept.profile, kept.system, kept.owner) == ("Zoë", HARD, "key")
    assert kept.title.startswith("Was tun?") and kept.created <= kept.updated
    assert [turn.id for turn in kept.branch] == [ask, ids[-1]]
    changed = talks.change(made.id, title="Mine", head=ids[0], system="")
    assert (changed.title, changed.head, changed.system) == ("Mine", ids[0], "")
    talks.add_turn(made.id, Turn("user", "and then?", ids[0]))
    assert [turn.content for turn in talks.get(made.id).branch][-1] == "and then?"
    assert talks.find(made.id).title == "Mine", "a title that was given stays"


def test_turns_and_heads_are_of_the_conversation(store: Store) -> None:
    talks = store.conversations
    one, two = talks.add("ann"), talks.add("ann")
    turn = talks.add_turn(one.id, Turn("user", "x"))
    for wrong in (turn, turn + 1, 2**80):
        with pytest.raises(RefusedError, match=f"has no turn {wrong}") as refused:
            talks.add_turn(two.id, Turn("assistant", "y", wrong))
        assert refused.value.field == "parent"
        with pytest.raises(RefusedError) as refused:
            talks.change(two.id, head=wrong)
        assert refused.value.field == "head"
    assert talks.get(two.id).turns == ()
    assert talks.add_turn(2**80, Turn("user", "x")) is None and talks.change(2**80, "t") is None
    assert talks.get(2**80) is None and not talks.delete(two.id + 1)


def test_the_last_changed_come_first_page_by_page(store: Store) -> None:
    talks = store.conversations
    made = [talks.add("ann" if n % 2 else "bob", owner="k" if n < 3 else None) for n in range(6)]
    talks.add_turn(made[0].id, Turn("user", "x"))
    order = [made[n].id for n in (0, 5, 4, 3, 2, 1)]
    assert [one.id for one in talks.newest()] == order
    pages, before = [], None
    while page := talks.newest(limit=4, before=before):
        pages.append([one.id for one in page])
        before = page[-1]
    assert pages == [order[:4], order[4:]]
    assert [one.id for one in talks.newest("bob")] == [made[n].id for n in (0, 4, 2)]
    assert [one.id for one in talks.newest(owner="other")] == [made[n].id for n in (5, 4, 3)]
    assert talks.newest()[0].count == 1 and talks.newest("nobody") == []


@pytest.mark.parametrize(
    ("sought", "found"),
    [
        ("RED", "r"), ("éCLAIR", "é"), ("Éclair", "é"), ("é", "é"), ("日本", "j"), ("ИВАН", "i"), ("100%", "%"),
        ("%", "%"), ("_b", "_"), ("a\\b", "\\"), ("u00e9", ""), ("\\u00", ""), ("bad", ""), ("named", "n"),
        ('say "hi"', "q"), ("\n", "l"), ("nobody", ""), ("", "ré日и%_\\qlbn"), ("/", ""), ("\0", ""),
    ],
)  # fmt: skip
def test_a_search_is_for_text_whatever_its_case(
    talk: tuple[Store, dict[int, str]], sought: str, found: str
) -> None:
    store, names = talk
    ids = {one.id for one in store.conversations.newest(search=sought)}
    expected = {"j": "日", "i": "и"}.get(found, found)
    assert {names[number] for number in ids} == set(expected)


TEXTS = {
    "r": "a red sun", "é": "Un Éclair", "日": "日本語", "и": "Привет, Иван", "%": "100% sure", "_": "a_b", "\\": "a\\b",
    "q": 'say "hi"', "l": "two\nlines", "b": "\u0bad", "n": "x",
}  # fmt: skip


@pytest.fixture(scope="module")
def talk(tmp_path_factory: pytest.TempPathFactory) -> tuple[Store, dict[int, str]]:
    """A store with one conversation for each text, and the names of those."""
    store, names = Store.open(str(tmp_path_factory.mktemp("talk") / "store.sqlite")), {}
    for name, text in TEXTS.items():
        made = store.conversations.add("ann", title="A Named one" if name == "n" else "untold")
        store.conversations.add_turn(made.id, Turn("user", text))
        names[made.id] = name
    return store, names


def test_a_search_reads_on_until_it_has_enough(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(conversations, "_BATCH", 3)
    talks = store.conversations
    for n in range(14):
        # A line break is written with an n, so the database takes every other one for a find.
        talks.add_turn(talks.add("ann", "t").id, Turn("user", "a\nb" if n % 2 else "sun"))
    assert len(talks.newest(search="n")) == 7
    assert len(talks.newest(search="N", limit=2)) == 2
    assert len(talks.newest(search="É")) == 0


@pytest.mark.parametrize(
    ("text", "title"),
    [
        ("hello", "hello"), ("\n\n  a \t b \nc", "a b"), ("x" * 100, "x" * 79 + "…"),
        ("word " * 30, "word " * 15 + "word…"),
    ],
)  # fmt: skip
def test_titles(text: str, title: str) -> None:
    assert title_of(text) == title and len(title) <= 81


def test_a_conversation_and_a_person_have_limits(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    talks = store.conversations
    made = talks.add("ann")
    monkeypatch.setattr(conversations, "MOST_TURNS", 2)
    for _ in range(2):
        talks.add_turn(made.id, Turn("user", "x" * 10))
    with pytest.raises(RefusedError, match="at most 2 turns") as refused:
        talks.add_turn(made.id, Turn("user", ""))
    assert refused.value.code == "conversation_full"
    monkeypatch.setattr(conversations, "MOST_TURNS", 9)
    monkeypatch.setattr(conversations, "MOST_CHARACTERS", 25)
    with pytest.raises(RefusedError, match="25 characters"):
        talks.add_turn(made.id, Turn("user", "x" * 6))
    talks.add_turn(made.id, Turn("user", "x" * 5))
    monkeypatch.setattr(conversations, "MOST_CONVERSATIONS", 1)
    with pytest.raises(RefusedError, match="delete some"):
        talks.add("ann")
    assert talks.add("bob").id > made.id


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"role": "system"}, "unknown role"), ({"side": "c"}, "unknown side"), ({"content": "x" * 1_000_001}, "1000000"),
        ({"content": None}, "a text"), ({"policy": ""}, "policy"), ({"about": {"x": float("nan")}}, "finite"),
        ({"about": {"x": "\ud800"}}, "unicode"), ({"about": {"x": "y" * 20_000}}, "20000"), ({"about": []}, "an object"),
        ({"about": json.loads('{"a":' * 25 + "1" + "}" * 25)}, "nested too deeply"),
    ],
)  # fmt: skip
def test_bad_turns(change: dict, message: str) -> None:
    with pytest.raises(StoreError, match=message):
        Turn(**{"role": "user", "content": "x", **change})


def test_a_profile_takes_its_conversations_with_it(store: Store) -> None:
    talks = store.conversations
    made = [talks.add(name) for name in ("ann", "ann", "bob")]
    for one in made:
        talks.add_turn(one.id, Turn("user", "x"))
    assert store.delete_profile("ann") == (0, 0, 2)
    assert [one.profile for one in talks.newest()] == ["bob"] and talks.get(made[0].id) is None
    assert talks.delete(made[2].id) and talks.newest() == []
    with store.reading() as connection:
        assert connection.execute(sa.text("SELECT count(*) FROM paretune_turns")).scalar() == 0


def test_a_kill_between_turns_loses_no_acknowledged_turn(url: str) -> None:
    store = Store.open(url)
    made = store.conversations.add("ann")
    arguments = [sys.executable, str(STORM), url, str(made.id)]
    with Forked(arguments, stdout=PIPE, stderr=PIPE) as process:
        head = b"".join(process.stdout.readline() for _ in range(25))
        process.send_signal(signal.SIGKILL)
        rest, errors = process.communicate(timeout=60)
    assert process.returncode == -signal.SIGKILL and errors == b""
    told = dict(line.split(" ", 1) for line in (head + rest).decode().split("\n")[:-1])
    kept = store.conversations.get(made.id)
    texts = {str(turn.id): turn.content for turn in kept.turns}
    assert {number: texts.get(number) for number in told} == told and len(texts) <= len(told) + 1
    assert kept.head == kept.turns[-1].id and kept.count == len(kept.turns) == len(kept.branch)
    store.close()


def test_a_full_disk_keeps_what_was_acknowledged(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "store.sqlite"))
    made, limit, told = store.conversations.add("ann"), [0], []

    @sa.event.listens_for(store._engine, "checkout")
    def fill(connection: sqlite3.Connection, *_: object) -> None:
        connection.execute(f"PRAGMA max_page_count = {limit[0] or 10**9}")

    limit[0] = 1  # SQLite takes the pages there are: the disk has no more
    with pytest.raises(StoreError, match="full; nothing of this was written; free some space"):
        for _ in range(100):
            told.append(store.conversations.add_turn(made.id, Turn("user", "x" * 1000)))
    kept = store.conversations.get(made.id)
    assert [turn.id for turn in kept.turns] == told and kept.count == len(told)
    limit[0] = 0
    assert store.conversations.add_turn(made.id, Turn("user", "x")) is not None
    store.close()


def test_a_damaged_record_is_named_and_never_a_loop(store: Store) -> None:
    talks = store.conversations
    made = talks.add("ann")
    first = talks.add_turn(made.id, Turn("user", "x"))
    second = talks.add_turn(made.id, Turn("assistant", "y", first))
    with store.writing() as connection:
        connection.execute(sa.text(f"UPDATE paretune_turns SET parent = {second}"))
    assert [turn.id for turn in talks.get(made.id).branch] == [second]
    for damage in (
        "paretune_turns SET content = '{'",
        "paretune_turns SET content = '1'",
        "paretune_turns SET side = 'c'",
    ):
        with store.writing() as connection:
            connection.execute(sa.text(f"UPDATE {damage}"))
        with pytest.raises(StoreError, match="a record that paretune did not write"):
            talks.get(made.id)
    with store.writing() as connection:
        connection.execute(sa.text("UPDATE paretune_conversations SET system = '{'"))
    with pytest.raises(StoreError, match="a record that paretune did not write"):
        talks.newest()
