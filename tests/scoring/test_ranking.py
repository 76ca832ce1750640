"""PairS: worked numbers, laws of sorting, and brute force: the best path of a merge, the ranking that agrees with most verdicts."""

from __future__ import annotations

import math
from itertools import combinations, permutations, product

import numpy as np
import pytest

from paretune.core.errors import ConfigError
from paretune.scoring.ranking import (
    FLOOR,
    Ranking,
    Sort,
    drawn_triples,
    is_transitive,
    most_comparisons,
    rank_lists,
    ranked,
)

BEAM = Sort("beam")


def judge(scores: list[float]):
    """A judge with P = sigmoid(score a - score b) that counts what it is asked."""
    asked: list[tuple[int, int, int]] = []

    def ask(pairs):
        asked.extend(pairs)
        return [1 / (1 + math.exp(scores[b] - scores[a])) for _, a, b in pairs]

    return ask, asked


@pytest.mark.parametrize("sort", [Sort(), BEAM], ids=["greedy", "beam"])
def test_under_a_consistent_judge_the_sort_is_exact_and_asks_no_more_than_its_bound(sort: Sort) -> None:
    """For the beam consistent and sure: every pair further than the gap from one half."""
    random = np.random.default_rng(0)
    for count in (2, 3, 4, 5, 7, 8, 13, 16):
        scores = random.permutation(count).astype(float).tolist()
        ask, asked = judge(scores)
        (made,) = rank_lists([count], ask, sort)
        assert made.order == tuple(np.argsort(scores)[::-1].tolist())
        assert len(asked) == len(set(asked)) == made.sorted_by <= most_comparisons(count, sort)
        assert all(a < b for _, a, b in asked) and made.against == 0


def test_the_bound_is_reached_and_is_that_of_merge_sort() -> None:
    for count in range(2, 7):
        worst = 0
        for order in permutations(range(count)):
            ask, asked = judge([10.0 * value for value in order])
            rank_lists([count], ask)
            worst = max(worst, len(asked))
        depth = math.ceil(math.log2(count))
        assert worst == most_comparisons(count) == count * depth - 2**depth + 1


def test_ranks_follow_items_when_they_are_given_in_another_order() -> None:
    scores = [0.3, 2.0, -1.0, 5.0, 4.0]
    for order in permutations(range(5)):
        (made,) = rank_lists([5], judge([scores[i] for i in order])[0], BEAM)
        assert [order[i] for i in made.order] == [3, 4, 1, 0, 2]


def test_a_tie_keeps_the_order_given() -> None:
    for sort in (Sort(), Sort("beam", gap=0.0), BEAM):
        (made,) = rank_lists([6], lambda pairs: [0.5] * len(pairs), sort)
        assert made.order == tuple(range(6))


def best_merge(left: list[int], right: list[int], p: dict[tuple[int, int], float]) -> float:
    """The highest mean log P over all ways to merge two lists, by brute force."""
    best = -math.inf
    for choice in product((0, 1), repeat=len(left) + len(right)):
        if sum(choice) != len(right):
            continue
        i = j = 0
        logs = []
        for from_right in choice:
            if i < len(left) and j < len(right):
                chance = p[left[i], right[j]]
                logs.append(math.log((1 - chance if from_right else chance) + FLOOR))
            i, j = i + 1 - from_right, j + from_right
        best = max(best, sum(logs) / len(logs))
    return best


def test_a_beam_that_keeps_all_branches_finds_the_best_merge() -> None:
    """Four items: two lists of two, merged; the sort's answer has the highest mean log P of all merges (brute force)."""
    random = np.random.default_rng(1)
    for _ in range(40):
        p = {pair: float(random.uniform(0.05, 0.95)) for pair in combinations(range(4), 2)}
        order = ranked(4, p, Sort("beam", gap=0.5)).order
        left, right = ([a, b] if p[a, b] >= 0.5 else [b, a] for a, b in ((0, 1), (2, 3)))
        logs, i, j = [], 0, 0
        for item in order:
            if i < 2 and j < 2:
                chance = p[left[i], right[j]]
                logs.append(math.log((chance if item in left else 1 - chance) + FLOOR))
            i, j = i + (item in left), j + (item in right)
        assert sum(logs) / len(logs) == pytest.approx(best_merge(left, right, p))


def test_worked_numbers_of_greedy_and_beam() -> None:
    """Lists [0, 1] and [2, 3]; the first verdict is a near tie for 0, and what follows is sure that 2 was right to go first."""
    p = {(0, 1): 0.9, (2, 3): 0.9, (0, 2): 0.55, (0, 3): 0.99, (1, 2): 0.51, (1, 3): 0.99}
    assert ranked(4, p).order == (0, 1, 2, 3)
    # Greedy's path: mean of log .55, log .51. By 2 first: log .45, log .99 (0 over 3), log .99 (1 over 3).
    assert (math.log(0.55) + math.log(0.51)) / 2 < (math.log(0.45) + 2 * math.log(0.99)) / 3
    assert ranked(4, p, BEAM).order == (2, 0, 1, 3)
    assert ranked(4, p, Sort("beam", gap=0.04)).order == (
        0,
        2,
        1,
        3,
    )  # .55 is sure enough: one branch, and .51 is not
    assert ranked(4, p, Sort("beam", gap=0.005)).order == (0, 1, 2, 3)
    assert ranked(4, p, Sort("beam", width=1)).order == (0, 1, 2, 3)


def kemeny(p: dict[tuple[int, int], float], count: int) -> tuple[float, tuple[int, ...]]:
    """The ranking that agrees most with all verdicts (Kemeny), by brute force."""

    def agreed(order: tuple[int, ...]) -> float:
        return sum(p[a, b] if a < b else 1 - p[b, a] for a, b in combinations(order, 2))

    return max((agreed(order), order) for order in permutations(range(count)))


def test_where_the_judge_is_transitive_the_sort_is_kemenys_ranking() -> None:
    random = np.random.default_rng(2)
    agreed = 0
    for _ in range(60):
        p = {pair: float(random.uniform(0, 1)) for pair in combinations(range(5), 2)}
        if all(is_transitive(p, triple) for triple in combinations(range(5), 3)):
            assert ranked(5, p).order == kemeny(p, 5)[1]
            agreed += 1
    assert agreed > 3


def test_transitivity_of_three() -> None:
    cycle = {(0, 1): 0.9, (1, 2): 0.6, (0, 2): 0.4}
    assert not is_transitive(cycle, (0, 1, 2))
    assert is_transitive({**cycle, (0, 2): 0.5}, (0, 1, 2)) is False  # 2 ties 0 and 0 beats 1, yet 1 beats 2
    assert is_transitive({(0, 1): 0.5, (1, 2): 0.5, (0, 2): 0.5}, (0, 1, 2))
    assert is_transitive({(0, 1): 0.9, (1, 2): 0.6, (0, 2): 0.55}, (2, 0, 1))


def test_a_judge_by_chance_is_intransitive_on_a_quarter_of_triples_and_a_greedy_sort_alone_does_not_show_it() -> (
    None
):
    random = np.random.default_rng(3)
    verdicts = {
        (n, a, b): float(random.integers(2)) for n in range(200) for a, b in combinations(range(5), 2)
    }
    found = rank_lists([5] * 200, lambda pairs: [verdicts[pair] for pair in pairs], triples=10)
    share = sum(each.intransitive for each in found) / sum(each.triples for each in found)
    assert share == pytest.approx(0.25, abs=0.03)
    alone = rank_lists([5] * 200, lambda pairs: [verdicts[pair] for pair in pairs])
    assert sum(each.against for each in alone) == 0 and sum(each.triples for each in alone) == 0
    assert [each.order for each in alone] == [each.order for each in found]


def test_triples_are_drawn_once_each_and_all_where_there_are_few() -> None:
    assert drawn_triples(4, 10, (0,)) == list(combinations(range(4), 3))
    drawn = drawn_triples(8, 20, (7, 1))
    assert len(set(drawn)) == 20 and all(a < b < c < 8 for a, b, c in drawn)
    assert drawn == drawn_triples(8, 20, (7, 1)) and drawn_triples(2, 5, (0,)) == []


def test_a_list_whose_judge_cannot_say_has_no_ranking_and_the_others_do() -> None:
    def ask(pairs):
        return [math.nan if n == 0 and (a, b) == (0, 1) else 1.0 for n, a, b in pairs]

    lost, kept = rank_lists([4, 4], ask, triples=4)
    assert lost.order is None and lost.strengths() == {} and lost.levels() == [] and lost.against == 0
    assert kept.order == (0, 1, 2, 3) and kept.triples == 4
    # What cannot be ranked any more is not asked about: the first round alone, and no triple.
    asked: list[tuple[int, int, int]] = []

    def one_lost(pairs):
        asked.extend(pairs)
        return [math.nan if (a, b) == (0, 1) else 1.0 for _, a, b in pairs]

    (lost,) = rank_lists([8], one_lost, triples=5)
    assert lost.order is None and asked == [(0, 0, 1), (0, 2, 3), (0, 4, 5), (0, 6, 7)]


def test_levels_and_strengths() -> None:
    known = {(0, 1): 0.2, (1, 2): 0.9, (0, 2): 0.5}
    made = Ranking((1, 0, 2), {pair: known[pair] for pair in ((0, 1), (0, 2))}, 2)
    assert made.levels() == [0.5, 1.0, 0.0]
    # 1 over 0 by .6; 0 and 2 tie; 1 over 2 was not asked and is as sure as the surer of both.
    assert made.strengths() == pytest.approx({(0, 1): -0.6, (0, 2): 0.0, (1, 2): 0.6})
    assert Ranking((1, 0, 2), known, 3).strengths()[1, 2] == pytest.approx(0.8)
    assert Ranking((0, 1, 2), known, 3).against == 1


def test_lists_of_one_are_ranked_without_a_question_and_a_gap_beyond_one_half_is_refused() -> None:
    assert ranked(1, {}).order == (0,) and ranked(0, {}).order == ()
    with pytest.raises(ConfigError, match=r"gap: 0.6: expected 0 to 0.5"):
        Sort("beam", gap=0.6)
