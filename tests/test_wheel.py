"""The wheel as a person gets it: built, installed in a fresh environment, and tried outside the repository."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BUILT_FROM = ("LICENSE", "README.md", "pyproject.toml", "setup.py", "src")
LACKING = """
from importlib.metadata import requires, version
from packaging.requirements import Requirement

waiting, seen = [("paretune", "quickstart")], set()
while waiting:
    package, extra = waiting.pop()
    for needed in map(Requirement, requires(package) or []):
        if needed.marker is None or needed.marker.evaluate({"extra": extra}):
            if needed.name == "paretune":
                waiting += [("paretune", name) for name in needed.extras - seen]
                seen |= needed.extras
            elif not needed.specifier.contains(version(needed.name), prereleases=True):
                print(needed, version(needed.name))
assert seen == {"gguf", "serve"}
"""
"""Prints what the extra ``quickstart`` needs and is not there; fails where a package is missing."""

pytestmark = pytest.mark.slow


@pytest.fixture(scope="module")
def wheel(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Build the wheel from a copy of the sources, so that no earlier build is in it."""
    copy, out = tmp_path_factory.mktemp("sources"), tmp_path_factory.mktemp("dist")
    for name in BUILT_FROM:
        if (ROOT / name).is_dir():
            ignored = shutil.ignore_patterns("__pycache__", "*.egg-info")
            shutil.copytree(ROOT / name, copy / name, ignore=ignored)
        else:
            shutil.copy(ROOT / name, copy / name)
    subprocess.run([sys.executable, "-m", "pip", "wheel", "-q", "--no-deps", "-w", out, copy], check=True)
    (built,) = out.glob("*.whl")
    return built


@pytest.fixture(scope="module")
def paretune(wheel: Path, tmp_path_factory: pytest.TempPathFactory) -> Callable[..., str]:
    """Install the wheel in a fresh environment; return a function that runs its command in an empty folder.

    Its dependencies are those of this environment, found by a path file: installing torch anew takes minutes. That they are what
    the wheel asks for is checked.
    """
    home, outside = tmp_path_factory.mktemp("environment"), tmp_path_factory.mktemp("outside")
    clean = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PARETUNE_CACHE")}
    subprocess.run([sys.executable, "-m", "venv", home], check=True, env=clean)
    python = home / "bin" / "python"
    packages = subprocess.run(
        [python, "-c", "import sysconfig; print(sysconfig.get_path('purelib'))"],
        check=True, capture_output=True, text=True,
    ).stdout.strip()  # fmt: skip
    Path(packages, "dependencies.pth").write_text(sysconfig.get_path("purelib") + "\n")
    install = [python, "-m", "pip", "install", "-q", "--no-deps", "--ignore-installed", wheel]
    subprocess.run(install, check=True, env=clean)
    assert subprocess.run([python, "-c", LACKING], check=True, capture_output=True, text=True).stdout == ""
    where = subprocess.run(
        [python, "-c", "import paretune; print(paretune.__file__)"],
        cwd=outside, check=True, capture_output=True, text=True, env=clean,
    )  # fmt: skip
    assert where.stdout.startswith(str(home)), "the package of the wheel, and not that of the repository"

    def run(*arguments: str) -> str:
        done = subprocess.run(
            [home / "bin" / "paretune", *arguments],
            cwd=outside, capture_output=True, text=True, env=clean, stdin=subprocess.DEVNULL, check=False,
        )  # fmt: skip
        assert done.returncode == 0, done.stderr
        return done.stdout

    run.folder = outside  # type: ignore[attr-defined]
    return run


def test_the_wheel_holds_what_its_commands_read(wheel: Path) -> None:
    names = zipfile.ZipFile(wheel).namelist()
    for folder in (
        "src/paretune/runs/configs",
        "src/paretune/data/quickstart",
        "src/paretune/reports/templates",
    ):
        for file in (ROOT / folder).iterdir():
            assert f"{folder.removeprefix('src/')}/{file.name}" in names
    assert "paretune/py.typed" in names
    assert not [name for name in names if not name.startswith(("paretune/", "paretune-"))]


def test_the_page_on_the_index_has_no_relative_link(wheel: Path) -> None:
    archive = zipfile.ZipFile(wheel)
    (metadata,) = (archive.read(name).decode() for name in archive.namelist() if name.endswith("METADATA"))
    links = re.findall(r"\]\(([^)\s]+)\)", metadata)
    assert len(links) > 20 and [link for link in links if not link.startswith(("https://", "#"))] == []
    for link in links:
        if place := re.fullmatch(r"https://github\.com/[\w/-]+/(?:raw|blob)/v[\d.]+/([^#]+)(?:#.*)?", link):
            assert (ROOT / place.group(1)).exists(), link
    for line in (
        "Provides-Extra: all",
        "Provides-Extra: quickstart",
        "Project-URL: Source",
        "Python :: 3.14",
    ):
        assert line in metadata


def test_the_wheel_can_be_looked_at_outside_the_repository(paretune: Callable[..., str]) -> None:
    assert re.fullmatch(r"paretune \d+\.\d+\.\d+\n", paretune("--version"))
    assert "dpo-soup" in json.loads(paretune("methods", "--json"))
    assert json.loads(paretune("data", "inspect", "quickstart", "--json"))["prompts"] == 180


@pytest.mark.model
@pytest.mark.timeout(2700)  # a minute of one core by itself
def test_the_quickstart_runs_from_the_wheel_to_a_report(paretune: Callable[..., str]) -> None:
    printed = paretune("-q", "quickstart", "--smoke", "--json")
    folder: Path = paretune.folder  # type: ignore[attr-defined]
    found = json.loads(printed)
    assert set(found["hypervolumes"]) >= {"dpo-soup", "panacea", "base"}
    report = folder / found["report"]
    assert report == folder / "runs/quickstart-smoke/report.html" and "<html" in report.read_text()[:500]
    assert (report.parent / "front.png").read_bytes()[:4] == b"\x89PNG"
