"""The studio on fronts with a single best point, in a real browser: it says what can be done there, and the dial still turns."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Iterator

import pytest

pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

from playwright.sync_api import BrowserContext, Page

from paretune.models.language_model import LanguageModel
from support import records
from support.studio_world import Visit, studio, write_run


@pytest.fixture(scope="module")
def weak(
    chrome: BrowserContext, lm: LanguageModel, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[str]:
    """A run whose soup is best on everything at one preference, and whose mixture was measured at one alone."""
    run = write_run(tmp_path_factory.mktemp("weak"), lm, 2)
    facts = json.loads((run / "front.json").read_text(encoding="utf-8"))
    soup, _, mod = facts["policies"]
    for n, point in enumerate(soup["points"]):
        best = n == len(soup["points"]) // 2
        mean = [1.0, 0.5] if best else [0.2 - 0.01 * n, 0.1 - 0.01 * n]
        low, high = [m - 0.05 for m in mean], [m + 0.05 for m in mean]
        soup["points"][n] = records.point(point["preference"], mean, low, high)
    mod["points"], mod["non_dominated"], mod["knee"] = mod["points"][3:4], [True], 0
    (run / "front.json").write_text(json.dumps(facts), encoding="utf-8")
    with studio(run) as (address, _):
        yield address


def weight(page: Page, side: str) -> float:
    found = re.search(r"concise ([\d.]+)", page.text_content(f".dial.{side} .what") or "")
    assert found is not None
    return float(found[1])


def turned(page: Page) -> None:
    """Turn A from one end to the other by the keyboard."""
    page.focus("#dial-a")
    page.keyboard.press("Home")
    assert weight(page, "a") == 0.0
    page.keyboard.press("End")
    assert weight(page, "a") == 1.0


@pytest.mark.slow
def test_where_one_preference_is_best_on_everything_the_page_says_so_and_the_dial_turns_by_weight(
    weak: str, visit: Callable[..., Visit]
) -> None:
    here = visit(weak)
    page = here.page
    here.choose("soup")
    told = page.text_content("#dial-lead") or ""
    assert "Steps of the dial are steps of weight." in told
    assert (
        "concise=0.5,warm=0.5 is measured as no worse on every objective than all other preferences" in told
    )
    assert page.locator("#mode").is_hidden(), "there are no steps of outcome to choose"
    assert weight(page, "a") != weight(page, "b"), "the two that are compared first differ"
    turned(page)
    here.ask()
    for side in "ab":
        assert (page.text_content(f"#answer-{side}") or "").strip()
    page.click("#tab-floors")
    page.fill("#floor-0", "0.6")
    page.keyboard.press("Enter")
    page.wait_for_selector("#floor-result .told:text-matches('^Met')")
    page.get_by_label("Set A to this").click()
    assert weight(page, "a") == 0.5, "the one good point"
    assert here.overflow() <= 0


@pytest.mark.slow
def test_a_front_of_one_measured_point_is_shown_and_the_dial_turns(
    weak: str, visit: Callable[..., Visit]
) -> None:
    here = visit(weak)
    page = here.page
    page.select_option("#policy", "mod")
    page.wait_for_selector("#over:text-matches('mod')")
    assert "Steps of the dial are steps of weight." in (page.text_content("#dial-lead") or "")
    assert page.locator("#mode").is_hidden()
    turned(page)
    unmeasured = ".outlook .small:text-matches('Nothing was measured around this preference')"
    page.wait_for_selector(f".dial.a {unmeasured}")
    page.click("#front-table-box summary")
    page.get_by_role("button", name=re.compile("^B to ")).click()
    page.wait_for_selector(".dial.b .scores dd:text-matches('\\\\[')")
    assert page.locator(f".dial.b {unmeasured}").count() == 0
    assert page.locator("#front-table tbody tr").count() == 1
    here.ask()
    assert (page.text_content("#answer-a") or "").strip()
