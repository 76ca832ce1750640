"""Names that become folders."""

from __future__ import annotations

import pytest

from paretune.core.errors import ConfigError
from paretune.core.names import path_component


@pytest.mark.parametrize(
    "name",
    [
        "",
        " ",
        ".",
        "..",
        "../victim",
        "a/b",
        "/etc",
        "a\\b",
        "a\0b",
        "a\nb",
        ".hidden",
        "x" * 300,
        "\ud800",
        5,
    ],
)
def test_a_name_that_is_no_single_folder_is_refused(name: str) -> None:
    with pytest.raises(ConfigError, match=r"objective .*: it .* choose another name"):
        path_component(name, "objective")


@pytest.mark.parametrize(
    "name", ["helpful", "helpful and kind", "hilfreich-über", "有用", "a.b", "a..b", "-x", "x=1,y=2"]
)
def test_a_name_that_is_one_folder_is_taken(name: str) -> None:
    assert path_component(name, "objective") == name
