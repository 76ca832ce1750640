"""A world where what people want depends on the topic of the prompt, over features and over texts."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paretune.choosing.auto import Labels, Lessons, Votes, softmax
from paretune.core.preference import Preference
from paretune.data.rows import Message
from paretune.fronts.surface import Surface
from paretune.scoring import encoder as encode
from paretune.serving.store.entries import Vote, VotedAnswer
from paretune.serving.store.store import Store
from support.serve_world import OBJECTIVES

TOPICS = ("bread", "grief", "taxes", "stars")


def lessons(
    seed: int, prompts: int = 120, effect: float = 0.0, votes: int = 2, M: int = 2, labels: bool = False
) -> tuple[Lessons, np.ndarray]:
    """Return rows on prompts of four topics, and the true weights ``[P, M]``; ``effect`` turns them with the topic."""
    random = np.random.default_rng(seed)
    topic = random.integers(4, size=prompts)
    embeddings = random.normal(size=(4, 24))[topic] + random.normal(size=(prompts, 24))
    embeddings /= np.linalg.norm(embeddings, axis=1, keepdims=True)
    turned = np.zeros((4, M))
    turned[np.arange(4), np.arange(4) % M] = effect
    weights = softmax(np.linspace(0, 0.5, M) + turned[topic])
    place = np.repeat(np.arange(prompts), votes)
    names = tuple("abcde"[:M])
    if labels:
        drawn = np.stack([random.dirichlet(20 * weights[p]) for p in place])
        return Lessons(embeddings, place, Labels(drawn), names), weights
    differences = random.normal(size=(len(place), M))
    chance = 1 / (1 + np.exp(-(weights[place] * differences).sum(1) / 0.3))
    winners = np.where(random.random(len(place)) < chance, 1.0, -1.0)
    winners[random.random(len(place)) < 0.05] = 0.0
    return Lessons(embeddings, place, Votes(differences, winners), names), weights


def by_topic(patch: pytest.MonkeyPatch, folder: Path) -> Path:
    """Replace the encoder by one that reads the topic and the length of a text; return its folder."""
    made = folder / "encoder"
    made.mkdir()
    (made / "config.json").write_text("{}")
    (made / "model.safetensors").write_bytes(b"weights")
    patch.setattr(encode, "locate", lambda name: made)
    patch.setattr(encode, "load_encoder", lambda folder, device=None, dtype="auto": None)
    patch.setattr(encode, "embed", _topics)
    return made


def _topics(encoder: object, texts: Sequence[Any], *more: object, **settings: object) -> np.ndarray:
    rows = [[*(float(topic in text) for topic in TOPICS), len(text) / 100] for text in texts]
    return np.array(rows, dtype=np.float32).reshape(len(texts), 5)


def asks(count: int) -> list[str]:
    """Return different questions, each on one topic in turn."""
    return [f"what of {TOPICS[n % 4]}, case {n}" for n in range(count)]


def wanted(text: str) -> Preference:
    """Return the preference that the people of this world want for a prompt: by its topic."""
    short = 0.9 if TOPICS[0] in text or TOPICS[2] in text else 0.1
    return Preference(OBJECTIVES, (short, 1 - short))


def vote_on(file: Path, questions: Sequence[str], surface: Surface, own: bool = True, each: int = 3) -> Path:
    """Write a store with ``each`` votes on every question by :func:`wanted`, on answers with scores of their own or without."""
    random = np.random.default_rng(0)
    store = Store.open(str(file))
    for text in [question for question in questions for _ in range(each)]:
        values = random.normal(size=(2, 2)) * surface.scale
        lead = float(wanted(text).array() @ ((values[0] - values[1]) / surface.scale))
        winner = "first" if random.random() < 1 / (1 + np.exp(-lead / 0.2)) else "second"
        answers = [
            VotedAnswer(
                side,
                Preference.one_hot(OBJECTIVES[n], OBJECTIVES),
                dict(zip(OBJECTIVES, values[n].tolist(), strict=True)) if own else None,
            )
            for n, side in enumerate(("one", "two"))
        ]
        prompt = (Message("system", "be brief"), Message("user", text))
        store.add_vote("ann", Vote(surface.policy, prompt, answers[0], answers[1], winner))
    store.close()
    return file


def label(file: Path, questions: Sequence[str]) -> Path:
    """Write a file of labels by :func:`wanted`."""
    records = [{"prompt": text, "preference": wanted(text).as_dict()} for text in questions]
    file.write_text("".join(json.dumps(record) + "\n" for record in records))
    return file
