"""``paretune auto``: from votes or labels to a head, what is shown of it, and what is refused."""

from __future__ import annotations

import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from paretune.choosing import auto
from paretune.fronts.surface import Surface
from paretune.policies import catalogue
from paretune.scoring.auto_head import AutoHead
from support.auto_world import asks, by_topic, label, vote_on, wanted
from support.command import call
from support.serve_world import OBJECTIVES, make_surface


@pytest.fixture(autouse=True)
def world(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """A run with one policy and a front, and a small search."""
    monkeypatch.setattr(auto, "SPREADS", (0.0, 4.0))
    monkeypatch.setattr(auto, "FOLDS", 3)
    by_topic(monkeypatch, tmp_path)
    folder = tmp_path / "run" / "policies" / "soup"
    folder.mkdir(parents=True)
    facts = {"name": "soup", "model": "m", "base": "b", "objectives": list(OBJECTIVES), "mix": "soup"}
    (folder / "policy.json").write_text(json.dumps(facts))
    monkeypatch.setattr(catalogue, "_record", lambda run: None)
    return tmp_path / "run"


@pytest.fixture
def front(monkeypatch: pytest.MonkeyPatch) -> list[Surface]:
    """The run's policies are measured: the front, as a list of one."""
    plain, held = catalogue._policy, [make_surface()]

    def measured(*given: object, **settings: object) -> catalogue.Source:
        return replace(plain(*given, **settings), surface=held[0])  # type: ignore[arg-type]

    monkeypatch.setattr(catalogue, "_policy", measured)
    return held


def test_from_votes_to_weights_by_topic(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    world: Path,
    front: list[Surface],
) -> None:
    votes = vote_on(tmp_path / "store.sqlite", asks(60), make_surface())
    out = tmp_path / "auto"
    code, text, err = call(monkeypatch, capsys, "auto", "fit", world, out, "--votes", votes, "--json")
    assert code == 0, err
    report = json.loads(text)["report"]
    assert (report["kind"], report["rows"], report["prompts"], report["own_scores"]) == (
        "votes",
        180,
        60,
        180,
    )
    assert report["better"] and report["hits"] > report["constant_hits"]
    card = (out / "README.md").read_text()
    assert "better than the constant preference" in card and "180 votes on 60 different prompts" in card
    ask = asks(2)
    code, text, err = call(
        monkeypatch, capsys, "auto", "show", out, "--prompt", ask[0], "--prompt", ask[1], "--json"
    )
    chosen = [entry["preference"]["short"] for entry in json.loads(text)["chosen"]]
    assert code == 0 and chosen[0] > 0.6 > 0.4 > chosen[1]
    code, text, err = call(monkeypatch, capsys, "auto", "show", out)
    assert code == 0 and "any (constant)" in text and "paretune serve RUN --auto" in " ".join(text.split())


def test_labels_teach_without_a_front(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, world: Path
) -> None:
    labels, out = label(tmp_path / "labels.jsonl", asks(40)), tmp_path / "auto"
    code, text, err = call(monkeypatch, capsys, "auto", "fit", world, out, "--labels", labels, "--json")
    assert code == 0 and json.loads(text)["report"]["better"], err
    held = AutoHead.load(out)
    found = held.preferences(None, asks(4))  # type: ignore[arg-type] - the encoder of this world is none
    for text, preference in zip(asks(4), found, strict=True):
        np.testing.assert_allclose(preference.array(), wanted(text).array(), atol=0.15)


def test_a_head_that_is_not_better_is_refused_and_kept_by_force(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, world: Path
) -> None:
    labels = tmp_path / "labels.jsonl"
    random = np.random.default_rng(0)
    rows = [
        {"prompt": text, "preference": {"short": s, "good": 1 - s}}
        for text, s in zip(asks(40), random.random(40), strict=True)
    ]
    labels.write_text("".join(json.dumps(row) + "\n" for row in rows))
    given = ("auto", "fit", world, tmp_path / "auto", "--labels", labels)
    code, _, err = call(monkeypatch, capsys, *given)
    said = " ".join(err.split())
    assert code == 2 and "not shown to be better than the constant preference" in said
    assert "Nothing is written: serve the constant preference short=0." in said and "--force" in said
    assert not (tmp_path / "auto").exists()
    code, _, err = call(monkeypatch, capsys, *given, "--force")
    assert code == 0 and not AutoHead.load(tmp_path / "auto").report.better, err


@pytest.mark.parametrize(
    ("record", "said"),
    [
        ({"prompt": "Hi", "preference": {"kind": 1.0}}, "labels.jsonl:2: unknown objective 'kind'"),
        (
            {"prompt": "Hi", "preference": {"short": 0.5}},
            "labels.jsonl:2: preference short=0.5,good=0.0: the weights sum",
        ),
        ({"prompt": "Hi", "preference": 3}, "labels.jsonl:2: preference 3: expected weights by objective"),
        ({"prompt": "Hi"}, "column 'preference' is missing"),
        ({"prompt": "Hi", "preference": "good=1"}, "2 rows on 2 prompts are too few"),
    ],
)
def test_labels_that_cannot_be_used_are_named(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    world: Path,
    record: dict[str, object],
    said: str,
) -> None:
    labels = tmp_path / "labels.jsonl"
    good = {"prompt": [{"role": "user", "content": "Ho"}], "preference": {"short": 1}}
    labels.write_text(json.dumps(good) + "\n" + json.dumps(record) + "\n")
    code, _, err = call(monkeypatch, capsys, "auto", "fit", world, tmp_path / "auto", "--labels", labels)
    assert code == 2 and said in " ".join(err.split()) and "Traceback" not in err


def test_votes_that_cannot_be_used_are_counted(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    world: Path,
    front: list[Surface],
) -> None:
    store = vote_on(tmp_path / "store.sqlite", asks(3), make_surface(), own=False, each=1)
    given = ("auto", "fit", world, tmp_path / "auto", "--votes", store)
    code, _, err = call(monkeypatch, capsys, *given)
    assert code == 2 and "3 rows on 3 prompts are too few" in err  # with the front's scores they count
    code, _, err = call(monkeypatch, capsys, *given, "--profile", "bob")
    assert code == 2 and "the profile 'bob' has none; there are ann" in " ".join(err.split())
    shutil.copytree(world / "policies" / "soup", world / "policies" / "other")
    code, _, err = call(monkeypatch, capsys, *given)
    assert code == 2 and "holds the policies other, soup; choose one with --policy" in " ".join(err.split())


def test_votes_without_any_scores_are_refused(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    world: Path,
    front: list[Surface],
) -> None:
    surface = front[0]
    store = vote_on(tmp_path / "store.sqlite", asks(2), surface, own=False, each=1)
    front[0] = Surface("soup", OBJECTIVES, surface.preferences[1:2], *[surface.means[1:2]] * 3)
    code, _, err = call(monkeypatch, capsys, "auto", "fit", world, tmp_path / "auto", "--votes", store)
    said = " ".join(err.split())
    assert code == 2 and "no vote on soup to learn from (2 without the answers' own scores" in said


def test_what_lacks_is_said(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, world: Path
) -> None:
    out = tmp_path / "auto"
    for more, said in (
        ((), "give either --votes STORE"),
        (("--votes", "a", "--labels", "b"), "got both"),
        (("--labels", "b", "--profile", "ann"), "--profile names whose votes are learned"),
        (("--votes", tmp_path / "none.sqlite"), "no front of soup was measured"),
        (("--labels", tmp_path / "none.jsonl"), "none.jsonl"),
    ):
        code, _, err = call(monkeypatch, capsys, "auto", "fit", world, out, *more)
        assert code == 2 and said in " ".join(err.split()) and "Traceback" not in err, more
    labels = label(tmp_path / "labels.jsonl", asks(40))
    assert call(monkeypatch, capsys, "auto", "fit", world, out, "--labels", labels)[0] == 0
    (tmp_path / "encoder" / "model.safetensors").write_bytes(b"others")
    code, _, err = call(monkeypatch, capsys, "auto", "show", out, "--prompt", "Hi")
    assert code == 2 and "restore that encoder, or fit it again with: paretune auto fit" in " ".join(
        err.split()
    )
    raw = (out / "auto.safetensors").read_bytes()
    (out / "auto.safetensors").write_bytes(raw[:-1] + bytes([raw[-1] ^ 1]))
    code, _, err = call(monkeypatch, capsys, "auto", "show", out)
    assert code == 2 and "the numbers are not those that were saved" in " ".join(err.split())
