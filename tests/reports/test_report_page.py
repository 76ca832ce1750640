"""The report in a browser: choosing, finding, zooming and downloading; on paper, on a phone, and without any other address."""

from __future__ import annotations

import gzip
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from xml.etree import ElementTree

import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

from axe_playwright_python.sync_playwright import Axe  # noqa: E402
from playwright.sync_api import BrowserContext, Page  # noqa: E402

from paretune.core.preference import preference_grid  # noqa: E402
from paretune.fronts.record import FrontRecord  # noqa: E402
from paretune.reports.report import write_report  # noqa: E402
from support import records  # noqa: E402
from support.studio_world import PHONE, WIDE, browser, drawn_at  # noqa: E402

WEIGHTS = (1.0, 0.75, 0.5, 0.25, 0.0)
PROMPTS = ("Why is the sky blue?", "Why is grass green?", "What is rain?")
LONG = "So long an answer. " * 60
SPENT: list[str] = []
"""What the page asked for or complained about."""


def score(p: int, w: float) -> list[float]:
    return [-11.1 + p - w, 3.53 - p]


def write_run(folder: Path) -> Path:
    """Write a run of two policies that share a corner, with all answers and a history of training; return its report."""
    points = [
        records.point(
            {"concise": w, "warm": 1 - w},
            [-9 + 7 * w, 2 - w],
            [-9.4 + 7 * w, 1.8 - w],
            [-8 + 7 * w, 2.2 - w],
            responses=[LONG],
            response_scores=[score(0, w)],
        )
        for w in WEIGHTS
    ]
    other = [
        point if n == 0 else {**point, "mean": [value - 0.4 for value in point["mean"]]}
        for n, point in enumerate(points)
    ]
    ends = {"concise": records.figure(1.2, 0.3), "warm": records.figure(0.2, 0.4)}
    policies = [
        records.policy("one", points, title="A method one", ends=ends),
        records.policy("two", other, title="A method two", ends=ends),
    ]
    test = records.test("one", "base", 0.45, "one above")
    stages = [{"name": "adapters/dpo-concise=1.0", "seconds": 60.0, "reused": False}]
    facts = records.record(
        ["concise", "warm"], policies, prompts=[PROMPTS[0]], comparisons=[test], stages=stages, num_prompts=3
    )
    facts["base"] |= {"responses": [LONG], "response_scores": [score(0, 0.0)]}
    record = FrontRecord.parse(facts)
    lines = [
        {
            "policy": name,
            "preference": point.preference,
            "prompt": [{"role": "user", "content": text}],
            "prompt_id": str(p),
            "sample": 0,
            "answer": f"{LONG if p == 0 else ''}{name} says {p}",
            "scores": dict(zip(("concise", "warm"), score(p, point.preference["concise"]), strict=True)),
        }
        for name, kept in [
            ("base", [record.base]),
            *((policy.name, policy.points) for policy in record.policies),
        ]
        for point in kept
        for p, text in enumerate(PROMPTS)
    ]
    (folder / "data").mkdir()
    raw = "".join(json.dumps(line) + "\n" for line in lines).encode()
    (folder / "data" / "answers.jsonl.gz").write_bytes(gzip.compress(raw))
    history = [{"step": step + 1, "loss": 3 / (step + 1), "validation_loss": 3.1} for step in range(12)]
    (folder / "adapters" / "dpo-concise=1.0").mkdir(parents=True)
    (folder / "adapters" / "dpo-concise=1.0" / "history.json").write_text(json.dumps(history))
    return write_report(record, folder)


def write_three(folder: Path) -> Path:
    """Write a run of one policy with three objectives and its answers; return its report."""
    names = ("concise", "warm", "plain")
    points = [
        records.point(
            weights.as_dict(),
            [value - 0.5 for value in weights.weights],
            [value - 0.6 for value in weights.weights],
            [value - 0.4 for value in weights.weights],
            responses=[f"At {weights}."],
            response_scores=[list(weights.weights)],
        )
        for weights in preference_grid(names, 3)
    ]
    facts = records.record(
        names, [records.policy("one", points, title="A method one")], prompts=[PROMPTS[0]], num_prompts=1
    )
    facts["base"] |= {"responses": [LONG], "response_scores": [[0.0, 0.0, 0.0]]}
    return write_report(FrontRecord.parse(facts), folder)


@pytest.fixture(scope="module")
def chrome() -> Iterator[BrowserContext]:
    with browser() as found:
        yield found


@pytest.fixture(scope="module")
def file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("report"))


def opened(context: BrowserContext, file: Path) -> Page:
    """Open a report; what it asks for or complains about is noted."""
    page = context.new_page()
    page.on("console", lambda message: SPENT.append(message.text) if message.type == "error" else None)
    page.on("pageerror", lambda error: SPENT.append(str(error)))
    page.on("request", lambda asked: SPENT.append(asked.url) if asked.url.startswith("http") else None)
    page.goto(file.as_uri())
    return page


@pytest.fixture(scope="module")
def shown(chrome: BrowserContext, file: Path) -> Page:
    return opened(chrome, file)


@pytest.fixture(scope="module")
def third(chrome: BrowserContext, tmp_path_factory: pytest.TempPathFactory) -> Page:
    """The report of a run with three objectives."""
    return opened(chrome, write_three(tmp_path_factory.mktemp("three")))


@pytest.fixture
def page(shown: Page) -> Page:
    """The page at a phone's size, as it is when it is opened."""
    shown.set_viewport_size({"width": PHONE[0], "height": PHONE[1]})
    return shown


@pytest.fixture
def wide(shown: Page) -> Page:
    shown.set_viewport_size({"width": WIDE[0], "height": WIDE[1]})
    shown.reload()
    return shown


@pytest.mark.slow
def test_on_paper_every_answer_is_there_in_full(page: Page) -> None:
    page.evaluate("() => dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print")
    assert page.is_visible("#cards .card") and not page.is_visible(".controls")
    assert not page.is_visible("#plot") and page.is_visible("#front .wide svg")
    assert page.evaluate("() => document.getElementById('all').open")
    cut = "(text) => text.scrollHeight > text.clientHeight + 1"
    assert page.evaluate(f"() => [...document.querySelectorAll('.text')].filter({cut}).length") == 0
    style = page.evaluate("() => getComputedStyle(document.querySelector('#answers h2')).breakAfter")
    assert style == "avoid", "no heading stands alone"
    page.evaluate("() => dispatchEvent(new Event('afterprint'))")
    assert not page.evaluate("() => document.getElementById('all').open")
    page.emulate_media(media="screen")


def test_on_a_phone_wide_tables_say_so_and_axes_have_ticks(page: Page) -> None:
    heads = page.locator("#comparisons thead th").all_text_contents()
    assert heads[1] == "verdict", "the verdict is seen without scrolling"
    signs = page.evaluate(
        "() => [...document.querySelectorAll('.scroll')].filter((box) => box.checkVisibility() &&"
        " (box.scrollWidth > box.clientWidth + 1) === box.previousElementSibling.hidden).length"
    )
    assert signs == 0 and page.locator("#comparisons .more:visible").count() == 1
    anchors = page.locator("#plot text.tick[text-anchor=middle]").count()
    assert anchors >= 3


@pytest.mark.parametrize("width", [320, 390, 1000, 1280, 1920])
@pytest.mark.parametrize("objectives", [2, 3])
def test_the_page_never_scrolls_sideways(shown: Page, third: Page, objectives: int, width: int) -> None:
    page = shown if objectives == 2 else third
    page.set_viewport_size({"width": width, "height": 800})
    assert page.evaluate("() => document.documentElement.scrollWidth - innerWidth") <= 0
    assert page.is_visible("#contents") == (width == 1920)


def test_a_card_shows_the_own_scores_of_its_answer(page: Page) -> None:
    lines = page.locator("#cards .card:first-child .figures div").all_text_contents()
    assert lines[0] == "concise−11.6mean −5.5 [−5.9, −4.5]" and lines[2] == "words243mean 40"


@pytest.mark.slow
def test_points_are_chosen_beside_the_plot_and_compared(wide: Page) -> None:
    cards = wide.locator("#picked .card")
    texts = [card.locator(".plain").first.text_content() for card in cards.all()]
    assert texts == ["concise 1, warm 0", "concise 0, warm 1"], "the ends of the dial stand there first"
    plot, beside = drawn_at(wide.locator("#plot svg.plot")), drawn_at(wide.locator("#picked"))
    assert beside["x"] >= plot["x"] + plot["width"]
    point = wide.locator("#plot [data-key='two 2']")
    point.dispatch_event("click")
    assert cards.count() == 2 and "two says 0" in (cards.nth(1).locator(".text").text_content() or "")
    assert "--policy two -p concise=0.5,warm=0.5" in (cards.nth(1).locator(".command").text_content() or "")
    assert point.get_attribute("aria-pressed") == "true"
    point.press("Enter")
    assert cards.count() == 1, "chosen again, it is put away"
    wide.get_by_role("button", name="next prompt").first.click()
    assert PROMPTS[1] in (wide.locator("#picked blockquote").text_content() or "")
    assert wide.locator("#asked").text_content() == PROMPTS[1], "both sections show the same prompt"


def test_prompts_are_found_by_text_and_ordered_by_a_score(wide: Page) -> None:
    wide.fill("#filter", "why")
    assert wide.locator("#prompt option").all_text_contents() == list(PROMPTS[:2])
    assert wide.locator("#matching").text_content() == "2 of 3 prompts contain it"
    wide.fill("#filter", "xyz")
    assert wide.locator("#asked").text_content() == "No prompt contains that."
    assert not wide.is_visible("#cards")
    wide.fill("#filter", "")
    wide.select_option("#order", label="concise, highest first")
    assert wide.locator("#prompt option").all_text_contents() == list(PROMPTS[::-1])
    assert wide.locator("#asked").text_content() == PROMPTS[2]


def spans(page: Page) -> list[float]:
    """Return the ranges that the first plot of a page shows: left, right, bottom and top."""
    return [
        float(value) for value in page.locator("#plot .pairing").first.get_attribute("data-spans").split()
    ]


@pytest.mark.slow
def test_the_legend_hides_and_zooming_draws_finer_axes(wide: Page) -> None:
    entry = wide.locator("#plot button[data-shows=one]")
    marks, followers = wide.locator("#plot [data-series=one]"), wide.locator("#steering .of0").first
    assert marks.count() == 5
    entry.click()
    assert (
        entry.get_attribute("aria-pressed") == "false" and marks.count() == 0 and not followers.is_visible()
    )
    entry.click()
    assert marks.count() == 5 and followers.is_visible()
    bars = wide.locator("#plot .plot .bar")
    count = bars.count()
    for part in ("bars", "base", "mixture", "hull"):
        wide.click(f"#plot [data-shows=':{part}']")
    assert count > 20 and bars.count() == 0
    for kind in (".cross", ".mixture", ".hull"):
        assert wide.locator(f"#plot .plot {kind}").count() == 0
    for part in ("bars", "base", "mixture", "hull"):
        wide.click(f"#plot [data-shows=':{part}']")
    ticks = wide.locator("#plot .plot .tick")
    before, mark = ticks.all_text_contents(), drawn_at(wide.locator("#plot [data-key='one 0'] .mark"))
    for _ in range(3):
        wide.get_by_role("button", name="Zoom in").click()
    after = drawn_at(wide.locator("#plot [data-key='one 0'] .mark"))
    assert ticks.all_text_contents() != before
    assert after["width"] == pytest.approx(mark["width"], abs=3), "a mark keeps its size"
    wide.get_by_role("button", name="Show the whole front again").click()
    assert ticks.all_text_contents() == before


def test_a_point_says_its_intervals_and_its_chance_to_the_pointer_and_to_a_screen_reader(wide: Page) -> None:
    wide.locator("#plot [data-key='two 2'] .hit").hover()
    told = wide.locator("#plot .tip").inner_text()
    assert told.startswith("A method two, concise 0.5, warm 0.5") and "concise −5.9 [−5.9, −4.5]" in told
    assert "on the front 100 %" in told
    wide.mouse.move(2, 2)
    assert not wide.is_visible("#plot .tip")
    name = wide.locator("#plot [data-key='two 2']").get_attribute("aria-label") or ""
    assert name.split("; ") == told.splitlines()
    assert "arrow keys go from point to point" in (
        wide.locator("#plot svg.plot").get_attribute("aria-label") or ""
    )


def test_the_keys_go_from_point_to_point_zoom_and_move_the_view(wide: Page) -> None:
    assert wide.locator("#plot .pt[tabindex='0']").count() == 1, "Tab reaches one point; the arrows go on"
    wide.focus("#save-json")
    wide.keyboard.press("Tab")
    at = "() => document.activeElement.dataset.key"
    assert wide.evaluate(at) == "one 0" and wide.is_visible("#plot .tip")
    wide.keyboard.press("ArrowRight")
    assert wide.evaluate(at) == "one 1"
    wide.keyboard.press("End")
    assert wide.evaluate(at) == "two 4"
    wide.keyboard.press("ArrowRight")
    wide.keyboard.press("ArrowLeft")
    assert wide.evaluate(at) == "two 4", "round about and back"
    wide.keyboard.press("ArrowLeft")
    wide.keyboard.press("Enter")
    assert wide.evaluate(at) == "two 3" and "two says 0" in wide.locator("#picked .card").last.inner_text()
    whole = spans(wide)
    wide.keyboard.press("+")
    close = spans(wide)
    assert close[1] - close[0] == pytest.approx(0.6 * (whole[1] - whole[0]))
    assert wide.evaluate(at) == "two 3", "the focus stays"
    wide.keyboard.press("Shift+ArrowUp")
    moved = spans(wide)
    assert moved[2] > close[2] and moved[:2] == close[:2]
    wide.keyboard.press("-")
    wide.keyboard.press("0")
    assert spans(wide) == whole
    wide.keyboard.press("Escape")
    assert not wide.is_visible("#plot .tip")


@pytest.mark.slow
def test_a_box_zooms_and_a_point_that_lies_outside_is_brought_into_view(wide: Page) -> None:
    whole = spans(wide)
    wide.locator("#plot svg.plot").scroll_into_view_if_needed()
    box = drawn_at(wide.locator("#plot .ground"))

    def drag(*shares: tuple[float, float]) -> None:
        for n, (x, y) in enumerate(shares):
            wide.mouse.move(box["x"] + x * box["width"], box["y"] + y * box["height"], steps=3)
            wide.mouse.down() if n == 0 else wide.mouse.up()

    drag((0.06, 0.55), (0.36, 0.9))
    close = spans(wide)
    assert close[1] - close[0] == pytest.approx(0.3 * (whole[1] - whole[0]), rel=0.02)
    assert close[0] - whole[0] == pytest.approx(0.06 * (whole[1] - whole[0]), rel=0.1)
    assert close[3] - close[2] == pytest.approx(0.35 * (whole[3] - whole[2]), rel=0.02)
    wide.keyboard.down("Shift")
    drag((0.5, 0.5), (0.6, 0.5))
    wide.keyboard.up("Shift")
    assert spans(wide)[0] < close[0] and spans(wide)[1] - spans(wide)[0] == pytest.approx(close[1] - close[0])
    wide.focus("#save-json")
    wide.keyboard.press("Tab")
    wide.keyboard.press("Home")
    low, high, *_ = spans(wide)
    assert low < -2 < high, "the point with all weight on concise"
    wide.locator("#plot .ground").dblclick(position={"x": 5, "y": 5})
    assert spans(wide) == whole


def saver(page: Page) -> Callable[[str], bytes]:
    """Return what presses a button of a page and returns the file that is downloaded."""

    def saved(name: str) -> bytes:
        with page.expect_download() as download:
            page.get_by_role("button", name=f"Save the front as {name}").click()
        return Path(download.value.path()).read_bytes()

    return saved


@pytest.mark.slow
def test_what_is_downloaded_can_be_read(wide: Page) -> None:
    saved = saver(wide)
    record = FrontRecord.parse(json.loads(saved("JSON")))
    assert record.policies[1].points[0].mean == record.policies[0].points[0].mean
    rows = saved("CSV").decode().splitlines()
    assert len(rows) == 1 + 1 + 10 and rows[0].startswith(
        "policy,weight on concise,weight on warm,concise,concise low"
    )
    assert rows[2].startswith("one,1,0,-2,-2.4,-1,1,0.8,1.2,40,7.5,1,0")
    assert ElementTree.fromstring(saved("SVG")).tag.endswith("svg")
    assert saved("PNG")[:4] == b"\x89PNG"


def test_tables_sort_by_a_click_on_their_head(wide: Page) -> None:
    column = "#sense tbody tr td:nth-child(3)"
    wide.locator("#sense thead button", has_text="concise").nth(1).click()
    shown = [float(text.replace("−", "-")) for text in wide.locator(column).all_text_contents()]
    assert shown == sorted(shown, reverse=True) and len(set(shown)) > 3
    assert wide.locator("#sense thead [aria-sort=descending]").count() == 1


@pytest.mark.slow
def test_commands_are_copied_and_training_is_drawn(wide: Page) -> None:
    button = wide.locator("#next .copy").first
    button.click()
    wide.wait_for_function("() => document.querySelector('#next .copy').textContent === 'copied'")
    drawn = wide.locator("#training svg.curve")
    assert drawn.count() == 1
    assert drawn.get_attribute("aria-label") == (
        "loss: 3 at step 1, 0.25 at step 12; on validation data 3.1, then 3.1"
    )


@pytest.mark.slow
def test_three_objectives_are_chosen_seen_in_pairs_and_downloaded(third: Page) -> None:
    third.set_viewport_size({"width": WIDE[0], "height": WIDE[1]})
    plots = third.locator("#plot .pairing")
    third.wait_for_function("() => document.querySelectorAll('#plot .pairing').length === 3")
    texts = third.locator("#picked .card > .plain")
    assert texts.count() == 2
    plots.nth(1).locator(".pt").nth(4).dispatch_event("click")
    chosen = texts.last.text_content()
    assert third.locator("#plot .pt.on").count() == 2 * 3, "in every pair"
    third.check("#view-axes", force=True)
    assert third.locator("#plot .pt.on").count() == 2, "over all axes"
    assert not third.is_visible("#zoom-in")
    third.check("#view-all", force=True)
    small = drawn_at(plots.nth(1))
    third.check("#view-pair", force=True)
    third.select_option("#axis-y", label="plain")
    assert plots.count() == 1 and "concise (across) and plain" in (plots.get_attribute("aria-label") or "")
    large = drawn_at(plots)
    assert large["width"] > 1.5 * small["width"]
    assert texts.last.text_content() == chosen
    saved = saver(third)
    alone = saved("SVG")
    third.check("#view-all", force=True)
    every = saved("SVG")
    titles = [ElementTree.fromstring(found).findall(".//{*}svg") for found in (alone, every)]
    assert len(titles[0]) < len(titles[1]), "what is seen is saved"
    assert saved("PNG")[:4] == b"\x89PNG"
    rows = saved("CSV").decode().splitlines()
    assert len(rows) == 1 + 1 + 10 and rows[0].startswith(
        "policy,weight on concise,weight on warm,weight on plain"
    )
    assert len(FrontRecord.parse(json.loads(saved("JSON"))).objectives) == 3


@pytest.mark.slow
def test_without_scripts_everything_is_read_and_nothing_waits_for_them(
    chrome: BrowserContext, file: Path, third: Page
) -> None:
    assert chrome.browser is not None
    plain = chrome.browser.new_context(java_script_enabled=False)
    for address, drawing in ((file.as_uri(), "#front .wide svg"), (third.url, "#front .pairs svg")):
        page = plain.new_page()
        page.set_viewport_size({"width": WIDE[0], "height": WIDE[1]})
        page.goto(address)
        assert page.locator(f"{drawing} .pt .mark").first.is_visible()
        assert page.locator("#sense tbody tr").first.is_visible()
        assert page.locator("#all .text").first.is_visible() and LONG.strip() in page.inner_text("#all")
        for control in ("button", "select", "input", "#compare", "#picked", "#plot"):
            assert page.locator(f"{control}:visible").count() == 0, control
        page.close()
    plain.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.slow
def test_three_objectives_keep_no_reader_out(third: Page, scheme: str) -> None:
    third.emulate_media(color_scheme=scheme)
    found = Axe().run(third).response["violations"]
    assert [(each["id"], each["nodes"][0]["html"][:120]) for each in found] == []


@pytest.mark.parametrize("scheme", ["light", "dark"])
@pytest.mark.slow
def test_nothing_keeps_a_reader_out(wide: Page, scheme: str) -> None:
    wide.emulate_media(color_scheme=scheme)
    found = Axe().run(wide).response["violations"]
    assert [(each["id"], each["nodes"][0]["html"][:120]) for each in found] == []
    assert SPENT == [], "no request, and nothing that the page's own policy forbids"
