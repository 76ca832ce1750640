"""The studio as a conversation, in a real browser: turns, branches, what survives a reload or a lost server, and the history."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

from playwright.sync_api import BrowserContext, Page, Request  # noqa: E402

import paretune.serving.service  # noqa: E402
from paretune.serving.backend import served_base  # noqa: E402
from paretune.serving.service import Service  # noqa: E402
from support.serve_world import FakeBackend, fake_service, live  # noqa: E402
from support.studio_world import PHONE, WIDE, Visit, drawn_at, faults  # noqa: E402

Open = Callable[..., Visit]
WORDS = 6
LAST = ".round:last-child"


class Slow(FakeBackend):
    """Writes one word in a moment, so that a person can come between; the base model can be asked too."""

    def __init__(self, word: str = "") -> None:
        super().__init__(pace=0.02, word=word)
        self.base_model = served_base(self.served)


@pytest.fixture(scope="module")
def place(chrome: BrowserContext, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Service]]:
    service = fake_service(tmp_path_factory.mktemp("talk"), Slow())
    with live(service) as address:
        yield address, service


def begin(visit: Open, address: str, words: int = WORDS, **more: object) -> tuple[Visit, list[dict]]:
    """Open the studio with short answers; return what it asks for, too, as it asks."""
    here = visit(address, **more)
    sent: list[dict] = []

    def look(request: Request) -> None:
        if request.url.endswith("/v1/chat/completions"):
            sent.append(json.loads(request.post_data or "{}"))

    here.page.on("request", look)
    here.page.click("#options summary")
    here.page.fill("#max-tokens", str(words))
    here.page.click("#options summary")
    return here, sent


def contents(body: dict) -> list[str]:
    """Return the texts of a request's messages, with their words one space apart."""
    return [plain(message["content"]) for message in body["messages"]]


def plain(text: str | None) -> str:
    """Return a text with its words one space apart: spaces at the ends go once its markup is shown."""
    return " ".join((text or "").split())


def answer(page: Page, side: str) -> str:
    """Return the last answer of a side."""
    return plain(page.text_content(f"#answer-{side}"))


def texts(page: Page) -> list[str]:
    """Return the messages that are shown."""
    return page.locator(".round .message").all_text_contents()


@pytest.mark.slow
def test_three_turns_an_edit_and_its_branch(place: tuple[str, Service], visit: Open) -> None:
    here, sent = begin(visit, place[0])
    page = here.page
    page.click("#options summary")
    page.fill("#system", "Be kind.")
    page.click("#options summary")
    here.ask("one")
    page.click("#vote-second")
    page.wait_for_selector(".answer.b.won.chosen [aria-pressed=true]:text-matches('Going on with B')")
    preferred = answer(page, "b")
    here.ask("two")
    page.click(f"{LAST} .answer.a [data-key=go-on]")
    first = answer(page, "a")
    here.ask("three")
    assert texts(page) == ["one", "two", "three"]
    went = ["Be kind.", "one", preferred, "two", first, "three"]
    for body in sent[-2:]:
        assert contents(body) == went
    assert sent[-1]["seed"] == sent[-2]["seed"] and sent[-1]["preference"] != sent[-2]["preference"]
    told = page.text_content(f"{LAST} .answer.a > .small") or ""
    assert "6 words · cut at the token limit" in told and "tokens/s" in told and "first text after" in told

    page.click("[aria-label='Edit message 2']")
    page.keyboard.press("Control+A")
    page.keyboard.type("two, said otherwise")
    page.keyboard.press("Enter")
    here.answered()
    assert texts(page) == ["one", "two, said otherwise"]
    assert contents(sent[-1]) == ["Be kind.", "one", preferred, "two, said otherwise"]
    assert page.text_content(f"{LAST} .said .versions span") == "2 of 2"
    page.click("[aria-label='Previous version of message 2']")
    assert texts(page) == ["one", "two", "three"]

    page.click(f"{LAST} .answer.b [data-key=again]")
    page.wait_for_selector(f"{LAST} .answer.b .versions span:text-is('2 of 2')")
    here.answered()
    assert page.locator(f"{LAST} .answer.a .versions").count() == 0, "A was not asked again"
    before = answer(page, "b")
    page.click(f"{LAST} .answer.b [data-key=more]")
    page.wait_for_selector(f"{LAST} .answer.b .versions span:text-is('3 of 3')")
    here.answered()
    longer = answer(page, "b")
    assert before and longer.startswith(before) and len(longer) > len(before)
    assert sent[-1]["continue_final_message"] and contents(sent[-1])[-1] == before

    page.reload()
    here.drawn()
    assert texts(page) == ["one", "two", "three"] and answer(page, "b") == longer
    assert page.input_value("#system") == "Be kind."


@pytest.mark.slow
def test_the_history_is_searched_opened_renamed_taken_along_and_deleted(
    place: tuple[str, Service], visit: Open, tmp_path: Path
) -> None:
    here, _ = begin(visit, place[0])
    page = here.page
    here.ask("about pears")
    here.ask("and plums")
    shown = answer(page, "a")
    page.click("#new-talk")
    assert texts(page) == [] and page.is_visible("#welcome")
    here.ask("about stones")
    page.click("#talks")
    page.wait_for_selector("#talks-list .open:text-is('about stones')")
    page.fill("#talks-search", "PLUMS")
    page.wait_for_selector("#talks-list li:nth-child(2)", state="detached")
    page.click("[aria-label='Rename about pears']")
    page.keyboard.type("fruit")
    page.keyboard.press("Enter")
    page.wait_for_selector("#talks-list .open:text-is('fruit')")
    assert faults(page) == []
    with page.expect_download() as saved:
        page.click("[aria-label='Export as Markdown: fruit']")
    file = tmp_path / "talk.md"
    saved.value.save_as(file)
    assert saved.value.suggested_filename == "fruit.md" and "and plums" in file.read_text(encoding="utf-8")
    page.click("#talks-list .open")
    page.wait_for_selector("#talk-title:text-is('fruit')")
    assert texts(page) == ["about pears", "and plums"] and answer(page, "a") == shown
    page.click("#talks")
    page.click("[aria-label='Delete fruit']")
    page.click("#sure-yes")
    page.wait_for_selector("#talks-list .open:text-is('fruit')", state="detached")
    page.click("#talks-close")
    assert texts(page) == [], "the deleted conversation was open"


def growing(page: Page) -> None:
    """Wait until both answers of the last turn have some text and are still on their way."""
    page.wait_for_function(
        "() => ['a', 'b'].every((side) => (document.getElementById(`answer-${side}`)?.textContent ?? '').length > 20)"
    )
    assert page.locator(f"{LAST} .answer.live").count() == 2


@pytest.mark.slow
def test_a_reload_in_mid_answer_keeps_what_had_arrived(place: tuple[str, Service], visit: Open) -> None:
    here, _ = begin(visit, place[0], words=400)
    page = here.page
    page.fill("#prompt", "a long story")
    page.click("#send")
    growing(page)
    assert "answering" in (page.text_content("#status") or "")
    arrived = answer(page, "a")[:20]
    page.reload()
    here.drawn()
    page.wait_for_selector(".answer.a .note:text-matches('broke off')")
    assert texts(page) == ["a long story"] and answer(page, "a").startswith(arrived)
    assert page.get_attribute("#vote-first", "aria-disabled") == "true", "half an answer cannot be compared"
    page.click(f"{LAST} .answer.a [data-key=more]")
    page.wait_for_selector(f"{LAST} .answer.a.live")
    page.keyboard.press("Escape")
    page.wait_for_selector(f"{LAST} .answer.a:not(.live) > .small:text-matches('stopped')")


@pytest.mark.slow
def test_a_server_that_stops_in_mid_answer_leaves_what_had_arrived(
    visit: Open, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(paretune.serving.service, "GRACE_SECONDS", 0.0)
    with live(fake_service(tmp_path, Slow())) as address:
        here, _ = begin(visit, address, words=400)
        page = here.page
        page.fill("#prompt", "a long story")
        page.click("#send")
        growing(page)
    page.wait_for_selector(".answer.a .note:text-matches('broke off')")
    page.wait_for_selector("#alert.error")
    assert len(answer(page, "a")) > 20 and texts(page) == ["a long story"]
    assert page.text_content("#send") == "Ask again"
    here.problems[:] = [problem for problem in here.problems if "Failed to load" not in problem]


@pytest.mark.slow
def test_the_base_model_answers_as_a_third_and_b_may_have_a_policy_of_its_own(
    place: tuple[str, Service], visit: Open
) -> None:
    here, sent = begin(visit, place[0])
    page = here.page
    page.click("#options summary")
    page.check("#ask-base")
    page.click("#options summary")
    here.ask("red sun")
    page.wait_for_selector(".answer.c:not(.live) > .small:text-matches('seed')")
    assert [body["model"] for body in sent] == ["soup", "soup", "base"] and "preference" not in sent[2]
    assert "base model" in (page.text_content(".answer.c .what") or "")
    assert page.locator("#vote-first[aria-disabled=false]").count() == 1
    page.click(".answer.c [data-key=go-on]")
    base = answer(page, "base")
    page.click("#options summary")
    page.uncheck("#ask-base")
    page.click("#options summary")
    page.select_option("#policy-b", "anchors")
    here.ask("and then", voting=False)
    assert contents(sent[-1])[1] == base
    assert {body["model"] for body in sent[-2:]} == {"soup", "anchors"}
    page.wait_for_selector("#vote-note:text-matches('different policies')")
    assert page.get_attribute("#vote-first", "aria-disabled") == "true"


@pytest.mark.slow
def test_markdown_is_shown_once_an_answer_is_complete_and_can_be_copied(
    chrome: BrowserContext, visit: Open, tmp_path: Path
) -> None:
    text = "a **bold** word <b>x</b>\n\n```python\nx = 1\n```\n\n| a | b |\n|---|---|\n| 1 | $y^2$ |\n"
    chrome.grant_permissions(["clipboard-read", "clipboard-write"])
    with live(fake_service(tmp_path, Slow(text))) as address:
        here, _ = begin(visit, address, words=1)
        page = here.page
        here.ask("show me")
        page.wait_for_selector("#answer-a.rich strong:text-is('bold')")
        page.wait_for_selector("#answer-b.rich td math")
        assert page.locator("#answer-a b").count() == 0, "HTML in an answer is text"
        page.click("#answer-a .copy")
        page.wait_for_selector("#answer-a .copy:text-is('Copied')")
        assert page.evaluate("() => navigator.clipboard.readText()") == "x = 1\n"
        page.click(".answer.a [data-key=copy]")
        page.wait_for_selector(".answer.a [data-key=copy]:text-is('Copied')")
        assert page.evaluate("() => navigator.clipboard.readText()") == text
        assert faults(page) == []
        page.route("**/api/render", lambda route: route.fulfill(status=404, body="{}"))
        page.reload()
        here.drawn()
        page.wait_for_selector("#answer-a:text-matches('a \\\\*\\\\*bold')")
        here.problems[:] = [problem for problem in here.problems if "404" not in problem]


@pytest.mark.parametrize("size", [WIDE, PHONE], ids=["desktop", "phone"])
@pytest.mark.slow
def test_answers_are_in_view_without_scrolling(
    place: tuple[str, Service], visit: Open, size: tuple[int, int]
) -> None:
    here, _ = begin(visit, place[0], words=30, size=size)
    page = here.page
    here.ask("a question of one line")
    here.ask("and another one")
    bar = drawn_at(page.locator("#ask"))
    assert round(bar["y"] + bar["height"]) <= size[1], "the bar is at the bottom of the window"
    for side in "ab":
        box = drawn_at(page.locator(f"#answer-{side}"))
        assert 0 <= box["y"] < bar["y"] - 20, f"{side} begins in view"
    assert page.locator("#steer").get_attribute("open") == ("" if size == WIDE else None)
    assert here.overflow() <= 0 and faults(page) == []
    page.evaluate("() => (document.documentElement.style.fontSize = '200%')")
    assert here.overflow() <= 0
