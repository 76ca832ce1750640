"""Numbers that people and files write as text."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from paretune.core.numbers import number_in


@given(st.floats(allow_nan=False, allow_infinity=False))
def test_every_number_that_python_writes_is_read(number: float) -> None:
    assert number_in(repr(number)) == number
    assert number_in(f" +{abs(number)!r} ") == abs(number)


@pytest.mark.parametrize("text", ["5", "5.", ".5", "-0", "1e3", "1E+03", "007"])
def test_common_spellings_are_read(text: str) -> None:
    assert number_in(text) == float(text)


@pytest.mark.parametrize(
    "text",
    ["1_000", "1_0e-4", "٣", "nan", "inf", "-Infinity", "0x10", "1,5", "1 000", "1e", ".", "", "--1", "½"],
)
def test_what_only_looks_like_a_number_is_none(text: str) -> None:
    with pytest.raises(ValueError, match="is no number"):
        number_in(text)


def test_a_number_beyond_64_bits_is_infinite_as_it_is_for_json() -> None:
    assert math.isinf(number_in("1e999"))
