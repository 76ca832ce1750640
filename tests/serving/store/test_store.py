"""The store: what goes in comes out bit for bit, and what was acknowledged survives kills, storms and migrations."""

from __future__ import annotations

import asyncio
import os
import random
import shutil
import signal
import sqlite3
import struct
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import replace
from datetime import datetime, timedelta, timezone
from pathlib import Path
from subprocess import PIPE, Popen

import pytest

sa = pytest.importorskip("sqlalchemy", reason="the store needs paretune[serve]")

from hypothesis import HealthCheck, given, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402

from paretune.core.errors import DataError, ParetuneError, PreferenceError, StoreError  # noqa: E402
from paretune.core.preference import Preference  # noqa: E402
from paretune.data.rows import Message  # noqa: E402
from paretune.serving.store import access, database, tables  # noqa: E402
from paretune.serving.store.entries import AuditRecord, Vote, VotedAnswer  # noqa: E402
from paretune.serving.store.store import Store  # noqa: E402
from support import postgres  # noqa: E402
from support.forked import Forked  # noqa: E402
from support.vote_storm import make_vote  # noqa: E402

STORM = Path(__file__).parents[2] / "support" / "vote_storm.py"
PROMPT = (Message("system", "Be brief."), Message("user", "Hi"))
HALF = Preference.of({"concise": 0.5, "warm": 0.5})


def sqlite_only(url: str) -> Path:
    if "://" in url:
        pytest.skip("about SQLite files")
    return Path(url)


# Round trips


FLOATS = st.floats(allow_nan=False, allow_infinity=False)
TEXTS = st.text(st.characters(codec="utf-8"), max_size=30)
NAMES = st.text(st.characters(codec="utf-8", exclude_characters=",=@"), min_size=1, max_size=10).filter(
    lambda name: name == name.strip()
)


@st.composite
def votes(draw: st.DrawFn) -> Vote:
    names = draw(st.lists(NAMES, min_size=1, max_size=4, unique=True))

    def answer() -> VotedAnswer:
        raw = draw(st.lists(st.floats(1e-300, 1), min_size=len(names), max_size=len(names)))
        preference = Preference(tuple(names), tuple(weight / sum(raw) for weight in raw))
        scores = draw(st.none() | st.dictionaries(NAMES, FLOATS, max_size=3))
        return VotedAnswer(draw(TEXTS), preference, scores, draw(st.booleans()))

    messages = draw(
        st.lists(
            st.builds(Message, st.sampled_from(["system", "user", "assistant", "tool"]), TEXTS), max_size=3
        )
    )
    last = Message("user", draw(TEXTS.filter(str.strip)))
    winner = draw(st.sampled_from(["first", "second", "tie"]))
    return Vote("modpo", (*messages, last), answer(), answer(), winner, draw(st.none() | NAMES))


def bits(vote: Vote) -> list[bytes]:
    """Every float of a vote: equality does not tell 0.0 from -0.0."""
    numbers = []
    for answer in (vote.first, vote.second):
        numbers += [*answer.preference.weights, *(answer.scores or {}).values()]
    return [struct.pack("<d", number) for number in numbers]


@settings(max_examples=60, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(vote=votes())
@pytest.mark.slow
def test_votes_come_back_as_they_went_in(store: Store, vote: Vote) -> None:
    identity = store.add_vote("Zoë", vote)
    (kept,) = (each for each in store.votes("Zoë") if each.id == identity)
    assert kept == replace(vote, id=identity, profile="Zoë", created=kept.created)
    assert bits(kept) == bits(vote)
    assert list(kept.first.preference.objectives) == list(vote.first.preference.objectives)
    assert kept.created is not None and kept.created.tzinfo == timezone.utc
    assert abs(datetime.now(timezone.utc) - kept.created) < timedelta(minutes=1)


def test_hard_texts_and_numbers(store: Store) -> None:
    text = "NUL \x00, emoji \U0001f600, combining e\u0301, right to left \u202e, \ufffe, 'quoted' \"text\"; DROP TABLE"
    weights = Preference.of({"a": 0.1 + 0.2, "b": 1 - (0.1 + 0.2)})
    beyond = Preference.of({"a": 1.2, "b": -0.2}, allow_extrapolation=True)
    first = VotedAnswer(text, weights, {"a": -0.0, "b": 5e-324, "c": 1.7976931348623157e308}, truncated=True)
    vote = Vote(
        "p",
        (Message("user", text),),
        first,
        VotedAnswer("", beyond, {}),
        "tie",
        objective=text.strip().replace(",", ""),
    )
    store.add_vote("me", vote)
    (kept,) = store.votes()
    assert kept == replace(vote, id=kept.id, profile="me", created=kept.created) and bits(kept) == bits(vote)
    assert kept.second.scores == {} and kept.second.preference.extrapolated


def test_ids_rise_and_votes_are_told_apart(store: Store) -> None:
    identities = [
        store.add_vote(profile, replace(make_vote(str(number)), policy=policy))
        for number, (profile, policy) in enumerate([("ann", "p"), ("bob", "p"), ("ann", "q"), ("ann", "p")])
    ]
    assert identities == sorted(set(identities))
    assert [vote.id for vote in store.votes()] == identities
    assert [vote.first.text for vote in store.votes("ann")] == ["0", "2", "3"]
    assert [vote.first.text for vote in store.votes("ann", "p")] == ["0", "3"]
    assert [vote.first.text for vote in store.votes(policy="q")] == ["2"]
    assert store.votes("nobody") == [] and store.presets("nobody") == []
    assert [profile.name for profile in store.profiles()] == ["ann", "bob"], "asking makes nobody"


def test_profiles(store: Store) -> None:
    assert store.profiles() == []
    made = store.profile("Jos\u00e9 P. van der Berg-2")
    assert store.profile("Jose\u0301 P. van der Berg-2") == made, "one person, however the accent is typed"
    assert store.profiles() == [made]
    store.close()
    again = Store.open(store._engine.url.render_as_string(hide_password=False))
    assert again.profiles() == [made]
    again.close()


def test_presets_are_unique_by_profile_and_name(store: Store) -> None:
    first = store.save_preset(
        "ann", "cautious", "modpo", Preference.of({"a": 0.1 + 0.2, "b": 1 - (0.1 + 0.2)})
    )
    store.save_preset("bob", "cautious", "modpo", HALF)
    assert store.presets("ann") == [first]
    second = store.save_preset("ann", "cautious", "panacea", HALF)
    bold = store.save_preset("ann", "bold one", "panacea", HALF)
    assert store.presets("ann") == [bold, second] and len(store.presets()) == 3
    assert store.delete_preset("ann", "cautious") and not store.delete_preset("ann", "cautious")
    assert not store.delete_preset("nobody", "cautious")
    assert [preset.profile for preset in store.presets()] == ["ann", "bob"]


def test_presets_of_one_name_saved_at_once(url: str) -> None:
    stores = [Store.open(url) for _ in range(2)]

    def save(number: int) -> None:
        weight = number / 64
        name = f"profile{number % 3}"
        stores[number % 2].save_preset(
            name, "mine", f"policy{number}", Preference.of({"a": weight, "b": 1 - weight})
        )

    with ThreadPoolExecutor(16) as pool:
        list(pool.map(save, range(64)))
    kept = stores[0].presets()
    assert sorted(preset.profile for preset in kept) == ["profile0", "profile1", "profile2"]
    for preset in kept:
        assert preset.policy == f"policy{round(preset.preference['a'] * 64)}", (
            "one writer's values, never a mixture"
        )
    for opened in stores:
        opened.close()


def test_audit(store: Store) -> None:
    weights = Preference.of({"a": 0.1 + 0.2, "b": 1 - (0.1 + 0.2)})
    records = [
        AuditRecord("modpo", weights, None if n % 2 else HALF, "m@\x00", "key 1", f"r{n}") for n in range(5)
    ]
    identities = [store.record_use(record) for record in records]
    newest = store.audit(limit=2)
    assert [record.id for record in newest] == identities[:-3:-1]
    for record, made in zip(newest, reversed(records), strict=False):
        assert record == replace(made, id=record.id, created=record.created) and record.created is not None
    assert [record.request_id for record in store.audit(before=newest[-1].id)] == ["r2", "r1", "r0"]
    assert store.audit(before=identities[0]) == [] and store.audit(before=-(10**30)) == []
    assert len(store.audit(limit=10**30, before=10**30)) == 5


# Concurrency


@contextmanager
def storm(url: str, profile: str, threads: int, *count: int) -> Iterator[Popen]:
    arguments = [sys.executable, str(STORM), url, profile, str(threads), *map(str, count)]
    process = Forked(arguments, stdout=PIPE, stderr=PIPE)
    try:
        yield process
    finally:
        if process.poll() is None:
            process.kill()
        process.wait()
        for stream in (process.stdout, process.stderr):
            stream.close()


def acknowledged(output: bytes) -> dict[int, str]:
    """Return id -> text of the complete lines a storm printed."""
    lines = [line.split(" ", 1) for line in output.decode().split("\n")[:-1]]
    return {int(identity): text for identity, text in lines}


@pytest.mark.slow
def test_processes_and_threads_at_once_lose_nothing(url: str) -> None:
    # The database is new: the processes also race to make its tables.
    with storm(url, "ann", 6, 25) as one, storm(url, "bob", 6, 25) as two, storm(url, "ann", 1, 25) as three:
        outputs = [process.communicate(timeout=300) for process in (one, two, three)]
    assert [errors for _, errors in outputs] == [b"", b"", b""]
    told = [acknowledged(output) for output, _ in outputs]
    assert [len(each) for each in told] == [150, 150, 25] and len(told[0] | told[1] | told[2]) == 325
    store = Store.open(url)
    assert {vote.id: vote.first.text for vote in store.votes()} == told[0] | told[1] | told[2]
    assert {profile.name for profile in store.profiles()} == {"ann", "bob"}
    store.close()


@pytest.mark.parametrize("seed", range(2))
@pytest.mark.slow
def test_kill_in_a_vote_storm_loses_no_acknowledged_vote(url: str, seed: int) -> None:
    random_ = random.Random(seed)
    told: dict[int, str] = {}
    for round_ in range(2):
        with storm(url, f"round{round_}", 4) as process:
            head = b"".join(process.stdout.readline() for _ in range(random_.randint(1, 40)))
            time.sleep(random_.uniform(0, 0.2))
            process.send_signal(signal.SIGKILL)
            rest, errors = process.communicate(timeout=60)
            assert process.returncode == -signal.SIGKILL and errors == b""
        told |= acknowledged(head + rest)
    store = Store.open(url)
    kept = {vote.id: vote.first.text for vote in store.votes()}
    assert {identity: kept.get(identity) for identity in told} == told
    # A vote whose answer the kill cut off may be kept: at most one a thread and round.
    assert len(kept) <= len(told) + 8
    assert store.add_vote("after", make_vote("x")) > max(kept)
    store.close()


@pytest.mark.slow
def test_kill_of_the_postgresql_server_loses_no_acknowledged_vote(server: postgres.Server) -> None:
    url = server.new_database()
    store = Store.open(url)
    with storm(url, "ann", 4) as process:
        head = b"".join(process.stdout.readline() for _ in range(50))
        server.kill()
        rest, errors = process.communicate(timeout=60)
        assert process.returncode == 1 and b"StoreError" in errors and b"Traceback" not in errors
    told = acknowledged(head + rest)
    with pytest.raises(StoreError, match="check that the server runs"):
        store.votes()
    server.start()
    kept = {vote.id: vote.first.text for vote in store.votes()}  # the pool finds the new server by itself
    assert {identity: kept.get(identity) for identity in told} == told
    store.close()


def test_an_async_server_uses_it_through_threads(store: Store) -> None:
    async def serve() -> list[int]:
        calls = [asyncio.to_thread(store.add_vote, f"p{n % 5}", make_vote(str(n))) for n in range(60)]
        reads = [asyncio.to_thread(store.votes) for _ in range(20)]
        return (await asyncio.gather(*calls, *reads))[:60]

    identities = asyncio.run(serve())
    assert {vote.id: vote.first.text for vote in store.votes()} == {
        i: str(n) for n, i in enumerate(identities)
    }
    assert len(store.profiles()) == 5


def test_a_log_that_grows_while_two_threads_look_is_not_taken_for_a_cut_one(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """One has read the size and waits for the processor; the other reads a later, larger size."""
    file = tmp_path / "store.sqlite"
    Store.open(str(file)).close()
    log = Path(f"{file}-wal")
    log.write_bytes(b"1")
    presence = database.Presence(sa.make_url(f"sqlite:///{file}"))
    plain, waiting, grown, slow = presence._size, threading.Event(), threading.Event(), []

    def size(ending: str) -> int:
        found = plain(ending)
        if threading.current_thread() in slow and ending == "-wal":
            waiting.set()
            grown.wait(0.3)
        return found

    monkeypatch.setattr(presence, "_size", size)
    with ThreadPoolExecutor(1) as pool:
        first = pool.submit(lambda: (slow.append(threading.current_thread()), presence.check()))
        assert waiting.wait(10)
        log.write_bytes(b"123")
        presence.check()
        grown.set()
        first.result()
    log.write_bytes(b"12")
    with pytest.raises(database.StoreGoneError, match="was cut"):
        presence.check()


def test_readers_do_not_wait_for_a_writer(url: str, store: Store) -> None:
    store.add_vote("ann", make_vote("x"))
    with store.writing() as connection:
        connection.execute(sa.text("DELETE FROM paretune_votes"))
        before = time.monotonic()
        assert len(store.votes()) == 1 and store.profile("ann").name == "ann"
        assert time.monotonic() - before < 5
    assert store.votes() == []


@pytest.mark.slow
def test_a_writer_that_does_not_end_is_an_error_not_a_hang(monkeypatch: pytest.MonkeyPatch, url: str) -> None:
    monkeypatch.setattr(database, "PATIENCE", 1.0)
    monkeypatch.setattr(access, "PATIENCE", 1.0)
    one, two = Store.open(url), Store.open(url)
    one.add_vote("ann", make_vote("x"))
    with one.writing() as connection:
        connection.execute(sa.text("UPDATE paretune_profiles SET created = created"))
        if connection.dialect.name == "postgresql":
            connection.execute(sa.text("LOCK TABLE paretune_votes"))
        with pytest.raises(StoreError, match="another process is writing for too long"):
            two.add_vote("ann", make_vote("y"))
        if connection.dialect.name == "sqlite":
            with pytest.raises(StoreError, match="too many requests"):
                one.add_vote("ann", make_vote("y"))
    assert two.add_vote("ann", make_vote("z")) > 0
    assert [vote.first.text for vote in one.votes()] == ["x", "z"]
    one.close(), two.close()


def test_durable_by_default(url: str, store: Store) -> None:
    with store._engine.connect() as connection:
        if "://" not in url:
            assert connection.exec_driver_sql("PRAGMA journal_mode").scalar() == "wal"
            assert connection.exec_driver_sql("PRAGMA synchronous").scalar() == 2, "FULL"
            assert connection.exec_driver_sql("PRAGMA foreign_keys").scalar() == 1
        else:
            name = store._engine.url.database
            connection.execute(sa.text(f"ALTER DATABASE {name} SET synchronous_commit = off"))
            connection.commit()
    if "://" in url:
        again = Store.open(url)
        with again._engine.connect() as connection:
            assert connection.exec_driver_sql("SHOW synchronous_commit").scalar() == "on"
        again.close()


# Schema


def test_migrations_make_the_tables_of_the_code(store: Store) -> None:
    from alembic.autogenerate import compare_metadata
    from alembic.migration import MigrationContext

    with store._engine.connect() as connection:
        context = MigrationContext.configure(
            connection, opts={"version_table": database.VERSION_TABLE, "compare_type": True}
        )
        assert compare_metadata(context, tables.metadata) == []


NEXT = '''"""A column that a later version needs."""
import sqlalchemy as sa
from alembic import op
revision, down_revision, branch_labels, depends_on = "0004", "0003", None, None
def upgrade():
    op.add_column("paretune_votes", sa.Column("note", sa.String(9), server_default="none", nullable=False))
    FAIL
'''


@pytest.fixture
def next_version(tmp_path: Path) -> Iterator[Path]:
    """The migrations of a version to come."""
    folder = tmp_path / "next %version" / "migrations"  # a percent sign is special to Alembic's configuration
    shutil.copytree(database.MIGRATIONS, folder, ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "versions" / "v0004_note.py").write_text(NEXT.replace("FAIL", ""))
    return folder


def test_an_older_store_is_migrated_and_a_newer_one_refused(
    monkeypatch: pytest.MonkeyPatch, url: str, next_version: Path
) -> None:
    old = Store.open(url)
    identity = old.add_vote("ann", make_vote("kept"))
    monkeypatch.setattr(database, "MIGRATIONS", next_version)
    with ThreadPoolExecutor(4) as pool:
        stores = list(pool.map(Store.open, [url] * 4))  # all four find the old schema, one migrates it
    assert [vote.first.text for vote in stores[0].votes()] == ["kept"]
    with stores[0]._engine.connect() as connection:
        assert connection.execute(sa.text("SELECT note FROM paretune_votes")).scalar() == "none"
        assert (
            connection.execute(sa.text(f"SELECT version_num FROM {database.VERSION_TABLE}")).scalar()
            == "0004"
        )
    assert old.add_vote("ann", make_vote("more")) > identity, "a server that still runs goes on"
    monkeypatch.undo()
    with pytest.raises(
        StoreError, match=r"newer paretune created this store \(schema 0004, .*0003\); upgrade paretune"
    ):
        Store.open(url)
    for opened in (old, *stores):
        opened.close()


def test_a_store_of_the_first_schema_is_opened_with_all_that_is_in_it(
    monkeypatch: pytest.MonkeyPatch, url: str, tmp_path: Path
) -> None:
    first = tmp_path / "first"
    shutil.copytree(
        database.MIGRATIONS, first, ignore=shutil.ignore_patterns("__pycache__", "v0002*", "v0003*")
    )
    monkeypatch.setattr(database, "MIGRATIONS", first)
    engine = database.open_engine(url)
    answer = '{"text": "a", "preference": {"x": 1.0}, "truncated": false}'
    with engine.begin() as connection:
        connection.execute(
            sa.text(
                "INSERT INTO paretune_profiles (id, name, created) VALUES (1, 'ann', '2026-01-01 00:00:00')"
            )
        )
        connection.execute(
            sa.text(
                "INSERT INTO paretune_votes (created, profile, policy, prompt, first, second, winner) "
                "VALUES ('2026-01-01 00:00:00', 1, 'soup', :prompt, :answer, :answer, 'tie')"
            ),
            {"answer": answer, "prompt": '[["user", "q"]]'},
        )
    engine.dispose()
    monkeypatch.undo()
    store = Store.open(url)
    assert [(vote.profile, vote.owner) for vote in store.votes()] == [("ann", None)]
    assert store.add_vote("ann", make_vote("more")) > 1 and store.count_votes("soup")["ann"][0] >= 1
    assert store.conversations.newest("ann") == [] and store.conversations.add("ann").profile == "ann"
    store.close()


@pytest.mark.parametrize("harm", ["unlink", "cut", "replace", "log deleted", "log cut", "index cut"])
def test_a_store_that_is_gone_acknowledges_nothing(tmp_path: Path, harm: str) -> None:
    file = tmp_path / "store.sqlite"
    store = Store.open(str(file))
    store.add_vote("ann", make_vote("x"))
    if harm == "replace":
        file.unlink()
        Store.open(str(file)).close()
    else:
        ending = {"log deleted": "-wal", "log cut": "-wal", "index cut": "-shm"}.get(harm, "")
        harmed = tmp_path / f"store.sqlite{ending}"
        harmed.unlink() if harm in ("unlink", "log deleted") else os.truncate(harmed, 0)
    for _ in range(2):
        with pytest.raises(StoreError, match="while it was in use; nothing can be kept until"):
            store.add_vote("ann", make_vote("y"))
        with pytest.raises(StoreError, match="while it was in use"):
            store.votes()
    store.close()


def test_a_store_that_goes_while_a_vote_is_written_does_not_acknowledge_it(tmp_path: Path) -> None:
    file = tmp_path / "store.sqlite"
    store = Store.open(str(file))
    sa.event.listen(sa.Engine, "commit", gone := lambda connection: file.unlink(missing_ok=True))
    try:
        with pytest.raises(StoreError, match="was deleted while it was in use; nothing can be kept until"):
            store.add_vote("ann", make_vote("x"))
    finally:
        sa.event.remove(sa.Engine, "commit", gone)
    store.close()


def test_a_new_store_is_private(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "store.sqlite"))
    store.add_vote("ann", make_vote("x"))
    assert {file.stat().st_mode & 0o777 for file in tmp_path.iterdir()} == {0o600}
    store.close()


@pytest.mark.slow
def test_writers_wait_as_long_as_others_finish(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A busy store is no stuck one: the wait is for the next commit of anybody, not for a total time."""
    hold, many, patience = 0.15, 16, 2.0
    assert (many - 1) * hold > patience, "the last of all waits for longer than a stuck store is waited for"
    monkeypatch.setattr(database, "PATIENCE", patience)
    stores = [Store.open(str(tmp_path / "store.sqlite")) for _ in range(many)]
    failed: list[Exception] = []

    def write(store: Store) -> None:
        try:
            with store.writing() as connection:
                name = f"p{time.monotonic_ns()}"
                connection.execute(sa.insert(tables.profiles).values(name=name, created=datetime(2026, 1, 1)))
                time.sleep(hold)
        except Exception as error:  # noqa: BLE001 - the test tells
            failed.append(error)

    threads = [threading.Thread(target=write, args=(store,)) for store in stores]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert not failed and len(stores[0].profiles()) == many
    for store in stores:
        store.close()


def test_a_migration_that_fails_changes_nothing(
    monkeypatch: pytest.MonkeyPatch, url: str, next_version: Path
) -> None:
    old = Store.open(url)
    old.add_vote("ann", make_vote("kept"))
    (next_version / "versions" / "v0004_note.py").write_text(
        NEXT.replace("FAIL", 'op.execute("INSERT INTO nowhere VALUES (1)")')
    )
    monkeypatch.setattr(database, "MIGRATIONS", next_version)
    with pytest.raises(StoreError, match="nowhere"):
        Store.open(url)
    monkeypatch.undo()
    again = Store.open(url)
    assert [vote.first.text for vote in again.votes()] == ["kept"]
    with again._engine.connect() as connection:
        columns = {column["name"] for column in sa.inspect(connection).get_columns("paretune_votes")}
    assert "note" not in columns
    old.close(), again.close()


# Bad input


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("", "expected a name of letters"),
        (" ann", "expected a name of letters"),
        ("ann ", "expected a name of letters"),
        ("a/b", "expected a name of letters"),
        ("name@preset", "expected a name of letters"),
        ("a=1,b", "expected a name of letters"),
        ("a\x00b", "expected a name of letters"),
        ("a\nb", "expected a name of letters"),
        (".hidden", "expected a name of letters"),
        (3, "expected a name of letters"),
        ("x" * 65, "a name of 65 characters; expected at most 64"),
        ("\udc80", "expected a name of letters"),
    ],
)
def test_bad_names(store: Store, name: str, message: str) -> None:
    for call in (
        lambda: store.profile(name),
        lambda: store.votes(name),
        lambda: store.presets(name),
        lambda: store.add_vote(name, make_vote("x")),
        lambda: store.save_preset("ann", name, "p", HALF),
        lambda: store.delete_preset("ann", name),
    ):
        with pytest.raises(StoreError, match=message):
            call()
    assert store.profiles() == [] and store.presets() == []


def test_longest_names_fit(store: Store) -> None:
    name = "\u00e4" * 64
    assert store.save_preset(name, name, "p" * 200, HALF) == store.presets(name)[0]


BAD_VOTES = [
    ({"winner": "left"}, StoreError, "unknown winner 'left'; expected one of: first, second, tie"),
    ({"policy": ""}, StoreError, "policy '': expected a printable name"),
    ({"policy": "a\x00"}, StoreError, "expected a printable name"),
    ({"policy": "p" * 201}, StoreError, "at most 200 characters"),
    ({"objective": "a=b"}, PreferenceError, "'a=b' cannot be a name"),
    ({"prompt": ()}, DataError, "vote: column 'prompt': empty prompt"),
    (
        {"prompt": (Message("user", "Hi"), Message("assistant", "Ho"))},
        DataError,
        "the last message is the assistant's",
    ),
    ({"prompt": (Message("user", "\ud800"),)}, DataError, "half of a surrogate pair"),
    ({"first": VotedAnswer("\ud800", HALF)}, DataError, "half of a surrogate pair"),
    ({"first": VotedAnswer("a", Preference.of({"other": 1}))}, StoreError, "expected one set of objectives"),
]


@pytest.mark.parametrize(("change", "error", "message"), BAD_VOTES)
def test_bad_votes(change: dict, error: type[ParetuneError], message: str) -> None:
    with pytest.raises(error, match=message):
        Vote(
            **{
                "policy": "p",
                "prompt": PROMPT,
                "first": VotedAnswer("a", HALF),
                "second": VotedAnswer("b", HALF),
                "winner": "tie",
                **change,
            }
        )


@pytest.mark.parametrize("score", [float("nan"), float("inf"), "1", None, True])
def test_bad_scores(score: object) -> None:
    with pytest.raises(StoreError, match=r"score .* of objective 'warm' is not a finite number"):
        VotedAnswer("a", HALF, {"warm": score})
    with pytest.raises(StoreError, match="is not text"):
        VotedAnswer(None, HALF)


def test_bad_audit(store: Store) -> None:
    with pytest.raises(StoreError, match="limit of at least 1"):
        store.audit(0)
    with pytest.raises(StoreError, match="policy"):
        store.record_use(AuditRecord("", HALF))


BAD_URLS = [
    ("", "no store named"),
    ("  ", "no store named"),
    (":memory:", "a database in memory loses everything at exit; name a file"),
    ("sqlite://", "a database in memory loses everything at exit; name a file"),
    ("http://localhost/x", "no driver for 'http'"),
    ("://", "cannot read the URL"),
    ("postgresql://user:secret@host:port/name", "cannot read the URL"),
    ("postgresql://user:secret@127.0.0.1:1/name", "Connection refused; check that the server runs"),
]


@pytest.mark.parametrize(("url", "message"), BAD_URLS)
def test_bad_urls(url: str, message: str) -> None:
    with pytest.raises(StoreError, match=message) as caught:
        Store.open(url)
    assert "secret" not in str(caught.value)


def test_no_store_there(tmp_path: Path, url: str) -> None:
    with pytest.raises(StoreError, match=r"no such store|no store in this database"):
        Store.open(url, create=False)
    assert not list(tmp_path.iterdir())
    with pytest.raises(StoreError, match="this is a folder"):
        Store.open(str(tmp_path))
    (tmp_path / "file").write_text("x")
    with pytest.raises(StoreError, match="cannot create its folder"):
        Store.open(str(tmp_path / "file" / "below" / "store.sqlite"))
    opened = Store.open(str(tmp_path / "a" / "b" / "store.sqlite"))
    opened.close()


def test_what_is_no_store_is_left_alone(tmp_path: Path) -> None:
    text, other = tmp_path / "notes.txt", tmp_path / "other.sqlite"
    text.write_text("These are my notes, and they are longer than the header of a database.\n" * 20)
    with sqlite3.connect(other) as connection:
        connection.execute("CREATE TABLE bookmarks (x)")
    for file, message in ((text, "not a database"), (other, "another program .*'bookmarks'")):
        before = file.read_bytes()
        with pytest.raises(StoreError, match=message):
            Store.open(str(file))
        assert file.read_bytes() == before
    assert sorted(path.name for path in tmp_path.iterdir()) == ["notes.txt", "other.sqlite"]


def test_a_damaged_file(tmp_path: Path) -> None:
    file = tmp_path / "store.sqlite"
    store = Store.open(str(file))
    for number in range(200):
        store.add_vote("ann", make_vote(str(number) * 50))
    store.close()
    raw = bytearray(file.read_bytes())
    for start in range(4096, len(raw), 4096):
        raw[start : start + 100] = b"\xff" * 100
    file.write_bytes(raw)
    with pytest.raises(StoreError, match=r"malformed.*restore a copy"):
        Store.open(str(file)).votes()


def test_a_record_that_was_edited(store: Store) -> None:
    store.add_vote("ann", make_vote("x"))
    with store.writing() as connection:
        connection.execute(sa.text("UPDATE paretune_votes SET first = '{}'"))
    with pytest.raises(StoreError, match="a record that paretune did not write"):
        store.votes()


def test_tables_that_are_gone(store: Store) -> None:
    with store.writing() as connection:
        connection.execute(sa.text("DROP TABLE paretune_votes"))
    with pytest.raises(StoreError, match="not as paretune made them"):
        store.votes()


def test_a_full_disk(tmp_path: Path) -> None:
    store = Store.open(str(tmp_path / "store.sqlite"))
    limit = [0]

    @sa.event.listens_for(store._engine, "checkout")
    def fill(connection: sqlite3.Connection, *_: object) -> None:
        connection.execute(f"PRAGMA max_page_count = {limit[0] or 10**9}")

    told = [store.add_vote("ann", make_vote("x" * 1000))]
    limit[0] = 1  # SQLite takes the pages there are: the disk has no more
    with pytest.raises(StoreError, match="full; nothing of this was written; free some space"):
        for _ in range(100):
            told.append(store.add_vote("ann", make_vote("x" * 1000)))
    assert [vote.id for vote in store.votes()] == told
    limit[0] = 0
    assert store.add_vote("ann", make_vote("x")) > told[-1], "with space again, it goes on"
    store.close()


@contextmanager
def powerless() -> Iterator[None]:
    """Root may write everywhere: be nobody for a while."""
    if os.geteuid() != 0:
        yield
        return
    os.seteuid(65534)
    try:
        yield
    finally:
        os.seteuid(0)


def test_a_place_that_cannot_be_written() -> None:
    folder = Path(tempfile.mkdtemp(prefix="paretune-store-"))
    try:
        store = Store.open(str(folder / "store.sqlite"))
        store.add_vote("ann", make_vote("x"))
        store.close()
        (folder / "store.sqlite").chmod(0o444)
        folder.chmod(0o555)
        with powerless():
            with pytest.raises(StoreError, match=r"(readonly|unable to open).*; (make|check)"):
                Store.open(str(folder / "store.sqlite")).add_vote("ann", make_vote("y"))
            with pytest.raises(StoreError, match=r"unable to open.*check that the folder exists"):
                Store.open(str(folder / "new.sqlite"))
    finally:
        folder.chmod(0o755)
        shutil.rmtree(folder)


def test_postgresql_says_what_is_wrong(server: postgres.Server) -> None:
    for url, message in (
        (server.url("postgres", password="wrong"), "check user and password"),
        (server.url("nowhere"), "does not exist; create it first"),
        (server.url("postgres").replace("paretune:", "nobody:"), "check user and password"),
    ):
        with pytest.raises(StoreError, match=message) as caught:
            Store.open(url)
        assert "wrong" not in str(caught.value) and postgres.PASSWORD not in str(caught.value)


def test_postgresql_without_rights_or_read_only(server: postgres.Server) -> None:
    url = server.new_database()
    with server.connect() as connection:
        connection.execute("CREATE ROLE guest LOGIN PASSWORD 'guest'")
    with pytest.raises(StoreError, match=r"permission denied.*grant this user the right"):
        Store.open(url.replace("paretune:only%20for%20tests", "guest:guest"))
    Store.open(url).close()
    with server.connect() as connection:
        connection.execute(f"ALTER DATABASE {url.rpartition('/')[2]} SET default_transaction_read_only = on")
    store = Store.open(url)
    with pytest.raises(StoreError, match="read-only transaction; make"):
        store.add_vote("ann", make_vote("x"))
    assert store.votes() == []
    store.close()


def test_postgresql_in_another_encoding_keeps_every_character(server: postgres.Server) -> None:
    store = Store.open(server.new_database(TEMPLATE="template0", ENCODING="'LATIN1'"))
    text = "\u65e5\u672c\u8a9e \U0001f600 \x00"
    store.add_vote("ann", make_vote(text))
    assert store.votes()[0].first.text == text
    with pytest.raises(StoreError, match=r"no equivalent in encoding.*createdb --encoding=UTF8"):
        store.profile("\u65e5\u672c")
    assert store.profile("Zo\u00eb").name == "Zo\u00eb"
    store.close()


def test_postgresql_shares_a_database_with_other_tables(server: postgres.Server) -> None:
    import psycopg

    url = server.new_database()
    with psycopg.connect(url) as connection:
        connection.execute("CREATE TABLE votes (x int)")
    Store.open(url).close()


def test_close_leaves_one_file_and_no_threads(tmp_path: Path) -> None:
    before = threading.active_count()
    store = Store.open(str(tmp_path / "store.sqlite"))
    store.add_vote("ann", make_vote("x"))
    store.close()
    assert [path.name for path in tmp_path.iterdir()] == [
        "store.sqlite"
    ] and threading.active_count() == before
