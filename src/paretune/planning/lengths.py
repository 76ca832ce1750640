"""How long the texts of a run are in tokens, without its model: by its tokenizer where that is at hand, else by characters."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import numpy as np

from paretune.core.files import expanded
from paretune.data.dataset import ScoredDataset
from paretune.data.pairs import Pair
from paretune.data.rows import Prompt, Row
from paretune.models.chat_template import PLAIN_TEMPLATE
from paretune.models.embedded import EMBEDDED, embedded_gguf
from paretune.models.gguf_once import readable_at
from paretune.models.language_model import LanguageModel
from paretune.scoring.bradley_terry import last_user_message
from paretune.training.token_tables import TooLong

LOOKED_AT = 256
"""Number of rows, spread evenly, whose texts are counted."""
CHARACTERS = 4.4
"""Characters per token, in English prose with a vocabulary of 49 thousand tokens."""
ENCODER_TOKENS = 256
"""Largest number of tokens of a text that the encoder of heads reads."""
TEMPLATE = 25
"""Tokens that a chat template adds to a prompt, where it cannot be read."""


@dataclass(frozen=True)
class Counter:
    """A counter of tokens as training reads them: prompts in the chat template, responses with their end.

    Attributes:
        prompt, response: Functions that count the tokens of one text; a response that was cut has no end.
        note: Description of how tokens are counted.
    """

    prompt: Callable[[Prompt], int]
    response: Callable[[str, bool], int]
    note: str


@dataclass(frozen=True)
class Texts:
    """Groups of one prompt and some responses to it, in tokens.

    Attributes:
        count: Number of groups.
        prompt, response: Mean lengths.
        responses: Number of responses in a group.
        spread: Standard deviation of the tokens of a group.
        longest: Length of the longest prompt.
        long: Share of the pairs that were too long, whatever happened to them.
    """

    count: float
    prompt: float
    response: float
    responses: float
    spread: float = 0.0
    longest: float = 0.0
    long: float = 0.0

    @property
    def tokens(self) -> float:
        """Tokens of a group."""
        return self.prompt + self.responses * self.response

    @property
    def targets(self) -> float:
        """Response tokens of a group."""
        return self.responses * self.response

    @property
    def seen(self) -> float:
        """Positions attended to in a group, summed over its tokens."""
        return self.prompt**2 / 2 + self.targets * (self.prompt + self.response)


@cache
def counter(model: str, chat_template: str = "{}") -> Counter:
    """Return the counter of a model, whose parameters are not read; nothing is downloaded.

    ``chat_template`` holds the arguments of its chat template as JSON.
    """
    from transformers import AutoTokenizer

    path = embedded_gguf() if model == EMBEDDED else expanded(model, "model")
    options: dict[str, Any] = {"local_files_only": True}
    source = model
    if path is not None and path.exists():
        folder, more = readable_at(path)
        source, options = str(folder), options | more
    try:
        tokenizer = AutoTokenizer.from_pretrained(source, **options)
    except Exception:  # noqa: BLE001 - damaged files raise anything; loading the model says what is wrong
        return Counter(
            lambda prompt: TEMPLATE + round(sum(len(message.content) for message in prompt) / CHARACTERS),
            lambda text, cut: round(len(text) / CHARACTERS) + (not cut),
            f"{CHARACTERS:g} characters per token and {TEMPLATE} tokens of chat template (the tokenizer of {model} is not on this "
            "machine, or cannot be read)",
        )
    if tokenizer.chat_template is None:
        tokenizer.chat_template = PLAIN_TEMPLATE
    reader = LanguageModel(
        None,
        tokenizer,
        model,
        "",
        chat_template=json.loads(chat_template),  # type: ignore[arg-type] # no parameters are needed
    )
    return Counter(
        lambda prompt: len(reader.encode_prompt(prompt)),
        lambda text, cut: len(reader.encode_response(text, cut)),
        f"the tokenizer of {model}",
    )


def of_rows(rows: Sequence[Row], count: Counter) -> Texts:
    """Return prompts with all their responses."""
    some = _spread_evenly(rows)
    prompts = [count.prompt(row.prompt) for row in some]
    responses = [
        [count.response(text, cut) for text, cut in zip(row.responses, row.truncated, strict=True)]
        for row in some
    ]
    return _texts(len(rows), prompts, responses)


def encoded(rows: Sequence[Row], count: Counter, answer: float | None = None) -> float:
    """Return the mean tokens of a text that the encoder of heads reads: each response behind the user's last message, and alone.

    Args:
        rows: The prompts with their responses.
        count: The counter of tokens; that of the model, whose words are about those of the encoder.
        answer: Tokens of the answers that are read in place of the rows' responses; None for these.
    """
    lengths = []
    for row in _spread_evenly(rows):
        asked = count.response(last_user_message(row.prompt), True)
        texts = [answer] if answer is not None else [count.response(text, True) for text in row.responses]
        lengths += [min(size, ENCODER_TOKENS) for text in texts for size in (asked + text, text)]
    return float(np.mean(lengths)) if lengths else 0.0


def of_pairs(pairs: Sequence[Pair], count: Counter, limit: int, rule: TooLong = "drop") -> Texts:
    """Return pairs; ``rule`` is what happens to those whose prompt and longer response have more than ``limit`` tokens."""
    some = _spread_evenly(pairs)
    read = [
        (
            count.prompt(pair.prompt),
            [
                count.response(pair.chosen, pair.chosen_truncated),
                count.response(pair.rejected, pair.rejected_truncated),
            ],
        )
        for pair in some
    ]
    return _within(len(pairs), read, limit, rule)


def any_pair(part: ScoredDataset, count: Counter, limit: int, rule: TooLong = "drop") -> Texts:
    """Return two of the responses of each row: before scoring it is not known which pair is trained on."""
    several = sum(len(row.responses) > 1 for row in part.rows)
    some = [row for row in _spread_evenly(part.rows) if len(row.responses) > 1]
    read = [(count.prompt(row.prompt), [*map(count.response, row.responses, row.truncated)]) for row in some]
    texts = _within(several, read, limit, rule)
    spread = texts.spread * (2 / max(texts.responses, 2)) ** 0.5
    return replace(texts, responses=2, spread=spread)


def _within(total: int, read: Sequence[tuple[int, list[int]]], limit: int, rule: TooLong) -> Texts:
    """Return texts of which ``read`` has the tokens of some, prompt and responses, after ``rule`` was applied to long ones."""
    fitted = [_fitted(prompt, responses, limit, rule) for prompt, responses in read]
    kept = [one for one in fitted if one is not None]
    long = sum(prompt + max(responses) > limit for prompt, responses in read)
    count = total * len(kept) / max(1, len(read))
    texts = _texts(count, [prompt for prompt, _ in kept], [responses for _, responses in kept])
    return replace(texts, long=long / max(1, len(read)))


def _fitted(prompt: int, responses: list[int], limit: int, rule: TooLong) -> tuple[int, list[int]] | None:
    longest = max(responses)
    if prompt + longest <= limit or rule == "refuse":
        return prompt, responses
    if rule == "cut" and prompt < limit:
        return prompt, [min(length, limit - prompt) for length in responses]
    if rule == "prompt-left" and longest + TEMPLATE < limit:
        return limit - longest, responses
    return None


def _texts(count: float, prompts: Sequence[int], responses: Sequence[Sequence[int]]) -> Texts:
    if not prompts:
        return Texts(0, 0, 0, 0)
    flat = [length for lengths in responses for length in lengths]
    sizes = [prompt + sum(lengths) for prompt, lengths in zip(prompts, responses, strict=True)]
    return Texts(
        count,
        float(np.mean(prompts)),
        float(np.mean(flat)) if flat else 0.0,
        len(flat) / len(prompts),
        float(np.std(sizes)),
        float(max(prompts)),
    )


def _spread_evenly(items: Sequence[Any]) -> list[Any]:
    step = max(1, -(-len(items) // LOOKED_AT))
    return list(items[::step])
