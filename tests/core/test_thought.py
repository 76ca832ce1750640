"""Thought is found by the markers of current models, whole, cut at its end, or without its beginning."""

from __future__ import annotations

import pytest

from paretune.core.thought import MARKERS, has_thought, is_unfinished, without_thought


@pytest.mark.parametrize(("begin", "end"), MARKERS)
def test_thought_is_taken_out(begin: str, end: str) -> None:
    text = f"{begin}\nlet me see\nyes\n{end}\n\nThe sky is blue."
    assert without_thought(text) == "The sky is blue."
    assert without_thought(f"So: {text}") == "So: \n\nThe sky is blue.", "thought in the middle of an answer"
    assert without_thought(f"{text}{begin}once more{end} Really.") == "The sky is blue. Really."
    assert has_thought(text) and not is_unfinished(text)


@pytest.mark.parametrize(("begin", "end"), MARKERS)
def test_thought_that_the_token_limit_cut_leaves_nothing(begin: str, end: str) -> None:
    cut = f"{begin}\nlet me see, the sky"
    assert without_thought(cut) == ""
    assert is_unfinished(cut) and has_thought(cut)
    again = f"{begin}first{end}Blue.{begin}second"
    assert without_thought(again) == "Blue." and is_unfinished(again)


@pytest.mark.parametrize(("begin", "end"), MARKERS)
def test_thought_whose_beginning_is_in_the_prompt_goes_from_the_start(begin: str, end: str) -> None:
    assert without_thought(f"let me see\n{end}\n\nBlue.") == "Blue."


def test_other_text_is_left_as_it_is() -> None:
    for text in ("  two  spaces \n", "", "I think <b>so</b>.", "a < b and b > c"):
        assert without_thought(text) is text
        assert not has_thought(text) and not is_unfinished(text)
