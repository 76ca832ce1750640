"""Conflicts, keep-or-revert, the Pareto filter and the templates of SIPO: truth tables, laws and refusals, without a model."""

from __future__ import annotations

import math
from itertools import permutations, product
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from paretune.core.errors import ConfigError, TrainingError
from paretune.data.dataset import ScoredDataset
from paretune.data.pairs import labelled_pairs
from paretune.data.rows import Message, Row
from paretune.methods.sipo.improve import (
    Retention,
    conflicting,
    conflicting_pairs,
    decided,
    implicit_rewards,
    improves,
    keep_rewrites,
    merits,
    select,
    spread,
    spread_pairs,
    training_pairs,
)
from paretune.methods.sipo.revise import Templates, listed, question, suggestions

NAN = math.nan
A, B = np.array([0.0, 1.0]), np.array([1.0, 0.0])
FOUR = np.array([[1.1, 1.1], [2.0, 0.9], [1.2, 1.05], [1.0, 2.0]])
RANKS = ("sum", "zscore", "min_gain")


def few_rewards(rows: int, columns: int = 3) -> st.SearchStrategy[np.ndarray]:
    """Rewards on a grid of a few numbers, so that ties are common."""
    return arrays(np.float64, (rows, columns), elements=st.integers(-2, 3).map(lambda n: n / 2))


# Conflicts


@pytest.mark.parametrize(
    ("labels", "clear", "conflict"),
    [
        ((1, 1), True, False),
        ((-1, -1), True, False),
        ((1, -1), True, True),
        ((-0.2, 1), True, True),
        ((0, 1), False, False),
        ((1, -1, 0), False, False),
        ((1, -1, NAN), False, False),
        ((1, 1, -1), True, True),
        ((-1, -1, -1), True, False),
    ],
)
def test_conflict_truth_table(labels: tuple[float, ...], clear: bool, conflict: bool) -> None:
    """Ties and missing labels drop a pair; swapping its responses changes nothing; nor does the order of objectives."""
    for order in permutations(labels):
        for sign in (1, -1):
            row = sign * np.array([order])
            assert decided(row).tolist() == [clear] and conflicting(row).tolist() == [conflict]


def rows_of_labels() -> ScoredDataset:
    """Scores disagree on (a, b), agree on (a, c), tie on (b, c); in the second row people contradict the scores."""
    ask = (Message("user", "q"),)
    scores = {"warm": (2.0, 1.0, 1.0), "brief": (1.0, 2.0, 0.0)}
    judged = Row(
        (Message("user", "r"),),
        ("a", "b"),
        {"warm": (2.0, 1.0), "brief": (2.0, 1.0)},
        {"brief": [(0, 1, -0.4)]},
    )
    return ScoredDataset(("warm", "brief"), (Row(ask, ("a", "b", "c"), scores), judged))


def test_conflicting_pairs_of_a_data_set() -> None:
    found, clear = conflicting_pairs(rows_of_labels())
    assert [(p.row, p.chosen, p.rejected) for p in found] == [(0, "a", "b"), (1, "a", "b")]
    assert found[1].labels == (1.0, -0.4), "people's word goes before the scores"
    assert clear == 3
    assert conflicting_pairs(ScoredDataset(("x",), ())) == ([], 0)


def test_pairs_are_taken_from_as_many_prompts_as_possible() -> None:
    rows = tuple(Row((Message("user", f"q{n}"),), ("a", "b", "c"), {"x": (1.0, 2.0, 3.0)}) for n in range(5))
    every = labelled_pairs(ScoredDataset(("x",), rows))
    assert len(every) == 15 and spread_pairs(every, 15, 0) == every
    for limit in (1, 5, 7, 10, 14):
        taken = spread_pairs(every, limit, 3)
        counts = np.bincount([pair.row for pair in taken], minlength=5)
        assert len(taken) == limit and counts.max() - counts.min() <= 1
        assert taken == sorted(taken, key=every.index) and taken == spread_pairs(every, limit, 3)
    assert spread_pairs(every, 5, 3) != spread_pairs(every, 5, 4)


# Keep or revert


@pytest.mark.parametrize(
    ("gain", "any_gain", "weak"),
    [
        ((1, -1), True, False),
        ((1, 0), True, True),
        ((1, 1), True, True),
        ((-1, -1), False, False),
        ((0, -1), False, False),
        ((0, 0), False, False),
    ],
)
def test_keep_or_revert_truth_table(gain: tuple[int, int], any_gain: bool, weak: bool) -> None:
    old = np.array([[0.5, -2.0]])
    for change, base in ((gain, old), (gain[::-1], old[:, ::-1])):
        new = base + np.array([change])
        assert keep_rewrites(new, base).tolist() == [any_gain]
        assert keep_rewrites(new, base, "weak_dominance").tolist() == [weak]
        assert keep_rewrites(new, base, "keep_both").tolist() == [True]


# The Pareto filter


def test_filter_worked() -> None:
    """y1 and y3 pass; y3 wins by 2.25 to 2.20; y2 is below a on the second objective; y4 equals b on the first."""
    assert improves(FOUR, A, B).tolist() == [True, False, True, False]
    assert select(FOUR, A, B) == 2
    assert merits(FOUR, A, B)[[0, 2]].tolist() == pytest.approx([2.20, 2.25])
    assert select(FOUR, A, B, rank="min_gain") == 0, "its least gain is 0.1, that of y3 0.05"
    assert select(FOUR, A, B, rank="zscore", scale=np.array([100.0, 1.0])) == 0, (
        "the second objective decides"
    )
    assert select(FOUR[[1, 3]], A, B) is None and select(FOUR[:0], A, B) is None


def test_margin_is_strict_and_in_nats() -> None:
    """beta scales rewards and margin alike, so it does not decide who passes: 0.1 nats above passes below a margin of 0.1."""
    first = np.zeros(1)
    for beta in (0.01, 0.5, 1.0, 4.0):
        nats = np.array([[0.25], [0.125], [0.0625]])
        rewards = implicit_rewards(nats - 3.0, np.full(3, -3.0), beta)
        assert rewards[:, 0].tolist() == pytest.approx((beta * nats[:, 0]).tolist())
        assert improves(rewards, first, first, beta * 0.125).tolist() == [True, False, False]


@given(few_rewards(6), few_rewards(2), st.integers(0, 2))
def test_filter_against_the_plain_loop(candidates: np.ndarray, pair: np.ndarray, margin: int) -> None:
    a, b = pair
    plain = [all(y[m] > max(a[m], b[m]) + margin / 2 for m in range(len(a))) for y in candidates.tolist()]
    assert improves(candidates, a, b, margin / 2).tolist() == plain
    passing = [n for n, passes in enumerate(plain) if passes]
    best = max(passing, key=lambda n: (candidates[n].sum(), -n), default=None)
    assert select(candidates, a, b, margin=margin / 2) == best


@given(few_rewards(5), few_rewards(2), st.sampled_from(RANKS), st.permutations(range(5)))
def test_selection_does_not_depend_on_order(
    candidates: np.ndarray, pair: np.ndarray, rank: str, order: list[int]
) -> None:
    """Nor on the order of objectives, or of a and b; equally good ones are told apart by the weight index."""
    scale = np.array([0.5, 1.0, 2.0])
    best = select(candidates, *pair, rank=rank, scale=scale, order=range(5))
    shuffled = select(candidates[order], *pair, rank=rank, scale=scale, order=order)
    assert (None if shuffled is None else order[shuffled]) == best
    turn = [2, 0, 1]
    assert select(candidates[:, turn], *pair[::-1][:, turn], rank=rank, scale=scale[turn]) == best


@given(few_rewards(5), few_rewards(2), st.sampled_from(RANKS), st.sampled_from([0.25, 1.0, 8.0]))
def test_selection_does_not_depend_on_beta(
    candidates: np.ndarray, pair: np.ndarray, rank: str, beta: float
) -> None:
    scale = spread(np.concatenate([candidates, pair]))
    best = select(candidates, *pair, margin=0.25, rank=rank, scale=scale)
    options = {"margin": 0.25 * beta, "rank": rank, "scale": scale * beta}
    assert select(beta * candidates, *(beta * pair), **options) == best


@given(few_rewards(6), few_rewards(2), st.sampled_from(RANKS))
def test_the_winner_is_not_dominated_by_the_rank(candidates: np.ndarray, pair: np.ndarray, rank: str) -> None:
    """No passing candidate is strictly better under every objective."""
    best = select(candidates, *pair, rank=rank)
    if best is not None:
        for other in np.flatnonzero(improves(candidates, *pair)):
            assert not np.all(candidates[other] > candidates[best])


def test_sharding_the_pairs_gives_the_same_choice() -> None:
    random = np.random.default_rng(0)
    work = [(random.normal(size=(4, 2)) + 1, *random.normal(size=(2, 2))) for _ in range(20)]
    scale = spread(np.concatenate([candidates for candidates, _, _ in work]))
    for rank in RANKS:
        whole = [select(*item, rank=rank, scale=scale) for item in work]
        for workers in (2, 3, 7):
            parts = {
                n: select(*work[n], rank=rank, scale=scale)
                for w in range(workers)
                for n in range(w, 20, workers)
            }
            assert [parts[n] for n in range(20)] == whole
        assert None in whole and len(set(whole)) > 2


def test_spread_is_one_where_nothing_differs() -> None:
    assert spread(np.array([[1.0, 5.0], [3.0, 5.0]])).tolist() == [1.0, 1.0]
    assert spread(np.array([[0.0], [4.0]])).tolist() == [2.0]


def test_bad_rewards_are_refused() -> None:
    good = np.zeros((2, 2))
    for bad in (NAN, math.inf):
        with pytest.raises(TrainingError, match="candidates: 1 of 2 are not finite"):
            improves(np.array([[0.0, bad]]), A, B)
        with pytest.raises(TrainingError, match="second response: 1 of 2 are not finite"):
            select(good, A, np.array([bad, 0.0]))
        with pytest.raises(TrainingError, match="rewrites: 1 of 4"):
            keep_rewrites(np.array([[0.0, bad], [0.0, 0.0]]), good)
    with pytest.raises(TrainingError, match="2, 3 and 2 objectives"):
        improves(good, np.zeros(3), B)
    with pytest.raises(TrainingError, match="expected equal shapes"):
        keep_rewrites(good, good[:1])
    with pytest.raises(TrainingError, match="margin -1"):
        improves(good, A, B, -1)
    with pytest.raises(TrainingError, match="above 0 each"):
        merits(good, A, B, "zscore", np.array([1.0, 0.0]))
    with pytest.raises(ConfigError, match=r"unknown rank 'total'.*sum"):
        merits(good, A, B, "total")  # type: ignore[arg-type]
    with pytest.raises(ConfigError, match="did you mean 'any_gain'"):
        keep_rewrites(good, good, "any-gain")  # type: ignore[arg-type]


# What is handed on


def test_survivors_give_two_pairs_each() -> None:
    found, _ = conflicting_pairs(rows_of_labels())
    made = [pair for n, source in enumerate(found) for pair in training_pairs(source, f"y{n}")]
    assert [(p.chosen, p.rejected, p.row, p.rejected_index) for p in made] == [
        ("y0", "a", 0, 0),
        ("y0", "b", 0, 1),
        ("y1", "a", 1, 0),
        ("y1", "b", 1, 1),
    ]
    assert all(pair.labels == (1.0, 1.0) and not pair.chosen_truncated for pair in made)


def test_retention_is_a_row_under_its_header() -> None:
    row = Retention(1, 300, 120, 100, 400, 13, 2, 9, 376, 210, 40, 31)
    names, values = Retention.header(), str(row)
    assert len(names) == len(values)
    assert values.split() == [str(v) for v in vars(row).values()]
    ends = [i for i, mark in enumerate(names + " ") if mark == " " and i and names[i - 1] != " "]
    assert ends == [i for i, mark in enumerate(values + " ") if mark == " " and i and values[i - 1] != " "]


# Templates


def test_the_package_has_templates_with_all_fields() -> None:
    templates, prompt = Templates.load(), (Message("user", "Why {review}?"),)
    (asked,) = templates.ask_review(prompt, "Because {count}.", ("warm", "concise"), 4)
    assert asked.role == "user" and "Why {review}?" in asked.content and "Because {count}." in asked.content
    assert "Write 4 short" in asked.content and asked.content.count("warm and concise") == 2
    (asked,) = templates.ask_rewrite(prompt, "Because.", ["Be brief.", "Say who."], ("warm", "concise"))
    assert "1. Be brief.\n2. Say who." in asked.content and "Because." in asked.content


def test_conversations_and_lists_as_text() -> None:
    assert question((Message("user", "Hi"),)) == "Hi"
    talk = (Message("system", "Be kind."), Message("user", "Hi"))
    assert question(talk) == "System: Be kind.\n\nUser: Hi"
    assert [listed(x) for x in (["a"], ["a", "b"], ["a", "b", "c"])] == ["a", "a and b", "a, b and c"]


@pytest.mark.parametrize(
    ("text", "found"),
    [
        ("1. One.\n2. Two.\n3. Three.\n4. Four.", ["One.", "Two.", "Three."]),
        ("Here you are:\n- One.\n* Two.  \n", ["One.", "Two."]),
        ("  1) One\n\n  2: Two", ["One", "Two"]),
        ("The answer is fine. 1. no list", []),
        ("In 1990. it was\n1.5 is a number\n-dash", []),
        ("", []),
    ],
)
def test_suggestions_of_a_review(text: str, found: list[str]) -> None:
    assert suggestions(text, 3) == found


GOOD = {
    "review": "{question} {answer} {objectives} {count}",
    "rewrite": "{question} {answer} {review} {objectives}",
}


@pytest.mark.parametrize(
    ("name", "field"),
    [(name, field) for name in GOOD for field in GOOD[name].replace("{", "").replace("}", "").split()],
)
def test_a_template_without_a_field_is_refused_by_name(name: str, field: str) -> None:
    Templates(**GOOD)
    with pytest.raises(ConfigError, match=rf"template '{name}' has no field \{{{field}\}}"):
        Templates(**GOOD | {name: GOOD[name].replace(f"{{{field}}}", "x")})


def test_templates_of_the_user(tmp_path: Path) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(
        "review: '{question}|{answer}|{objectives}|{count}'\nrewrite: '{question}{answer}{review}{objectives}'\n"
    )
    (asked,) = Templates.load(file).ask_review((Message("user", "q"),), "a", ("x",), 2)
    assert asked.content == "q|a|x|2"
    with pytest.raises(ConfigError, match=r"unknown field \{cuont\}; did you mean 'count'"):
        Templates(**GOOD | {"review": GOOD["review"] + "{cuont}"})
    for text, message in (
        ("review: '{question}'\n", r"mine.yaml: expected the texts 'review' and 'rewrite', got \['review'\]"),
        ("- a\n", r"mine.yaml: expected the texts .* got list"),
        ("a: [\n", "mine.yaml: not valid YAML"),
        ("review: ''\nrewrite: ''\n", r"mine.yaml: the template 'review' has no field \{question\}"),
    ):
        file.write_text(text)
        with pytest.raises(ConfigError, match=message):
            Templates.load(file)
    with pytest.raises(ConfigError, match=r"none.yaml: cannot read the templates"):
        Templates.load(tmp_path / "none.yaml")


def test_keep_rules_nest() -> None:
    """Whatever weak dominance keeps any gain keeps too, over all signs of three objectives."""
    changes = np.array(list(product((-1.0, 0.0, 1.0), repeat=3)))
    zero = np.zeros_like(changes)
    weak, gain = keep_rewrites(changes, zero, "weak_dominance"), keep_rewrites(changes, zero)
    assert weak.sum() == 7 and gain.sum() == 27 - 8 and np.all(gain[weak])
