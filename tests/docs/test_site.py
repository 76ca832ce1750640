"""The documentation site: it builds without a warning, every page can be reached, and every public name has its reference."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from pathlib import Path
from types import ModuleType
from typing import Any

import griffe
import pytest
import yaml

import paretune
from support.scripts import script

ROOT = Path(__file__).parents[2]
CONFIG = ROOT / "mkdocs.yml"
NAMED = re.findall(
    r"^::: paretune\.(\w+)$", (ROOT / "docs/reference.md").read_text(encoding="utf-8"), re.MULTILINE
)


@pytest.fixture(scope="module", name="site")
def site_script() -> ModuleType:
    return script("docs/site.py")


def navigation(entries: list[Any]) -> list[str]:
    """Return the pages of a navigation, from all its levels."""
    found: list[str] = []
    for entry in entries:
        (value,) = entry.values()
        found += navigation(value) if isinstance(value, list) else [value]
    return found


def build(folder: Path, site: ModuleType) -> subprocess.CompletedProcess[str]:
    """Build the site in a folder of its own from what stands in ``build/docs`` there."""
    shutil.copy(CONFIG, folder / "mkdocs.yml")
    for name in ("src", "docs"):
        if not (folder / name).exists():
            (folder / name).symlink_to(ROOT / name)
    command = [str(Path(sys.executable).with_name("zensical")), "build", "--strict"]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=300)


@pytest.mark.slow
def test_the_site_builds_without_a_warning_and_shows_every_public_name(
    site: ModuleType, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(site, "OUT", tmp_path / "build/docs")
    pages = site.lay_out()
    done = build(tmp_path, site)
    said = done.stdout + done.stderr
    assert done.returncode == 0 and "No issues found" in said and "griffe:" not in said, said
    made = tmp_path / "build/site"
    for page in pages:
        name = page.relative_to(site.OUT).with_suffix("")
        assert (made / name.parent / ("" if name.name == "index" else name.name) / "index.html").exists(), (
            name
        )
    html = (made / "reference/index.html").read_text(encoding="utf-8")
    assert [name for name in paretune.__all__ if f'id="paretune.{name}"' not in html] == []
    assert ":class:`" not in html and ":func:`" not in html

    (site.OUT / "broken.md").write_text("[nowhere](no-such-page.md)\n", encoding="utf-8")
    assert build(tmp_path, site).returncode != 0  # the check of links works


def test_every_public_name_stands_once_in_the_reference() -> None:
    assert sorted(NAMED) == sorted(paretune.__all__)


def test_every_page_is_in_the_navigation_or_linked_from_another_page(site: ModuleType) -> None:
    pages = {file.relative_to(site.DOCS).as_posix() for file in site.DOCS.rglob("*.md")}
    pages |= {
        file.relative_to(site.DOCS).with_suffix(".md").as_posix() for file in site.DOCS.rglob("*.ipynb")
    }
    pages |= set(site.OUTSIDE.values())
    named = navigation(yaml.safe_load(CONFIG.read_text(encoding="utf-8"))["nav"])
    assert len(named) == len(set(named)) and set(named) <= pages
    texts = {file: file.read_text(encoding="utf-8") for file in site.DOCS.rglob("*.md")}
    for page in pages - set(named):
        assert any(Path(page).name in text for file, text in texts.items() if file != site.DOCS / page), page


@pytest.mark.parametrize(
    ("page", "link", "leads"),
    [
        ("docs/data.md", "../CONTRIBUTING.md", "contributing.md"),
        ("docs/methods/mod.md", "../../CONTRIBUTING.md", "../contributing.md"),
        ("docs/results/three.md", "../statistics.md", "../statistics.md"),
        ("CONTRIBUTING.md", "docs/data.md", "data.md"),
        ("CHANGELOG.md", "CONTRIBUTING.md", "contributing.md"),
        ("docs/index.md", "notebooks/compare.ipynb", "notebooks/compare.md"),
        ("docs/index.md", "front.png", "front.png"),
        ("docs/methods.md", "../README.md", "index.md"),
        ("docs/data.md", "../configs/quickstart.yaml", "{repository}/blob/main/configs/quickstart.yaml"),
        ("docs/data.md", "../src/paretune", "{repository}/tree/main/src/paretune"),
        ("docs/statistics.md", "statistics.json", "{repository}/blob/main/docs/statistics.json"),
    ],
)
def test_a_link_of_the_repository_leads_to_the_same_on_the_site(
    site: ModuleType, page: str, link: str, leads: str
) -> None:
    assert site.target(link, ROOT / page) == leads.format(repository=site.repository())


def test_links_in_code_and_to_other_servers_are_left_alone(site: ModuleType) -> None:
    text = "`[a](../CONTRIBUTING.md)` [b](https://example.org/x.md) [c](#here)\n```\n[d](../CONTRIBUTING.md)\n```\n"
    assert site.linked(text, ROOT / "docs/data.md") == text
    assert (
        site.linked("[e](../CONTRIBUTING.md#a-rule)", ROOT / "docs/data.md") == "[e](contributing.md#a-rule)"
    )


@pytest.mark.slow
def test_docstrings_of_public_names_are_read_as_they_are_meant() -> None:
    """An entry of Raises, Args or Attributes that goes on in a line without indent would be shown as two."""
    package = griffe.load("paretune", search_paths=[str(ROOT / "src")], resolve_aliases=True)
    wrong = []
    for name in NAMED:
        found = package[name]
        target = found.final_target if found.is_alias else found
        members = (
            [m for m in target.members.values() if not m.is_alias and not m.name.startswith("_")]
            if target.is_class
            else []
        )
        for one in [target, *members]:
            for part in one.docstring.parse("google", warnings=False) if one.docstring else []:
                if part.kind.value not in ("raises", "attributes", "parameters"):
                    continue
                for entry in part.value:
                    shown = str(getattr(entry, "name", None) or entry.annotation)
                    if not re.fullmatch(r"[\w*.,]+(, [\w*.]+)*", shown):
                        wrong.append(f"{one.path}: {shown}")
    assert wrong == []
