"""Texts that the engine has read: what goes on from one of them, as the next turn of a conversation does, is read from there."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from paretune.models.kv_cache import RowStates
from paretune.models.packing import common_length

SHORTEST = 16
"""Fewest tokens that are worth taking over."""


@dataclass(frozen=True, eq=False)
class KeptText:
    """What the model has read of a row.

    Attributes:
        tokens: T token ids.
        states: Keys and values of each layer at these.
    """

    tokens: tuple[int, ...]
    states: RowStates


@dataclass(frozen=True)
class Reader:
    """Who reads a text, which decides its keys and values, and for whom.

    Clients share no text, as the time of an answer would tell one what another has asked.

    Attributes:
        client: Name of who asks.
        gates: The gates that are not 0, with their columns; none is the base model.
    """

    client: str
    gates: tuple[tuple[int, float], ...]

    @classmethod
    def of(cls, client: str, gates: Tensor | None) -> Reader:
        """Return the reader of a copy with ``gates [R]``; None is the base model."""
        values = [] if gates is None else gates.tolist()
        return cls(client, tuple((column, value) for column, value in enumerate(values) if value))


class KeptTexts:
    """The texts that were read last, within a number of positions.

    Attributes:
        most: Largest number of tokens of all texts together; 0 keeps none.
    """

    def __init__(self, most: int) -> None:
        self.most = most
        self._texts: OrderedDict[tuple[Reader, tuple[int, ...]], KeptText] = OrderedDict()

    @property
    def tokens(self) -> int:
        """Tokens of all texts."""
        return sum(len(text.tokens) for text in self._texts.values())

    def find(self, reader: Reader, prompt: Sequence[int]) -> tuple[KeptText, int] | None:
        """Return the text that a prompt goes on from, and how many tokens they have in common; None where these are few.

        The last token of a prompt is always read, as what follows is drawn behind it.
        """
        before = tuple(prompt[:-1])
        best: tuple[int, tuple[Reader, tuple[int, ...]]] | None = None
        for key in self._texts:
            if key[0] == reader:
                common = common_length(key[1], before)
                if common >= SHORTEST and (best is None or common > best[0]):
                    best = common, key
        if best is None:
            return None
        self._texts.move_to_end(best[1])
        return self._texts[best[1]], best[0]

    def keep(self, reader: Reader, tokens: Sequence[int], states: RowStates) -> None:
        """Keep a text in place of those that it goes on from; the texts that were used longest ago make room for it.

        A text that a kept one begins with is there already.
        """
        text = KeptText(tuple(tokens), states)
        if not SHORTEST <= len(text.tokens) <= self.most:
            return
        mine = [key for key in self._texts if key[0] == reader]
        for key in mine:
            if key[1][: len(text.tokens)] == text.tokens:
                self._texts.move_to_end(key)
                return
            if key[1] == text.tokens[: len(key[1])]:
                del self._texts[key]
        self._texts[reader, text.tokens] = text
        while self.tokens > self.most:
            self._texts.popitem(last=False)

    def clear(self) -> None:
        """Keep none of them any longer."""
        self._texts.clear()
