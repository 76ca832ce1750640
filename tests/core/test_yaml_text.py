"""YAML of a user: each common mistake is told with line, column and cure."""

from __future__ import annotations

import pytest

from paretune.core.errors import ConfigError
from paretune.core.yaml_text import parse_yaml


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("train:\n\tsteps: 3\n", "line 2, column 1: found character .*; indent with spaces$"),
        ("a: @x\n", "line 1, column 4: .*; quote a text that begins so$"),
        ("a: *x\n", "line 1, column 4: found undefined alias 'x'; quote a text that begins with \\*$"),
        ("a: b: c\n", "line 1, column 5: .*; quote a text that has a colon in it$"),
        ("a: [1\n", "line 2, column 1: .*; close brackets and quotes$"),
        ("a: 'x\n", "line 2, column 1: .*end of stream; close brackets and quotes$"),
        ("a: 1\n---\nb: 2\n", "line 2, column 1: .*; keep what stands before or after the line ---$"),
        ("a: !!python/name:os.system\n", "line 1, column 4: .*; leave tags \\(!...\\) out$"),
        ("a: 1\na: 2\n", "line 2, column 1: the key 'a' is given twice; keep one of them$"),
    ],
)
def test_a_mistake_is_told_with_its_place_and_the_cure(text: str, message: str) -> None:
    with pytest.raises(ConfigError, match=message):
        parse_yaml(text)
