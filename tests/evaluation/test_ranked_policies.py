"""Policies ranked by a judge over their answers: means over prompts, ties, intervals, and what cannot be ranked."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from itertools import combinations
from pathlib import Path

import numpy as np
import pytest

from paretune.core.errors import ConfigError, DataError, ScoreError
from paretune.data.readers import write_jsonl
from paretune.data.rows import Message, Prompt
from paretune.evaluation.ranked_policies import Contestant, chosen, rank_policies, read_answers
from paretune.scoring.function_scorer import Comparing, FunctionScorer, from_function
from paretune.scoring.ranking import Sort, most_comparisons

PROMPTS: dict[str, Prompt] = {f"p{n}": (Message("user", f"Question {n}"),) for n in range(20)}


def judge(prefers: Callable[[str, str], float], sort: Sort | None = Sort()) -> tuple[FunctionScorer, list]:  # noqa: B008
    """A scorer whose preference for a pair of answers a function gives, and what it was asked."""
    asked: list[tuple[str, str]] = []

    def compare(
        prompts: Sequence[Prompt], pairs: Sequence[tuple[str, str]], cut: Sequence[tuple[bool, bool]]
    ) -> list[float]:
        asked.extend(pairs)
        return [prefers(*pair) for pair in pairs]

    made = from_function("kind", "k", lambda prompts, responses, cut: [0.0] * len(responses))
    from dataclasses import replace

    return replace(made, judge="me", comparing=Comparing(compare, 0, "c", sort, lambda: "it said Hm")), asked


def longer(first: str, second: str) -> float:
    return float(np.sign(len(first) - len(second)))


def contestant(name: str, length: Callable[[int], int]) -> Contestant:
    answers = {key: ("x" * length(n), False) for n, key in enumerate(PROMPTS)}
    return Contestant(name, {"kind": 1.0}, answers)


@pytest.mark.parametrize("sort", [Sort(), Sort("beam")], ids=["greedy", "beam"])
def test_policies_are_ranked_as_their_answers_are(sort: Sort) -> None:
    lengths = [3, 9, 1, 7, 5]
    policies = [contestant(str(length), lambda n, length=length: length) for length in lengths]
    scorer, asked = judge(longer, sort)
    made = rank_policies(policies, PROMPTS, scorer, triples=0)
    assert [policies[n].name for n in made.order] == ["9", "7", "5", "3", "1"]
    assert len(asked) == 20 * made.ranking.sorted_by <= 20 * most_comparisons(5, sort)
    assert all(each.shown and each.chance.value in (0, 1) for each in made.neighbours)
    assert len(made.neighbours) == 4 and made.prompts == 20 and made.unsaid == 0


def test_the_chance_is_the_mean_over_prompts_with_its_interval() -> None:
    """Longer on 15 of 20 prompts, equal on 1: (15 + .5) / 20. What is equal is not asked about."""
    lengths = [2] * 15 + [1] + [0] * 4
    first = contestant("first", lambda n: 1 + lengths[n])
    second = contestant("second", lambda n: 2)
    scorer, asked = judge(longer)
    made = rank_policies([second, first], PROMPTS, scorer)
    (pair,) = made.neighbours
    assert [made.contestants[n].name for n in made.order] == ["first", "second"]
    assert pair.chance.value == pytest.approx(15.5 / 20) and pair.prompts == 20 and len(asked) == 19
    assert 0.5 < pair.chance.low < pair.chance.value < pair.chance.high < 1 and pair.shown
    near = contestant("near", lambda n: 3 if n < 12 else 1)
    (pair,) = rank_policies([near, second], PROMPTS, judge(longer)[0]).neighbours
    assert pair.chance.value == 0.6 and pair.chance.low < 0.5 and not pair.shown
    even = contestant("even", lambda n: 1 + 2 * (n % 2))
    (pair,) = rank_policies([second, even], PROMPTS, judge(longer)[0]).neighbours
    assert pair.chance.value == 0.5 and not pair.shown


def test_the_order_of_policies_does_not_matter() -> None:
    policies = [contestant(str(n), lambda p, n=n: 3 * n + p % 2) for n in range(5)]
    for seed in range(4):
        order = np.random.default_rng(seed).permutation(5)
        made = rank_policies([policies[n] for n in order], PROMPTS, judge(longer)[0])
        assert [made.contestants[n].name for n in made.order] == ["4", "3", "2", "1", "0"]


def test_a_cycle_of_policies_is_reported() -> None:
    """As with stone, paper and scissors, whoever is ranked first loses to one of the others."""
    names = ["x", "xx", "xxx"]
    beats = {("x", "xx"), ("xx", "xxx"), ("xxx", "x")}
    policies = [contestant(name, lambda n, name=name: len(name)) for name in names]
    scorer, _ = judge(lambda a, b: 1.0 if (a, b) in beats else -1.0)
    made = rank_policies(policies, PROMPTS, scorer).ranking
    assert (made.triples, made.intransitive, made.against) == (1, 1, 1)
    assert len(made.known) == len(list(combinations(range(3), 2)))


def test_answers_that_cannot_be_compared_are_counted_and_left_out() -> None:
    first, second = contestant("first", lambda n: 2 + (n < 5)), contestant("second", lambda n: 1)
    scorer, _ = judge(lambda a, b: math.nan if 3 in (len(a), len(b)) else longer(a, b))
    made = rank_policies([first, second], PROMPTS, scorer)
    assert made.unsaid == 5 and made.neighbours[0].prompts == 15
    with pytest.raises(
        ScoreError, match=r"no answer of two policies could be compared by me: it said Hm; look at"
    ):
        rank_policies([first, second], PROMPTS, judge(lambda a, b: math.nan)[0])


def test_prompts_are_those_that_all_answered_and_can_be_fewer() -> None:
    first, second = contestant("first", lambda n: 2), contestant("second", lambda n: 1)
    part = Contestant("part", {}, dict(list(first.answers.items())[:7]))
    assert rank_policies([second, part], PROMPTS, judge(longer)[0]).prompts == 7
    few = [rank_policies([first, second], PROMPTS, judge(longer)[0], most=3, seed=s) for s in (1, 1)]
    assert [each.prompts for each in few] == [3, 3]
    with pytest.raises(DataError, match="no prompt was answered by all policies"):
        rank_policies([first, Contestant("none", {}, {})], PROMPTS, judge(longer)[0])


def test_one_policy_or_no_sort_is_one_message() -> None:
    one = contestant("one", lambda n: 1)
    with pytest.raises(ConfigError, match=r"1 policies to rank, expected at least 2; name more policies"):
        rank_policies([one], PROMPTS, judge(longer)[0])
    with pytest.raises(ConfigError, match="a ranking needs a judge with a sort"):
        rank_policies([one, one], PROMPTS, judge(longer, None)[0])
    with pytest.raises(ConfigError, match=r"--policy 'on': did you mean 'one'"):
        chosen([one], ["on"])


def test_answers_are_those_of_a_run(tmp_path: Path) -> None:
    def record(policy: str, weight: float, prompt: str, sample: int, answer: str) -> dict:
        return {
            "policy": policy,
            "preference": {"kind": weight, "short": 1 - weight},
            "prompt": [{"role": "user", "content": prompt}],
            "prompt_id": prompt,
            "sample": sample,
            "answer": answer,
            "truncated": False,
            "scores": {"kind": 0.0},
        }

    file = tmp_path / "answers.jsonl.gz"
    rows = [record("mod", w, p, s, f"{w}{p}{s}") for w in (0.0, 1.0) for p in "ab" for s in range(2)]
    write_jsonl(file, rows)
    found, prompts = read_answers(file, "run")
    assert [(each.name, each.preference["kind"]) for each in found] == [("run/mod", 0.0), ("run/mod", 1.0)]
    assert found[0].answers == {"a": ("0.0a0", False), "b": ("0.0b0", False)}
    assert prompts["a"][0].content == "a" and chosen(found, ["run/mod"]) == found
    write_jsonl(file, [{"policy": "mod"}])
    with pytest.raises(
        DataError, match=r"answers.jsonl.gz:1: KeyError\('preference'\); expected a measured answer"
    ):
        read_answers(file)
