"""How the studio looks in a real browser: every tab and dialog to axe, every size of a window, and the pictures of the docs."""

from __future__ import annotations

import io
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

from PIL import Image  # noqa: E402
from playwright.sync_api import BrowserContext, Page  # noqa: E402

from paretune.models.language_model import LanguageModel  # noqa: E402
from paretune.serving.service import Service  # noqa: E402
from support.shown_world import QUESTION, shown  # noqa: E402
from support.studio_world import HALF, LARGE, NARROW, PHONE, WIDE, Visit, drawn_at, faults  # noqa: E402

Open = Callable[..., Visit]
SIZES = [NARROW, PHONE, HALF, WIDE, LARGE]
TABS = ("presets", "rank", "batch", "floors", "take", "history", "people")


@pytest.fixture(scope="module")
def screenshots(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = Path(os.environ.get("PARETUNE_SCREENSHOTS") or tmp_path_factory.mktemp("screenshots"))
    folder.mkdir(parents=True, exist_ok=True)
    return folder


@pytest.fixture(scope="module")
def quickstart(
    chrome: BrowserContext, lm: LanguageModel, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    with shown(tmp_path_factory.mktemp("quickstart"), lm) as address:
        yield address


def box(page: Page, selector: str) -> tuple[float, float, float, float]:
    """Return left, top, right and bottom of an element."""
    found = drawn_at(page.locator(selector))
    return found["x"], found["y"], found["x"] + found["width"], found["y"] + found["height"]


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["desktop", "phone"])
@pytest.mark.slow
def test_looks(
    two: tuple[str, Service],
    three: str,
    four: str,
    visit: Open,
    screenshots: Path,
    scheme: str,
    size: tuple[int, int],
) -> None:
    """Nothing sticks out sideways, and axe finds no fault: names, roles, contrast."""
    many = [(3, three), (4, four)] if (scheme, size) in (("light", WIDE), ("dark", PHONE)) else []
    for M, address in [(2, two[0]), *many]:
        here = visit(address, scheme=scheme, size=size)
        page = here.page
        if M == 2:
            here.choose("mod")
        here.ask("red sun over the river")
        page.screenshot(path=screenshots / f"studio-{M}-{scheme}-{size[0]}.png", full_page=True)
        assert here.overflow() <= 0 and faults(page) == [], (M, scheme, size)


@pytest.mark.parametrize(
    ("scheme", "size"), [("light", WIDE), ("dark", PHONE)], ids=["light desktop", "dark phone"]
)
@pytest.mark.slow
def test_axe_finds_nothing_on_any_tab_and_in_any_dialog(
    two: tuple[str, Service], visit: Open, screenshots: Path, scheme: str, size: tuple[int, int]
) -> None:
    """Each tab with something in it, such as a vote or two answers to compare. The key's dialog is looked at in test_studio."""
    here = visit(two[0], scheme=scheme, size=size)
    page = here.page

    def clean(part: str) -> None:
        assert faults(page, part) == [], (part, scheme)
        assert here.overflow() <= 0, part

    page.click("#new-profile")
    page.fill("#name", f"looker {scheme}")
    clean("#name-dialog")
    page.keyboard.press("Enter")
    page.wait_for_function(f"() => document.getElementById('profile').value === 'looker {scheme}'")
    here.ask()
    page.click("#vote-first")
    page.wait_for_selector("#learned .small:text-matches('^1 vote')")
    page.fill("#preset-name", f"seen {scheme}")
    page.click("#save-a")
    ready = {
        "presets": f"[data-preset='seen {scheme}']",
        "rank": "#rank-left",
        "batch": "#batch-means tbody tr",
        "floors": "#floor-result .told",
        "take": "#client-code",
        "history": "#vote-list li",
        "people": "#people .told",
    }
    for tab in TABS:
        page.click(f"#tab-{tab}")
        if tab == "rank":
            page.select_option("#rank-count", "3")
            page.click("#rank-begin")
        elif tab == "batch":
            page.fill("#batch-prompts", "red sun")
            page.click("#batch-begin")
        elif tab == "floors":
            page.fill("#floor-0", "0")
            page.click("#floor-find")
        page.wait_for_selector(ready[tab])
        clean(f"#{tab}")
        if tab in ("history", "floors"):
            page.locator(f"#{tab}").screenshot(path=screenshots / f"tab-{tab}-{size[0]}.png")
    page.click("#tab-history")
    page.click("#forget")
    page.wait_for_selector("#sure-dialog[open]")
    clean("#sure-dialog")
    page.click("#sure-cancel")
    for button, dialog, close in (
        ("#talks", "#talks-dialog", "#talks-close"),
        ("#help", "#help-dialog", "#help-close"),
    ):
        page.click(button)
        page.wait_for_selector(f"{dialog}[open]")
        clean(dialog)
        page.click(close)
    assert faults(page) == []


@pytest.mark.parametrize("size", SIZES, ids=lambda size: f"{size[0]}x{size[1]}")
@pytest.mark.slow
def test_every_size_shows_everything_without_sideways_scrolling(
    two: tuple[str, Service], visit: Open, size: tuple[int, int]
) -> None:
    here = visit(two[0], size=size)
    page = here.page
    here.ask("red sun over the river")
    for tab in TABS:
        page.click(f"#tab-{tab}")
        assert here.overflow() <= 0, tab
    page.click("#options summary")
    assert here.overflow() <= 0
    page.click("#options summary")
    for button, dialog, close in (
        ("#help", "#help-dialog", "#help-close"),
        ("#talks", "#talks-dialog", "#talks-close"),
    ):
        page.click(button)
        left, top, right, bottom = box(page, dialog)
        assert left >= 0 and top >= 0 and right <= size[0] and bottom <= size[1], dialog
        page.click(close)
    first, second = box(page, ".answer.a"), box(page, ".answer.b")
    assert (first[1] == second[1]) == (size[0] > 700), (
        "side by side, or one below the other where there is no room"
    )
    if size == LARGE:
        steer = box(page, "#steer")
        assert steer[2] <= first[0] and first[2] <= second[0] and second[2] <= size[0]
        assert steer[1] < first[3] and first[1] < steer[3], "controls and both answers stand side by side"


@pytest.mark.slow
def test_three_objectives_fit_every_size_too(three: str, visit: Open) -> None:
    here = visit(three)
    here.ask()
    for width, height in SIZES:
        here.page.set_viewport_size({"width": width, "height": height})
        here.page.wait_for_function("() => document.documentElement.scrollWidth <= innerWidth")


@pytest.mark.parametrize("size", [PHONE, WIDE, LARGE], ids=["phone", "desktop", "large"])
@pytest.mark.slow
def test_the_pictures_of_the_docs(
    quickstart: str, visit: Open, screenshots: Path, size: tuple[int, int]
) -> None:
    """The measured front of the quickstart and answers of its policy; what the pages of the docs show."""
    here = visit(quickstart, size=size)
    page = here.page
    page.evaluate("() => (location.hash = '#a=concise=1,warm=0&b=concise=0,warm=1')")
    page.wait_for_function(
        "() => document.querySelector('.dial.b .what').textContent === 'concise 0, warm 1'"
    )
    here.ask(QUESTION)
    for side in "ab":
        page.wait_for_selector(f".answer.{side} .figures .mine:text-matches('[0-9]')")
    page.evaluate("() => scrollTo(0, 0)")
    assert page.locator("#chart .pt.chosen").count() == 5
    if size == PHONE:
        page.evaluate("() => document.querySelector('.talk-head').scrollIntoView()")
    page.screenshot(path=screenshots / f"docs-{size[0]}.png")
    assert here.overflow() <= 0


def edges(page: Page) -> tuple[float, float]:
    """Return how much darker than the page, from 0 to 255, the row of tabs is at its left and at its right end."""
    page.wait_for_timeout(100)
    row = np.asarray(Image.open(io.BytesIO(page.locator("#tabs").screenshot())).convert("L"), dtype=float)
    ground = float(np.median(row))
    return ground - float(np.median(row[:, 0])), ground - float(np.median(row[:, -1]))


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.slow
def test_tabs_that_do_not_fit_show_on_which_side_there_are_more(
    two: tuple[str, Service], visit: Open, scheme: str
) -> None:
    here = visit(two[0], size=PHONE, scheme=scheme)
    page = here.page
    left, right = edges(page)
    assert abs(left) < 2 < 10 < right
    page.evaluate("() => document.getElementById('tabs').scrollTo({ left: 1000, behavior: 'instant' })")
    left, right = edges(page)
    assert abs(right) < 2 < 10 < left
    page.set_viewport_size({"width": LARGE[0], "height": LARGE[1]})
    assert max(map(abs, edges(page))) < 2
