"""YAML that people write: what is wrong, and what to do about it."""

from __future__ import annotations

import pytest

from paretune.core.errors import ConfigError
from paretune.core.yaml_text import parse_yaml


@pytest.mark.parametrize(
    "text, cure",
    [
        ("kind: {column: Kinder?, values: {A: 1}}", "put a text that holds"),
        ("responses: [Reply A?, Reply B?]", "put a text that holds"),
        ("prompt: Rating: kind", "put a text that holds"),
        ("prompt: @question", "put a text that holds"),
        ("prompt: {column: #1}", "put a text that holds # in quotes"),
        ("responses: [a, b", "close the bracket or the quote"),
        ("labels:\n\tkind: a", "indent with spaces instead of tabs"),
        ("a: 1\n---\nb: 2\n", "keep what stands before or after the line ---"),
        ("a: !!python/name:os.system\n", "leave tags (!...) out"),
        ("a: *x\n", "put a text that begins with * in quotes"),
    ],
)
def test_names_of_columns_that_yaml_reads_otherwise_have_a_cure(text: str, cure: str) -> None:
    with pytest.raises(ConfigError, match=r"not valid YAML: line \d+, column \d+: ") as error:
        parse_yaml(text)
    assert cure in str(error.value)


def test_in_quotes_they_are_names() -> None:
    assert parse_yaml('kind: {column: "Kinder?", values: {A: 1}}')["kind"]["column"] == "Kinder?"
