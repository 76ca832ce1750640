"""A person who ranks n answers two at a time: the route that sorts, and the studio's page in a real browser."""

from __future__ import annotations

import os
import random
from collections.abc import Callable, Iterator
from itertools import combinations
from pathlib import Path
from typing import TYPE_CHECKING

import httpx
import pytest

from paretune.scoring.ranking import most_comparisons
from paretune.serving.service import Service
from support.serve_world import fake_service, live

if TYPE_CHECKING:
    from support.studio_world import Visit


@pytest.fixture
def client(tmp_path: Path) -> Iterator[httpx.Client]:
    with live(fake_service(tmp_path)) as address, httpx.Client(base_url=address, timeout=20) as made:
        yield made


@pytest.mark.parametrize("count", [2, 3, 5, 8])
def test_a_person_with_a_taste_is_asked_until_the_order_is_that_taste(
    client: httpx.Client, count: int
) -> None:
    taste = random.Random(count).sample(range(count), count)
    verdicts: list[dict] = []
    while True:
        at = client.post("/api/rank", json={"count": count, "verdicts": verdicts}).json()
        assert at["most"] == most_comparisons(count)
        if at["next"] is None:
            break
        assert at["order"] is None
        a, b = at["next"]["first"], at["next"]["second"]
        verdicts.append({**at["next"], "winner": "first" if taste.index(a) < taste.index(b) else "second"})
    assert at["order"] == taste
    assert len(verdicts) <= most_comparisons(count)
    assert len({frozenset((v["first"], v["second"])) for v in verdicts}) == len(verdicts), "no pair twice"


def test_ties_keep_the_order_of_the_list_and_the_later_verdict_on_a_pair_counts(
    client: httpx.Client,
) -> None:
    ties = [{"first": b, "second": a, "winner": "tie"} for a, b in combinations(range(4), 2)]
    assert client.post("/api/rank", json={"count": 4, "verdicts": ties}).json()["order"] == [0, 1, 2, 3]
    turned = [
        {"first": 0, "second": 1, "winner": "first"},
        {"first": 1, "second": 0, "winner": "first"},
    ]
    assert client.post("/api/rank", json={"count": 2, "verdicts": turned}).json()["order"] == [1, 0]


@pytest.mark.parametrize(
    ("body", "told"),
    [
        ({"count": 1}, "count"),
        ({"count": 9}, "count"),
        ({"count": 3, "verdicts": [{"first": 1, "second": 1, "winner": "tie"}]}, "two different ones"),
        ({"count": 3, "verdicts": [{"first": 0, "second": 3, "winner": "tie"}]}, "0 to 2"),
        ({"count": 3, "verdicts": [{"first": 0, "second": 1, "winner": "left"}]}, "winner"),
    ],
)
def test_what_is_no_ranking_is_refused(client: httpx.Client, body: dict, told: str) -> None:
    answer = client.post("/api/rank", json=body)
    assert answer.status_code == 422
    error = answer.json()["error"]
    assert told in error["message"] + str(error["param"])


def picture(here: Visit, name: str) -> None:
    """Keep a screenshot where somebody wants to look."""
    if folder := os.environ.get("PARETUNE_SCREENSHOTS"):
        here.page.screenshot(path=f"{folder}/{name}.png", full_page=True)


def length(text: str) -> int:
    """Return the length of an answer from what the page shows."""
    return 0 if text == "(an empty answer)" else len(text)


def write(here: Visit, count: int) -> None:
    """Have answers written that differ: those of a seed that was looked at."""
    page = here.page
    page.fill("#prompt", "red sun")
    page.click("#options summary")
    page.fill("#seed", "5")
    page.click("#tab-rank")
    page.select_option("#rank-count", str(count))
    page.click("#rank-begin")


def rank(here: Visit, prefers: Callable[[str], float]) -> int:
    """Press the buttons until the ranking is there; ``prefers`` says how good a text is. Return the number of comparisons."""
    page = here.page
    asked = 0
    while True:
        page.wait_for_selector(f"#rank [role=status]:text-matches('^Comparison {asked + 1} '), #rank-title")
        if page.locator("#rank-title").count():
            return asked
        left, right = (prefers(text) for text in page.locator("#rank .answer .text").all_text_contents())
        page.click("#rank-left" if left > right else "#rank-right" if right > left else "#rank-tie")
        asked += 1


@pytest.mark.slow
def test_answers_are_ranked_blind_and_every_comparison_is_a_vote(
    two: tuple[str, Service], visit: Callable[..., Visit]
) -> None:
    here, store = visit(two[0]), two[1].store
    page = here.page
    assert store is not None
    page.click("#new-profile")
    page.fill("#name", "ranker")
    page.keyboard.press("Enter")
    page.wait_for_function("() => document.getElementById('profile').value === 'ranker'")
    write(here, 5)
    page.wait_for_selector("#rank-left")
    shown = page.text_content("#rank") or ""
    assert "concise" not in shown and "warm" not in shown, "no preference is seen before the end"
    picture(here, "rank-comparison")
    page.click("#rank-left")
    page.wait_for_selector("#rank [role=status]:text-matches('^Comparison 2 ')")
    assert len(store.votes("ranker", "soup")) == 1
    page.click("#rank-back")
    page.wait_for_selector("#rank [role=status]:text-matches('^Comparison 1 ')")
    assert store.votes("ranker", "soup") == []

    asked = rank(here, lambda text: -length(text))
    assert 1 <= asked <= most_comparisons(5)
    texts = page.locator("#rank .ranks .told-text").all_text_contents()
    assert len(texts) == 5
    assert [length(text) for text in texts] == sorted(map(length, texts)), "the shortest first"
    votes = store.votes("ranker", "soup")
    assert len(votes) == asked
    for vote in votes:
        assert vote.first.scores is not None and vote.second.scores is not None
        longer = {"first": vote.second, "second": vote.first}.get(vote.winner)
        other = {"first": vote.first, "second": vote.second}.get(vote.winner)
        assert longer is None or other is None or len(longer.text) > len(other.text)
    assert f"{asked} comparisons are kept as votes." in (page.text_content("#rank") or "")
    page.wait_for_selector(f"#learned .small:text-matches('^{asked} votes')")
    picture(here, "rank")
    assert here.overflow() <= 0

    page.get_by_label("Set A to the preference of place 1").click()
    place = (page.text_content("#rank .ranks li .small") or "").removeprefix("at ").split(";")[0]
    page.wait_for_function(
        "(text) => document.querySelector('.dial.a .what').textContent === text", arg=place
    )
    page.click("#rank-back")
    page.wait_for_selector("#rank-left")
    assert len(store.votes("ranker", "soup")) == asked - 1


@pytest.mark.slow
def test_without_a_store_answers_are_ranked_and_the_page_says_that_nothing_is_kept(
    run: Path, visit: Callable[..., Visit]
) -> None:
    from support.studio_world import studio

    with studio(run, store=False) as (address, _):
        here = visit(address)
        page = here.page
        write(here, 3)
        assert rank(here, length) >= 1
        page.wait_for_selector("#rank:has-text('Your comparisons are not kept')")
        here.problems[:] = [problem for problem in here.problems if "409" not in problem]
