"""Scores less the mean of their prompt: worked numbers, what is left out, and what a scorer says of itself."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import pytest

from paretune.core.errors import ConfigError, DataError, ScoreError
from paretune.data.dataset import ScoredDataset
from paretune.data.rows import Message, Row
from paretune.scoring import neural
from paretune.scoring.function_scorer import FunctionScorer, from_function
from paretune.scoring.prompt_means import PromptMeans, within_prompts
from paretune.scoring.scorer import KINDS, build_scorer
from paretune.scoring.standardise import Standardisation

NAN = float("nan")


def row(prompt: str, responses: str, implied: Sequence[float], length: Sequence[float]) -> Row:
    scores = {"implied": tuple(implied), "length": tuple(length)}
    return Row((Message("user", prompt),), tuple(responses.split()), scores)


def scorer(objective: str, across_prompts: bool) -> FunctionScorer:
    return from_function(objective, objective, lambda p, r, t: np.zeros(len(r)), across_prompts)


DATA = ScoredDataset(
    ("length", "implied"),
    (
        row("one", "a b c", (101.0, 103.0, NAN), (1.0, 2.0, 3.0)),
        row("two", "a", (7.0,), (4.0,)),
        row("ONE ", "d a", (105.0, 101.0), (5.0, 1.0)),
        row("three", "a b", (-50.0, -52.0), (6.0, 7.0)),
        row("four", "a b", (9.0, NAN), (8.0, 9.0)),
    ),
)
SCORERS = [scorer("length", True), scorer("implied", False)]


def test_worked_means_over_the_distinct_responses_of_a_prompt() -> None:
    """101, 103 and 105 have the mean 103 (a stands in two rows and counts once); prompts two and four have one score."""
    means = PromptMeans.of(DATA, SCORERS)
    assert means.objectives == ("implied",)
    assert {key: value.tolist() for key, value in means.means.items()} == {
        DATA.rows[0].key: [103.0],
        DATA.rows[3].key: [-51.0],
    }
    centred = means.centred(DATA)
    assert [r.prompt[0].content for r in centred.rows] == ["one", "ONE ", "three"]
    np.testing.assert_array_equal(centred.rows[0].scores["implied"], [-2.0, 0.0, NAN])
    assert [r.scores["implied"] for r in centred.rows[1:]] == [(2.0, -2.0), (1.0, -1.0)]
    assert [r.scores["length"] for r in centred.rows] == [(1, 2, 3), (5, 1), (6, 7)], "these can be compared"
    assert str(means) == (
        "scores of implied cannot be compared across prompts and are taken less the mean of the prompt's responses; 2 of 4 prompts "
        "have fewer than two scored responses and were left out"
    )


def test_an_offset_of_each_prompt_changes_nothing() -> None:
    offsets = {"one": 16.0, "two": -32.0, "three": 64.0, "four": 8.0}

    def shifted(given: Row) -> list[float]:
        return [score + offsets[given.prompt[0].content.strip().lower()] for score in given.scores["implied"]]

    moved = DATA.with_scores("implied", [shifted(given) for given in DATA.rows])
    assert moved.fingerprint != DATA.fingerprint
    assert (
        PromptMeans.of(moved, SCORERS).centred(moved).fingerprint
        == PromptMeans.of(DATA, SCORERS).centred(DATA).fingerprint
    )


def test_worked_deviation_within_prompts() -> None:
    """100 and 102, 50 and 54, and a lone 7: squares 2 and 8 over the two responses beyond the first of each prompt."""
    data = ScoredDataset(
        ("length", "implied"),
        (
            row("one", "a b", (100.0, 102.0), (1.0, 2.0)),
            row("two", "a b", (50.0, 54.0), (3.0, 4.0)),
            row("three", "a", (7.0,), (5.0,)),
        ),
    )
    pooled, found = Standardisation.of(data), Standardisation.of(data, within_prompts(SCORERS))
    assert found.std.tolist() == pytest.approx([np.std([1, 2, 3, 4, 5]), np.sqrt(5)])
    assert (
        pooled.std[1] == pytest.approx(np.std([100, 102, 50, 54, 7]))
        and found.mean.tolist() == pooled.mean.tolist()
    )
    moved = data.with_scores("implied", [(0.0, 2.0), (1050.0, 1054.0), (-7.0,)])
    assert Standardisation.of(moved, ("implied",)).std.tolist() == pytest.approx(found.std.tolist())
    alone = ScoredDataset(data.objectives, (data.rows[2], row("four", "a", (9.0,), (6.0,))))
    with pytest.raises(ScoreError, match="'implied': no two reference responses to a prompt differ in score"):
        Standardisation.of(alone, ("implied",))


def test_scores_that_can_be_compared_are_the_same_data() -> None:
    means = PromptMeans.of(DATA, SCORERS[:1])
    assert not means.objectives and means.centred(DATA) is DATA and means.covered(DATA) is DATA.rows
    means.check("anything")


def test_nothing_left_is_an_error() -> None:
    alone = ScoredDataset(DATA.objectives, (DATA.rows[1], DATA.rows[4]))
    with pytest.raises(
        DataError,
        match=r"here: scores of implied .* 2 of 2 prompts .*none is left. Give at least two different",
    ):
        PromptMeans.of(alone, SCORERS).check("here")


def test_each_kind_of_scorer_says_whether_its_scores_can_be_compared(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(neural.encode, "locate", lambda name: name)
    monkeypatch.setattr(neural.encode, "content_fingerprint", lambda folder: "content")
    monkeypatch.setattr(neural.encode, "heads_of", lambda *given: 1)
    model = build_scorer({"objective": "x", "model": "some"})
    within = build_scorer({"objective": "x", "model": "some", "across_prompts": False})
    assert (model.across_prompts, within.across_prompts) == (True, False)
    assert model.fingerprint == within.fingerprint, "cached scores stay valid"
    assert build_scorer({"objective": "x", "rule": "length", "unit": "words"}).across_prompts
    with pytest.raises(ConfigError, match="across_prompts: 'no': expected true or false"):
        build_scorer({"objective": "x", "model": "some", "across_prompts": "no"})
    assert {"head", "implicit"} <= set(KINDS)
