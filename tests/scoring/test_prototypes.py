"""Prototypes over texts with a fake encoder: a fit on disk, naming by examples, the scorer, a new person, and bad input."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from paretune.core.errors import DataError, ModelError, PreferenceError
from paretune.data.person_votes import by_user
from paretune.data.rows import Message
from paretune.scoring.ideal_points import PALForm
from paretune.scoring.prototype_fit import fit_prototypes
from paretune.scoring.prototypes import Prototypes, extremes, taste
from paretune.scoring.scorer import build_scorer
from support.tastes import fake_encoder, spoken

FORM = PALForm(dimension=2)


@pytest.fixture(scope="module")
def fitted(tmp_path_factory: pytest.TempPathFactory) -> Prototypes:
    with pytest.MonkeyPatch.context() as patch:
        folder = fake_encoder(patch, tmp_path_factory.mktemp("world"))
        return fit_prototypes(spoken(), folder.parent / "prototypes", FORM, str(folder))


@pytest.fixture(autouse=True)
def world(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    return fake_encoder(monkeypatch, tmp_path)


def polite(fitted: Prototypes) -> int:
    """Return the number of the prototype that wants "please", by its examples."""
    shown = extremes(fitted, spoken())
    leads = [
        sum(e.preferred.count("please") - e.other.count("please") for e in shown[name])
        for name in fitted.names
    ]
    return int(np.argmax(leads))


@pytest.mark.slow
def test_a_fit_says_what_it_predicts(fitted: Prototypes) -> None:
    report = fitted.report
    assert (report.votes, report.users, report.unseen_users) == (150, 6, 1)
    assert report.ties == sum(vote.winner == "tie" for vote in spoken())
    assert report.accuracy > 0.75 and report.accuracy > report.one_taste
    assert f"{report.accuracy:.1%} of {report.test_votes} held-out votes" in str(report)
    assert "of 1 new people:" in str(report) and "after 10" in str(report)


def test_people_are_told_apart(fitted: Prototypes) -> None:
    own = polite(fitted)
    assert set(fitted.users) == {"ann", "bob", "cat", "dan", "eve", "fay"}
    for number, (person, weights) in enumerate(sorted(fitted.users.items())):
        assert sum(weights) == pytest.approx(1.0)
        assert (weights[own] > 0.5) == (number % 2 == 0), person


def test_a_prototype_can_be_named_from_its_examples(fitted: Prototypes, tmp_path: Path) -> None:
    shown = extremes(fitted, spoken(), count=4)
    assert all(len(examples) == 4 for examples in shown.values())
    leads = [example.lead for example in shown[fitted.names[0]]]
    assert leads == sorted(leads, reverse=True) and leads[-1] > 0
    names = ["hasty", "hasty"]
    names[polite(fitted)] = "polite"
    named = fitted.named(names)
    named.save(tmp_path / "p")
    loaded = Prototypes.load(tmp_path / "p")
    assert loaded.names == tuple(names) and loaded.fingerprint == fitted.fingerprint
    assert (loaded.users, loaded.report, loaded.form) == (fitted.users, fitted.report, FORM)
    with pytest.raises(DataError, match="1 names for 2 prototypes"):
        fitted.named(["warm"])
    with pytest.raises(PreferenceError):
        fitted.named(["warm", "warm"])


def test_a_prototype_is_an_objective(fitted: Prototypes, tmp_path: Path) -> None:
    own = polite(fitted)
    names = ["hasty", "hasty"]
    names[own] = "polite"
    fitted.named(names).save(tmp_path / "p")
    prompts, responses = (
        [(Message("user", "Salt?"),)] * 2,
        ["pass it please please please", "pass it now now now"],
    )
    polite_scorer = build_scorer({"objective": "polite", "prototype": str(tmp_path / "p")})
    hasty_scorer = build_scorer({"objective": "quick", "prototype": str(tmp_path / "p"), "name": "hasty"})
    first, second = (scorer(prompts, responses, [False] * 2) for scorer in (polite_scorer, hasty_scorer))
    assert first[0] > first[1] and second[1] > second[0]
    assert not polite_scorer.across_prompts and polite_scorer.fingerprint != hasty_scorer.fingerprint
    with pytest.raises(ModelError, match="no prototype is named 'warm'; there are"):
        build_scorer({"objective": "warm", "prototype": str(tmp_path / "p")})


def test_a_new_person_is_found_from_votes_alone(fitted: Prototypes) -> None:
    own = fitted.names[polite(fitted)]
    weights = {}
    for count in (1, 5, 40):
        new = spoken(40, seed=7, people=("zoe",))[:count]
        weights[count] = taste(fitted, new).as_dict()[own]
    assert weights[40] > 0.6 and weights[40] > weights[1] - 0.1
    none = [replace(vote, winner="tie") for vote in spoken(1, people=("zoe",))]
    assert sum(taste(fitted, none).weights) == pytest.approx(1.0)


def test_model_b_reads_prompt_and_response_apart(tmp_path: Path, world: Path) -> None:
    made = fit_prototypes(spoken(), tmp_path / "b", replace(FORM, model="B"), str(world))
    assert made.report.accuracy > 0.7
    loaded = Prototypes.load(tmp_path / "b")
    prompts, responses = [(Message("user", "ask 3"),)] * 2, ["pass it please", "pass it now"]
    rows = loaded.features(loaded.load_encoder(), prompts, responses)
    assert rows.shape == (2, 8), "four numbers of the response alone, and four of the prompt"
    scorer = build_scorer({"objective": loaded.names[0], "prototype": str(tmp_path / "b")})
    assert scorer(prompts, responses, [False] * 2) == pytest.approx(loaded.scores(rows)[:, 0])


# Bad input


def test_votes_of_one_person_are_refused(tmp_path: Path, world: Path) -> None:
    with pytest.raises(DataError, match="votes of 1 person: prototypes tell people apart"):
        fit_prototypes(spoken(people=("ann",)), tmp_path / "p", FORM, str(world))


def test_a_folder_of_somebody_else_is_left_alone(tmp_path: Path, world: Path) -> None:
    (tmp_path / "p").mkdir()
    (tmp_path / "p" / "thesis.txt").write_text("mine")
    with pytest.raises(ModelError, match=r"thesis\.txt"):
        fit_prototypes(spoken(), tmp_path / "p", FORM, str(world))


def test_another_encoder_is_refused(fitted: Prototypes, tmp_path: Path, world: Path) -> None:
    (world / "model.safetensors").write_bytes(b"others")
    moved = replace(fitted, encoder=str(world))
    with pytest.raises(ModelError, match="but the prototypes were fitted on"):
        moved.load_encoder()
    with pytest.raises(ModelError, match="prototypes for 8 features, but the encoder gives 6"):
        fitted.scores(np.zeros((1, 6)))


def test_damaged_files_are_refused(fitted: Prototypes, tmp_path: Path) -> None:
    with pytest.raises(ModelError, match="paretune pal fit VOTES FOLDER"):
        Prototypes.load(tmp_path / "p")
    fitted.save(tmp_path / "p")
    file = tmp_path / "p" / "prototypes.json"
    whole = json.loads(file.read_text())
    for key, value, match in (
        ("format", 9, "another version"),
        ("form", {"model": "A", "size": 3}, "damaged prototypes"),
        ("names", ["one"], "not those that were saved"),
        ("fingerprint", "x", "not those that were saved"),
    ):
        file.write_text(json.dumps({**whole, key: value}))
        with pytest.raises(ModelError, match=match):
            Prototypes.load(tmp_path / "p")


def test_the_fit_is_the_same_again(fitted: Prototypes, tmp_path: Path, world: Path) -> None:
    again = fit_prototypes(spoken(), tmp_path / "p", FORM, str(world))
    assert again.fingerprint == fitted.fingerprint and again.users == fitted.users
    assert list(by_user(spoken())) == list(again.users)
