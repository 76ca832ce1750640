"""The front in a real browser: what a point says, zooming, policies beside it, files to keep, the answers behind a point."""

from __future__ import annotations

import csv
import io
import os
from collections.abc import Callable
from pathlib import Path

import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

from PIL import Image  # noqa: E402
from playwright.sync_api import Page  # noqa: E402

from paretune.serving.service import Service  # noqa: E402
from support.studio_world import PHONE, Visit, faults  # noqa: E402

Open = Callable[..., Visit]


def picture(page: Page, name: str) -> None:
    """Keep a screenshot where somebody wants to look."""
    if folder := os.environ.get("PARETUNE_SCREENSHOTS"):
        page.screenshot(path=f"{folder}/{name}.png", full_page=True)


def middle(page: Page, selector: str) -> tuple[float, float]:
    """Return the middle of the first element that a selector finds."""
    page.locator(selector).first.scroll_into_view_if_needed()
    box = page.locator(selector).first.bounding_box()
    assert box is not None
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


POINT = "#chart .scatterlayer .trace >> nth=0 >> .points path"


def span(page: Page, axis: str = "xaxis") -> float:
    low, high = page.evaluate(f"() => document.getElementById('chart')._fullLayout.{axis}.range")
    return float(high - low)


def saved(page: Page, button: str) -> bytes:
    with page.expect_download() as given:
        page.click(button)
    return Path(given.value.path()).read_bytes()


def test_a_point_says_its_preference_its_means_and_its_chance(two: tuple[str, Service], visit: Open) -> None:
    page = visit(two[0]).page
    page.mouse.move(*middle(page, POINT))
    page.wait_for_selector("#chart .hoverlayer .hovertext")
    told = page.text_content("#chart .hoverlayer") or ""
    assert "concise 0" in told and "warm 1" in told and "[" in told
    assert "on the front with chance 1.00" in told
    drawn = page.text_content("#chart .infolayer") or ""
    assert "concise → better" in drawn and "+1 for every word fewer" in drawn
    page.click("#front-table-box summary")
    assert page.locator("#front-table td:text-is('1.00')").count() == 7


def test_zooming_by_buttons_and_by_a_box_and_back(two: tuple[str, Service], visit: Open) -> None:
    page = visit(two[0]).page
    whole = span(page)
    page.focus("#zoom-in")
    page.keyboard.press("Enter")
    assert span(page) == pytest.approx(0.6 * whole) and span(page, "yaxis") > 0
    page.keyboard.press("Enter")
    page.fill("#dial-a", "30")
    page.wait_for_selector(".dial.a .what")
    page.wait_for_timeout(100)
    assert span(page) < 0.5 * whole, "moving A does not lose the place that one looks at"
    page.click("#zoom-reset")
    assert span(page) == pytest.approx(whole)
    page.click("#zoom-out")
    assert span(page) > whole
    page.click("#zoom-reset")
    box = page.locator("#chart .nsewdrag").bounding_box()
    assert box is not None
    page.mouse.move(box["x"] + 0.3 * box["width"], box["y"] + 0.3 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.7 * box["width"], box["y"] + 0.7 * box["height"], steps=4)
    page.mouse.up()
    assert span(page) < 0.6 * whole
    picture(page, "front-zoomed")
    page.click("#zoom-reset")
    assert span(page) == pytest.approx(whole)


def test_other_policies_stand_beside_the_chosen_one_until_they_are_put_out(
    two: tuple[str, Service], visit: Open
) -> None:
    here = visit(two[0])
    page = here.page
    names = "() => document.getElementById('chart').data.map((trace) => trace.name)"
    assert {"measured", "anchors", "mod", "A", "B"} <= set(page.evaluate(names))
    assert page.locator("#front-legend button[aria-pressed=true]").count() == 2
    picture(page, "front-legend")
    page.focus("#legend-1")
    page.keyboard.press("Space")
    page.wait_for_function(f"() => !({names})().includes('mod')")
    assert page.evaluate("() => document.activeElement.id") == "legend-1"
    assert page.get_attribute("#legend-1", "aria-pressed") == "false"
    page.reload()
    here.drawn()
    assert "mod" not in page.evaluate(names), "what was put out stays out"
    here.choose("mod")
    assert "soup" in page.evaluate(names) and "measured" in page.evaluate(names)
    point = "{concise: 1, warm: 0}"  # where all three policies are the same
    page.evaluate(
        f"() => document.getElementById('chart').emit('plotly_click', {{points: [{{customdata: [{point}, 'soup']}}]}})"
    )
    page.wait_for_function("() => document.getElementById('policy').value === 'soup'")
    page.wait_for_selector("#read-answers")


def test_the_front_is_saved_as_picture_and_as_table(two: tuple[str, Service], visit: Open) -> None:
    page = visit(two[0]).page
    rows = list(csv.DictReader(io.StringIO(saved(page, "#save-csv").decode())))
    assert len([row for row in rows if row["policy"] == "soup"]) == 7
    assert {row["policy"] for row in rows} == {"soup", "anchors", "mod"}
    first = rows[0]
    assert float(first["concise_low"]) < float(first["concise"]) < float(first["concise_high"])
    assert float(first["weight_concise"]) + float(first["weight_warm"]) == 1 and first["on_front"] == "1"
    svg = saved(page, "#save-svg").decode()
    assert svg.startswith("<svg") and "concise" in svg and "<script" not in svg
    image = Image.open(io.BytesIO(saved(page, "#save-png")))
    assert image.format == "PNG" and image.width > 800
    assert len(image.convert("RGB").getcolors(1 << 20) or []) > 20, "something is drawn"


def test_the_answers_behind_a_point_are_read_searched_and_said_to_be_missing(
    two: tuple[str, Service], visit: Open
) -> None:
    here = visit(two[0])
    page = here.page
    page.mouse.click(*middle(page, POINT))
    page.click("#read-answers")
    page.wait_for_selector("#measured-list li")
    assert "concise 0, warm 1" in (page.text_content("#measured-title") or "")
    assert page.text_content("#measured-count") == "30 answers; the first 20 are shown."
    assert "cut at the token limit" in (page.text_content("#measured-list li >> nth=1") or "")
    assert "scored concise −2" in (page.text_content("#measured-list li >> nth=2") or "").replace(".00", "")
    picture(page, "front-answers")
    assert faults(page) == []
    page.click("#measured-more")
    page.wait_for_selector("#measured-list li >> nth=29")
    page.fill("#measured-search", "number 7")
    page.wait_for_selector("#measured-count:text-matches('^1 of 30 answers has these words')")
    page.click("#measured-close")
    assert not page.is_visible("#measured-dialog")
    here.choose("anchors")
    page.click("#front-table-box summary")
    page.get_by_label("Read the answers at concise 1, warm 0").click()
    page.wait_for_selector("#measured-count:text-matches('no measured answers of anchors')")
    here.problems[:] = [p for p in here.problems if "404" not in p]


def test_three_objectives_by_pairs_and_over_parallel_axes(three: str, visit: Open) -> None:
    here = visit(three)
    page = here.page
    assert page.locator("#chart .subplot").count() == 3
    page.check("#view-pair", force=True)
    page.wait_for_function("() => document.querySelectorAll('#chart .subplot').length === 1")
    page.select_option("#axis-x", "plain")
    page.wait_for_function(
        "() => document.querySelector('#chart .infolayer').textContent.includes('plain → better')"
    )
    page.select_option("#axis-y", "plain")
    page.wait_for_function(
        "() => document.querySelector('#chart .infolayer').textContent.includes('plain ↑ better')"
    )
    assert page.input_value("#axis-x") != "plain", "an objective is not drawn against itself"
    picture(page, "front-pair")
    page.check("#view-axes", force=True)
    page.wait_for_selector("#chart .parallel .measured")
    page.focus("#chart .measured[tabindex='0']")
    page.keyboard.press("ArrowRight")
    told = page.text_content("#chart .tip:not([hidden])") or ""
    assert "concise" in told and "plain" in told and "on the front with chance" in told
    at = page.get_attribute("#chart .measured:focus", "aria-label") or ""
    page.keyboard.press("Enter")
    page.wait_for_selector("#read-answers")
    assert at.split(":")[0] in (page.text_content("#front-legend") or "")
    picture(page, "front-parallel")
    svg = saved(page, "#save-svg").decode()
    assert svg.startswith("<svg") and "stroke" in svg and "class=" not in svg
    assert Image.open(io.BytesIO(saved(page, "#save-png"))).width > 800
    assert faults(page) == []
    page.reload()
    here.drawn()
    assert page.is_checked("#view-axes"), "the way to look is kept"


def test_the_front_on_a_phone(two: tuple[str, Service], three: str, visit: Open) -> None:
    for number, address in enumerate((two[0], three)):
        here = visit(address, size=PHONE, scheme="dark")
        here.page.click("#steer > summary")
        here.page.wait_for_selector("#front-tools", state="visible")
        assert here.overflow() <= 0
        if number:
            here.page.check("#view-axes", force=True)
            here.page.wait_for_selector("#chart .parallel .measured")
        picture(here.page, f"front-phone-{number}")
        assert here.overflow() <= 0 and faults(here.page) == []
