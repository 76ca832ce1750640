"""``paretune pal``: from votes with user ids to named objectives and presets; what is refused."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from paretune.core.preference import Preference
from paretune.data.person_votes import PersonVote, read_person_votes
from paretune.scoring import encoder as encode
from paretune.serving.store.entries import Vote, VotedAnswer
from paretune.serving.store.store import Store
from support.command import call
from support.tastes import fake_encoder, spoken

HALF = Preference.uniform(("polite", "hasty"))


@pytest.fixture(autouse=True)
def encoder(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    folder = fake_encoder(monkeypatch, tmp_path)
    monkeypatch.setattr(encode, "locate", lambda name: folder)


def written(file: Path, votes: list[PersonVote]) -> Path:
    records = [
        {
            "user": vote.user,
            "prompt": vote.prompt[0].content,
            "first": vote.first,
            "second": vote.second,
            "winner": vote.winner,
        }
        for vote in votes
    ]
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    return file


def stored(file: Path, votes: list[PersonVote], policy: str = "soup") -> Path:
    store = Store.open(str(file))
    for vote in votes:
        answers = (VotedAnswer(text, HALF) for text in (vote.first, vote.second))
        store.add_vote(vote.user, Vote(policy, vote.prompt, *answers, vote.winner))
    store.close()
    return file


@pytest.mark.slow
def test_from_votes_to_names_and_a_new_person(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = written(tmp_path / "votes.jsonl", spoken())
    assert [vote.winner for vote in read_person_votes(file)] == [vote.winner for vote in spoken()]
    code, out, err = call(
        monkeypatch, capsys, "pal", "fit", file, tmp_path / "pal", "--dimension", 2, "--json"
    )
    facts = json.loads(out)
    assert code == 0 and facts["report"]["accuracy"] > 0.75, err
    assert all(len(examples) == 3 for examples in facts["prototypes"].values())
    code, out, _ = call(monkeypatch, capsys, "pal", "show", tmp_path / "pal", file, "--count", 1)
    assert code == 0 and "held-out votes" in out and "paretune pal name" in out
    code, out, _ = call(monkeypatch, capsys, "pal", "name", tmp_path / "pal", "polite, hasty")
    assert code == 0 and "polite, hasty" in out
    new = written(tmp_path / "new.jsonl", spoken(3, seed=4, people=("zoe", "yan")))
    code, out, _ = call(monkeypatch, capsys, "pal", "users", tmp_path / "pal", new, "--user", "zoe", "--json")
    (zoe,) = json.loads(out)["people"].values()
    assert zoe["votes"] == 3 and set(zoe["preference"]) == {"polite", "hasty"}
    assert sum(zoe["preference"].values()) == pytest.approx(1.0)
    code, out, err = call(monkeypatch, capsys, "pal", "users", tmp_path / "pal", new, "--user", "xi")
    assert code == 2 and "no vote of this person; there are votes of yan, zoe" in err


@pytest.mark.slow
def test_profiles_of_a_server_get_their_presets(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    extra = [*spoken(3, people=("default",)), PersonVote("ann", spoken(1)[0].prompt, "same", "same", "tie")]
    store = stored(tmp_path / "store.sqlite", [*spoken(), *extra])
    code, _, err = call(monkeypatch, capsys, "pal", "fit", store, tmp_path / "pal", "--dimension", 2)
    said = " ".join(err.split())
    assert code == 0 and "150 votes of 6 people; left out 3: cast under the profile 'default'" in said
    assert "1: two equal answers" in said
    policy = tmp_path / "policies" / "soup"
    policy.mkdir(parents=True)
    facts = {"name": "soup", "model": "m", "base": "b", "objectives": ["polite", "hasty"], "mix": "soup"}
    (policy / "policy.json").write_text(json.dumps(facts))
    given = ("pal", "users", tmp_path / "pal", store, "--policy", policy)
    code, _, err = call(monkeypatch, capsys, *given)
    assert code == 2 and "a policy for polite, hasty, and prototypes named prototype-1, prototype-2" in err
    assert call(monkeypatch, capsys, "pal", "name", tmp_path / "pal", "polite,hasty")[0] == 0
    code, out, err = call(monkeypatch, capsys, *given, "--json")
    facts = json.loads(out)
    assert code == 0 and (facts["saved"], facts["preset"], facts["policy"]) == (6, "pal", "soup"), err
    opened = Store.open(str(store))
    (preset,) = opened.presets("ann")
    opened.close()
    assert preset.policy == "soup" and preset.preference.as_dict() == facts["people"]["ann"]["preference"]
    file = written(tmp_path / "votes.jsonl", spoken())
    code, _, err = call(monkeypatch, capsys, "pal", "users", tmp_path / "pal", file, "--policy", policy)
    assert code == 2 and "presets are kept in a store" in err


@pytest.mark.parametrize(
    ("record", "said"),
    [
        (
            {"prompt": "Hi", "chosen": "a", "rejected": "b"},
            "a vote without a user id; whose taste a vote shows must be known",
        ),
        ({"user": " ", "prompt": "Hi", "chosen": "a", "rejected": "b"}, "a vote without a user id"),
        ({"user": True, "prompt": "Hi", "chosen": "a", "rejected": "b"}, "a vote without a user id"),
        ({"user": "ann", "prompt": "Hi", "chosen": "a"}, "column 'rejected' is missing"),
        ({"user": "ann", "prompt": "Hi", "first": "a", "second": "b", "winner": "both"}, "winner 'both'"),
        ({"user": "ann", "prompt": "Hi", "chosen": "a", "rejected": " "}, "the second response is empty"),
        ({"user": "ann", "chosen": "a", "rejected": "b"}, "column 'prompt' is missing"),
    ],
)
def test_records_that_are_no_votes_are_named(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    record: dict[str, object],
    said: str,
) -> None:
    file = tmp_path / "votes.jsonl"
    good = {"user": 7, "prompt": "Hi", "chosen": "a", "rejected": "b"}
    file.write_text(json.dumps(good) + "\n" + json.dumps(record) + "\n")
    code, _, err = call(monkeypatch, capsys, "pal", "fit", file, tmp_path / "pal")
    one_line = " ".join(err.split())
    assert code == 2 and "votes.jsonl:2" in one_line and said in one_line and "Traceback" not in err


def test_a_store_without_user_ids_is_refused(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    store = stored(tmp_path / "store.sqlite", spoken(2, people=("default",)))
    code, _, err = call(monkeypatch, capsys, "pal", "fit", store, tmp_path / "pal")
    assert code == 2 and "no votes with a user id (2 cast under the profile 'default'" in " ".join(
        err.split()
    )


def test_paretune_methods_lists_the_part(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    code, out, _ = call(monkeypatch, capsys, "methods", "--json")
    cards = json.loads(out)
    assert code == 0 and cards["pal"]["family"] == "parts" and cards["vas"]["family"] == "sampled"
    code, out, _ = call(monkeypatch, capsys, "methods")
    assert code == 0 and "Parts" in out and "arXiv 2406.08469" in out
