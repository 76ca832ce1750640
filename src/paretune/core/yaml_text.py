"""YAML of a user: files and texts read with one message for everything that may be wrong, and no key taken twice."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import yaml

from paretune.core.errors import ConfigError

MERGE = "tag:yaml.org,2002:merge"
MOST_VALUES = 1_000_000
"""Largest number of values of a file, written out. A few aliases of aliases stand for more than any memory holds."""


def read_yaml(path: str | Path, what: str = "the config") -> Any:
    """Return the value of a YAML file.

    Args:
        path: The file.
        what: What the file is, for messages.

    Raises:
        ConfigError: The file cannot be read, is no text in UTF-8, is no YAML, or gives a key twice; the message names the file.
    """
    path = Path(path)
    try:
        raw = path.read_bytes()
    except OSError as error:
        raise ConfigError(f"{path}: cannot read {what} ({error.strerror or error})") from error
    except ValueError as error:  # a name that no file can have
        raise ConfigError(f"{str(path)!r}: cannot read {what} ({error})") from error
    try:
        text = raw.decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise ConfigError(
            f"{path}: {what} is not text in UTF-8 (byte {error.start + 1} is {raw[error.start]:#04x}); save it as UTF-8"
        ) from error
    try:
        return parse_yaml(text)
    except ConfigError as error:
        raise ConfigError(f"{path}: {error}") from error


def parse_yaml(text: str) -> Any:
    """Return the value of a YAML text.

    Raises:
        ConfigError: No YAML, nested too deeply, within itself, or with a key twice; the message gives line and column.
    """
    try:
        value = yaml.load(text, _Loader)
        held = _size(value, {})
    except yaml.YAMLError as error:
        raise ConfigError(f"not valid YAML: {_one_line(error)}{_cure(error)}") from error
    except RecursionError as error:
        raise ConfigError("not valid YAML here: nested too deeply, or a value within itself") from error
    except ValueError as error:  # a date such as 2024-13-45
        raise ConfigError(f"not valid YAML: {error}") from error
    if held > MOST_VALUES:
        raise ConfigError(f"its aliases stand for {held:.1e} values; expected at most {MOST_VALUES:,}")
    return value


class _Loader(yaml.SafeLoader):
    """A safe loader that refuses a key that is given twice, of which YAML would keep the last."""

    def compose_mapping_node(self, anchor: Any) -> yaml.MappingNode:
        node = super().compose_mapping_node(anchor)
        seen: set[tuple[str, str]] = set()
        for key, _ in node.value:
            if not isinstance(key, yaml.ScalarNode) or key.tag == MERGE:
                continue
            if (key.tag, key.value) in seen:
                raise yaml.composer.ComposerError(
                    None, None, f"the key {key.value!r} is given twice; keep one of them", key.start_mark
                )
            seen.add((key.tag, key.value))
        return node


def _one_line(error: yaml.YAMLError) -> str:
    """Return what is wrong, with line and column."""
    mark = getattr(error, "problem_mark", None)
    where = f"line {mark.line + 1}, column {mark.column + 1}: " if mark is not None else ""
    problem = getattr(error, "problem", None) or str(error)
    return where + " ".join(str(problem).split())


def _cure(error: yaml.YAMLError) -> str:
    """Return what to do about a text that YAML reads otherwise than it is meant, as names of columns often are."""
    problem = str(getattr(error, "problem", ""))
    if not isinstance(error, (yaml.scanner.ScannerError, yaml.parser.ParserError)):
        return next((f"; {cure}" for part, cure in _COMPOSED.items() if part in problem), "")
    if "'\\t'" in problem:
        return "; indent with spaces instead of tabs"
    if "end" in problem and "stream" in problem:
        return "; close the bracket or the quote, and put a text that holds # in quotes"
    return '; put a text that holds ? : , # [ ] { } or begins with & * % @ ` in quotes, as in "Kind?"'


_COMPOSED = {
    "found another document": "keep what stands before or after the line ---",
    "constructor for the tag": "leave tags (!...) out",
    "undefined alias": "put a text that begins with * in quotes",
}
"""Part of what is wrong with YAML that parses -> what to do."""


def _size(value: Any, known: dict[int, int], within: frozenset[int] = frozenset()) -> int:
    """Return how many values a value holds, those that stand in several places counted in each.

    Raises:
        RecursionError: It holds itself.
    """
    if not isinstance(value, (dict, list)):
        return 1
    if id(value) in within:
        raise RecursionError
    if id(value) not in known:
        inner = value.values() if isinstance(value, dict) else value
        known[id(value)] = 1 + sum(_size(part, known, within | {id(value)}) for part in inner)
    return known[id(value)]
