"""The front in a real browser: what a point says, zooming, policies beside it, files to keep, the answers behind a point."""

from __future__ import annotations

import csv
import io
import os
import re
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

from PIL import Image  # noqa: E402
from playwright.sync_api import Page  # noqa: E402

from paretune.reports.scripts import MODULES, page_script, plot_file  # noqa: E402
from paretune.serving.http.studio import FOLDERS  # noqa: E402
from paretune.serving.service import Service  # noqa: E402
from support.studio_world import PHONE, Visit, drawn_at, faults  # noqa: E402

Open = Callable[..., Visit]


def picture(page: Page, name: str) -> None:
    """Keep a screenshot where somebody wants to look."""
    if folder := os.environ.get("PARETUNE_SCREENSHOTS"):
        page.screenshot(path=f"{folder}/{name}.png", full_page=True)


def middle(page: Page, selector: str) -> tuple[float, float]:
    """Return the middle of the first element that a selector finds."""
    page.locator(selector).first.scroll_into_view_if_needed()
    box = drawn_at(page.locator(selector))
    return box["x"] + box["width"] / 2, box["y"] + box["height"] / 2


POINT = "#chart .pt.chosen .mark"


def span(page: Page, axis: int = 0) -> float:
    """Return how much the first plot shows across, or up."""
    spans = page.locator("#chart .pairing").first.get_attribute("data-spans").split()
    low, high = map(float, spans[2 * axis : 2 * axis + 2])
    return high - low


def saved(page: Page, button: str) -> bytes:
    with page.expect_download() as given:
        page.click(button)
    return Path(given.value.path()).read_bytes()


@pytest.mark.slow
def test_a_point_says_its_preference_its_means_and_its_chance(two: tuple[str, Service], visit: Open) -> None:
    page = visit(two[0]).page
    page.mouse.move(*middle(page, POINT))
    told = page.inner_text("#chart .tip")
    assert "concise 0" in told and "warm 1" in told and "[" in told
    assert "on the front with chance 1.00" in told
    drawn = page.text_content("#chart svg.plot") or ""
    assert "concise → better" in drawn and "+1 for every word fewer" in drawn
    page.click("#front-table-box summary")
    assert page.locator("#front-table td:text-is('1.00')").count() == 7


@pytest.mark.slow
def test_zooming_by_buttons_and_by_a_box_and_back(two: tuple[str, Service], visit: Open) -> None:
    page = visit(two[0]).page
    whole = span(page)
    page.focus("#zoom-in")
    page.keyboard.press("Enter")
    assert span(page) == pytest.approx(0.6 * whole) and span(page, 1) > 0
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
    page.locator("#chart svg.plot").scroll_into_view_if_needed()
    box = drawn_at(page.locator("#chart .ground"))
    page.mouse.move(box["x"] + 0.3 * box["width"], box["y"] + 0.3 * box["height"])
    page.mouse.down()
    page.mouse.move(box["x"] + 0.7 * box["width"], box["y"] + 0.7 * box["height"], steps=4)
    page.mouse.up()
    assert span(page) < 0.6 * whole
    picture(page, "front-zoomed")
    page.click("#zoom-reset")
    assert span(page) == pytest.approx(whole)


@pytest.mark.slow
def test_the_keys_go_from_point_to_point_zoom_and_choose(two: tuple[str, Service], visit: Open) -> None:
    page = visit(two[0]).page
    assert page.locator("#chart .pt[tabindex='0']").count() == 1, "Tab reaches one point; the arrows go on"
    page.focus("#save-csv")
    page.keyboard.press("Tab")
    at = "() => document.activeElement.dataset.key"
    assert page.evaluate(at) == "soup concise 0, warm 1"
    page.keyboard.press("ArrowRight")
    name = page.get_attribute("#chart .pt:focus", "aria-label") or ""
    assert name.startswith("concise 0.167, warm 0.833; concise ") and "on the front with chance" in name
    assert page.inner_text("#chart .tip").splitlines() == name.split("; ")
    whole = span(page)
    page.keyboard.press("+")
    assert span(page) == pytest.approx(0.6 * whole) and page.evaluate(at) == "soup concise 0.167, warm 0.833"
    page.keyboard.press("0")
    assert span(page) == pytest.approx(whole)
    page.keyboard.press("Enter")
    page.wait_for_function(
        "() => document.querySelector('.dial.a .what').textContent.startsWith('concise 0.167,')"
    )
    page.wait_for_selector("#chart .pt.on[data-key='soup concise 0.167, warm 0.833']", state="attached")
    assert page.evaluate(at) == "soup concise 0.167, warm 0.833", "the focus stays where one is"
    page.click("#chart [data-shows=':bars']")
    assert page.locator("#chart .plot .pt .bar").count() == 0


@pytest.mark.slow
def test_report_and_studio_draw_by_the_same_module(two: tuple[str, Service], visit: Open) -> None:
    here = visit(two[0])
    report = page_script()
    own, shared = ({file.name for file in folder.iterdir()} for folder in FOLDERS)
    assert not own & shared and set(MODULES) < shared
    for name in MODULES:
        served = httpx.get(f"{two[0]}/studio/{name}").text
        assert served == plot_file(name)
        body = re.sub(r"^import .*\n", "", served, flags=re.MULTILINE).replace("export ", "")
        assert body in report, name
    assert httpx.get(f"{two[0]}/studio/plot.css").text == plot_file("plot.css")
    asked = "() => performance.getEntriesByType('resource').map((one) => [one.name, one.decodedBodySize])"
    sizes = {address.rpartition("/")[2]: size for address, size in here.page.evaluate(asked)}
    assert set(MODULES) <= set(sizes) and sum(sizes.values()) < 600_000, "the page is there at once"


@pytest.mark.slow
def test_other_policies_stand_beside_the_chosen_one_until_they_are_put_out(
    two: tuple[str, Service], visit: Open
) -> None:
    here = visit(two[0])
    page = here.page

    def names() -> set[str]:
        return set(
            page.locator("#chart .plot [data-series]").evaluate_all(
                "(all) => all.map((one) => one.dataset.series)"
            )
        )

    assert names() == {"soup", "anchors", "mod"} and page.locator("#chart .own").count() == 2
    assert page.locator("#chart .plot .beside .open").count() > 3, "none hides what lies under it"
    assert (
        page.locator("#chart .plot-legend [data-shows=mod], #chart .plot-legend [data-shows=anchors]").count()
        == 2
    )
    picture(page, "front-legend")
    page.focus("#legend-mod")
    page.keyboard.press("Space")
    assert names() == {"soup", "anchors"}
    assert page.evaluate("() => document.activeElement.id") == "legend-mod"
    assert page.get_attribute("#legend-mod", "aria-pressed") == "false"
    page.reload()
    here.drawn()
    assert names() == {"soup", "anchors"}, "what was put out stays out"
    here.choose("mod")
    assert names() == {"soup", "anchors", "mod"}, "the chosen policy is always there"
    page.locator("#chart .pt.beside[data-key='soup concise 1, warm 0']").dispatch_event("click")
    page.wait_for_function("() => document.getElementById('policy').value === 'soup'")
    page.wait_for_selector("#read-answers")


@pytest.mark.slow
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


@pytest.mark.slow
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


@pytest.mark.slow
def test_three_objectives_by_pairs_and_over_parallel_axes(three: str, visit: Open) -> None:
    here = visit(three)
    page = here.page
    assert page.locator("#chart .pairing").count() == 3
    page.check("#view-pair", force=True)
    assert page.locator("#chart .pairing").count() == 1
    page.select_option("#axis-x", label="plain")
    assert "plain → better" in (page.text_content("#chart svg.plot") or "")
    page.select_option("#axis-y", label="plain")
    assert "plain ↑ better" in (page.text_content("#chart svg.plot") or "")
    assert page.input_value("#axis-x") != page.input_value("#axis-y"), (
        "an objective is not drawn against itself"
    )
    picture(page, "front-pair")
    page.check("#view-axes", force=True)
    assert page.locator("#chart .pairing").count() == 0
    page.focus("#chart .pt[tabindex='0']")
    page.keyboard.press("ArrowRight")
    told = page.text_content("#chart .tip:not([hidden])") or ""
    assert "concise" in told and "plain" in told and "on the front with chance" in told
    at = page.get_attribute("#chart .pt:focus", "aria-label") or ""
    page.keyboard.press("Enter")
    page.wait_for_selector("#read-answers")
    assert at.split(";")[0] in (page.text_content("#chosen") or "")
    picture(page, "front-parallel")
    svg = saved(page, "#save-svg").decode()
    assert svg.startswith("<svg") and "stroke" in svg and "class=" not in svg
    assert Image.open(io.BytesIO(saved(page, "#save-png"))).width > 800
    assert faults(page) == []
    page.reload()
    here.drawn()
    assert page.is_checked("#view-axes"), "the way to look is kept"


@pytest.mark.slow
def test_the_front_on_a_phone(two: tuple[str, Service], three: str, visit: Open) -> None:
    for number, address in enumerate((two[0], three)):
        here = visit(address, size=PHONE, scheme="dark")
        here.page.click("#steer > summary")
        here.page.wait_for_selector("#chart .plot-tools", state="visible")
        assert here.overflow() <= 0
        if number:
            here.page.check("#view-axes", force=True)
            here.page.wait_for_selector("#chart .pt .line")
        picture(here.page, f"front-phone-{number}")
        assert here.overflow() <= 0 and faults(here.page) == []


CROWDED = """async (width) => {
  const { FrontPlot } = await import('./studio/plot.js');
  const root = document.body.appendChild(document.createElement('div'));
  root.id = 'crowded';
  root.style.width = `${width}px`;
  const bounds = (mean) => ({ mean, low: mean.map((x) => x - .1), high: mean.map((x) => x + .1) });
  const point = (n, mean) => ({ id: `${n}`, ...bounds(mean), head: `${n}`, label: `${n / 20}` });
  const near = Array.from({ length: 21 }, (_, n) => point(n, [1 + .01 * n, 1 - .02 * n]));
  const series = { id: 'one', title: 'one', kind: 'chosen', shape: 'circle', joined: true, fixed: true, points: near };
  const front = { key: 'crowded', name: 'crowded', objectives: [{ name: 'first' }, { name: 'second' }], series: [series],
    base: { ...point(0, [0, 0]), title: 'base model' } };
  new FrontPlot(root, { pick: () => {}, rows: () => [] }).show(front);
  const labels = [...root.querySelectorAll('.label')].map((one) => [one.textContent, one.getBoundingClientRect()]);
  const apart = 4;  // a line of text is higher than its figures
  const cross = (a, b) => a.left < b.right && b.left < a.right && a.top + apart < b.bottom && b.top + apart < a.bottom;
  const crossed = labels.flatMap(([p, a], n) => labels.slice(n + 1).filter(([, b]) => cross(a, b)).map(([q]) => `${p} over ${q}`));
  root.remove();
  return [labels.map(([text]) => text), crossed];
}"""


@pytest.mark.parametrize("width", [340, 600])
@pytest.mark.slow
def test_labels_of_points_that_lie_close_never_cover_each_other(
    two: tuple[str, Service], visit: Open, width: int
) -> None:
    labels, crossed = visit(two[0]).page.evaluate(CROWDED, width)
    assert crossed == []
    assert {"0", "1", "base model"} <= set(labels), "the ends of the dial and the base model keep theirs"
    assert 5 <= len(labels) < 22, "what has no room is left to the pointer and to the table"
