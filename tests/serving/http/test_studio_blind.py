"""Votes without knowing in a real browser, the reasons of a preference, links to what somebody saw, and batches of prompts."""

from __future__ import annotations

import csv
import io
import json
import os
import re
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

playwright = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")

from playwright.sync_api import Page  # noqa: E402

from paretune.serving.service import Service  # noqa: E402
from support.studio_world import PHONE, Visit, faults  # noqa: E402

Open = Callable[..., Visit]
SHUFFLES = pytest.mark.parametrize("chance", [0.2, 0.8], ids=["A on the left", "B on the left"])


def picture(page: Page, name: str) -> None:
    """Keep a screenshot where somebody wants to look."""
    if folder := os.environ.get("PARETUNE_SCREENSHOTS"):
        page.screenshot(path=f"{folder}/{name}.png", full_page=True)


def begin(here: Visit, person: str, chance: float = 0.2) -> Page:
    """Vote blind as somebody new; ``chance`` is what the page draws at random."""
    page = here.page
    page.click("#new-profile")
    page.fill("#name", person)
    page.keyboard.press("Enter")
    page.wait_for_function(f"() => document.getElementById('profile').value === '{person}'")
    page.wait_for_selector("#learned .small:text-matches('Vote on a few pairs')")
    page.check("#blind")
    page.evaluate(f"() => (Math.random = () => {chance})")
    return page


def ask(here: Visit, text: str = "red sun") -> tuple[str, str]:
    """Ask, and return what is read on the left and on the right."""
    here.page.fill("#prompt", text)
    here.page.click("#send")
    here.answered()
    return here.page.inner_text("#answer-left"), here.page.inner_text("#answer-right")


def markup(page: Page) -> str:
    """Return the markup of the answers and of the ballot without what the answers themselves say."""
    html = page.evaluate(
        "() => document.querySelector('.round:last-child').outerHTML + document.querySelector('.votes').outerHTML"
    )
    html = html.replace('class="text rich"', 'class="text"')  # once its markup is rendered
    plain = re.sub(r'(id="answer-(?:left|right)"[^>]*>).*?</div>', r"\1</div>", html, flags=re.DOTALL)
    return re.sub(r'<p class="small">[^<]*</p>', "", plain)


@pytest.mark.slow
def test_before_the_vote_nothing_tells_which_side_is_which(two: tuple[str, Service], visit: Open) -> None:
    """Both shuffles leave the same page, in markup, names and order, but for the two texts; and no text is coloured."""
    pages = []
    for chance in (0.2, 0.8):
        here = visit(two[0])
        here.choose("mod")
        page = begin(here, f"unknowing {chance}", chance)
        page.click("#options summary")
        page.fill("#seed", "3")
        texts = ask(here)
        pages.append((texts, markup(page)))
        html = page.inner_html(".round:last-child")
        for word in ("seed", "expected", "conflict", "nats", "concise", "warm", "mod", "tokens/s"):
            assert word not in html.replace(texts[0], "").replace(texts[1], ""), word
        for selector in (".round .mark", "#ballot .mark", ".answer.a", ".answer.b", "#answer-a", ".go-on"):
            assert page.locator(selector).count() == 0, selector
        assert page.evaluate("() => location.hash") == "#policy=mod"
        assert page.is_visible("#hidden-note")
        for selector in ("#dial-a", "#chart", "#policy", "#over", "#difference"):
            assert not page.is_visible(selector), selector
        if chance > 0.5:
            picture(page, "blind-sealed")
            assert faults(page) == []
        page.keyboard.press("2")
        page.wait_for_selector(".round .conflict")
        assert page.is_visible("#chart") and page.is_visible("#policy")
    assert pages[0][1] == pages[1][1]
    assert pages[0][0] == pages[1][0][::-1] and pages[0][0][0] != pages[0][0][1], "the same answers, shuffled"


@SHUFFLES
@pytest.mark.slow
def test_a_blind_vote_is_kept_for_the_answer_that_was_meant_and_everything_is_told(
    two: tuple[str, Service], visit: Open, chance: float
) -> None:
    here = visit(two[0])
    page, store = here.page, two[1].store
    assert store is not None
    person = f"blind {chance}"
    begin(here, person, chance)
    left, right = ask(here)
    page.keyboard.press("1")
    page.wait_for_selector("#learned .small:text-matches('^1 vote')")
    (vote,) = store.votes(person, "soup")
    swapped = chance >= 0.5
    assert vote.winner == ("second" if swapped else "first")
    shown = {side: page.inner_text(f".answer.{side} .text") for side in "ab"}
    assert (shown["b"], shown["a"]) == (left, right) if swapped else (shown["a"], shown["b"]) == (left, right)
    for answer, side in ((vote.first, "a"), (vote.second, "b")):
        assert " ".join(answer.text.split()) == " ".join(shown[side].split())
        told = page.inner_text(f".answer.{side} .what")
        assert f"concise {round(answer.preference.as_dict()['concise'], 3):g}" in told
        page.wait_for_selector(f".answer.{side} .figures .mine:text-matches('[0-9]')")
    told = page.inner_text("#difference").replace("−", "-")
    own = {side: page.locator(f".answer.{side} .mine").all_text_contents() for side in "ab"}
    for name, a, b in zip(("concise", "warm"), own["a"], own["b"], strict=True):
        gap = float(a.replace("−", "-")) - float(b.replace("−", "-"))
        found = re.search(rf"{name} ([-+]?[\d.]+\d)", told)
        assert found is not None and float(found[1]) == pytest.approx(gap, abs=0.011), told
        assert found[1].startswith("+") == (gap > 0), told
    won = "b" if swapped else "a"
    assert page.locator(f".answer.won.{won}").count() == 1
    assert page.get_attribute("#vote-first", "aria-pressed") == "true"
    assert f"{won.upper()} is better" in page.inner_text("#vote-first")
    assert "&a=concise=" in page.evaluate("() => location.hash")
    picture(page, f"blind-told-{chance}")

    page.keyboard.press("u")
    page.wait_for_selector("#vote-first[aria-disabled=false][aria-pressed=false]")
    assert store.votes(person, "soup") == []
    assert page.locator(".answer.a .what").count() == 1, "what was seen is not hidden again"


@pytest.mark.slow
def test_votes_on_one_objective_tell_nothing_and_are_kept_and_taken_back(
    two: tuple[str, Service], visit: Open
) -> None:
    here = visit(two[0])
    page, store = here.page, two[1].store
    assert store is not None
    begin(here, "by objective", 0.8)
    ask(here)
    page.check("#vote-on input[value=warm]", force=True)
    page.keyboard.press("3")
    page.wait_for_selector("#vote-on span:has-text('warm ✓')")
    page.wait_for_selector("#vote-second[aria-disabled=true]")
    (vote,) = store.votes("by objective", "soup")
    assert (vote.objective, vote.winner) == ("warm", "first"), "B stands on the left"
    assert page.locator("#answer-left").count() == 1, "the sides stay hidden until the vote on the whole"
    page.check("#vote-on input[value=concise]", force=True)
    page.wait_for_selector("#vote-first[aria-disabled=false]")
    page.keyboard.press("1")
    page.wait_for_selector("#vote-on span:has-text('concise ✓')")
    page.wait_for_selector("#undo[aria-disabled=false]")
    page.keyboard.press("u")
    page.wait_for_selector("#vote-on label:has(input[value=concise]):not(:has-text('✓'))")
    page.wait_for_selector("#vote-first[aria-disabled=false]")
    assert [vote.objective for vote in store.votes("by objective", "soup")] == ["warm"]


@pytest.mark.slow
def test_the_tabs_tell_no_side_before_the_vote(two: tuple[str, Service], visit: Open) -> None:
    """The tab "Use elsewhere" has the preference of a side, "My votes" the sides of votes on one objective."""
    page = begin(visit(two[0]), "peeping", 0.8)
    page.click("#tab-take")
    page.wait_for_selector("#client-code")
    assert "concise=" in page.inner_text("#take")
    page.fill("#prompt", "red sun")
    page.click("#send")
    page.wait_for_selector("#vote-first[aria-disabled=false]")
    assert page.inner_text("#take") == "The preferences of A and B are hidden until you vote."
    for tab in ("presets", "take"):
        page.click(f"#tab-{tab}")
    assert "concise=" not in page.inner_text("main") and page.locator("#take pre").count() == 0
    page.check("#vote-on input[value=warm]", force=True)
    page.keyboard.press("3")
    page.wait_for_selector("#vote-on span:has-text('warm ✓')")
    page.click("#tab-history")
    page.wait_for_selector("#vote-list li")
    told = page.inner_text("#vote-list")
    assert "A vote on warm" in told and "hidden until you vote on the whole" in told
    assert "is better" not in told and "concise" not in told
    page.check("#vote-on input[value='']", force=True)
    page.keyboard.press("1")
    page.wait_for_selector("#vote-list li:has-text('A is better on warm'):has-text('concise')")
    page.click("#tab-take")
    page.wait_for_selector("#client-code:has-text('concise=')")


@pytest.mark.slow
def test_a_pair_is_skipped_and_a_vote_that_fails_leaves_it_hidden(
    two: tuple[str, Service], visit: Open
) -> None:
    here = visit(two[0])
    page, store = here.page, two[1].store
    assert store is not None
    begin(here, "hesitant")
    first = ask(here)
    page.reload()
    here.drawn()
    assert sorted([page.inner_text("#answer-left"), page.inner_text("#answer-right")]) == sorted(first)
    page.route("**/api/votes", lambda route: route.abort())
    page.keyboard.press("1")
    page.wait_for_selector("#alert:has-text('cannot be reached')")
    page.wait_for_selector("#vote-first[aria-disabled=false][aria-pressed=false]")
    assert page.locator("#answer-left").count() == 1 and page.locator(".answer.a").count() == 0
    page.unroute("**/api/votes")
    page.get_by_role("button", name="Dismiss").click()
    before = page.evaluate("() => document.querySelector('.round:last-child .answers').children[0].innerText")
    page.keyboard.press("s")
    page.wait_for_function(
        "(before) => !document.querySelector('#studio.busy')"
        " && document.getElementById('answer-left')?.parentElement.innerText !== before",
        arg=before,
    )
    here.answered()
    assert store.votes("hesitant", "soup") == [] and page.locator("#answer-left").count() == 1
    page.keyboard.press("2")
    page.wait_for_selector("#learned .small:text-matches('^1 vote')")
    assert not page.is_visible("#skip"), "what was voted on is not skipped"
    page.uncheck("#blind")
    ask_openly = "good stone"
    here.ask(ask_openly)
    page.check("#blind")
    assert page.locator(".round:last-child .answer.a").count() == 1, "what is seen stays seen"
    here.problems[:] = [p for p in here.problems if "Failed to load resource" not in p]


@pytest.mark.slow
def test_why_this_preference(two: tuple[str, Service], visit: Open) -> None:
    here = visit(two[0])
    page = begin(here, "curious")
    page.click("#why summary")
    page.wait_for_selector("#why .enough[data-enough=false]")
    assert "every preference is as likely" in page.inner_text("#why")
    told = page.inner_text("#why")
    assert re.search(r"narrow concise from ±0\.2\d+ to ±0\.1\d+: 0\.\d+ nats, \d+ % of the most", told), told
    ask(here)
    page.keyboard.press("1")
    page.wait_for_selector("#why:has-text('1 vote on the whole')")
    assert page.locator("#why .tastes .band").count() == 2
    assert "The best preference for these weights is concise" in page.inner_text("#why")


@pytest.mark.slow
def test_a_link_opens_what_somebody_saw_and_bad_ones_are_said(two: tuple[str, Service], visit: Open) -> None:
    here = visit(two[0])
    page = here.page
    page.goto(f"{two[0]}/#policy=mod&a=concise=0.7,warm=0.3&b=warm=1")
    page.reload()
    here.drawn()
    assert page.input_value("#policy") == "mod"
    assert page.inner_text(".dial.a .what") == "concise 0.7, warm 0.3"
    assert page.inner_text(".dial.b .what") == "concise 0, warm 1"
    page.get_by_label("weight", exact=True).check(force=True)
    page.fill("#dial-a", "40")
    page.wait_for_function("() => location.hash === '#policy=mod&a=concise=0.4,warm=0.6&b=concise=0,warm=1'")
    page.evaluate("() => (location.hash = '#policy=soup&a=concise=1')")
    page.wait_for_function("() => document.getElementById('policy').value === 'soup'")
    assert page.inner_text(".dial.a .what") == "concise 1, warm 0"
    page.evaluate("() => (location.hash = '#policy=soup&policy-b=mod&a=concise=1&b=warm=1')")
    page.wait_for_function("() => document.getElementById('policy-b').value === 'mod'")
    page.wait_for_function(
        "() => location.hash === '#policy=soup&policy-b=mod&a=concise=1,warm=0&b=concise=0,warm=1'"
    )
    page.evaluate("() => (location.hash = '#a=concise=1&b=warm=1')")
    page.wait_for_function("() => document.getElementById('policy-b').value === ''")
    for bad, words in (
        ("policy=nobody", "“nobody”, which is not served here"),
        ("policy-b=nobody", "“nobody” for B, which is not served here"),
        ("a=concise=2", "“concise=2” is no weight from 0 to 1"),
        ("a=concise=0.7", "sum to 0.7, not to 1"),
        ("b=kind=1", "“kind” is no objective of soup"),
        ("b=", "is no objective"),
        ("sides=3", "“sides”, which is ignored"),
    ):
        # What is shown may change, and the address with it, before the page hears of an address.
        page.evaluate(
            "(bad) => { const was = location.href; location.hash = bad; history.replaceState(history.state, '', was); }",
            f"#{bad}",
        )
        page.wait_for_selector("#alert")
        assert words in page.inner_text("#alert"), bad
        page.get_by_role("button", name="Dismiss").click()
        assert page.inner_text(".dial.a .what") == "concise 1, warm 0", bad
    page.context.grant_permissions(["clipboard-read", "clipboard-write"])
    page.click("#copy-link")
    page.wait_for_selector("#copy-link:has-text('Copied')")
    assert page.evaluate("() => navigator.clipboard.readText()") == page.url


@pytest.mark.slow
def test_a_batch_at_a_and_b_with_its_means_and_its_file(
    two: tuple[str, Service], visit: Open, tmp_path: Path
) -> None:
    here = visit(two[0])
    page = here.page
    page.click("#tab-batch")
    for name, text, words in (
        ("q.csv", 'id,Prompt\n1,"red ""sun"""\n2,good stone\n', "2 prompts of q.csv"),
        ("q.jsonl", '{"prompt": "red sun"}\n{"messages": [{"role": "user", "content": "kind\\ntree"}]}\n', "2 prompts of q.jsonl"),
        ("bad.jsonl", '{"prompt": "x"}\n{', "bad.jsonl cannot be read: line 2 is not JSON"),
        ("bad.csv", "a,b\n1,2\n", "bad.csv cannot be read: no column is called prompt"),
    ):  # fmt: skip
        (tmp_path / name).write_text(text, encoding="utf-8")
        page.set_input_files("#batch-file", tmp_path / name)
        page.wait_for_selector(f"#batch-said:has-text('{words}')")
        if name == "q.csv":
            assert page.input_value("#batch-prompts") == 'red "sun"\ngood stone'
    assert page.input_value("#batch-prompts") == "red sun\nkind tree", "a bad file changes nothing"
    page.fill("#batch-prompts", "red sun\n\ngood stone\nkind tree")
    page.fill("#set-name", "three")
    page.click("#set-keep")
    page.wait_for_selector("#batch-said:has-text('Kept 3 prompts as three')")
    page.fill("#batch-prompts", "")
    page.click("#batch-begin")
    page.wait_for_selector("#batch-said:has-text('there is no prompt in it')")
    page.select_option("#set-list", "")
    page.select_option("#set-list", "three")
    page.click("#batch-begin")
    page.wait_for_selector("#batch-means tbody tr")
    assert page.inner_text("#batch-said") == "3 of 3 prompts are answered."
    assert page.locator("#batch-means tbody tr").count() == 2
    assert "A − B is paired" in page.inner_text("#batch-means")
    with page.expect_download() as given:
        page.click("#batch-save")
    rows = list(csv.DictReader(io.StringIO(Path(given.value.path()).read_bytes().decode())))
    assert [row["prompt"] for row in rows] == ["red sun", "good stone", "kind tree"]
    for row in rows:
        for side in "ab":
            answer = row[f"answer_{side}"].removeprefix("'")
            assert float(row[f"concise_{side}"]) == -len(answer.split())
    mean = sum(float(row["concise_a"]) - float(row["concise_b"]) for row in rows) / 3
    shown = page.inner_text("#batch-means tbody tr >> nth=0 >> td >> nth=2").replace("−", "-")
    assert float(shown.split(" ")[0]) == pytest.approx(mean, abs=0.006)
    assert page.locator("#batch-rows tbody tr").count() == 3 and here.overflow() <= 0
    picture(page, "batch")
    assert faults(page) == []
    page.click("#set-delete")
    assert "three" not in json.loads(page.evaluate("() => localStorage.getItem('paretune-prompt-sets')"))
    page.route("**/v1/chat/completions", lambda route: None)  # never answered
    page.click("#batch-begin")
    page.wait_for_selector("#batch-begin:has-text('Stop')")
    page.click("#batch-begin")
    page.wait_for_selector("#batch-begin:has-text('Ask all')")
    assert page.inner_text("#batch-said") == "0 of 3 prompts are answered."


@pytest.mark.slow
def test_blind_on_a_phone_by_keys_alone(two: tuple[str, Service], visit: Open) -> None:
    here = visit(two[0], size=PHONE, scheme="dark")
    page = here.page
    page.focus("#blind")
    page.keyboard.press("Space")
    page.focus("#prompt")
    page.keyboard.type("kind tree")
    page.keyboard.press("Enter")
    here.answered()
    assert here.overflow() <= 0 and faults(page) == []
    picture(page, "blind-phone")
    page.focus("#vote-on input:checked")
    page.keyboard.press("ArrowRight")
    page.wait_for_selector("#vote-on input[value=concise]:checked")
    assert page.evaluate("() => document.activeElement.value") == "concise", "the focus stays in the choice"
    page.keyboard.press("ArrowLeft")
    page.focus("#vote-tie")
    page.keyboard.press("Enter")
    page.wait_for_selector(".answer.a .what")
    assert here.overflow() <= 0
    picture(page, "blind-phone-told")
    page.click("#tab-batch")
    assert here.overflow() <= 0 and faults(page) == []
    picture(page, "batch-phone")


@pytest.mark.slow
def test_three_objectives_are_voted_on_explained_asked_in_a_batch_and_bounded(
    three: str, visit: Open
) -> None:
    """What the tests above do with two objectives; each of three has its own vote, interval, mean and floor."""
    here = visit(three)
    page = begin(here, "of three", 0.8)
    names = ("concise", "warm", "plain")

    def votes() -> list[dict]:
        found = httpx.get(f"{three}/api/votes", params={"profile": "of three", "policy": "soup"}).json()
        return found["votes"]

    page.click("#why summary")
    page.wait_for_selector("#why .enough[data-enough=false]")
    assert page.locator("#why .tastes dt").all_text_contents() == list(names)
    told = page.inner_text("#why")
    for name in names:
        assert re.search(rf"{name} from ±0\.\d+ to ±0\.\d+", told), told
    left, right = ask(here)
    assert page.locator("#vote-on input").count() == 4 and not page.is_visible(".ternary")
    page.check("#vote-on input[value=plain]", force=True)
    page.keyboard.press("1")
    page.wait_for_selector("#vote-on span:has-text('plain ✓')")
    assert page.locator("#answer-left").count() == 1, "a vote on one objective hides the sides still"
    page.check("#vote-on input[value='']", force=True)
    page.wait_for_selector("#vote-first[aria-disabled=false]")
    page.keyboard.press("3")
    page.wait_for_selector("#why:has-text('1 vote on the whole')")
    assert [(vote["objective"], vote["winner"]) for vote in votes()] == [(None, "first"), ("plain", "second")]
    assert (page.inner_text("#answer-b"), page.inner_text("#answer-a")) == (left, right), (
        "B stood on the left"
    )
    assert page.is_visible(".ternary") and page.locator(".answer.a .figures tbody tr").count() == 3
    page.wait_for_selector("#difference:has-text('plain')")
    told = page.inner_text("#difference")
    assert all(name in told for name in names), told
    told = page.inner_text("#why")
    best = re.search(
        r"best preference for these weights is concise ([\d.]+\d|\d), warm ([\d.]+\d|\d), plain ([\d.]+\d|\d)",
        told,
    )
    assert best is not None and sum(map(float, best.groups())) == pytest.approx(1, abs=2e-3), told
    page.keyboard.press("u")
    page.wait_for_selector("#why:has-text('There is no vote on the whole yet')")
    assert [vote["objective"] for vote in votes()] == ["plain"]

    page.uncheck("#blind")
    page.click("#tab-batch")
    page.fill("#batch-prompts", "red sun\ngood stone")
    page.click("#batch-begin")
    page.wait_for_selector("#batch-means tbody tr")
    assert page.locator("#batch-means tbody th").all_text_contents() == list(names)
    with page.expect_download() as given:
        page.click("#batch-save")
    rows = list(csv.DictReader(io.StringIO(Path(given.value.path()).read_bytes().decode())))
    assert len(rows) == 2
    for row in rows:
        for side in "ab":
            answer = row[f"answer_{side}"].removeprefix("'")
            scores = [float(row[f"{name}_{side}"]) for name in names]
            assert scores[0] == -len(answer.split()) and scores[1] >= 0 and scores[2] == -len(answer)

    page.click("#tab-floors")
    assert page.locator("#floors input").count() == 3
    page.fill("#floor-0", "-1")
    page.fill("#floor-2", "0")
    page.click("#floor-find")
    page.wait_for_selector("#floor-result .told:text-matches('^Met')")
    page.get_by_label("Set B to this").click()
    page.wait_for_function(
        "() => /plain 0\\.[4-9]|plain 1/.test(document.querySelector('.dial.b .what').textContent)"
    )
    assert here.overflow() <= 0 and faults(page) == []
    picture(page, "three")
