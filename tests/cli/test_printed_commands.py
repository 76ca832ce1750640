"""Commands that messages, pages and files of paretune tell a person to type: each exists, with the options it is given."""

from __future__ import annotations

import ast
import re
from collections.abc import Iterator
from pathlib import Path

import pytest

from support.commands import all_commands, check_command

SOURCE = Path(__file__).parents[2] / "src" / "paretune"
MARKED = re.compile(r"(?:`+|<code>)paretune ([a-z][^`<]*)")
"""A command that a text sets apart."""
LOOSE = re.compile(r"\bparetune ([a-z][\w-]*(?: [^`<;),]+)?)")


def texts(path: Path) -> Iterator[tuple[int, str]]:
    """Return the texts of a source file with their lines; what is filled in later is ``X``."""
    if path.suffix != ".py":
        yield from enumerate(path.read_text(encoding="utf-8").splitlines(), 1)
        return
    tree = ast.parse(path.read_text(encoding="utf-8"))
    parts = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in node.values}
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr):
            pieces = [str(piece.value) if isinstance(piece, ast.Constant) else "X" for piece in node.values]
            yield node.lineno, "".join(pieces)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in parts:
            yield node.lineno, node.value


def named(path: Path) -> list[tuple[str, str]]:
    """Return each command of a file, and where it stands."""
    found = {}
    for line, text in texts(path):
        # Words that are not set apart may be prose: "paretune reads ...".
        loose = [words for words in LOOSE.findall(text) if words.split()[0] in all_commands().commands]
        for words in [*MARKED.findall(text), *loose]:
            words = re.sub(r"""["'\\]|\.\.\.""", "", words).strip()
            found[words, line] = f"{path.relative_to(SOURCE)}:{line}: paretune {words}"
    return [(words, place) for (words, _), place in found.items()]


FILES = sorted(path for kind in ("py", "html", "js", "md", "yaml") for path in SOURCE.rglob(f"*.{kind}"))


def test_commands_of_messages_and_pages_exist_with_their_options() -> None:
    wrong = []
    count = 0
    for path in FILES:
        for words, place in named(path):
            count += 1
            try:
                check_command(words.split(), place)
            except AssertionError as error:
                wrong.append(str(error).splitlines()[0])
    assert wrong == []
    assert count > 100


def test_a_command_that_is_not_there_is_found(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(f"{__name__}.SOURCE", tmp_path)
    page = tmp_path / "page.py"
    page.write_text(
        'def say(run):\n    return f"look: `paretune choose {run} --lowest 3`, and paretune reads it"\n'
    )
    [*_, (words, place)] = named(page)
    with pytest.raises(AssertionError, match=r"no such option: --lowest in page.py:2"):
        check_command(words.split(), place)
