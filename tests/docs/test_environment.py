"""The page of environment variables against the variables that the source reads, and its exit codes against the command line."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from paretune.cli.log import LEVELS
from paretune.cli.main import main
from support.command import call

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs/environment.md").read_text(encoding="utf-8")
VARIABLE = re.compile(r"[A-Z][A-Z0-9]*(_[A-Z0-9]+)+|RANK")


def variables() -> set[str]:
    """Return the names of variables in the modules that look into the environment, and all of paretune's own."""
    found: set[str] = set()
    for file in (ROOT / "src").rglob("*.py"):
        text = file.read_text(encoding="utf-8")
        reads = "environ" in text or "envvar" in text
        texts = [node.value for node in ast.walk(ast.parse(text)) if isinstance(node, ast.Constant)]
        names = {name for name in texts if isinstance(name, str) and VARIABLE.fullmatch(name)}
        found |= names if reads else {name for name in names if name.startswith("PARETUNE_")}
    return found


@pytest.mark.slow
def test_the_page_lists_the_variables_that_the_source_reads_and_no_other() -> None:
    tables = "\n".join(line.split("|")[1] for line in TEXT.splitlines() if line.startswith("| `"))
    assert set(re.findall(r"`([A-Z0-9_]+)`", tables)) == variables()


def test_the_page_names_every_level() -> None:
    (row,) = (line for line in TEXT.splitlines() if line.startswith("| `PARETUNE_LOG`"))
    assert all(f"`{level}`" in row for level in LEVELS)


def test_exit_codes_are_those_of_the_page(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    codes = {int(line.split("|")[1]) for line in TEXT.splitlines() if re.match(r"\| \d", line)}
    assert codes == {0, 1, 2, 130}
    assert call(monkeypatch, capsys, "methods")[0] == 0
    assert call(monkeypatch, capsys, "run", tmp_path / "none.yaml")[0] == 2
    assert call(monkeypatch, capsys, "run", "--no-such-option")[0] == 2

    def stop() -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr("paretune.cli.main.app", stop)
    with pytest.raises(SystemExit) as end:
        main()
    assert end.value.code == 130
    assert "goes on from the last checkpoint" in capsys.readouterr().err
