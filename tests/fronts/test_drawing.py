"""Fronts on axes that a paper's author made."""

from __future__ import annotations

import numpy as np
import pytest
from matplotlib.figure import Figure

from paretune.core.errors import ParetuneError
from paretune.evaluation.from_scores import judge_scores
from paretune.fronts.score_records import read_table
from support.score_rows import score_rows


def test_a_front_is_drawn_on_the_axes_that_are_given():
    front = read_table(score_rows()).fronts()["a"]
    ax = Figure().subplots()
    assert front.plot(ax) is ax
    drawn = ax.lines[0].get_xydata()
    assert np.allclose(drawn, front.means[np.argsort(-front.preferences[:, 0])])
    assert ax.get_xlabel() == "warm (higher is better)"
    front.plot(ax, ["concise", "warm"])
    assert ax.get_xlabel() == "concise (higher is better)"
    with pytest.raises(ParetuneError, match="did you mean 'warm'"):
        front.plot(ax, ["wram", "concise"])
    with pytest.raises(ParetuneError, match="a picture shows two"):
        front.plot(ax, ["warm", "warm"])


def test_a_record_is_drawn_with_base_model_and_mixture_where_they_are_there():
    for there in (True, False):
        record = judge_scores(read_table(score_rows(base=there, corners=there)), resamples=50)
        ax = record.plot(Figure().subplots())
        labels = {text.get_text() for text in ax.get_legend().get_texts()}
        assert labels == {"a", "b"} | ({"base model", "mixture of corners"} if there else set())
