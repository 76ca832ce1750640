"""Files for people and services around the code: they can be read, and agree with the versions of the project."""

from __future__ import annotations

import re
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
