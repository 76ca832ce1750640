"""Scorers checked on data: worked numbers, all subsets as the oracle of best of n, laws, and what cannot be checked."""

from __future__ import annotations

from dataclasses import replace
from itertools import combinations

import numpy as np
import pytest

from paretune.core.errors import DataError
from paretune.data.dataset import ScoredDataset
from paretune.data.rows import Message, Row
from paretune.evaluation.scorer_check import (
    best_of_n,
    check_scorers,
    expected_best,
    pair_accuracy,
    scorers_agree,
)
from paretune.scoring.function_scorer import from_function

SHORT = from_function(
    "short", "words", lambda prompts, responses, cut: [-float(len(r.split())) for r in responses]
)
VOWELS = from_function(
    "vowels",
    "vowels",
    lambda prompts, responses, cut: [float(sum(c in "aeiou" for c in r)) for r in responses],
)


def data(*rows: Row) -> ScoredDataset:
    return ScoredDataset(
        tuple(dict.fromkeys(name for row in rows for name in (*row.scores, *row.labels))), rows
    )


def row(number: int, *responses: str, **labels: tuple) -> Row:
    return Row((Message("user", f"Question {number}"),), responses, {}, labels)


@pytest.mark.parametrize("n", range(1, 7))
def test_best_of_n_is_the_mean_over_all_subsets(n: int) -> None:
    random = np.random.default_rng(n)
    chooser, judge = random.normal(size=6), random.normal(size=6)
    subsets = [judge[max(subset, key=lambda k: chooser[k])] for subset in combinations(range(6), n)]
    assert expected_best(chooser, judge, n) == pytest.approx(np.mean(subsets), abs=1e-12)


def test_equal_scores_choose_at_random() -> None:
    judge = np.array([1.0, 2.0, 6.0])
    assert expected_best(np.zeros(3), judge, 2) == pytest.approx(judge.mean())
    one_below = expected_best(np.array([0.0, 1.0, 1.0]), judge, 2)
    assert one_below == pytest.approx((2 + 6) / 2), "the lowest is never the best of two"


def test_accuracy_by_hand() -> None:
    rows = data(
        row(0, "one two three", "one", short=((0, 1, -1.0),)),  # right, and the preferred is the shorter
        row(1, "one two", "one", short=((0, 1, 1.0),)),  # wrong: people like the longer one
        row(2, "one", "two", short=((0, 1, 0.5),)),  # equal scores, equal words: a half
        row(3, "one", "two three", short=((0, 1, 0.0),)),  # a tie says nothing
    )
    check = check_scorers(rows, [SHORT])
    [found] = check.accuracies
    assert (found.scorer, found.objective, found.pairs, found.prompts, found.unscored) == (
        "short",
        "short",
        3,
        3,
        0,
    )
    assert found.accuracy == pytest.approx(0.5) and found.longer == pytest.approx(0.5)
    assert found.where_longer == 0.0 and found.where_shorter == 1.0
    assert found.low < 0.5 < found.high
    assert not check.agreements, "one scorer agrees with nobody"


def test_the_order_of_responses_does_not_matter() -> None:
    rows = data(
        row(0, "a a a", "b", "c c", short=((0, 1, -1.0), (1, 2, 1.0))),
        row(1, "d", "e e", short=((0, 1, -1.0),)),
        row(2, "f a b", "i"),
    )
    turned = data(
        row(0, "c c", "b", "a a a", short=((2, 1, -1.0), (1, 0, 1.0))),
        row(1, "e e", "d", short=((1, 0, -1.0),)),
        row(2, "i", "f a b"),
    )
    assert check_scorers(rows, [SHORT, VOWELS]) == check_scorers(turned, [SHORT, VOWELS])


def test_agreement_by_hand_and_its_laws() -> None:
    a = [np.array([1.0, 2.0, 3.0]), np.array([0.0, 1.0])]
    b = [np.array([1.0, 3.0, 2.0]), np.array([5.0, 5.0])]
    found = scorers_agree(("a", a), ("b", b), ["p", "q"])
    assert found is not None
    assert (found.share, found.pairs, found.prompts, found.undecided) == (pytest.approx(2 / 3), 3, 1, 1)
    same = scorers_agree(("a", a), ("a", [7 * each + 1 for each in a]), ["p", "q"])
    other = scorers_agree(("a", a), ("a", [-each for each in a]), ["p", "q"])
    assert same is not None and same.share == 1.0 and other is not None and other.share == 0.0
    assert scorers_agree(("a", a), ("b", [np.zeros(3), np.full(2, np.nan)]), ["p", "q"]) is None


def test_a_scorer_that_is_noise_gains_nothing_by_another_and_all_by_itself() -> None:
    random = np.random.default_rng(0)
    true = [random.normal(size=8) for _ in range(200)]
    noise = [random.normal(size=8) for _ in range(200)]
    gains = {
        (g.chosen_by, g.judged_by, g.n): g.gain
        for g in best_of_n({"true": true, "noise": noise}, [f"p{n}" for n in range(200)])
    }
    assert {n for _, _, n in gains} == {2, 4, 8}
    for n, normal in ((2, 0.564), (4, 1.029), (8, 1.424)):  # means of the largest of n standard normal values
        assert gains["true", "true", n].value == pytest.approx(normal, abs=0.08)
        unseen = gains["noise", "true", n]
        assert unseen.low < 0 < unseen.high


def test_rows_of_one_prompt_are_one_prompt() -> None:
    scores = [np.array([0.0, 1.0]), np.array([3.0, 2.0]), np.array([0.0, 4.0])]
    [gain] = best_of_n({"a": scores}, ["p", "p", "q"])
    assert gain.prompts == 2
    found = scorers_agree(("a", scores), ("b", scores), ["p", "p", "q"])
    assert found is not None and found.prompts == 2


def test_responses_without_a_score_are_counted() -> None:
    rows = data(row(0, "a a", "b", short=((0, 1, -1.0),)), row(1, "c", "d d", short=((0, 1, 1.0),)))
    found = pair_accuracy(rows, "short", "short", [np.array([np.nan, 1.0]), np.array([2.0, 1.0])])
    assert found is not None and (found.pairs, found.unscored, found.accuracy) == (1, 1, 1.0)


def test_two_scorers_of_one_name_and_labels_of_another_objective() -> None:
    rows = data(row(0, "one two", "one", kind=((0, 1, 1.0),)), row(1, "a", "b c", kind=((0, 1, -1.0),)))
    check = check_scorers(rows, [SHORT, replace(VOWELS, objective="short")], "kind")
    assert [each.scorer for each in check.accuracies] == ["short (1)", "short (2)"]
    assert {each.objective for each in check.accuracies} == {"kind"}
    assert [(each.first, each.second) for each in check.agreements] == [("short (1)", "short (2)")]


def test_what_cannot_be_checked_is_said() -> None:
    with pytest.raises(DataError, match="nothing to check: no pair of responses has a label"):
        check_scorers(ScoredDataset((), (row(0, "only one"), row(1, "another"))), [SHORT])
    with pytest.raises(DataError, match="unknown objective 'kinds'"):
        check_scorers(data(row(0, "a", "b", kind=((0, 1, 1.0),))), [SHORT], "kinds")
