from __future__ import annotations

import math
from dataclasses import replace
from itertools import combinations, permutations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from paretune.core.errors import DataError
from paretune.data.dataset import ScoredDataset
from paretune.data.pairs import conflict_counts, conflict_shares, labelled_pairs, pairs
from paretune.data.rows import Message, Row

NAN = math.nan
OBJECTIVES = ("warm", "brief")


def ask(text: str = "q") -> tuple[Message, ...]:
    return (Message("user", text),)


def one(responses, scores=None, labels=None, truncated=()) -> ScoredDataset:
    return ScoredDataset(OBJECTIVES, (Row(ask(), tuple(responses), scores or {}, labels or {}, truncated),))


def conflicts(data: ScoredDataset) -> np.ndarray:
    return conflict_shares(*conflict_counts(data.rows, data.objectives))


def indices(found) -> list[tuple[int, int]]:
    return [(pair.chosen_index, pair.rejected_index) for pair in found]


values = st.sampled_from([NAN, 0.0, 1.0, 2.0, 3.5])


@st.composite
def datasets(draw) -> ScoredDataset:
    rows = []
    for position in range(draw(st.integers(1, 4))):
        count = draw(st.integers(1, 4))
        every = list(combinations(range(count), 2))
        compared = (
            st.lists(st.tuples(st.sampled_from(every), st.sampled_from([-1.0, 0.0, 0.5, 1.0])), max_size=4)
            if every
            else st.just([])
        )
        rows.append(
            Row(
                ask(f"q{position}"),
                tuple(draw(st.lists(st.sampled_from("abcdef"), min_size=count, max_size=count))),
                {name: tuple(draw(st.lists(values, min_size=count, max_size=count))) for name in OBJECTIVES},
                {name: tuple((a, b, p) for (a, b), p in draw(compared)) for name in OBJECTIVES},
                tuple(draw(st.lists(st.booleans(), min_size=count, max_size=count))),
            )
        )
    return ScoredDataset(OBJECTIVES, tuple(rows))


def says(row: Row, objective: str, a: int, b: int) -> float:
    """Brute force: the mean stated preference for a over b, else the sign of the score gap, else NaN."""
    stated = [p if (x, y) == (a, b) else -p for x, y, p in row.labels.get(objective, ()) if {x, y} == {a, b}]
    if stated:
        return sum(stated) / len(stated)
    scores = row.scores.get(objective, (NAN,) * len(row.responses))
    return float(np.sign(scores[a] - scores[b]))


def same(first: float, second: float) -> bool:
    return first == second or (math.isnan(first) and math.isnan(second))


def test_worked_example_by_scores() -> None:
    dataset = one("abcd", {"warm": (1, 5, 3, NAN), "brief": (2, 2, 7, 9)})
    (pair,) = pairs(dataset, "warm")
    assert (pair.chosen, pair.rejected, pair.row) == ("b", "a", 0)
    assert pair.gaps == (4.0, 0.0) and pair.labels == (1.0, 0.0) and pair.objective == "warm"
    assert indices(pairs(dataset, "warm", "all")) == [(1, 0), (1, 2), (2, 0)]
    assert indices(pairs(dataset, "warm", "adjacent")) == [(1, 2), (2, 0)]
    assert indices(pairs(dataset, "warm", "all", min_gap=3)) == [(1, 0)]
    assert indices(pairs(dataset, "brief", "adjacent")) == [(2, 0), (2, 1), (3, 2)]


def test_human_comparisons_come_before_scores() -> None:
    dataset = one("ab", {"warm": (9, 1), "brief": (0, 4)}, {"warm": ((0, 1, -0.5),)})
    (pair,) = pairs(dataset, "warm")
    assert (pair.chosen, pair.rejected) == ("b", "a")
    assert pair.gaps == (-8.0, 4.0) and pair.labels == (0.5, 1.0)
    assert pairs(dataset, "warm", min_gap=0.6) == []


def test_annotators_of_one_pair_are_averaged() -> None:
    split_vote = one("ab", labels={"warm": ((0, 1, 1.0), (1, 0, 1.0))})
    assert pairs(split_vote, "warm") == [] and labelled_pairs(split_vote)[0].labels[0] == 0
    majority = one("ab", labels={"warm": ((0, 1, 1.0), (1, 0, 1.0), (0, 1, 1.0))})
    assert pairs(majority, "warm")[0].labels[0] == pytest.approx(1 / 3)


def test_extremes_of_equal_strength_are_the_best_against_the_worst() -> None:
    ranking = {"warm": tuple((a, b, 1.0) for a, b in combinations((2, 0, 3, 1), 2))}
    assert indices(pairs(one("abcd", labels=ranking), "warm")) == [(2, 1)]
    assert indices(pairs(one("abcd", labels=ranking), "warm", "adjacent")) == [(0, 3), (2, 0), (3, 1)]


def test_a_truncated_response_is_never_chosen_but_may_be_rejected() -> None:
    dataset = one("abc", {"warm": (3, 2, 1)}, truncated=(True, False, True))
    assert indices(pairs(dataset, "warm", "all")) == [(1, 2)]
    (pair,) = pairs(dataset, "warm")
    assert pair.rejected_truncated and not pair.chosen_truncated


@pytest.mark.parametrize("choose", ["extremes", "all", "adjacent"])
@given(dataset=datasets())
@settings(max_examples=25, deadline=None)
def test_laws_of_pairs(choose, dataset) -> None:
    found = pairs(dataset, "warm", choose)
    assert repr(found) == repr(pairs(dataset, "warm", choose))  # NaN is not equal to itself
    for pair in found:
        row = dataset.rows[pair.row]
        assert (row.responses[pair.chosen_index], row.responses[pair.rejected_index]) == (
            pair.chosen,
            pair.rejected,
        )
        assert pair.chosen != pair.rejected and not pair.chosen_truncated
        assert pair.labels[0] > 0
        for m, name in enumerate(OBJECTIVES):
            assert same(pair.labels[m], says(row, name, pair.chosen_index, pair.rejected_index))
    if choose == "extremes":
        assert len({pair.row for pair in found}) == len(found)
        for pair in found:
            strength = 0 if "warm" in dataset.rows[pair.row].labels else None
            every = [p for p in pairs(dataset, "warm", "all") if p.row == pair.row]
            measure = [p.labels[0] if strength == 0 else p.gaps[0] for p in every]
            assert (pair.labels[0] if strength == 0 else pair.gaps[0]) == max(measure)
    if choose == "all":
        expected = [
            (position, a, b)
            for position, row in enumerate(dataset.rows)
            for a, b in permutations(range(len(row.responses)), 2)
            if (any({a, b} == {x, y} for x, y, _ in row.labels.get("warm", ())) or "warm" not in row.labels)
            and says(row, "warm", a, b) > 0
            and row.responses[a] != row.responses[b]
            and not row.truncated[a]
        ]
        assert [(p.row, p.chosen_index, p.rejected_index) for p in found] == expected


@given(dataset=datasets())
@settings(max_examples=25, deadline=None)
def test_swapping_the_responses_swaps_nothing_but_the_indices(dataset) -> None:
    def turned(row: Row) -> Row:
        last = len(row.responses) - 1
        return Row(
            row.prompt,
            row.responses[::-1],
            {name: scores[::-1] for name, scores in row.scores.items()},
            {
                name: tuple((last - a, last - b, p) for a, b, p in compared)
                for name, compared in row.labels.items()
            },
            row.truncated[::-1],
        )

    other = ScoredDataset(OBJECTIVES, tuple(turned(row) for row in dataset.rows))

    def content(data: ScoredDataset) -> list:
        return sorted(
            (p.row, p.chosen, p.rejected, str(p.gaps), str(p.labels)) for p in pairs(data, "warm", "all")
        )

    assert content(other) == content(dataset)
    np.testing.assert_allclose(conflicts(other), conflicts(dataset))


@given(dataset=datasets())
@settings(max_examples=25, deadline=None)
def test_labelled_pairs_keep_ties_and_every_labelled_pair_once(dataset) -> None:
    found = labelled_pairs(dataset)
    expected = [
        (position, a, b)
        for position, row in enumerate(dataset.rows)
        for a, b in combinations(range(len(row.responses)), 2)
        if row.responses[a] != row.responses[b]
        and not all(math.isnan(says(row, name, a, b)) for name in OBJECTIVES)
    ]
    assert [(p.row, p.chosen_index, p.rejected_index) for p in found] == expected
    for pair in found:
        for m, name in enumerate(OBJECTIVES):
            assert same(
                pair.labels[m], says(dataset.rows[pair.row], name, pair.chosen_index, pair.rejected_index)
            )


@given(dataset=datasets())
@settings(max_examples=40, deadline=None)
def test_conflicts_against_counting(dataset) -> None:
    expected = np.full((2, 2), NAN)
    for i, first in enumerate(OBJECTIVES):
        for j, second in enumerate(OBJECTIVES):
            votes = [
                (says(row, first, a, b), says(row, second, a, b))
                for row in dataset.rows
                for a, b in combinations(range(len(row.responses)), 2)
                if row.responses[a] != row.responses[b]
            ]
            strict = [x * y for x, y in votes if not math.isnan(x * y) and x * y != 0]
            if strict:
                expected[i, j] = sum(product < 0 for product in strict) / len(strict)
    np.testing.assert_allclose(conflicts(dataset), expected)


def test_conflict_is_one_for_opposites_and_nan_without_a_common_pair() -> None:
    dataset = one("abc", {"warm": (1, 2, 3), "brief": (3, 2, 1)})
    assert conflicts(dataset).tolist() == [[0, 1], [1, 0]]
    apart = ScoredDataset(OBJECTIVES, (replace(dataset.rows[0], scores={"warm": (1, 2, 3)}),))
    assert np.array_equal(conflicts(apart), [[0, NAN], [NAN, NAN]], equal_nan=True)


def test_prompts_without_responses_have_no_pairs() -> None:
    dataset = one(())
    assert pairs(dataset, "warm") == [] and labelled_pairs(dataset) == []


def test_bad_arguments_are_named() -> None:
    dataset = one("ab")
    with pytest.raises(DataError, match="unknown objective 'warn'; did you mean 'warm'"):
        pairs(dataset, "warn")
    with pytest.raises(DataError, match="unknown choice of pairs 'extreme'; did you mean 'extremes'"):
        pairs(dataset, "warm", "extreme")
    with pytest.raises(DataError, match="min_gap nan is not a number of at least 0"):
        pairs(dataset, "warm", min_gap=NAN)
