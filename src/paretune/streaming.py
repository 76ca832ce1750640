"""Text that grows token by token: whole characters, no white space around it, and never a stop string."""

from __future__ import annotations

from collections.abc import Callable, Sequence

UNFINISHED = "\ufffd"
"""What decoders write for bytes that are no character, or not yet one."""
LONGEST = 3
"""Bytes of a character that lacks its last one; some decoders write a mark for each."""


class Characters:
    """Turns tokens into text of whole characters, piece by piece.

    Only the tokens since the last piece but one are decoded, since a decoder looks at what stands before (a first word has no
    space, bytes join to a character).
    """

    def __init__(self, decode: Callable[[Sequence[int]], str]) -> None:
        self._decode = decode
        self._tokens: list[int] = []
        self._settled = 0  # tokens whose text is out in full
        self._given = 0  # characters of the decoded tokens that are out

    def push(self, token: int) -> str:
        """Return the characters that are complete with ``token``."""
        self._tokens.append(token)
        text = self._decode(self._tokens)
        end = len(text)
        while end and text[end - 1] == UNFINISHED and len(text) - end < LONGEST:
            end -= 1
        piece = text[self._given : end]
        self._given = max(self._given, end)
        if piece and end == len(text):
            self._tokens, self._settled = self._tokens[self._settled :], 0
            self._given = len(self._decode(self._tokens))
            self._settled = len(self._tokens)
        return piece

    def finish(self) -> str:
        """Return what was held back."""
        text = self._decode(self._tokens)
        piece, self._given = text[self._given :], max(self._given, len(text))
        return piece


class StoppableText:
    """Passes text on without white space at its two ends, until it meets a stop string.

    What could become a stop string, and white space behind which nothing stands yet, is held back.

    Attributes:
        stopped: whether a stop string was met; the text ends before it.
    """

    def __init__(self, stops: Sequence[str] = ()) -> None:
        self._stops = [stop for stop in stops if stop]
        self._held = ""
        self._begun = False
        self.stopped = False

    def push(self, piece: str) -> str:
        """Return the text that is certain with ``piece``."""
        if self.stopped:
            return ""
        self._held = self._held + piece if self._begun else (self._held + piece).lstrip()
        met = [place for place in (self._held.find(stop) for stop in self._stops) if place >= 0]
        if met:
            self.stopped = True
            self._held, text = "", self._held[: min(met)].rstrip()
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
        """Return what was held back, now that nothing follows."""
        text, self._held = self._held.rstrip(), ""
        return text
