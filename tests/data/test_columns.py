"""Values of columns as public sets and tables write them."""

from __future__ import annotations

import math

import pytest

from paretune.core.errors import DataError
from paretune.data.columns import number_of


def test_a_number_may_be_text_and_nothing_is_none() -> None:
    assert number_of(" -1.5 ", "score", "a.csv:2") == -1.5
    assert math.isnan(number_of("", "score", "a.csv:2")) and math.isnan(number_of(None, "score", "a.csv:2"))


@pytest.mark.parametrize("text", ["1_000", "٣", "nan", "1,5"])
def test_a_text_that_only_looks_like_a_number_is_refused_by_place(text: str) -> None:
    with pytest.raises(
        DataError, match=f"a.csv:2: column 'score': expected a number or nothing, got '{text}'"
    ):
        number_of(text, "score", "a.csv:2")
