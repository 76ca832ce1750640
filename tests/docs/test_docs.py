"""README and docs against the code: links, paths, commands, imports and words."""

from __future__ import annotations

import ast
import importlib
import re
import shlex
from pathlib import Path

import pytest
import yaml

import paretune
from paretune.data.known import KNOWN
from support.commands import check_command

ROOT = Path(__file__).parents[2]
PAGES = sorted([ROOT / "README.md", ROOT / "CONTRIBUTING.md", *ROOT.glob("docs/**/*.md")])
WORDED = [page for page in PAGES if "results" not in page.parts and page.name != "vocabulary.md"]
"""Pages whose words are checked: result pages quote what reports of an earlier version call things."""

COUNTED = r"(?:nats|tokens|preference|adapters?|LoRA|numbers?|runs?|words|pairs|steps)"
UNIT = r"(?:token|objective|preference|row|step|request|second|response|prompt|answer)"
FORBIDDEN = {
    r"\bchords?\b": "mixture of corners",
    r"\bcoin[- ]toss(es)?\b|\btoss(es|ing)? (of )?a coin\b": "mixture",
    r"\bsingle-objective (endpoints?|ends?)\b": "corner",
    r"\bOutlook\b": "Surface",
    rf"\b{COUNTED} an? {UNIT}\b": "per",
    r"\b[Ww]hoever\b": "anyone who, the process that",
}
SNIPPET = re.compile(r"```python\n(.*?)```", re.DOTALL)
PATH = re.compile(r"(?<![\w./-])((?:src/paretune|tests|benchmarks|configs)/[\w./-]*[\w/])")
SHORT = re.compile(
    r"`((?:core|fronts|choosing|data|reports|models|generation|scoring|policies|training|evaluation|planning|serving|methods|runs|cli)"
    r"/[\w/]+\.py)`"
)


def name_of(page: Path) -> str:
    return str(page.relative_to(ROOT))


def code_lines(text: str) -> list[str]:
    """Lines of indented, fenced and inline code, with continued lines joined."""
    joined = text.replace("\\\n", " ")
    fences = [body for _, body in re.findall(r"```(\w*)\n(.*?)```", joined, re.DOTALL)]
    fenced = [line for body in fences for line in body.splitlines()]
    indented = re.findall(r"^ {4,}(\S.*)$", joined, re.MULTILINE)
    return fenced + indented + re.findall(r"`([^`\n]+)`", joined)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_links_lead_somewhere(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text(encoding="utf-8")):
        if not re.match(r"[a-z]+:", target):
            assert (page.parent / target.split("#")[0]).exists(), target


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_named_files_exist(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    modules = [
        f"{module.replace('.', '/')}.py" for module in re.findall(r"python -m (benchmarks[\w.]+)", text)
    ]
    named = [ROOT / path for path in PATH.findall(text) + modules if "NAME" not in path]
    short = [ROOT / "src/paretune" / path for path in SHORT.findall(text)]
    assert [str(path) for path in named + short if not path.exists()] == []


@pytest.mark.parametrize("page", WORDED, ids=name_of)
def test_figures_quoted_from_a_page_of_results_stand_on_it(page: Path) -> None:
    """A page of results is written anew by each run; what other pages quote from it must be what it says now."""
    for paragraph in re.split(r"\n\n|\n(?=- )", page.read_text(encoding="utf-8")):
        named = re.findall(r"\(((?:\.\./|docs/)?results/[\w-]+\.md)\)", paragraph)
        if not named:
            continue
        said = " ".join((page.parent / link).read_text(encoding="utf-8") for link in named)
        quoted = re.findall(r"(?<![\w.:`])\d+\.\d{1,3}(?![\d`])", paragraph)
        assert [figure for figure in quoted if figure not in said] == [], named


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_commands_and_their_options_exist(page: Path) -> None:
    makefile = (ROOT / "Makefile").read_text(encoding="utf-8")
    for line in code_lines(page.read_text(encoding="utf-8")):
        line = line.split(" #")[0].strip()
        if line.startswith("make "):
            assert re.search(rf"^{re.escape(line.split()[1].rstrip(':'))}:", makefile, re.MULTILINE), line
        if match := re.match(r"(?:.* -m )?paretune (?=[a-z-])(.*)", line):
            check_command(shlex.split(match.group(1)), line)


@pytest.mark.parametrize("page", [page for page in PAGES if page.name != "CONTRIBUTING.md"], ids=name_of)
def test_python_snippets_import_what_exists(page: Path) -> None:
    for snippet in SNIPPET.findall(page.read_text(encoding="utf-8")):
        for node in ast.walk(ast.parse(snippet)):
            if not isinstance(node, ast.ImportFrom) or not (node.module or "").startswith("paretune"):
                continue
            for alias in node.names:
                if node.module == "paretune":
                    assert alias.name in paretune.__all__
                else:
                    assert page.name == "votes.md", (
                        f"{page.name} imports from {node.module}, not from paretune"
                    )
                    assert hasattr(importlib.import_module(node.module), alias.name)


@pytest.mark.parametrize("page", PAGES, ids=name_of)
def test_yaml_snippets_can_be_read(page: Path) -> None:
    for snippet in re.findall(r"```yaml\n(.*?)```", page.read_text(encoding="utf-8"), re.DOTALL):
        assert isinstance(yaml.safe_load(snippet), dict)


@pytest.mark.parametrize("page", WORDED, ids=name_of)
def test_words_are_those_of_the_vocabulary(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    before, *table = text.split("<!-- written by")  # what a script writes is not checked
    text = before + "".join(table).split("<!-- end of the table -->")[-1]
    found = [
        f"{match.group()} -> {instead}"
        for word, instead in FORBIDDEN.items()
        for match in re.finditer(word, text)
    ]
    assert found == []


def test_the_vocabulary_has_each_word_once_in_order() -> None:
    text = (ROOT / "docs/vocabulary.md").read_text(encoding="utf-8")
    words = [line.split("|")[1].strip() for line in text.splitlines() if line.startswith("| ")][1:]
    assert words == sorted(set(words), key=str.lower) and len(words) > 40


def test_the_docs_list_every_public_data_set() -> None:
    rows = ["| name | on the hub | objectives | licence |", "|---|---|---|---|"]
    for name, source in KNOWN.items():
        objectives = ", ".join(source.objectives)
        rows.append(f"| `{name}` | {source.hub or 'local files only'} | {objectives} | {source.licence} |")
    table = "\n".join(rows)
    assert table in (ROOT / "docs/data.md").read_text(encoding="utf-8"), f"docs/data.md needs:\n{table}"


def test_every_method_has_a_page_that_the_readme_links() -> None:
    from paretune.methods import METHODS

    readme = (ROOT / "README.md").read_text(encoding="utf-8")
    for name in METHODS:
        page = re.search(rf"\[`{name}`\]\((docs/methods/[\w-]+\.md)\)", readme)
        assert page is not None, name
        assert "*Code:* `src/paretune/methods/" in (ROOT / page.group(1)).read_text(encoding="utf-8")
