"""What a server asks of whatever makes the text: the engine in this process, or an upstream server."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal, Protocol

from paretune.choosing.bounds import Bounds
from paretune.core.errors import ParetuneError
from paretune.core.preference import Preference, nearest
from paretune.data.rows import Prompt

if TYPE_CHECKING:
    from paretune.fronts.surface import Surface
    from paretune.policies.catalogue import Source


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
        surface: what the measured front says, or None where nothing was measured.
        facts: more that ``/v1/models`` and ``/api/front`` tell about it.
    """

    name: str
    objectives: tuple[str, ...]
    default: Preference
    used: Callable[[Preference], Preference]
    surface: Surface | None
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


def serve_source(source: Source, floors: Mapping[str, float], stated: Preference | None) -> Served:
    """Return a source with the preference of requests that give none: the stated one, or the centre of the bounds.

    An exported LoRA by itself has its own.
    """
    bounds = Bounds.of(floors, source.objectives)
    default = stated.over(source.objectives) if stated else bounds.centre
    if len(source.anchors) == 1:
        default = source.anchors[0]
    elif source.anchors and stated is None and not bounds.admits(source.used(default)):
        within = [anchor for anchor in source.anchors if bounds.admits(anchor)]
        default = nearest(default, within) if within else default
    facts: dict[str, Any] = {
        "kind": source.kind,
        "base_model": source.model,
        "anchored": bool(source.anchors),
        "exportable": source.exportable,
    }
    if source.title:
        facts["title"] = source.title
    if source.anchors:
        facts["anchors"] = [anchor.as_dict() for anchor in source.anchors]
    return Served(source.name, source.objectives, default, source.used, source.surface, facts)
