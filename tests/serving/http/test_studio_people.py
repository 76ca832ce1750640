"""The studio when things go wrong, and when people change their minds: own scores, votes taken back, refused scripts."""

from __future__ import annotations

import json
from collections.abc import Callable
from io import BytesIO
from pathlib import Path

import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

from PIL import Image  # noqa: E402
from playwright.sync_api import BrowserContext, Route  # noqa: E402

from paretune.serving.address import Address  # noqa: E402
from paretune.serving.service import Service  # noqa: E402
from support.studio_world import Visit, studio  # noqa: E402

Open = Callable[..., Visit]


def profile(here: Visit, name: str) -> None:
    """Go on as somebody new."""
    here.page.click("#new-profile")
    here.page.fill("#name", name)
    here.page.keyboard.press("Enter")
    here.page.wait_for_function(f"() => document.getElementById('profile').value === '{name}'")
    here.page.wait_for_selector("#learned .small:text-matches('Vote on a few pairs')")


@pytest.mark.slow
def test_a_vote_carries_the_scores_of_its_very_answers(two: tuple[str, Service], visit: Open) -> None:
    here = visit(two[0])
    page = here.page
    profile(here, "own scores")
    here.ask("red sun")
    page.wait_for_selector(".answer.a .figures .mine:text-matches('[0-9]')")
    shown = page.locator(".answer.a .figures .mine").all_text_contents()
    heads = page.locator(".answer.a .figures thead th").all_text_contents()
    assert heads == ["this answer", "expected (mean of 60 prompts)"]
    assert "expected (mean of 60 prompts)" in (page.text_content(".dial.a .outlook") or "")
    page.click("#vote-first")
    page.wait_for_selector("#learned .small:text-matches('^1 vote')")
    (vote,) = two[1].store.votes("own scores", "soup")  # type: ignore[union-attr]
    assert vote.first.scores is not None
    assert [float(text.replace("−", "-")) for text in shown] == [
        vote.first.scores["concise"],
        vote.first.scores["warm"],
    ]
    for answer in (vote.first, vote.second):
        assert answer.scores is not None
        assert answer.scores["concise"] == -len(answer.text.split()), (
            "minus one for every word of this answer"
        )
        assert answer.scores["warm"] == sum(answer.text.count(vowel) for vowel in "aeiou")


@pytest.mark.slow
def test_a_mis_click_is_taken_back_and_a_person_is_forgotten(two: tuple[str, Service], visit: Open) -> None:
    here = visit(two[0])
    page, store = here.page, two[1].store
    assert store is not None
    profile(here, "forgetful")
    here.ask("red sun")
    page.click("#vote-first")
    page.wait_for_selector("#undo")
    page.keyboard.press("u")
    page.wait_for_selector("#vote-first[aria-disabled=false][aria-pressed=false]")
    assert store.votes("forgetful", "soup") == []
    page.keyboard.press("3")
    page.wait_for_selector("#vote-second[aria-pressed=true]")
    page.wait_for_selector("#undo")

    page.click("#tab-history")
    page.wait_for_selector("#vote-list li")
    assert "B is better" in (page.text_content("#vote-list") or "")
    assert "red sun" in (page.text_content("#vote-list") or "")
    assert "scored concise " in (page.text_content("#vote-list") or "")
    page.get_by_label("Delete the vote on red sun").click()
    page.wait_for_selector("#vote-list", state="detached")
    assert store.votes("forgetful", "soup") == []
    page.wait_for_selector("#vote-second[aria-disabled=false]")

    page.click("#forget")
    page.click("#sure-cancel")
    assert any(one.name == "forgetful" for one in store.profiles())
    page.click("#forget")
    page.click("#sure-yes")
    page.wait_for_function("() => document.getElementById('profile').value === 'default'")
    assert not any(one.name == "forgetful" for one in store.profiles())
    assert page.locator("#profile option[value=forgetful]").count() == 0


@pytest.mark.slow
def test_keys_pressed_while_a_vote_is_saved_act_after_it(two: tuple[str, Service], visit: Open) -> None:
    here = visit(two[0])
    page, store = here.page, two[1].store
    assert store is not None
    profile(here, "in a hurry")
    waiting: list[Route] = []

    def vote_then(key: str) -> None:
        """Vote, press a key before the server has the vote, and only then let the vote through."""
        page.route("**/api/votes", lambda route: waiting.append(route), times=1)
        page.click("#vote-first")
        page.keyboard.press(key)
        page.wait_for_selector("#vote-first[aria-pressed=true]")
        while not waiting:
            page.wait_for_timeout(10)
        assert len(store.votes("in a hurry", "soup")) == before
        waiting.pop().continue_()

    before = 0
    here.ask("red sun")
    vote_then("n")
    here.answered()
    assert len(store.votes("in a hurry", "soup")) == 1
    page.click("#halt")
    before = 1
    vote_then("u")
    page.wait_for_selector("#vote-first[aria-disabled=false][aria-pressed=false]")
    assert len(store.votes("in a hurry", "soup")) == 1


@pytest.mark.slow
def test_at_one_preference_both_are_seen_and_no_vote_is_possible(
    two: tuple[str, Service], visit: Open
) -> None:
    here = visit(two[0])
    page = here.page
    page.click("#front-table-box summary")
    for side in "AB":
        page.get_by_label(f"{side} to concise 0.5, warm 0.5").click()
    page.wait_for_selector("#chart .own.b.framing .frame", state="attached")
    assert page.locator("#chart .own.a .mark").count() == 1
    here.ask(voting=False)
    page.wait_for_selector("#vote-note:text-matches('same preference')")
    for name in ("first", "tie", "second"):
        assert page.get_attribute(f"#vote-{name}", "aria-disabled") == "true"


@pytest.mark.slow
def test_examples_are_shown_until_there_is_a_prompt(two: tuple[str, Service], visit: Open) -> None:
    here = visit(two[0])
    page = here.page
    assert page.locator("#examples button").all_text_contents() == ["red sun over a river", "a good stone"]
    page.click("#examples button >> nth=1")
    here.answered()
    assert page.text_content(".round .message") == "a good stone" and not page.is_visible("#examples")


@pytest.mark.slow
def test_two_tabs_keep_their_own_prompt(two: tuple[str, Service], visit: Open) -> None:
    first = visit(two[0])
    first.page.fill("#prompt", "of the first tab")
    second = visit(two[0])
    assert second.page.input_value("#prompt") == "of the first tab", "a new tab begins where the last one was"
    second.page.fill("#prompt", "of the second tab")
    for here, prompt in ((first, "of the first tab"), (second, "of the second tab")):
        here.page.reload()
        here.drawn()
        assert here.page.input_value("#prompt") == prompt


@pytest.mark.parametrize(
    ("status", "code"), [(502, "generation_failed"), (503, "unavailable"), (503, "upstream_failed")]
)
@pytest.mark.slow
def test_a_failure_behind_the_server_is_shown_at_once(
    two: tuple[str, Service], visit: Open, status: int, code: str
) -> None:
    here = visit(two[0])
    page = here.page
    tries = []

    def fails(route: Route) -> None:
        tries.append(route.request.url)
        body = json.dumps({"error": {"message": "the model server answered 500", "code": code}})
        route.fulfill(status=status, headers={"retry-after": "2"}, content_type="application/json", body=body)

    page.route("**/v1/chat/completions", fails)
    page.fill("#prompt", "red sun")
    page.click("#send")
    page.wait_for_selector("#alert.error:has-text('The model server behind this one failed')")
    assert "answered 500" in (page.text_content("#alert") or "")
    page.wait_for_timeout(300)
    assert len(tries) == 2, "one request for each answer"
    top = page.evaluate("() => document.querySelector('.desk').getBoundingClientRect().top + scrollY")
    page.unroute("**/v1/chat/completions")
    here.ask(None)
    assert not page.is_visible("#alert"), "an error does not stay over what works since"
    same = page.evaluate("() => document.querySelector('.desk').getBoundingClientRect().top + scrollY")
    assert same == top, "a message moves nothing"
    here.problems[:] = [p for p in here.problems if "Failed to load resource" not in p]


@pytest.mark.slow
def test_stopping_takes_the_waiting_note_away(two: tuple[str, Service], visit: Open) -> None:
    here = visit(two[0])
    page = here.page
    body = json.dumps({"error": {"message": "busy", "code": "queue_full"}})
    page.route(
        "**/v1/chat/completions",
        lambda route: route.fulfill(
            status=429, headers={"retry-after": "9999"}, content_type="application/json", body=body
        ),
    )
    page.fill("#prompt", "red sun")
    page.click("#send")
    page.wait_for_selector(".answer.a .note:text-matches('Trying again in (60|59) s')")
    page.keyboard.press("Escape")
    page.wait_for_selector("#send:not(.stop)")
    assert [page.text_content(f".answer.{side} .note") for side in "ab"] == ["", ""]
    here.problems[:] = [p for p in here.problems if "Failed to load resource" not in p]


@pytest.mark.slow
def test_a_refused_script_leaves_a_message(chrome: BrowserContext, two: tuple[str, Service]) -> None:
    page = chrome.new_page()
    page.route("**/studio/learn.js", lambda route: route.fulfill(status=403, body="{}"))
    page.goto(two[0])
    page.wait_for_selector("#unstarted", state="visible", timeout=10_000)
    assert "--public-url" in (page.text_content("#unstarted") or "")
    page.close()


@pytest.mark.slow
def test_the_studio_works_below_a_path(chrome: BrowserContext, run: Path) -> None:
    with studio(run, Address(port=0, root_path="/steer")) as (address, _):
        here = Visit(chrome, f"{address}/steer/")
        here.open()
        here.ask("red sun")
        here.page.click("#tab-take")
        assert f'base_url="{address}/steer/v1"' in (here.page.text_content("#client-code") or "")
        assert not here.page.locator("#unstarted").count()
        here.close()


@pytest.mark.slow
def test_names_and_unreachable_floors_are_told_in_words(two: tuple[str, Service], visit: Open) -> None:
    here = visit(two[0])
    page = here.page
    page.click("#new-profile")
    page.fill("#name", "a/b")
    page.keyboard.press("Enter")
    said = page.evaluate("() => document.getElementById('name').validationMessage")
    assert said.startswith("A name has letters, digits, spaces") and page.is_visible("#name-dialog")
    page.keyboard.press("Escape")
    page.click("#tab-floors")
    page.fill("#floor-0", "99")
    page.click("#floor-find")
    page.wait_for_selector("#floor-result .missed")
    told = page.text_content("#floor-result") or ""
    assert "falls short by" in told and "concise=" not in told and "not reachable;" not in told


@pytest.mark.slow
def test_large_letters_forced_colours_and_little_motion(two: tuple[str, Service], visit: Open) -> None:
    here = visit(two[0])
    page = here.page
    here.ask()
    page.evaluate("() => (document.documentElement.style.fontSize = '200%')")
    clipped = page.evaluate(
        "() => [...document.querySelectorAll('.mark')].filter((m) => m.scrollHeight > m.clientHeight + 1).length"
    )
    assert clipped == 0 and here.overflow() <= 0
    page.evaluate("() => document.querySelector('.answer').classList.add('live')")
    caret = "getComputedStyle(document.querySelector('.answer.live .text'), '::after').animationName"
    assert page.evaluate(f"() => {caret}") == "none", "under reduced motion nothing blinks"
    page.emulate_media(forced_colors="active")
    picture = Image.open(BytesIO(page.locator("#dial-a").screenshot())).convert("L")
    around, middle = picture.getpixel((0, 0)), picture.height // 2
    line = [picture.getpixel((x, middle)) for x in range(picture.width)]
    seen = sum(abs(pixel - around) > 40 for pixel in line)
    assert seen > 0.9 * picture.width, "the whole track of the slider is seen, not its thumb alone"
    lines = page.evaluate(
        "() => [...document.querySelectorAll('[role=tab]')].map((t) => getComputedStyle(t).borderBottomStyle)"
    )
    assert lines == ["solid", *["none"] * 6], "one tab is selected"
