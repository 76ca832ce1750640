"""What goes into an engine and what comes out: jobs, the events of their answers, and the refusals."""

from __future__ import annotations

import itertools
import queue
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass, field
from typing import Literal, TypeAlias

from paretune.core.errors import ModelError, ParetuneError
from paretune.core.preference import Preference
from paretune.core.sampling import Sampling
from paretune.data.rows import Prompt

Reason = Literal["stop", "length", "cancelled", "timeout", "error"]


class Busy(ParetuneError):  # noqa: N818 - a state of the engine, no mistake
    """The queue is full; ``retry_after`` is a guess of the seconds until it is not."""

    def __init__(self, message: str, retry_after: float) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class PromptTooLong(ParetuneError):  # noqa: N818
    """A prompt of more tokens than the engine takes, or than the model has positions for with the answer."""


class Stopped(ParetuneError):  # noqa: N818
    """The engine takes no jobs: it was not started, it is stopping, or its thread has died."""


@dataclass(frozen=True)
class Job:
    """One answer to be made.

    Attributes:
        policy: name of one of the engine's policies.
        prompt: a conversation, or raw text that is continued without the chat template.
        preference: over the policy's objectives.
        sampling: length, temperature, top-p.
        seed: of the row's random numbers.
        stop: the text ends before the first of these.
    """

    policy: str
    prompt: Prompt | str
    preference: Preference
    sampling: Sampling = field(default_factory=Sampling)
    seed: int = 0
    stop: tuple[str, ...] = ()


@dataclass(frozen=True)
class Piece:
    """What goes on an answer.

    Attributes:
        text: whole characters, "" where tokens have made none yet.
        tokens: since the last piece.
        conflicts: of a mixture of policies, -log Z of each token in nats: 0 where the policies agree.
    """

    text: str
    tokens: tuple[int, ...]
    conflicts: tuple[float, ...] = ()


@dataclass(frozen=True)
class Usage:
    """Tokens of a prompt as the model reads it, and tokens drawn for the answer (its end of turn included)."""

    prompt_tokens: int
    completion_tokens: int


@dataclass(frozen=True)
class End:
    """The last event of a stream.

    Attributes:
        reason: ``stop``: end of turn, or a stop string. ``length``: cut by ``max_new_tokens``.
        usage: see :class:`Usage`.
        first_token_seconds: from submission to the first token; None without any.
        message: what went wrong, for ``error``.
    """

    reason: Reason
    usage: Usage
    first_token_seconds: float | None
    message: str = ""


Event: TypeAlias = Piece | End


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
    raise ModelError("a stream without an End; give all events of one")


class Stream:
    """The events of one answer: any number of pieces, then one End.

    Iterating waits for the next event; a callback given to :meth:`Engine.submit` takes the events instead.

    Attributes:
        prompt_tokens: of the prompt as the model reads it.
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
        """End the answer soon, with reason ``cancelled``; nothing happens where it has ended."""
        self.cancelled = True
        self._wake()

    def __iter__(self) -> Iterator[Event]:
        while True:
            event = self._events.get()
            yield event
            if isinstance(event, End):
                return
