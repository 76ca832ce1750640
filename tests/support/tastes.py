"""A world of people whose tastes mix two planted prototypes, for prototypes over features and over texts."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from paretune.data.person_votes import PersonVote
from paretune.data.rows import Message
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
