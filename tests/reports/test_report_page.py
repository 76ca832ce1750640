"""The report in a browser: on paper, and on a phone."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

from playwright.sync_api import Page  # noqa: E402

from paretune.fronts.record import FrontRecord  # noqa: E402
from paretune.reports.report import write_report  # noqa: E402
from support import records  # noqa: E402
from support.studio_world import PHONE, browser  # noqa: E402


@pytest.fixture(scope="module")
def page(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Page]:
    answers = {"responses": ["So long an answer. " * 60], "response_scores": [[-11.1, 3.53]]}
    points = [
        records.point(
            {"concise": w, "warm": 1 - w},
            [-9 + 7 * w, 2 - w],
            [-9.4 + 7 * w, 1.8 - w],
            [-8 + 7 * w, 2.2 - w],
            **answers,
        )
        for w in (1.0, 0.75, 0.5, 0.25, 0.0)
    ]
    policies = [records.policy(name, points, title=f"A method {name}") for name in ("one", "two")]
    test = records.test("one", "base", 0.45, "one above")
    facts = records.record(["concise", "warm"], policies, prompts=["Why?"], comparisons=[test])
    facts["base"] |= answers
    file = write_report(FrontRecord.parse(facts), tmp_path_factory.mktemp("report"))
    with browser() as found:
        page = found.new_page()
        page.set_viewport_size({"width": PHONE[0], "height": PHONE[1]})
        page.goto(Path(file).as_uri())
        yield page


def test_on_paper_every_answer_is_there_in_full(page: Page) -> None:
    page.evaluate("() => dispatchEvent(new Event('beforeprint'))")
    page.emulate_media(media="print")
    assert page.is_visible("#cards .card") and not page.is_visible(".controls")
    assert page.evaluate("() => document.getElementById('all').open")
    cut = "(text) => text.scrollHeight > text.clientHeight + 1"
    assert page.evaluate(f"() => [...document.querySelectorAll('.text')].filter({cut}).length") == 0
    style = page.evaluate("() => getComputedStyle(document.querySelector('#answers h2')).breakAfter")
    assert style == "avoid", "no heading stands alone"
    page.evaluate("() => dispatchEvent(new Event('afterprint'))")
    assert not page.evaluate("() => document.getElementById('all').open")
    page.emulate_media(media="screen")


def test_on_a_phone_wide_tables_say_so_and_axes_have_ticks(page: Page) -> None:
    assert page.evaluate("() => document.documentElement.scrollWidth - innerWidth") <= 0
    heads = page.locator("#comparisons thead th").all_text_contents()
    assert heads[1] == "verdict", "the verdict is seen without scrolling"
    signs = page.evaluate(
        "() => [...document.querySelectorAll('.scroll')].filter((box) => box.checkVisibility() &&"
        " (box.scrollWidth > box.clientWidth + 1) === box.previousElementSibling.hidden).length"
    )
    assert signs == 0 and page.locator("#comparisons .more:visible").count() == 1
    anchors = page.locator("#front .narrow text.tick[text-anchor=middle]").count()
    assert anchors >= 3


def test_a_card_shows_the_own_scores_of_its_answer(page: Page) -> None:
    rows = page.locator("#cards .card:first-child tbody tr").all_text_contents()
    assert rows[0].startswith("concise−11.1") and rows[2].startswith("words240")
    heads = page.locator("#cards .card:first-child thead th").all_text_contents()
    assert heads[1:] == ["this answer", "mean of 60 prompts"]
