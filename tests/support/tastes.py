"""A world of people whose tastes mix two planted prototypes, for prototypes over features and over texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from paretune.data.person_votes import PersonVote
from paretune.data.rows import Message
from paretune.scoring import encoder as encode
from paretune.scoring import prototype_fit
from paretune.scoring.ideal_points import Ballots

PEOPLE = 16


@dataclass(frozen=True, eq=False)
class Tastes:
    """Votes of people with known weights ``[U, 2]``; ``margins [V]`` are the true log-odds of the first response."""

    ballots: Ballots
    prompts: list[int]
    weights: np.ndarray
    margins: np.ndarray

    @property
    def best(self) -> float:
        """The share of votes that who knows everything predicts."""
        return float((np.sign(self.margins) == self.ballots.signs).mean())


def planted(model: str = "A", votes: int = 30, seed: int = 0) -> Tastes:
    """Half of the people are near one prototype, half near the other; of model B both turn with the prompt."""
    random = np.random.default_rng(seed)
    D, E, d, V = 6, 3, 2, PEOPLE * votes
    item = random.normal(size=(d, D)) / D**0.5 * 1.5
    points, turning = np.array([[2.0, 0.0], [-2.0, 0.0]]), random.normal(size=(2, d, E)) * 1.3
    half = PEOPLE // 2
    weights = np.concatenate(
        [random.dirichlet([7, 1], size=half), random.dirichlet([1, 7], size=PEOPLE - half)]
    )
    users = np.repeat(np.arange(PEOPLE), votes)
    place = random.integers(100, size=V)
    prompts = random.normal(size=(100, E))[place]
    first, second = random.normal(size=(2, V, D))
    ideals = points[None].repeat(V, 0) if model == "A" else np.einsum("kde,ne->nkd", turning, prompts)
    ideal = (weights[users][..., None] * ideals).sum(1)
    margins = ((second @ item.T - ideal) ** 2).sum(1) - ((first @ item.T - ideal) ** 2).sum(1)
    signs = np.where(random.random(V) < 1 / (1 + np.exp(-margins)), 1, -1)
    return Tastes(Ballots(first, second, prompts, users, signs), place.tolist(), weights, margins)


def spoken(
    votes: int = 25, seed: int = 0, people: Sequence[str] = ("ann", "bob", "cat", "dan", "eve", "fay")
) -> list[PersonVote]:
    """Votes on texts: every other person wants many a "please", the others many a "now"; one vote in twelve is a slip."""
    random = np.random.default_rng(seed)
    made = []
    for number, person in enumerate(people):
        wanted = ("please", "now")[number % 2]
        for vote in range(votes):
            texts = [
                "pass it " + "please " * int(random.integers(5)) + "now " * int(random.integers(5))
                for _ in range(2)
            ]
            counts = [text.count(wanted) for text in texts]
            if counts[0] == counts[1]:
                winner = "tie" if vote % 2 else "first"
            else:
                winner = "first" if (counts[0] > counts[1]) != (random.random() < 1 / 12) else "second"
            if texts[0] == texts[1]:
                texts[0] += "today"
            prompt = (Message("user", f"ask {random.integers(60)}"),)
            made.append(PersonVote(person, prompt, *texts, winner, f"made:{len(made)}"))  # type: ignore[arg-type]
    return made


def fake_encoder(patch: pytest.MonkeyPatch, folder: Path) -> Path:
    """Replace the encoder by one whose first two numbers are how often "please" and "now" occur; return its folder."""
    made = folder / "encoder"
    made.mkdir()
    (made / "config.json").write_text("{}")
    (made / "model.safetensors").write_bytes(b"weights")
    patch.setenv("PARETUNE_CACHE", str(folder / "cache"))
    patch.setattr(encode, "load_encoder", lambda folder, device=None, dtype="auto": None)
    patch.setattr(encode, "embed", _counted)
    patch.setattr(prototype_fit, "L2_GRID", (1e-2, 1e-3))
    patch.setattr(prototype_fit, "STARTS", 2)
    return made


def _counted(
    encoder: object, texts: Sequence[Any], batch_size: int = 32, advance: object = None
) -> np.ndarray:
    joined = [text if isinstance(text, str) else " ".join(text) for text in texts]
    rows = [[text.count("please") / 4, text.count("now") / 4, len(text) / 100, 1.0] for text in joined]
    return np.array(rows, dtype=np.float32).reshape(len(texts), 4)
