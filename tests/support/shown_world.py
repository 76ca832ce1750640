"""The studio over the measured front of the quickstart, with answers of its policy: what pictures in the docs show."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import yaml

from paretune.models.language_model import LanguageModel
from paretune.serving.events import End, Event, Job, Piece
from support.serve_world import FakeAnswer
from support.studio_world import studio, write_run

RESULTS = Path(__file__).parents[2] / "docs/results/quickstart"
QUESTION = "What can I do with too many ripe bananas?"
ANSWERS = {
    1.0: "Bring them home and eat them.",
    0.5: "Don't eat them all! Use them for a fruit salad.",
    0.0: "Babies love bananas! You can eat them, and they are full of delicious sweetness. You can make a fruit smoothie, and "
    "they are a great snack.",
}
"""Weight on concise -> what the soup of the quickstart answered, as docs/results/quickstart.md has it."""
PACE = 0.02
"""Seconds between two words."""


def quickstart_run(folder: Path, lm: LanguageModel) -> Path:
    """Write a run whose front and scorers are the quickstart's, and whose policy is made of random adapters."""
    write_run(folder, lm, 2)
    facts = json.loads((RESULTS / "figures.json").read_text(encoding="utf-8"))
    soup = next(policy for policy in facts["policies"] if policy["name"] == "dpo-soup")
    facts.update(policies=[{**soup, "name": "soup"}], comparisons=[], stages=[], prompts=[QUESTION])
    (folder / "front.json").write_text(json.dumps(facts), encoding="utf-8")
    config = yaml.safe_load((RESULTS / "config.yaml").read_text(encoding="utf-8"))
    (folder / "config.yaml").write_text(json.dumps({"score": config["score"]}), encoding="utf-8")
    return folder


async def answer(job: Job, number: int, on_event: Callable[[int, Event], None]) -> None:
    """Write the answer of the nearest preference, word by word."""
    nearest = min(ANSWERS, key=lambda weight: abs(weight - job.preference["concise"]))
    words = ANSWERS[nearest].split(" ")
    for k, word in enumerate(words):
        on_event(number, Piece(word if k == 0 else f" {word}"))
        await asyncio.sleep(PACE)
    on_event(number, End("stop", 12, len(words)))


@contextmanager
def shown(folder: Path, lm: LanguageModel) -> Iterator[str]:
    """Serve the run; yield the studio's address."""
    with studio(quickstart_run(folder, lm), names=("soup",)) as (address, service):
        tasks: set[asyncio.Task[None]] = set()

        async def submit(
            jobs: Sequence[Job], on_event: Callable[[int, Event], None], timeout: float
        ) -> list[FakeAnswer]:
            tasks.update(asyncio.create_task(answer(job, n, on_event)) for n, job in enumerate(jobs))
            return [FakeAnswer() for _ in jobs]

        service.backend.submit = submit  # type: ignore[method-assign]
        record = json.loads((folder / "front.json").read_text(encoding="utf-8"))
        service.backend.served["soup"].facts["base_model"] = record["model"]  # type: ignore[index]
        yield address
