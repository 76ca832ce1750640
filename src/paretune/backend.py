"""What a server asks of whatever makes the text: the engine in this process, or an upstream server."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

import numpy as np

from paretune.errors import ParetuneError
from paretune.preference import Preference
from paretune.rows import Prompt

if TYPE_CHECKING:
    from paretune.choose import Outlook


class Overloaded(ParetuneError):  # noqa: N818 - the state of a server, not a mistake
    """The queue is full; ``retry_after`` says in how many seconds to try again."""

    def __init__(self, message: str, retry_after: float = 1.0) -> None:
        super().__init__(message)
        self.retry_after = retry_after


class PromptTooLong(ParetuneError):  # noqa: N818
    """A prompt of more tokens than the server takes."""


class Unavailable(ParetuneError):  # noqa: N818
    """What makes the text is stopped, or an upstream server cannot be reached."""


class Unsupported(ParetuneError):  # noqa: N818
    """This backend cannot do what is asked."""


@dataclass(frozen=True)
class Served:
    """One model name that requests may ask for.

    Attributes:
        name: of the policy, or of an exported LoRA.
        objectives: M names, in the order of weights.
        default: the preference of requests that give none.
        used: the preference really served for one that is asked for (anchors snap).
        outlook: what the measured front says, or None where nothing was measured.
        facts: more that ``/v1/models`` and ``/api/front`` tell about it.
    """

    name: str
    objectives: tuple[str, ...]
    default: Preference
    used: Callable[[Preference], Preference]
    outlook: Outlook | None
    facts: Mapping[str, Any]


@dataclass(frozen=True)
class Ask:
    """One row to generate; ``prompt`` is a conversation, or raw text to continue."""

    policy: str
    prompt: Prompt | str
    preference: Preference
    max_tokens: int
    temperature: float
    top_p: float
    seed: int
    stop: tuple[str, ...]


@dataclass(frozen=True)
class Piece:
    """Text that continues an answer, with the tokens it took and, of mixtures, the conflict at each (nats)."""

    text: str
    tokens: int
    conflicts: tuple[float, ...] = ()


@dataclass(frozen=True)
class End:
    """The end of an answer; ``message`` says what went wrong where the reason is ``error``."""

    reason: Literal["stop", "length", "cancelled", "timeout", "error"]
    prompt_tokens: int
    completion_tokens: int
    message: str = ""


class Answer(Protocol):
    """An answer that is on its way."""

    def cancel(self) -> None:
        """Give it up; its End still comes."""


class Backend(Protocol):
    """Makes the text. All calls, and all calls back, happen in the server's event loop."""

    @property
    def served(self) -> Mapping[str, Served]:
        """Model name -> what it serves; the first is the default. Known before :meth:`start`."""

    @property
    def failure(self) -> str:
        """Why no answer can be made any more, so that the server had better end; empty while all is well."""

    async def start(self) -> None:
        """Load what is needed; a ParetuneError ends the server."""

    async def stop(self) -> None:
        """Let go of everything; what still runs is cancelled."""

    async def submit(self, ask: Ask, on_event: Callable[[Piece | End], None], timeout: float) -> Answer:
        """Begin one answer; pieces come to ``on_event``, then one End, at the latest after ``timeout`` seconds.

        Raises:
            Overloaded, PromptTooLong, Unavailable, Unsupported.
        """

    def upstream_name(self, preference: Preference) -> str | None:
        """Return the upstream model that answers at a preference; None where the text is made here."""

    def stats(self) -> Mapping[str, float]:
        """Return figures of now, for ``/metrics``: ``running``, ``waiting``, ``tokens``, ..."""


def nearest(preference: Preference, anchors: Sequence[Preference]) -> Preference:
    """Return the anchor a policy answers with: the nearest by L1 distance, of ties the first (as `gates.nearest_anchor`)."""
    rows = np.stack([anchor.over(preference.objectives).array() for anchor in anchors]).astype(np.float32)
    asked = preference.array().astype(np.float32)
    apart = np.abs(rows.astype(np.float64) - asked.astype(np.float64)).sum(axis=1).round(6)
    return anchors[int(apart.argmin())]
