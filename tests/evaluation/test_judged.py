"""Judged points with answers that got no score: kept on disk as null, and left out of every evaluation alike."""

from __future__ import annotations

import json

import numpy as np

from paretune.core.preference import Preference
from paretune.evaluation.judged import Evaluation, Judged, at_prompts, scored_prompts

OBJECTIVES = ("a", "b")


def evaluation(name: str, *tables: np.ndarray) -> Evaluation:
    points = [Judged.of_scores(table) for table in tables]
    uniform = [Preference.uniform(OBJECTIVES)] * len(points)
    return Evaluation(name, OBJECTIVES, uniform, uniform, ("p", "q", "r", "s"), points)


def test_a_missing_score_is_null_on_disk_and_comes_back() -> None:
    scores = np.arange(8.0).reshape(2, 2, 2)
    scores[1, 0, 1] = np.nan
    point = Judged.of_scores(scores)
    stored = json.loads(json.dumps(point.to_dict()["scores"], allow_nan=False))
    assert stored == [[[0.0, 1.0], [2.0, 3.0]], [[4.0, None], [6.0, 7.0]]]
    zeros = [[0.0, 0.0]] * 2
    whole = {"scores": stored, "logps": zeros, "base_logps": zeros, "lengths": zeros, "truncated": zeros}
    again = Judged.from_dict({**whole, "collapsed": zeros, "responses": [["x", "y"]] * 2, "seconds": 0.0})
    assert np.array_equal(again.scores, scores, equal_nan=True) and again.scores.dtype == np.float64


def test_all_evaluations_keep_the_prompts_that_all_have_scored() -> None:
    full = np.arange(16.0).reshape(4, 2, 2)
    first, second = full.copy(), full.copy()
    first[1, 0, 0] = second[3, 1, 1] = np.nan
    every = [evaluation("one", full, first), evaluation("two", second)]
    places = scored_prompts(every)
    assert places.tolist() == [0, 2]
    one, two = (at_prompts(each, places) for each in every)
    assert one.prompts == two.prompts == ("p", "r")
    assert np.array_equal(one.points[1].scores, full[[0, 2]]) and one.points[1].logps.shape == (2, 2)
    assert np.array_equal(two.front.scores, one.front.scores[:1])
    assert scored_prompts([evaluation("three", full)]).tolist() == [0, 1, 2, 3]


def test_the_answers_of_kept_prompts_stay_with_them() -> None:
    point = Judged.of_scores(np.zeros((3, 1, 2)))
    texts = [["x"], ["y"], ["z"]]
    kept = Judged(**{**vars(point), "responses": texts}).at(np.array([2, 0]))
    assert kept.responses == [["z"], ["x"]] and kept.scores.shape == (2, 1, 2)
