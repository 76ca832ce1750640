"""What a server needs from whatever generates the text: the engine in this process, or an upstream server."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Protocol

from paretune.core.preference import Preference
from paretune.serving.events import Cancellable, Event, Job
from paretune.serving.run_facts import RunFacts

if TYPE_CHECKING:
    from paretune.fronts.surface import Surface
    from paretune.serving.several import ServedRun


BASE = "base"
"""The model name of the base model itself."""


@dataclass(frozen=True)
class Served:
    """One model name that requests can ask for.

    Attributes:
        name: Name of the policy, or of an exported LoRA.
        objectives: M names, in the order of weights.
        default: Preference of requests that give none.
        used: Function from a requested preference to the one that is served (anchors snap to the nearest).
        surface: The measured front; None where nothing was measured.
        facts: Further entries for ``/v1/models`` and ``/api/front``.
        run: The run that it is of; None where a server elsewhere generates the text.
    """

    name: str
    objectives: tuple[str, ...]
    default: Preference
    used: Callable[[Preference], Preference]
    surface: Surface | None
    facts: Mapping[str, Any]
    run: ServedRun | None = None

    @property
    def name_in_run(self) -> str:
        """The policy's name in its run, also where it is served as ``run/policy``."""
        return self.name if self.run is None else self.name.removeprefix(f"{self.run.name}/")

    def is_interpolated(self, used: Preference) -> bool:
        """Return whether a soup of anchors answers, of which none was trained for the preference."""
        return "trained" in self.facts and used.as_dict() not in self.facts["trained"]


def served_base(served: Mapping[str, Served]) -> Served | None:
    """Return the base model as it is served beside policies: without any update, whatever the preference.

    None where there is no policy, or one has the name of the base model.
    """
    beside = next(iter(served.values()), None)
    if beside is None or BASE in served:
        return None
    facts = {"kind": "base", "base_model": beside.facts.get("base_model"), "exportable": False}
    uniform = Preference.uniform(beside.objectives)
    return Served(BASE, beside.objectives, uniform, lambda preference: preference, None, facts)


class Backend(Protocol):
    """A backend generates the text. All methods, and all callbacks, run in the server's event loop.

    Attributes:
        facts: What is known of the run that is served; of several, of the first.
        base_model: The base model, which answers jobs of the policy `BASE`; None where a policy has its name.
    """

    facts: RunFacts
    base_model: Served | None

    @property
    def served(self) -> Mapping[str, Served]:
        """Model name -> what it serves; the first is the default. Known before :meth:`start`."""

    @property
    def failure(self) -> str:
        """The reason why no answer can be generated any more, upon which the server exits; empty while all is well."""

    async def start(self) -> None:
        """Load what is needed; a ParetuneError ends the server."""

    async def stop(self) -> None:
        """Free all resources; running answers are cancelled."""

    async def submit(
        self, jobs: Sequence[Job], on_event: Callable[[int, Event], None], timeout: float
    ) -> Sequence[Cancellable]:
        """Start answers, all of them or none.

        ``on_event`` receives the number of the job with each piece, and for each job one End after at most ``timeout`` seconds.

        Raises:
                Overloaded, PromptTooLong, Unavailable, UpstreamFailed, Unsupported.
        """

    def upstream_name(self, preference: Preference) -> str | None:
        """Return the upstream model that answers at a preference; None where the text is generated here."""

    def stats(self) -> Mapping[str, float]:
        """Return current figures for ``/metrics``: ``running``, ``waiting``, ``tokens``, ..."""
