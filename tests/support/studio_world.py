"""A finished run over a tiny random model, served live, and a browser that notes whatever a page does wrong."""

from __future__ import annotations

import json
import shutil
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from importlib.resources import files
from pathlib import Path

import numpy as np
import pytest
from playwright.sync_api import BrowserContext, FloatRect, Locator, Page, Request, sync_playwright

from paretune.core.preference import Preference, preference_grid
from paretune.data.readers import write_jsonl
from paretune.generation.mixing import Mixing
from paretune.models.language_model import LanguageModel
from paretune.policies.catalogue import find_sources
from paretune.policies.policy import Policy
from paretune.policies.policy_file import BaseChoice
from paretune.reports.beside import ANSWERS_FILE, FOLDER
from paretune.serving.address import Address
from paretune.serving.config import EngineLimits, ServeConfig
from paretune.serving.local import LocalBackend
from paretune.serving.service import Service
from paretune.serving.sources import serve_source
from paretune.serving.store.store import Store
from support import records
from support.adapters import random_adapter
from support.serve_world import live

NAMES = ("concise", "warm", "plain", "bold")
FLAGS = (
    "--no-sandbox", "--disable-gpu", "--disable-quic", "--no-first-run", "--disable-background-networking",
    "--disable-component-update", "--disable-sync",
)  # fmt: skip
WIDE, PHONE, NARROW, LARGE = (1280, 900), (390, 844), (320, 640), (1920, 1080)
HALF = (640, 450)
"""What a window of 1280 x 900 pixels shows at a zoom of 200 %."""


def measured(preferences: Sequence[Preference]) -> list[dict]:
    """Return points on a sphere, which bulges outwards, in units that differ between objectives."""
    points = []
    for number, preference in enumerate(preferences):
        weights = preference.array()
        unit = np.array([3.0, 1.0, 120.0, 0.05][: len(weights)])
        mean = (weights / np.linalg.norm(weights) - 0.6) * unit
        half = unit * (0.06 + 0.02 * (number % 3))
        names = preference.as_dict()
        bounds = {"mean": mean, "low": mean - half, "high": mean + half}
        points.append(records.point(names, **{key: table.tolist() for key, table in bounds.items()}))
    return points


def write_run(folder: Path, lm: LanguageModel, M: int) -> Path:
    """Write a run of M objectives with a soup, anchors and a mixture, and a front that was never really measured."""
    names = NAMES[:M]
    adapters = [random_adapter(lm, seed) for seed in range(M)]
    corners = [Preference.one_hot(name, names) for name in names]
    policies = [
        Policy.soup("soup", lm, names, adapters),
        Policy.anchors("anchors", lm, names, adapters, corners),
        Policy.mod("mod", lm, names, adapters, Mixing()),
    ]
    (folder / FOLDER).mkdir(parents=True, exist_ok=True)
    for policy in policies:
        policy.save(folder / "policies" / policy.name)
    grid = preference_grid(names, {2: 6, 3: 4}.get(M, 2))
    fronts = {"soup": grid, "anchors": corners, "mod": grid}
    facts = records.record(
        names,
        [
            records.policy(name, measured(points), anchored=name == "anchors")
            for name, points in fronts.items()
        ],
        prompts=["red sun over a river", "a good stone"],
        sampling={"max_new_tokens": 24, "temperature": 1.0, "top_p": 1.0},
        objectives_info={"concise": "+1 for every word fewer"},
    )
    write_jsonl(folder / FOLDER / ANSWERS_FILE, answers(names, grid))
    rules = [
        {"rule": "length"},
        {"rule": "regex", "pattern": "[aeiou]", "how": "count"},
        {"rule": "length", "unit": "characters"},
    ]
    score = [{"objective": name, **rule} for name, rule in zip(names, rules, strict=False)]
    (folder / "config.yaml").write_text(json.dumps({"score": score}), encoding="utf-8")
    (folder / "front.json").write_text(json.dumps(facts), encoding="utf-8")
    return folder


def answers(names: Sequence[str], preferences: Sequence[Preference]) -> list[dict]:
    """Return answers of the soup to 30 prompts at each preference, as a run keeps them; the anchors have none."""
    return [
        {
            "policy": "soup",
            "preference": preference.as_dict(),
            "prompt": [{"role": "user", "content": f"Question {n}"}],
            "prompt_id": f"k{n}",
            "sample": 0,
            "answer": f"Measured at {preference}, number {n}",
            "truncated": n == 1,
            "scores": dict.fromkeys(names, float(-n)),
        }
        for preference in preferences
        for n in range(30)
    ]


@contextmanager
def studio(
    run: Path,
    at: Address | None = None,
    floors: dict[str, float] | None = None,
    store: bool = True,
    names: Sequence[str] = ("soup", "anchors", "mod"),
) -> Iterator[tuple[str, Service]]:
    """Serve policies of a run; yield the studio's address and the service."""
    sources = find_sources(run, names)
    served = {
        source.name: serve_source(source, floors or {}, None)
        for source in sources
        if not floors or source.name != "anchors"
    }
    backend = LocalBackend(
        [source for source in sources if source.name in served],
        served,
        BaseChoice(dtype="float32", device="cpu"),
        EngineLimits(max_prompt_tokens=200),
    )
    kept = Store.open(f"sqlite:///{run / 'store.sqlite'}") if store else None
    service = Service(backend, kept, ServeConfig(default_tokens=24, max_tokens=64, floors=floors or {}))
    with live(service, at) as address:
        yield address, service


def chromium() -> str:
    """Return the browser's path; skip where there is none."""
    for name in ("chromium", "chromium-browser"):
        if path := shutil.which(name):
            return path
    pytest.skip("no Chromium on this machine; install Debian's package chromium")


@contextmanager
def browser() -> Iterator[BrowserContext]:
    """Start a browser without a window; its pages share what it has loaded."""
    path = chromium()
    with sync_playwright() as playwright:
        made = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        try:
            yield made.new_context()
        finally:
            made.close()


class Visit:
    """A page of the studio, and what went wrong on it: errors of scripts and of the console, requests to other origins."""

    def __init__(
        self, browser: BrowserContext, address: str, size: tuple[int, int] = WIDE, scheme: str = "light"
    ) -> None:
        self.address = address
        self.page: Page = browser.new_page()
        self.page.set_viewport_size({"width": size[0], "height": size[1]})
        self.page.emulate_media(color_scheme=scheme, reduced_motion="reduce")  # type: ignore[arg-type]
        self.page.set_default_timeout(60_000)
        self.problems: list[str] = []
        self.page.on("pageerror", lambda error: self.problems.append(f"script: {error}"))
        self.page.on(
            "console", lambda said: said.type in ("error", "warning") and self.problems.append(said.text)
        )
        self.page.on("request", self._look)

    def _look(self, request: Request) -> None:
        if not request.url.startswith((self.address, "data:", "blob:")):
            self.problems.append(f"request to {request.url}")

    def open(self) -> Page:
        """Load the studio and wait until it is drawn."""
        self.page.goto(self.address)
        self.drawn()
        return self.page

    def drawn(self) -> None:
        """Wait until the front is there with A and B on it."""
        self.page.wait_for_selector("main[aria-busy=false]")
        self.page.wait_for_selector("#chart:has(.own.a):has(.own.b), #chart .empty", state="attached")

    def choose(self, policy: str) -> None:
        """Select a policy and wait for its front."""
        self.page.select_option("#policy", policy)
        self.drawn()

    def ask(self, prompt: str | None = "red sun", voting: bool = True) -> None:
        """Write a prompt, send it and wait for both answers, and to be let vote on them."""
        if prompt is not None:
            self.page.fill("#prompt", prompt)
        self.page.click("#send")
        for side in "ab":
            self.page.wait_for_selector(
                f".round:last-child .answer.{side}:not(.live) > .small:text-matches('seed')"
            )
        if voting:
            self.answered()

    def answered(self) -> None:
        """Wait until both answers have ended and may be voted on."""
        self.page.wait_for_selector("#vote-first[aria-disabled=false]")

    def overflow(self) -> int:
        """Return by how many pixels the page is wider than its window."""
        return int(self.page.evaluate("() => document.documentElement.scrollWidth - window.innerWidth"))

    def close(self) -> None:
        """Forget the visit; nothing may have gone wrong in it."""
        # A page that is left keeps its conversation once more, which the next visit would then open.
        self.page.evaluate("() => { Storage.prototype.setItem = () => {}; localStorage.clear(); }")
        self.page.close()
        assert not self.problems, self.problems


def drawn_at(element: Locator, seconds: float = 10) -> FloatRect:
    """Return where the first of some elements lies on the page, in pixels.

    A page draws anew what new figures change; an element that was just replaced lies nowhere, so the next one is asked.
    """
    until = time.monotonic() + seconds
    while (box := element.first.bounding_box()) is None:
        assert time.monotonic() < until, f"{element} is not drawn"
        element.page.wait_for_timeout(20)
    return box


def faults(page: Page, within: str | None = None) -> list[str]:
    """Return what axe finds against WCAG 2.1 AA; ``within`` is the selector of the part that is looked at, by default the page."""
    source = (files("axe_playwright_python") / "axe.min.js").read_text(encoding="utf-8")
    page.evaluate(source)
    rules = {"runOnly": ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "best-practice"]}
    found = page.evaluate("([part, rules]) => axe.run(part ?? document, rules)", [within, rules])
    return [
        f"{one['id']}: {node['html'][:200]}: {node['failureSummary']}"
        for one in found["violations"]
        for node in one["nodes"]
    ]
