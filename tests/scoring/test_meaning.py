"""What a point more means, in words: checked against what the rules really score."""

import inspect

import pytest

from paretune.scoring.meaning import _DEFAULTS, meaning
from paretune.scoring.rules import RULES
from paretune.scoring.scorer import build_scorer


@pytest.mark.parametrize(
    ("spec", "words", "worse", "better"),
    [
        (
            {"rule": "length", "per": 10, "enough": 15},
            "+1 for every 10 words fewer, down to 15 words",
            "a " * 30,
            "a " * 20,
        ),
        (
            {"rule": "length", "per": 10, "enough": 30, "least": 20},
            "+1 for every 10 words fewer, down to 30 words; below 20, −1 for every 10 words fewer",
            "a " * 10,
            "a " * 25,
        ),
        ({"rule": "length"}, "+1 for every word fewer", "a b c", "a b"),
        (
            {"rule": "length", "unit": "sentences", "direction": "higher"},
            "+1 for every sentence more",
            "A.",
            "A. B.",
        ),
        (
            {"rule": "regex", "pattern": "sorry", "how": "count", "direction": "lower"},
            "−1 for every time that sorry occurs",
            "sorry",
            "fine",
        ),
        ({"rule": "regex", "pattern": "sorry"}, "+1 for a text in which sorry occurs", "fine", "sorry sorry"),
    ],
)
def test_a_point_is_what_the_words_say(spec, words, worse, better):
    spec = {"objective": "it", **spec}
    assert meaning(spec) == words
    low, high = build_scorer(spec)([(), ()], [worse, better], [False, False])
    assert high - low == pytest.approx(1.0)


def test_other_scorers_show_their_settings():
    assert meaning({"objective": "warm", "rule": "sentiment", "how": "sum"}).startswith(
        "the sum over sentences"
    )
    assert meaning({"objective": "warm", "rule": "sentiment", "enough": 0.5}).endswith(
        "(VADER); more than 0.5 counts as 0.5"
    )
    assert "negative" in meaning({"objective": "cold", "rule": "sentiment", "direction": "lower"})
    assert "easier" in meaning({"objective": "easy", "rule": "readability", "formula": "lix"})
    assert meaning({"objective": "x", "function": "mine:f"}) == "function mine:f"


def test_the_defaults_are_those_of_the_rules():
    for rule, defaults in _DEFAULTS.items():
        parameters = inspect.signature(RULES[rule]).parameters
        for name, value in defaults.items():
            assert parameters[name].default == value, (rule, name)
