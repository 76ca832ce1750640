"""Text that grows token by token: in whole characters, without white space around it, and never with a stop string."""

from __future__ import annotations

from collections.abc import Callable, Sequence

UNFINISHED = "\ufffd"
"""The mark that decoders write for bytes that are not, or not yet, a character."""
LONGEST = 3
"""Largest number of bytes, and so of tokens, of an incomplete character; some decoders write a mark for each byte."""


class Characters:
    """A decoder that turns tokens into text of whole characters, piece by piece.

    Only the tokens since the last piece but one are decoded, because a decoder depends on the tokens before: a first word
    has no space, and bytes join to a character.
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._tokens: list[int] = []
        self._settled = 0  # tokens whose text was returned in full
        self._given = 0  # characters of the decoded tokens that were returned

    def push(self, token: int) -> str:
        """Return the characters that are complete with ``token``."""
        self._tokens.append(token)
        text = self._decode(self._tokens)
        end = len(text.rstrip(UNFINISHED))
        if len(self._tokens) - self._settled > LONGEST:
            # Some of these bytes will never be a character. Until then, even marks before the last character are held back:
            # some decoders mark a whole run of bytes until its last character is complete.
            end = max(end, len(text) - LONGEST)
        piece = text[self._given : end]
        self._given = max(self._given, end)
        if piece and end == len(text):
            self._tokens = self._tokens[self._settled :]
            self._settled, self._given = len(self._tokens), len(self._decode(self._tokens))
        return piece

    def alone(self, token: int) -> str:
        """Return the text of a token by itself."""
        return self._decode([token])

    def finish(self) -> str:
        """Return the text that was held back."""
        text = self._decode(self._tokens)
        piece, self._given = text[self._given :], max(self._given, len(text))
        return piece


class StoppableText:
    """A text that ends before a stop string, begins behind a header, and has no white space at its two ends.

    Text that could become a stop string or the header, and white space at the end so far, is held back.

    Attributes:
        stopped: Whether a stop string was met; the text ends before it.
    """

    def __init__(self, stops: Sequence[str] = (), header: str = "") -> None:
        self._stops = [stop for stop in stops if stop]
        self._header = header
        self._held = ""
        self._begun = False
        self.stopped = False

    def push(self, piece: str) -> str:
        """Return the text that is certain once ``piece`` is added."""
        if self.stopped:
            return ""
        self._held = self._held + piece if self._begun else (self._held + piece).lstrip()
        if self._header and not self._begun:
            if len(self._held) < len(self._header) and self._header.startswith(self._held):
                return ""
            self._held, self._header = self._held.removeprefix(self._header).lstrip(), ""
        matches = [(self._held.find(stop), len(stop)) for stop in self._stops]
        # The stop string that is complete first, however the text is split into pieces.
        met = min(((start + length, start) for start, length in matches if start >= 0), default=None)
        if met:
            self.stopped = True
            text, self._held = self._held[: met[1]].rstrip(), ""
            return text
        kept = len(self._held.rstrip())
        for stop in self._stops:
            for length in range(min(len(stop) - 1, len(self._held)), 0, -1):
                if self._held.endswith(stop[:length]):
                    kept = min(kept, len(self._held[:-length].rstrip()))
                    break
        text, self._held = self._held[:kept], self._held[kept:]
        self._begun = self._begun or bool(text)
        return text

    def finish(self) -> str:
        """Return the text that was held back, as nothing follows."""
        text, self._held = self._held.rstrip(), ""
        return text
