"""Rows of every form, for hypothesis."""

from __future__ import annotations

import math

from hypothesis import strategies as st

from paretune.data.rows import Message, Row

texts = st.text(st.characters(exclude_categories=["Cs"]), max_size=30)


said = texts.filter(lambda text: text.strip())


OBJECTIVES = ("b", "a 2", "scores.x.0", "é\n1")


@st.composite
def rows(draw) -> Row:
    talk = draw(
        st.lists(
            st.builds(Message, st.sampled_from(["system", "user", "assistant", "tool"]), texts), max_size=2
        )
    )
    prompt = (*talk, Message("user", draw(st.one_of(said, said.map(lambda text: "[{" + text)))))
    count = draw(st.integers(0, 3))
    index = st.integers(0, max(count - 1, 0))
    comparison = st.tuples(index, index, st.floats(-1, 1)).filter(lambda c: c[0] != c[1])
    return Row(
        prompt,
        tuple(draw(st.lists(said, min_size=count, max_size=count))),
        {
            name: tuple(draw(st.lists(numbers, min_size=count, max_size=count)))
            for name in draw(st.sets(st.sampled_from(OBJECTIVES)))
        },
        {
            name: tuple(draw(st.lists(comparison, max_size=3))) if count > 1 else ()
            for name in draw(st.sets(st.sampled_from(OBJECTIVES)))
        },
        tuple(draw(st.lists(st.booleans(), min_size=count, max_size=count))),
        draw(said),
    )


numbers = st.one_of(st.just(math.nan), st.floats(allow_nan=False, allow_infinity=False), st.integers(-5, 5))
