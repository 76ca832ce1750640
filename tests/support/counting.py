"""Counts what a model does, and a world in which all texts have one length, so that a plan can be exact."""

from __future__ import annotations

import random
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, replace

import pytest
import torch

from paretune.data.dataset import ScoredDataset
from paretune.data.rows import Message, Row
from paretune.generation.batch import Batch
from paretune.models.language_model import LanguageModel
from support.world import WORDS

ANSWER_WORDS = 5
"""Words of every response and answer; an end of turn follows."""


@dataclass
class Counts:
    """What a model did.

    Attributes:
        trained, forwards: Tokens that went forward and backward, and the number of these forwards.
        read, readings: Tokens of packed forwards without a backward pass, and the number of these forwards.
        decoded: Tokens that decoding read behind the prompt; every copy of a row counts.
        prompts: Prompts that decoding read.
    """

    trained: float = 0
    forwards: float = 0
    read: float = 0
    readings: float = 0
    decoded: float = 0
    prompts: float = 0

    def since(self, before: Counts) -> Counts:
        """Return what was done after ``before``."""
        return Counts(
            *(now - then for now, then in zip(vars(self).values(), vars(before).values(), strict=True))
        )

    def copy(self) -> Counts:
        """Return the counts so far."""
        return replace(self)


@contextmanager
def counted(lm: LanguageModel) -> Iterator[Counts]:
    """Count the forwards of the decoder of ``lm`` itself, apart from everything that plans or records them."""
    counts = Counts()

    def after(module: torch.nn.Module, arguments: object, options: dict, output: object) -> None:
        hidden = output.last_hidden_state  # type: ignore[attr-defined]
        rows, length = hidden.shape[:2]
        if options.get("past_key_values") is not None:
            counts.prompts += rows if length > 1 else 0
            counts.decoded += rows if length == 1 else 0
            return
        counts.read += rows * length
        counts.readings += 1

        def backward(gradient: torch.Tensor) -> None:
            counts.trained, counts.read = counts.trained + rows * length, counts.read - rows * length
            counts.forwards, counts.readings = counts.forwards + 1, counts.readings - 1

        if hidden.requires_grad:
            hidden.register_hook(backward)

    handle = lm.model.get_decoder().register_forward_hook(after, with_kwargs=True)
    try:
        yield counts
    finally:
        handle.remove()


def answers_of_one_length(patch: pytest.MonkeyPatch) -> None:
    """Make the tiny model answer with different words, decided by a row's seed, and an end of turn; its forwards stay."""
    take = Batch._take

    def scripted(batch: Batch, logits: torch.Tensor) -> None:
        take(batch, logits)
        lm = batch._lm
        for row in batch.rows:
            place = len(row.tokens) - 1
            word = WORDS[(row.seed + 3 * place) % len(WORDS)]
            row.tokens[-1] = lm.turn_end if place == ANSWER_WORDS else lm.encode_response(f"red {word}")[1]

    patch.setattr(Batch, "_take", scripted)


def texts_of_one_length(rows: int, responses: int = 2) -> ScoredDataset:
    """Rows of one prompt length and two or three responses of one length: the more often one says good, the less often kind."""
    chance = random.Random(0)
    rest = [word for word in WORDS if word not in ("good", "kind")]
    made = []
    for number in range(rows):
        prompt = " ".join(
            [WORDS[number % 10], WORDS[number // 10 % 10], WORDS[number // 100], chance.choice(WORDS)]
        )
        counts = chance.sample(range(3), responses)
        answers = []
        for good in counts:
            words = ["good"] * good + ["kind"] * (2 - good) + chance.sample(rest, ANSWER_WORDS - 2)
            answers.append(" ".join(chance.sample(words, len(words))))
        scores = {"good": tuple(map(float, counts)), "kind": tuple(2.0 - good for good in counts)}
        made.append(
            Row(
                (Message("user", prompt),), tuple(answers), scores, {}, (False,) * responses, f"made:{number}"
            )
        )
    return ScoredDataset(("good", "kind"), tuple(made))
