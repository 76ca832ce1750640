"""Files for people and services around the code: they can be read, and agree with the versions of the project."""

from __future__ import annotations

import os
import re
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml

import paretune

ROOT = Path(__file__).parents[2]
PROJECT = (ROOT / "pyproject.toml").read_text(encoding="utf-8")
PINNED = dict(
    re.findall(r"^([\w.-]+)==([\w.+]+)", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE)
)
FILES = sorted([*ROOT.glob(".github/**/*.yml"), ROOT / ".pre-commit-config.yaml", ROOT / "CITATION.cff"])


def read(name: str) -> Any:
    return yaml.safe_load((ROOT / name).read_text(encoding="utf-8"))


def stated(key: str) -> str:
    found = re.search(rf'^{key} = "(.+)"', PROJECT, re.MULTILINE)
    assert found is not None, key
    return found.group(1)


@pytest.mark.parametrize("file", FILES, ids=lambda file: str(file.relative_to(ROOT)))
def test_a_file_can_be_read(file: Path) -> None:
    assert isinstance(yaml.safe_load(file.read_text(encoding="utf-8")), dict)


def test_the_version_and_the_address_are_the_same_everywhere() -> None:
    citation = read("CITATION.cff")
    assert stated("version") == paretune.__version__ == citation["version"]
    assert stated("Source") == citation["repository-code"]
    assert citation["license"] == stated("license")
    for file in [*FILES, *ROOT.glob("*.md")]:
        for address in re.findall(r"https://github\.com/paretune/[\w-]+", file.read_text(encoding="utf-8")):
            assert address == stated("Source"), file


def test_the_hooks_have_the_versions_of_the_tools() -> None:
    (ruff,) = (repo for repo in read(".pre-commit-config.yaml")["repos"] if "ruff" in repo["repo"])
    assert ruff["rev"] == f"v{PINNED['ruff']}"


def test_the_matrix_is_that_of_the_classifiers() -> None:
    named = re.findall(r'"Programming Language :: Python :: (3\.\d+)"', PROJECT)
    matrix = read(".github/workflows/ci.yml")["jobs"]["latest"]["strategy"]["matrix"]["python"]
    assert matrix == named and f">={named[0]}" == stated("requires-python")


def test_uvicorn_is_held_to_one_minor_version_while_a_private_class_of_it_is_used() -> None:
    private = [
        file
        for file in (ROOT / "src").rglob("*.py")
        if "from uvicorn.protocols" in file.read_text(encoding="utf-8")
    ]
    low, high = re.findall(r'"uvicorn>=0\.(\d+),<0\.(\d+)"', PROJECT)[0]
    assert private and int(high) == int(low) + 1 and PINNED["uvicorn"].startswith(f"0.{low}.")


def test_the_extra_all_has_every_extra_but_those_made_of_others_the_docs_and_what_needs_cuda() -> None:
    section = PROJECT.split("[project.optional-dependencies]")[1].split("\n[")[0]
    extras = re.findall(r"^(\w+) = \[", section, re.MULTILINE)
    (everything,) = re.findall(r'^all = \["paretune\[(.+)\]"\]', section, re.MULTILINE)
    assert sorted(everything.split(",")) == sorted(set(extras) - {"all", "docs", "kernels", "quickstart"})


def test_a_release_is_signed_and_waits_for_the_tests() -> None:
    jobs = read(".github/workflows/release.yml")["jobs"]
    assert jobs["test"]["needs"] == "build" and jobs["publish"]["needs"] == "test"
    used = [step.get("uses", "") for job in jobs.values() for step in job["steps"]]
    assert any("attest-build-provenance" in name for name in used)
    assert any("gh-action-pypi-publish" in name for name in used)


def test_the_hooks_find_nothing_in_the_files_that_are_committed() -> None:
    """Those of pre-commit's own repository, which this machine may not reach: sizes, ends of files, spaces at the ends of lines."""
    hooks = {hook["id"]: hook for repo in read(".pre-commit-config.yaml")["repos"] for hook in repo["hooks"]}
    (most,) = re.findall(r"--maxkb=(\d+)", " ".join(hooks["check-added-large-files"]["args"]))
    given = hooks["trailing-whitespace"]["exclude"]
    assert given == hooks["end-of-file-fixer"]["exclude"]
    listed = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, check=False).stdout
    files = [ROOT / name for name in listed.decode().split("\0") if name]
    if not files:
        pytest.skip("no checkout of git")
    for file in files:
        raw = file.read_bytes() if file.is_file() else b""
        assert len(raw) <= 1024 * int(most), file
        if b"\0" in raw[:8000] or re.search(given, str(file.relative_to(ROOT))):
            continue
        assert not raw or (raw.endswith(b"\n") and not raw.endswith(b"\n\n")), f"{file}: its end"
        assert not re.search(rb"[ \t]\r?\n", raw), f"{file}: spaces at the end of a line"


def test_the_citation_has_what_its_format_needs() -> None:
    citation = read("CITATION.cff")
    assert citation["cff-version"] == "1.2.0" and citation["type"] == "software"
    assert all(citation[key] for key in ("message", "title", "abstract", "keywords"))
    assert all("name" in author or "family-names" in author for author in citation["authors"])


def test_a_weakness_is_reported_in_private() -> None:
    page = (ROOT / "SECURITY.md").read_text(encoding="utf-8")
    assert "report a weakness privately" in page
    (link,) = read(".github/ISSUE_TEMPLATE/config.yml")["contact_links"]
    assert link["url"] == f"{stated('Source')}/security/advisories/new"


@pytest.mark.parametrize("name", ["bug", "wish"])
def test_a_form_of_an_issue_is_one_that_github_shows(name: str) -> None:
    form = read(f".github/ISSUE_TEMPLATE/{name}.yml")
    assert form["name"] and form["description"] and form["labels"]
    assert {part["type"] for part in form["body"]} <= {
        "textarea",
        "input",
        "dropdown",
        "checkboxes",
        "markdown",
    }
    ids = [part["id"] for part in form["body"]]
    assert len(set(ids)) == len(ids) and all(part["attributes"]["label"] for part in form["body"])
    assert any(part.get("validations", {}).get("required") for part in form["body"])


def test_new_versions_are_proposed_for_packages_and_for_actions() -> None:
    updates = {each["package-ecosystem"]: each for each in read(".github/dependabot.yml")["updates"]}
    assert set(updates) == {"pip", "github-actions"}
    assert {each["dependency-name"] for each in updates["pip"]["ignore"]} == {"torch", "transformers"}
    tools = re.findall(
        r"^([\w.-]+)", (ROOT / "requirements-dev.txt").read_text(encoding="utf-8"), re.MULTILINE
    )
    patterns = updates["pip"]["groups"]["tools"]["patterns"]
    for pattern in patterns:
        assert any(re.fullmatch(pattern.replace("*", ".*"), tool) for tool in tools), pattern


def test_a_release_is_built_from_the_tag_of_its_version_and_tested_as_a_change_is() -> None:
    jobs = read(".github/workflows/release.yml")["jobs"]
    runs = {job: "\n".join(step.get("run", "") for step in jobs[job]["steps"]) for job in jobs}
    (command,) = re.findall(r"sed -n '(.+?)' pyproject\.toml", runs["build"])
    made = subprocess.run(
        ["sed", "-n", command, str(ROOT / "pyproject.toml")], capture_output=True, text=True, check=True
    )
    assert made.stdout.strip() == paretune.__version__
    assert "python -m build" in runs["build"] and "twine check" in runs["build"]
    of_change = read(".github/workflows/ci.yml")["jobs"]["pinned"]["steps"]
    assert ".ci/run" in runs["test"] and any(step.get("run") == ".ci/run" for step in of_change)
    assert os.access(ROOT / ".ci/run", os.X_OK)
    assert "paretune quickstart --smoke" in runs["test"]


def test_minima_are_found_by_scipy() -> None:
    """The heads, the prototypes, the dual of the floors, and the rules from gradients to a step."""
    for name in (
        "scoring/bradley_terry.py",
        "scoring/ideal_points.py",
        "choosing/dual.py",
        "training/gradients.py",
    ):
        assert "from scipy.optimize import" in (ROOT / "src/paretune" / name).read_text(encoding="utf-8"), (
            name
        )
