"""The studio in a real browser against a live server on a tiny model: what a person does with it, by mouse and by keyboard."""

from __future__ import annotations

import re
from collections.abc import Callable
from pathlib import Path

import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

from playwright.sync_api import BrowserContext, Page, Route  # noqa: E402

from paretune.serving.address import Address, Keys  # noqa: E402
from paretune.serving.service import Service  # noqa: E402
from support.studio_world import Visit, drawn_at, faults, studio  # noqa: E402

Open = Callable[..., Visit]
KEY = "a-key-of-more-than-sixteen-characters"


def weight(page: Page, side: str, name: str = "concise") -> float:
    """Return the weight that is shown at A or B."""
    found = re.search(rf"{name} ([\d.]+)", page.text_content(f".dial.{side} .what") or "")
    assert found is not None
    return float(found[1])


def waits_for(page: Page, expression: str) -> None:
    page.wait_for_function(f"() => {expression}")


@pytest.mark.slow
def test_dial_prompt_five_votes_preset_and_reload(two: tuple[str, Service], visit: Open) -> None:
    address, service = two
    here = visit(address)
    page = here.page
    before = weight(page, "a")
    page.focus("#dial-a")
    for _ in range(10):
        page.keyboard.press("ArrowLeft")
    assert weight(page, "a") < before
    outcome = weight(page, "a")
    page.get_by_label("weight", exact=True).check(force=True)
    page.fill("#dial-a", "30")
    assert weight(page, "a") == 0.3 and outcome != 0.3
    page.wait_for_selector(".dial.a .scores dd:text-matches('\\\\[')")

    here.ask("red sun")
    for side in "ab":
        assert (page.text_content(f"#answer-{side}") or "").strip()
        assert "concise" in (page.text_content(f".answer.{side} .what") or "")
        page.wait_for_selector(f".answer.{side} .figures .mine:text-matches('^[−0-9]')")
        assert page.locator(f".answer.{side} .figures tbody tr").count() == 2
    seeds = [
        re.search(r"seed (\d+)", page.text_content(f".answer.{side} > .small") or "")[1] for side in "ab"
    ]  # type: ignore[index]
    assert seeds[0] == seeds[1], "A and B differ in nothing but the preference"

    page.click("#next")
    for number in range(1, 6):
        if page.locator("#learned .told").count():  # the votes so far may say enough
            page.click("#next")
        here.answered()
        page.click("#vote-first" if number % 2 else "#vote-tie")
        page.wait_for_selector(f"#learned .small:text-matches('^{number} vote')")
    assert len(service.store.votes("default", "soup")) == 5  # type: ignore[union-attr]
    assert page.locator("#learned .tastes .figure").count() == 2
    if page.locator("#halt").count():
        page.click("#halt")

    page.fill("#preset-name", "mine")
    page.click("#save-a")
    page.wait_for_selector("[data-preset=mine]")
    kept = weight(page, "a")
    page.reload()
    here.drawn()
    page.wait_for_selector("[data-preset=mine]")
    assert page.text_content(".round .message") == "red sun" and weight(page, "a") == kept
    assert (page.text_content("#answer-a") or "").strip(), "the conversation is there again"
    page.wait_for_selector("#learned .small:text-matches('^5 votes')")

    page.get_by_label("Set B to mine").click()
    assert weight(page, "b") == kept
    page.get_by_label("Delete mine").click()
    page.wait_for_selector("[data-preset=mine]", state="detached")
    page.get_by_role("button", name="Undo").click()
    page.wait_for_selector("[data-preset=mine]")
    assert page.evaluate("() => document.querySelectorAll('script:not([src])').length") == 0


@pytest.mark.slow
def test_votes_end_in_a_preset(two: tuple[str, Service], visit: Open) -> None:
    address, _ = two
    here = visit(address)
    page = here.page
    page.click("#new-profile")
    page.fill("#name", "somebody else")
    page.keyboard.press("Enter")
    waits_for(page, "document.getElementById('profile').value === 'somebody else'")
    page.wait_for_selector("#learned .small:text-matches('Vote on a few pairs')")
    page.fill("#prompt", "good stone")
    page.click("#next")
    for _ in range(40):
        here.answered()
        # Somebody who wants it concise, and nothing else.
        page.click("#vote-first" if weight(page, "a") > weight(page, "b") else "#vote-second")
        page.wait_for_selector("#vote-first[aria-disabled=true]")
        waits_for(
            page,
            "document.querySelector('#learned .told') || document.querySelector('#studio.busy, #vote-first[aria-disabled=false]')",
        )
        if page.locator("#learned .told").count():
            break
    assert "Your votes lead to concise" in (page.text_content("#learned .told") or "")
    page.fill("#learned-name", "found")
    page.click("#learned-save")
    page.wait_for_selector("[data-preset=found]")
    page.click("#tab-people")
    page.wait_for_selector("#people .told:text-matches('voted')")


@pytest.mark.slow
def test_conflict_meter_of_a_mixture(two: tuple[str, Service], visit: Open) -> None:
    here = visit(two[0])
    page = here.page
    here.choose("mod")
    page.get_by_label("weight", exact=True).check(force=True)
    page.fill("#dial-a", "50")
    page.click("#options summary")
    page.fill("#seed", "3")
    here.ask("blue moon")
    assert "seed 3" in (page.text_content(".answer.a > .small") or "")
    assert page.locator("#answer-a .conflict").count() >= 1
    told = page.text_content(".answer.a .meter") or ""
    assert re.search(r"Conflict of the mixed policies: [\d.]+ nats per token", told)
    page.click("#tab-take")
    assert page.locator("#export-command").count() == 0, "no single LoRA is a mixture"
    assert "no single LoRA" in (page.text_content("#take") or "")


@pytest.mark.slow
def test_anchors_say_what_they_serve(two: tuple[str, Service], visit: Open) -> None:
    here = visit(two[0])
    page = here.page
    here.choose("anchors")
    page.get_by_label("weight", exact=True).check(force=True)
    page.fill("#dial-a", "70")
    page.wait_for_selector(".dial.a .snap:text-matches('serves concise 1')")
    here.ask()
    assert "concise 1" in (page.text_content(".answer.a .what") or "")
    assert "nearest to concise 0.7" in (page.text_content(".answer.a .snap") or "")


@pytest.mark.slow
def test_floors_and_commands(two: tuple[str, Service], run: Path, visit: Open) -> None:
    here = visit(two[0])
    page = here.page
    here.choose("soup")
    page.click("#tab-floors")
    page.fill("#floor-0", "0")
    page.keyboard.press("Enter")
    page.wait_for_selector("#floor-result .told:text-matches('^Met')")
    told = page.text_content("#floor-result") or ""
    assert "has room of" in told and "null" not in told
    page.get_by_label("Set A to this").click()
    chosen = weight(page, "a")
    page.fill("#floor-1", "0.39")
    page.fill("#floor-0", "1.19")
    page.click("#floor-find")
    page.wait_for_selector("#floor-result .missed:text-matches('Not reachable')")
    page.click("#tab-take")
    waits_for(page, f"document.getElementById('export-command').textContent.includes('concise={chosen:g}')")
    command = page.text_content("#export-command") or ""
    assert re.fullmatch(
        rf"paretune export {re.escape(str(run))} soup-concise-{round(chosen, 3):g}-warm-[\d.]+ --policy soup "
        r"-p concise=[\d.]+,warm=[\d.]+ --format lora",
        command,
    )
    code = page.text_content("#client-code") or ""
    compile(code, "client", "exec")
    assert "soup@concise=" in code and f'base_url="{two[0]}/v1"' in code and "..." not in code


@pytest.mark.slow
def test_click_on_the_front_and_its_table(two: tuple[str, Service], visit: Open) -> None:
    here = visit(two[0])
    page = here.page
    here.choose("soup")
    page.click("#front-table-box summary")
    page.get_by_label("B to concise 0.5, warm 0.5").click()
    assert weight(page, "b") == 0.5
    box = drawn_at(page.locator("#chart .pt.chosen .mark"))
    page.mouse.move(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    page.mouse.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    waits_for(page, "document.querySelector('.dial.b .what').textContent.includes('concise 0,')")


@pytest.mark.slow
def test_three_objectives_in_the_triangle(three: str, visit: Open) -> None:
    here = visit(three)
    page = here.page
    assert page.locator("#chart .pairing").count() == 3
    page.focus("#dial-a")
    page.keyboard.press("Home")
    before = weight(page, "a")
    page.keyboard.press("ArrowUp")
    assert weight(page, "a") == pytest.approx(before + 0.02, abs=2e-3)
    page.keyboard.press("Shift+ArrowRight")
    assert weight(page, "a", "plain") > weight(page, "a", "warm")
    assert "concise" in (page.get_attribute("#dial-a", "aria-valuetext") or "")
    start, edge = drawn_at(page.locator("#dial-b .shape")), drawn_at(page.locator(".ternary .edge"))
    page.mouse.move(start["x"] + start["width"] / 2, start["y"] + start["height"] / 2)
    page.mouse.down()
    page.mouse.move(edge["x"] + edge["width"] / 2, edge["y"] + 2, steps=5)
    page.mouse.up()
    assert weight(page, "b") > 0.95
    here.ask()
    assert page.locator(".answer.b .figures tbody tr").count() == 3


@pytest.mark.slow
def test_four_objectives_on_parallel_axes(four: str, visit: Open) -> None:
    here = visit(four)
    page = here.page
    assert page.locator("#chart .pt.chosen .line").count() == 10
    page.focus("#dial-a")
    before = weight(page, "a")
    page.keyboard.press("ArrowLeft")
    assert weight(page, "a") < before
    total = sum(weight(page, "a", name) for name in ("concise", "warm", "plain", "bold"))
    assert total == pytest.approx(1, abs=2e-3)
    page.keyboard.press("b")
    page.keyboard.press("End")
    waits_for(page, "document.querySelector('.dial.b .what').textContent.startsWith('concise 1,')")
    page.locator("#chart .pt.chosen .hit").first.click(position={"x": 1, "y": 1}, force=True)
    here.ask()
    assert page.locator(".answer.a .figures tbody tr").count() == 4


@pytest.mark.slow
def test_keyboard_only(two: tuple[str, Service], visit: Open) -> None:
    """From the top of the page to a vote and a preset without a mouse, and the focus is seen all the way."""
    here = visit(two[0])
    page = here.page

    def tab_to(name: str, most: int = 40) -> None:
        for _ in range(most):
            page.keyboard.press("Tab")
            ring, focus = page.evaluate(
                "() => { const e = document.activeElement; const s = getComputedStyle(e);"
                " const box = e.matches('.segments input') ? getComputedStyle(e.nextElementSibling) : s;"
                " const drawn = e.matches('.pt') && getComputedStyle(e.querySelector('.hit')).stroke !== 'none';"
                " return [drawn ? 'solid' : box.outlineStyle, e === document.body ? null : e.id || e.outerHTML.slice(0, 90)]; }"
            )
            if (
                focus is None
            ):  # what had the focus was drawn anew in this moment; the next Tab goes on from there
                continue
            assert ring in ("solid", "auto"), focus
            if focus == name:
                return
        raise AssertionError(f"Tab does not reach {name}")

    page.keyboard.press("Tab")
    assert page.evaluate("() => document.activeElement.className") == "skip"
    tab_to("dial-a")
    before = weight(page, "a")
    page.keyboard.press("ArrowLeft")
    assert weight(page, "a") < before
    tab_to("dial-b")
    tab_to("prompt")
    page.keyboard.press("Control+A")
    page.keyboard.type("kind tree")
    page.keyboard.press("Enter")
    here.answered()
    tab_to("vote-first")
    page.keyboard.press("Enter")
    page.wait_for_selector("#vote-first[aria-pressed=true]")
    page.wait_for_selector("#learned .small:text-matches('vote')")
    page.wait_for_selector("#next[aria-disabled=false]")
    tab_to("next", 6)
    page.keyboard.press("n")
    here.answered()
    page.keyboard.press("3")
    page.wait_for_selector("#vote-second[aria-pressed=true], #studio.busy")
    tab_to("tab-presets", 60)
    page.keyboard.press("ArrowRight")
    assert page.evaluate("() => document.activeElement.id") == "tab-rank"
    page.keyboard.press("ArrowLeft")
    tab_to("preset-name", 3)
    page.keyboard.type("by keys")
    page.keyboard.press("Enter")
    page.wait_for_selector("[data-preset='by keys']")
    page.keyboard.press("Escape")
    page.keyboard.press("Tab")
    page.keyboard.press("?")
    page.wait_for_selector("#help-dialog[open]")


@pytest.mark.slow
def test_a_key_is_asked_for_and_kept_in_the_tab(chrome: BrowserContext, run: Path) -> None:
    with studio(run, Address(port=0, keys=Keys.read(None, KEY)), store=False) as (address, _):
        here = Visit(chrome, address)
        page = here.page
        page.goto(address)
        page.wait_for_selector("#key-dialog[open]")
        assert faults(page) == []
        page.fill("#key", "a-key-that-does-not-fit")
        page.keyboard.press("Enter")
        page.wait_for_selector("#key-lead:text-matches('not valid')")
        page.fill("#key", KEY)
        page.keyboard.press("Enter")
        here.drawn()
        assert page.evaluate("() => sessionStorage.getItem('paretune-key')") == KEY
        assert KEY not in page.evaluate("() => JSON.stringify(localStorage)")
        here.ask("kept in the tab", voting=False)
        assert "without a store" in (page.text_content("#presets") or "")
        page.reload()
        here.drawn()
        assert not page.is_visible("#key-dialog")
        here.problems[:] = [p for p in here.problems if "401" not in p and "409" not in p]
        here.close()


@pytest.mark.slow
def test_bounds_of_the_server_hold_on_the_dial(chrome: BrowserContext, run: Path) -> None:
    with studio(run, floors={"warm": 0.3}) as (address, _):
        here = Visit(chrome, address)
        page = here.open()
        page.focus("#dial-a")
        page.keyboard.press("End")
        assert weight(page, "a") == 0.7
        here.ask()
        here.close()


@pytest.mark.slow
def test_errors_in_plain_words_and_nothing_lost(two: tuple[str, Service], visit: Open) -> None:
    here = visit(two[0])
    page = here.page
    told = {"refused": 0}

    def busy(route: Route) -> None:
        told["refused"] += 1
        if told["refused"] > 2:
            return route.fallback()
        body = '{"error": {"message": "256 answers are waiting", "type": "rate_limit_error", "param": null, "code": "queue_full"}}'
        return route.fulfill(
            status=429, headers={"retry-after": "1", "content-type": "application/json"}, body=body
        )

    page.route("**/v1/chat/completions", busy)
    page.fill("#prompt", "red sun")
    page.click("#send")
    page.wait_for_selector(".answer .note:text-matches('busy at the moment.*Trying again in 1 s')")
    here.answered()
    assert told["refused"] >= 4, "both were asked again by themselves"
    page.unroute("**/v1/chat/completions")

    page.fill("#prompt", "good " * 300)
    page.click("#send")
    page.wait_for_selector("#alert:has-text('tokens')")
    assert page.input_value("#prompt").startswith("good good")

    here.ask("red sun")
    page.route("**/api/votes", lambda route: route.abort())
    page.click("#vote-second")
    page.wait_for_selector("#alert:has-text('cannot be reached')")
    assert page.is_enabled("#vote-second"), "the vote can be given again"
    page.unroute("**/api/votes")
    page.get_by_role("button", name="Try again").click()
    page.wait_for_selector("#vote-second[aria-pressed=true]")

    page.fill("#preset-name", "/ no name")
    page.click("#save-a")
    said = page.evaluate("() => document.getElementById('preset-name').validationMessage")
    assert said.startswith("A name has letters, digits, spaces"), said
    assert page.input_value("#preset-name") == "/ no name"
    here.problems[:] = [p for p in here.problems if "Failed to load resource" not in p]


@pytest.mark.slow
def test_an_answer_can_be_stopped(two: tuple[str, Service], visit: Open) -> None:
    here = visit(two[0])
    page = here.page
    page.fill("#prompt", "red sun")
    page.route("**/v1/chat/completions", lambda route: None)  # never answered
    page.click("#send")
    page.wait_for_selector("#send.stop")
    page.keyboard.press("Escape")
    page.wait_for_selector("#send:not(.stop)")
    assert "stopped" in (page.text_content(".answer.a > .small") or "")
    assert page.is_disabled("#vote-first")
    page.unroute("**/v1/chat/completions")
    page.click("#send")  # with nothing written, both are asked again
    here.answered()
    assert page.locator(".round").count() == 1
