"""Choosing responses by rays: the worked table, the laws, brute force for layers, messages; and the view of a choice."""

from __future__ import annotations

import io
import json
import re
from dataclasses import fields, replace
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from oracles import fronts as oracle
from paretune.cli.select import render_selection, select_command
from paretune.core.errors import ConfigError, DataError, PreferenceError
from paretune.core.preference import simplex_grid
from paretune.data.dataset import ScoredDataset
from paretune.data.rows import Message, Row
from paretune.fronts import layers as peeling
from paretune.fronts.layers import first_layers
from paretune.methods.paretohqd import rays
from paretune.methods.paretohqd.rays import Rays, Selection, candidates, ray_distance
from paretune.scoring.repetition import is_collapsed

TOY = np.array([[1, 0], [0.8, 0.6], [0.6, 0.8], [0, 1], [0.5, 0.5], [0, 0]])
A, B, C, D, E, F = range(6)
DISTANCES = {
    (1.0, 0.0): [0, 0.2, 0.4, 1, 0.5, 1],
    (0.5, 0.5): [0.707107, 0.141421, 0.141421, 0.707107, 0, 0],
    (0.75, 0.25): [0.316228, 0.063246, 0.316228, 0.948683, 0.316228, 0.632456],
}
GRID = simplex_grid(2, 10)


def select(scores, preferences, k: int = 100, **options) -> Selection:  # type: ignore[no-untyped-def]
    """Choose by settings of the rays that are given one by one."""
    names = {field.name for field in fields(Rays)} & options.keys()
    settings = {name: options.pop(name) for name in names}
    return rays.select(scores, preferences, Rays(k, **settings), **options)


def sets(selection: Selection) -> list[set[int]]:
    return [set(chosen.tolist()) for chosen in selection.chosen]


@pytest.fixture
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    """Throw points out from 40 points on, not from 20,000 on."""
    monkeypatch.setattr(peeling, "_SAMPLE", 10)
    monkeypatch.setattr(peeling, "_DEPTH", 2)


# The worked table and the numbered invariants


@pytest.mark.parametrize("weights", DISTANCES)
def test_toy_distances(weights: tuple[float, float]) -> None:
    found = select(TOY, [weights], k=6, num_layers=3)
    by_id = dict(zip(found.chosen[0].tolist(), found.distances[0].tolist(), strict=True))
    assert [by_id[n] for n in range(6)] == pytest.approx(DISTANCES[weights], abs=1e-6)
    assert found.pool.tolist() == [A, B, C, D, E, F]
    assert found.layer.tolist() == [0, 0, 0, 0, 1, 2]


def test_the_ray_passes_through_the_compromise_point() -> None:
    """W(.75, .25) = (.75, .25) on the toy set; in general low + w * range."""
    for scores in (TOY, TOY * [10, 0.2] + [-3, 7]):
        found = select(scores, [[0.75, 0.25]], k=1)
        low, high = scores.min(0), scores.max(0)
        compromise = low + np.array([0.75, 0.25]) * (high - low)
        assert ray_distance(compromise[None], found.ideal, found.directions[0]) == pytest.approx(
            [0], abs=1e-12
        )
        assert found.ideal + found.directions[0] == pytest.approx(compromise)


def test_1_why_there_is_a_pool() -> None:
    assert sets(select(TOY, [[0.5, 0.5]], k=2, num_layers=1)) == [{B, C}]
    assert sets(select(TOY, [[0.5, 0.5]], k=2, num_layers=3)) == [{E, F}]


@pytest.mark.parametrize("objectives", [1, 2, 3, 4])
@pytest.mark.parametrize("kind", ["normal", "integer", "correlated"])
def test_2_layers_against_brute_force(objectives: int, kind: str, small_blocks: None) -> None:
    """Also: each point of a later layer is dominated by one of the layer before, and the first attains every maximum."""
    rng = np.random.default_rng(objectives)
    scores = rng.normal(size=(150, objectives))
    if kind == "integer":
        scores = rng.integers(0, 4, size=(150, objectives)).astype(float)
    elif kind == "correlated":
        scores = rng.normal(size=(150, 1)) + 0.05 * scores
    expected = oracle.layers(scores)
    sizes = np.cumsum(np.bincount(expected))
    for least in (1, 7, 40, 150, 999):
        ids, layer = first_layers(scores, least)
        depth = 1 + int(np.argmax(sizes >= min(least, 150)))
        assert sorted(ids) == np.flatnonzero(expected < depth).tolist()
        assert layer.tolist() == expected[ids].tolist()
        assert list(zip(layer, ids, strict=True)) == sorted(zip(layer, ids, strict=True))
    for depth in (1, 3, 500):
        ids, layer = first_layers(scores, 1, depth)
        assert sorted(ids) == np.flatnonzero(expected < depth).tolist()
        assert layer.tolist() == expected[ids].tolist()
    assert len(set(ids.tolist())) == 150  # depth 500: a partition of all
    for n in np.flatnonzero(expected > 0):
        before = scores[expected == expected[n] - 1]
        assert np.any(np.all(before >= scores[n], axis=1) & np.any(before > scores[n], axis=1))
    assert scores[expected == 0].max(axis=0).tolist() == scores.max(axis=0).tolist()


def test_2_points_are_thrown_out_before_they_are_peeled(small_blocks: None) -> None:
    scores = np.random.default_rng(0).normal(size=(2000, 3))
    kept = peeling._survivors(scores, 2)
    assert len(kept) < 1000
    assert set(np.flatnonzero(oracle.layers(scores) < 2)) <= set(kept.tolist())


def test_3_ray_and_line_agree() -> None:
    scores = np.random.default_rng(1).normal(size=(60, 3))
    high, low = scores.max(0), scores.min(0)
    for w in simplex_grid(3, 4):
        direction = -(1 - w) * (high - low)
        unit = direction / np.linalg.norm(direction)
        assert np.all((scores - high) @ unit >= 0)
        apart = scores - high
        line = np.linalg.norm(apart - (apart @ unit)[:, None] * unit, axis=1)
        assert ray_distance(scores, high, direction) == pytest.approx(line)
    # Behind the start a ray ends, a line does not.
    assert ray_distance(np.array([[3.0, 0.0]]), np.zeros(2), np.array([-1.0, 0.0])) == pytest.approx([3.0])


@pytest.mark.parametrize("normalize", ["minmax", "zscore", "none"])
def test_4_units_do_not_matter(normalize: rays.Normalise) -> None:
    scores = np.random.default_rng(2).normal(size=(200, 3))
    grid = simplex_grid(3, 3)
    plain = sets(select(scores, grid, k=5, normalize=normalize))
    assert sets(select(scores * 4 + [1, -2, 3], grid, k=5, normalize=normalize)) == plain
    own = sets(select(scores * [8, 0.5, 1] + [1, -2, 3], grid, k=5, normalize=normalize))
    assert (own == plain) == (normalize != "none")


@pytest.mark.parametrize("normalize", ["minmax", "zscore", "none"])
def test_4_order_does_not_matter(normalize: rays.Normalise) -> None:
    rng = np.random.default_rng(3)
    scores = rng.normal(size=(200, 3))
    grid, columns, rows = simplex_grid(3, 3), [2, 0, 1], rng.permutation(200)
    plain = sets(select(scores, grid, k=5, normalize=normalize))
    assert sets(select(scores[:, columns], grid[:, columns], k=5, normalize=normalize)) == plain
    moved = select(scores[rows], grid, k=5, normalize=normalize)
    assert [{int(rows[n]) for n in chosen} for chosen in moved.chosen] == plain


def test_5_a_corner_takes_the_best_of_its_objective_in_the_pool() -> None:
    scores = np.random.default_rng(4).normal(size=(300, 2)) * [1, 20]
    found = select(scores, np.eye(2), k=8)
    for i in range(2):
        best = found.pool[np.argsort(-scores[found.pool, i])[:8]]
        assert found.chosen[i].tolist() == best.tolist()
        span = np.ptp(scores[:, i])
        assert found.distances[i] == pytest.approx((scores[:, i].max() - scores[best, i]) / span)


def test_5_on_the_ray_weighted_gaps_are_equal() -> None:
    scores = np.random.default_rng(5).normal(size=(50, 2)) * [1, 20]
    found = select(scores, [[0.3, 0.7]], k=1)
    point = found.ideal + 0.4 * found.directions[0]
    gaps = (found.ideal - point) / np.ptp(scores, axis=0)
    assert 0.3 * gaps[0] == pytest.approx(0.7 * gaps[1])


def test_6_sizes_and_pool() -> None:
    scores = np.random.default_rng(6).normal(size=(500, 2))
    found = select(scores, GRID, k=20)
    assert all(len(chosen) == 20 and set(chosen) <= set(found.pool) for chosen in found.chosen)
    assert len(found.pool) >= 100
    assert (found.layer < found.num_layers - 1).sum() < 100  # one layer less would not be enough
    assert found.notes == ()


def test_7_same_data_same_choice() -> None:
    scores = np.random.default_rng(7).integers(0, 5, size=(400, 3))
    first, second = (select(scores, simplex_grid(3, 4), k=9) for _ in range(2))
    assert [c.tolist() for c in first.chosen] == [c.tolist() for c in second.chosen]


@pytest.mark.parametrize(("k", "depth", "overlap", "mean"), [(20, 5, 0.97, 2.4), (100, 13, 0.57, 2.3)])
def test_simulated_table(k: int, depth: int, overlap: float, mean: float) -> None:
    """The method file's simulation: 160,000 independent normal scores, 11 preferences, a pool of 100 and of 500.

    Its k is 100 in both; with a pool of 100 that is asked for here by the number of layers.
    """
    scores = np.random.default_rng(0).normal(size=(160_000, 2))
    found = select(scores, GRID, k=100, num_layers=first_layers(scores, 5 * k)[1].max() + 1)
    assert found.num_layers == pytest.approx(depth, abs=1)
    assert found.overlap() == pytest.approx(overlap, abs=0.08)
    assert found.means[5].mean() == pytest.approx(mean, abs=0.1)


# Edge cases


def test_ties_go_by_layer_then_position() -> None:
    ring = np.array([[0.8, 0.6], [0.6, 0.8], [0.6, 0.8], [1, 0], [0, 1]])
    assert select(ring, [[0.5, 0.5]], k=3).chosen[0].tolist() == [0, 1, 2]
    deep = np.array([[0, 0], [0.5, 0.5], [1, 0], [0, 1]])  # both on the ray; the better layer first
    assert select(deep, [[0.5, 0.5]], k=2, num_layers=9).chosen[0].tolist() == [1, 0]


def test_one_objective_takes_the_best() -> None:
    found = select([[3.0], [9.0], [5.0], [9.0]], [[1.0]], k=3)
    assert found.chosen[0].tolist() == [1, 3, 2]
    assert found.distances[0] == pytest.approx([0, 0, 4 / 6])
    assert any("one objective" in note for note in found.notes)


def test_an_objective_that_does_not_vary_is_left_out_of_the_distance() -> None:
    scores = np.column_stack([TOY, np.full(6, 7.0)])
    found = select(scores, [[0.75, 0.25, 0.0]], k=6, num_layers=3, objectives=("a", "b", "same"))
    by_id = dict(zip(found.chosen[0].tolist(), found.distances[0].tolist(), strict=True))
    assert [by_id[n] for n in range(6)] == pytest.approx(DISTANCES[0.75, 0.25], abs=1e-6)
    assert any("score the same on same" in note for note in found.notes)
    assert found.means[0, 2] == 7.0
    only = select(np.column_stack([[1.0, 3.0, 2.0], [7.0] * 3]), [[0.5, 0.5]], k=2)  # one is left: its best
    assert only.chosen[0].tolist() == [1, 2]


def test_nothing_varies() -> None:
    found = select(np.ones((6, 2)), GRID[:2], k=3)
    assert [chosen.tolist() for chosen in found.chosen] == [[0, 1, 2]] * 2
    assert any("same on every objective; the first 3" in note for note in found.notes)


def test_small_pools_are_used_whole() -> None:
    found = select(TOY, GRID, k=100)
    assert all(len(chosen) == 6 for chosen in found.chosen)
    assert any("there are 6 responses, fewer than k=100" in note for note in found.notes)
    few = select(TOY, GRID, k=5, num_layers=1)
    assert any("the first layer holds 4 responses, fewer than k=5" in note for note in few.notes)
    assert any(
        "num_layers=9 is more than the 3 there are" in note
        for note in select(TOY, GRID, k=2, num_layers=9).notes
    )


def test_a_row_without_a_score_is_never_sorted() -> None:
    scores = np.random.default_rng(8).normal(size=(200, 2))
    plain = select(scores, GRID, k=4)
    spoilt = np.insert(scores, 50, [np.inf, np.nan], axis=0)
    found = select(spoilt, GRID, k=4)
    assert [(c - (c > 50)).tolist() for c in found.chosen] == [c.tolist() for c in plain.chosen]
    assert (found.pool != 50).all()
    assert found.means == pytest.approx(plain.means)
    assert found.notes == ("1 of 201 responses lack a finite score and were left out",)


def test_clipping_keeps_one_glitch_from_moving_the_rays() -> None:
    scores = np.random.default_rng(9).normal(size=(2000, 2))
    glitch = np.vstack([scores, [1e6, -9]])
    plain = select(scores, GRID, k=20, clip=0.001)
    kept = np.mean(
        [
            len(a & b) / 20
            for a, b in zip(sets(select(glitch, GRID, k=20, clip=0.001)), sets(plain), strict=True)
        ]
    )
    lost = np.mean(
        [len(a & b) / 20 for a, b in zip(sets(select(glitch, GRID, k=20)), sets(plain), strict=True)]
    )
    assert kept > 0.9 > 0.5 > lost


def test_inverse_rays_are_the_tchebycheff_balance() -> None:
    """Two objectives: the same ray. Three: all w_i * gap_i are equal on it, which they are not on the compromise ray."""
    scores = np.random.default_rng(10).normal(size=(300, 3)) * [1, 5, 0.1]
    span, w = np.ptp(scores, axis=0), np.array([0.2, 0.3, 0.5])
    gaps = -select(scores, [w], k=5, direction="inverse").directions[0] / span
    assert w * gaps == pytest.approx([(w * gaps)[0]] * 3)
    gaps = -select(scores, [w], k=5).directions[0] / span
    assert gaps == pytest.approx(1 - w)
    two = scores[:, :2]
    assert sets(select(two, GRID, k=5, direction="inverse")) == sets(select(two, GRID, k=5))


def test_many_objectives_are_said_to_crowd() -> None:
    scores = np.random.default_rng(11).normal(size=(100, 5))
    assert any("rays crowd together" in note for note in select(scores, simplex_grid(5, 2), k=3).notes)
    for M, angle in ((2, 45), (3, 35.3), (5, 26.6)):  # between the ray of a corner and the balanced one
        rows = np.random.default_rng(M).normal(size=(50, M))
        a, b = select(rows, [np.eye(M)[0], np.ones(M) / M], k=2).directions / np.ptp(rows, axis=0)
        cosine = a @ b / np.linalg.norm(a) / np.linalg.norm(b)
        assert np.degrees(np.arccos(cosine)) == pytest.approx(angle, abs=0.05)


def test_overlap_compares_neighbours() -> None:
    made = select(TOY, GRID[:3], k=1)
    found = replace(made, chosen=tuple(np.array(ids) for ids in ([1, 2], [2, 3], [3, 4])))
    assert found.overlap() == 0.5
    assert found.overlaps().tolist() == [0.5, 0.5, 0.5]
    assert replace(found, chosen=(found.chosen[0],) * 3).overlap() == 1.0
    assert np.isnan(select(TOY, [[1.0, 0.0]], k=1).overlap())
    facts = select(TOY, GRID, k=2, num_layers=1).to_dict(("a", "b"))
    assert (facts["layers"], facts["pool"], facts["k"]) == (1, 4, 2)
    first = facts["preferences"][0]
    assert first["preference"] == {"a": 1.0, "b": 0.0}
    assert first["mean"] == pytest.approx({"a": 0.9, "b": 0.3})  # A and B


@settings(max_examples=25)
@given(st.integers(0, 10_000))
def test_every_choice_is_the_nearest_of_the_pool(seed: int) -> None:
    rng = np.random.default_rng(seed)
    scores = rng.integers(0, 6, size=(rng.integers(1, 60), rng.integers(1, 4))).astype(float)
    w = rng.dirichlet(np.ones(scores.shape[1]))
    found = select(scores, [w], k=int(rng.integers(1, 8)))
    rest = np.setdiff1d(found.pool, found.chosen[0])
    spread = np.ptp(scores, axis=0)
    moves = spread > 0
    if moves.sum() < 2 or not len(rest):
        return
    own = (scores[:, moves] - scores[:, moves].max(0)) / spread[moves]
    distances = ray_distance(own, np.zeros(moves.sum()), -(1 - w[moves]))
    assert distances[found.chosen[0]].max() <= distances[rest].min() + 1e-9


# Messages


@pytest.mark.parametrize(
    ("scores", "preferences", "options", "error", "message"),
    [
        (TOY, GRID, {"k": 0}, ConfigError, "k must be at least 1, got 0"),
        (TOY, GRID, {"num_layers": 0}, ConfigError, "num_layers must be at least 1"),
        (TOY, GRID, {"normalize": "minmaxx"}, ConfigError, "did you mean 'minmax'"),
        (TOY, GRID, {"direction": "up"}, ConfigError, "expected one of: compromise, inverse"),
        (TOY, GRID, {"clip": 0.5}, ConfigError, "below 0.5, got 0.5"),
        (TOY[:0], GRID, {}, DataError, "stage 1: no response to choose from"),
        (TOY[:, :0], GRID, {}, DataError, "expected [N, M]"),
        (TOY, [[1.2, -0.2]], {}, PreferenceError, "preference 0 is [1.2, -0.2]"),
        (TOY, [[0.0, 0.0]], {}, PreferenceError, "weights of at least 0 that sum to 1"),
        (TOY, [[np.nan, 1.0]], {}, PreferenceError, "preference 0"),
        (TOY, [[1.0]], {}, PreferenceError, "expected [P, 2]"),
        (
            np.vstack([TOY, [1, np.nan]]),
            GRID,
            {"objectives": ("helpful", "harmless")},
            DataError,
            "stage 1: 1 of 7 responses lack a finite score, first number 6 on 'harmless'; at most 1%",
        ),
    ],
)
def test_messages(scores, preferences, options, error, message) -> None:  # type: ignore[no-untyped-def]
    with pytest.raises(error, match=re.escape(message)):
        select(scores, preferences, where="stage 1", **options)


def test_weights_of_another_sum_are_divided_and_echoed() -> None:
    found = select(TOY, [[3.0, 1.0]], k=2)
    assert found.preferences.tolist() == [[0.75, 0.25]]
    assert found.notes == ("preference 0 summed to 4 and is taken as [0.75, 0.25]",)


# Candidates of a data set


def test_candidates_leave_out_what_teaches_nothing() -> None:
    prompt, loop = (Message("user", "hi"),), "so so so so so so so so"
    good, cut = "a fine long answer with an end", "an answer that was"
    rows = (
        Row(prompt, (good, cut, loop), {"a": (1, 2, 3)}, {}, (False, True, False)),
        Row(prompt, (good, "another answer of some words"), {"a": (1, 4)}, {}),
    )
    found = candidates(ScoredDataset(("a",), rows), lambda text: is_collapsed([*map(hash, text.split())]))
    assert list(zip(found.rows.tolist(), found.responses.tolist(), strict=True)) == [(0, 0), (1, 1)]
    assert found.scores.tolist() == [[1.0], [4.0]]
    assert found.dropped == {"cut": 1, "repeated": 1, "collapsed": 1}
    assert len(candidates(ScoredDataset(("a",), rows)).rows) == 3
    empty = candidates(ScoredDataset(("a",), ()))
    assert empty.scores.shape == (0, 1)


# The view of a choice (``paretune data select``)


def scored_rows(objectives: tuple[str, ...], rows: int = 150) -> ScoredDataset:
    rng = np.random.default_rng(12)
    made = []
    for n in range(rows):
        texts = tuple(f"answer {n} {k} with a few words" for k in range(2))
        scores = {name: tuple(rng.normal(size=2).tolist()) for name in objectives}
        made.append(Row((Message("user", f"q{n}"),), texts, scores, {}, source=f"mine.jsonl:{n + 1}"))
    return ScoredDataset(objectives, tuple(made))


def printed(renderable: object) -> str:
    from rich.console import Console

    console = Console(width=200, file=io.StringIO(), record=True)
    console.print(renderable)
    return console.export_text()


@pytest.mark.parametrize("objectives", [("a", "b"), ("a", "b", "c"), ("a", "b", "c", "d", "e")])
def test_view_of_a_choice(objectives: tuple[str, ...], tmp_path: Path) -> None:
    data = scored_rows(objectives)
    shown = printed(
        render_selection(select_command(data, 5, 3, out=tmp_path / "p.png", jsonl=tmp_path / "chosen.jsonl"))
    )
    picture = (tmp_path / "p.png").read_bytes()
    assert picture[:8] == b"\x89PNG\r\n\x1a\n"
    assert [int.from_bytes(picture[n : n + 4], "big") for n in (16, 20)] == [1600, 1000]
    scores = np.concatenate([data.matrix(row) for row in data.rows])
    grid = simplex_grid(len(objectives), 2)
    found = select(scores, grid, 5)
    assert f"neighbours share {found.overlap():.0%}" in shown
    assert all(f"{mean:.3g}" in shown for mean in found.means.ravel())
    lines = [json.loads(line) for line in (tmp_path / "chosen.jsonl").read_text().splitlines()]
    assert len(lines) == 5 * len(grid)
    first = data.rows[found.chosen[0][0] // 2]
    assert lines[0]["response"] == first.responses[found.chosen[0][0] % 2]
    assert lines[0]["source"].startswith(first.source)
    assert lines[0]["preference"] == dict(zip(objectives, grid[0].tolist(), strict=True))
    assert lines[0]["scores"] == dict(zip(objectives, scores[found.chosen[0][0]].tolist(), strict=True))
    assert [line["distance"] for line in lines[:5]] == found.distances[0].tolist()


def test_view_names_what_is_wrong(tmp_path: Path) -> None:
    data = scored_rows(("a", "b"), 10)
    with pytest.raises(ConfigError, match="--preferences must be at least 2"):
        select_command(data, preferences=1)
    with pytest.raises(DataError, match="have no scores"):
        select_command(ScoredDataset((), data.rows[:0]))
    with pytest.raises(ConfigError, match="has no rays to draw"):
        select_command(data.select(["a"]), out=tmp_path / "p.png")
    assert "the 3 best are taken" in printed(render_selection(select_command(data.select(["a"]), 3)))
    unscored = replace(data.rows[3], scores={"a": (0.5, 0.5)})
    with pytest.raises(DataError, match=r"2 of 20 responses .* first mine.jsonl:4 \(response 0\) on 'b'"):
        select_command(ScoredDataset(("a", "b"), (*data.rows[:3], unscored, *data.rows[4:])))
    same = ScoredDataset(("a",), tuple(replace(row, scores={"a": (1.0, 1.0)}) for row in data.rows))
    assert "score the same on every objective" in printed(render_selection(select_command(same, 3)))
