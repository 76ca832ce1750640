"""A browser, and studios over tiny runs with two to four objectives; skipped where there is no playwright or no Chromium."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING

import pytest

from paretune.models.language_model import LanguageModel
from paretune.serving.service import Service

if TYPE_CHECKING:
    from playwright.sync_api import BrowserContext

    from support.studio_world import Visit


@pytest.fixture(scope="module")
def chrome() -> Iterator[BrowserContext]:
    pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
    from support.studio_world import browser

    with browser() as found:
        yield found


@pytest.fixture(scope="module")
def run(lm: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    from support.studio_world import write_run

    return write_run(tmp_path_factory.mktemp("two"), lm, 2)


@pytest.fixture(scope="module")
def two(chrome: BrowserContext, run: Path) -> Iterator[tuple[str, Service]]:
    from support.studio_world import studio

    with studio(run) as found:
        yield found


@pytest.fixture(scope="module")
def three(
    chrome: BrowserContext, lm: LanguageModel, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    from support.studio_world import studio, write_run

    with studio(write_run(tmp_path_factory.mktemp("three"), lm, 3)) as (address, _):
        yield address


@pytest.fixture(scope="module")
def four(
    chrome: BrowserContext, lm: LanguageModel, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    from support.studio_world import studio, write_run

    with studio(write_run(tmp_path_factory.mktemp("four"), lm, 4)) as (address, _):
        yield address


@pytest.fixture
def visit(chrome: BrowserContext) -> Iterator[Callable[..., Visit]]:
    """Return what opens the studio; at the end nothing may have gone wrong on any page."""
    from support.studio_world import Visit

    opened: list[Visit] = []

    def begin(address: str, **more: object) -> Visit:
        opened.append(Visit(chrome, address, **more))  # type: ignore[arg-type]
        opened[-1].open()
        return opened[-1]

    yield begin
    for one in opened:
        one.close()
