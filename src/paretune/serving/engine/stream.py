"""The events of one answer as the engine hands them out, and the whole answer that they make."""

from __future__ import annotations

import itertools
import queue
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass

from paretune.core.errors import ModelError
from paretune.serving.events import End, Event, Piece


class Stream:
    """The events of one answer: any number of pieces, then one End.

    Iterating waits for the next event; a callback given to :meth:`Engine.submit` receives the events instead.

    Attributes:
        prompt_tokens: Number of tokens of the prompt as the model reads it.
        cancelled: Whether :meth:`cancel` was called.
        put: Function that receives each event.
    """

    def __init__(
        self, prompt_tokens: int, on_event: Callable[[Event], None] | None, wake: Callable[[], None]
    ) -> None:
        self.prompt_tokens = prompt_tokens
        self.cancelled = False
        self._events: queue.SimpleQueue[Event] = queue.SimpleQueue()
        self.put = on_event or self._events.put
        self._wake = wake

    def cancel(self) -> None:
        """End the answer soon, with reason ``cancelled``; without effect once it has ended."""
        self.cancelled = True
        self._wake()

    def __iter__(self) -> Iterator[Event]:
        while True:
            event = self._events.get()
            yield event
            if isinstance(event, End):
                return


@dataclass(frozen=True)
class Answer:
    """A whole answer, see :func:`gather`."""

    text: str
    tokens: tuple[int, ...]
    conflicts: tuple[float, ...]
    end: End


def gather(events: Iterable[Event]) -> Answer:
    """Wait for all events of a stream and return them as one answer."""
    pieces: list[Piece] = []
    for event in events:
        if isinstance(event, End):
            return Answer(
                "".join(piece.text for piece in pieces),
                tuple(itertools.chain.from_iterable(piece.tokens for piece in pieces)),
                tuple(itertools.chain.from_iterable(piece.conflicts for piece in pieces)),
                event,
            )
        pieces.append(event)
    raise ModelError("the stream ended without an End event; pass all events of one answer")
