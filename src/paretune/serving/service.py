"""What every route of the server needs: whom a request asks for at which preference, the store, and what is running."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from paretune.choosing.bounds import Bounds, BoundsError
from paretune.core.errors import ParetuneError, PreferenceError, suggest
from paretune.core.preference import Preference
from paretune.serving.backend import Backend, Served
from paretune.serving.bodies import ApiError
from paretune.serving.metrics import Metrics

if TYPE_CHECKING:
    from paretune.serving.store.store import Store

logger = logging.getLogger("paretune.serving.http.app")


@dataclass(frozen=True)
class Settings:
    """How answers are drawn and how long they may get.

    Attributes:
        max_tokens: the most a request may ask for.
        default_tokens: where a request does not say, at most ``max_tokens``.
        temperature, top_p: where a request does not say; those the front was measured with, so that it holds.
        timeout: seconds until an answer is given up, queueing included.
        grace: seconds that answers have to finish when the server is asked to stop.
        floors: deployment bounds, objective -> least weight.
    """

    max_tokens: int = 512
    default_tokens: int = 128
    temperature: float = 1.0
    top_p: float = 1.0
    timeout: float = 120.0
    grace: float = 60.0
    floors: Mapping[str, float] | None = None


@dataclass(frozen=True)
class Resolved:
    """Who answers, at which preference.

    Attributes:
        served: the policy.
        asked: the preference asked for.
        used: the one really served.
        model: the name in the request, echoed in the response.
        stated: the request gave a preference; else it is the policy's default.
    """

    served: Served
    asked: Preference
    used: Preference
    model: str
    stated: bool


class Service:
    """One running server: what is served, its bounds, its store, and how many answers are on their way.

    Raises:
        ParetuneError: bounds that the default preference of a policy does not meet.
    """

    def __init__(self, backend: Backend, store: Store | None, settings: Settings | None = None) -> None:
        self.backend, self.store, self.settings = backend, store, settings or Settings()
        self.bounds = {
            name: Bounds.of(self.settings.floors or {}, served.objectives)
            for name, served in backend.served.items()
        }
        for name, served in backend.served.items():
            self.bounds[name].check(served.default, f"the default preference of {name},")
            self._check(served, served.default)
        self.default = next(iter(backend.served))
        self.phase: Literal["starting", "ok", "draining"] = "starting"
        self.active = 0
        self.metrics = Metrics(self.stats)
        # One writer: records of answers that begin together wait for each other's commits, never for tokens.
        self._writer = ThreadPoolExecutor(1, "audit")

    def stats(self) -> dict[str, float]:
        """Return figures of now."""
        return {**self.backend.stats(), "requests_active": self.active}

    def require_ready(self) -> None:
        """Refuse new work while the model loads or the server stops."""
        if self.phase != "ok":
            told = "the model is being loaded" if self.phase == "starting" else "the server is being stopped"
            raise ApiError(503, f"{told}; try again soon", self.phase, retry_after=2)

    def policy(self, name: str | None, param: str = "policy") -> Served:
        """Return what is served under a name, the default without one."""
        known = self.backend.served
        if name and name not in known:
            raise ApiError(
                404, f"no model {name[:100]!r}; {suggest(name[:100], known)}", "model_not_found", param
            )
        return known[name or self.default]

    def preference(
        self, served: Served, given: Mapping[str, float] | str, param: str = "preference"
    ) -> Preference:
        """Return a preference over the policy's objectives, within the bounds.

        Raises:
            ApiError: 422 that names the objectives, or the floors it is below.
        """
        names = served.objectives
        try:
            if isinstance(given, str):
                asked = Preference.parse(given, names)
            elif not given:
                raise PreferenceError("the preference is empty")
            else:
                asked = Preference.of(given, names)
            self._check(served, asked)
        except BoundsError as error:
            raise ApiError(422, str(error)[:2000], "preference_out_of_bounds", param) from error
        except PreferenceError as error:
            told = f"{str(error)[:1000]} (objectives of {served.name}: {', '.join(names)})"
            raise ApiError(422, told, "invalid_preference", param) from error
        return asked

    def _check(self, served: Served, asked: Preference) -> None:
        """Hold both what is asked for and what is served for it to the bounds: an anchor may lie outside."""
        bounds = self.bounds[served.name]
        bounds.check(asked)
        used = served.used(asked)
        if used != asked:
            bounds.check(used, f"the nearest that {served.name} serves,")

    async def resolve(
        self, model: str | None, given: Mapping[str, float] | str | None, profile: str
    ) -> Resolved:
        """Return who answers ``model``: ``NAME``, ``NAME@helpful=0.7,harmless=0.3`` or ``NAME@PRESET``.

        Raises:
            ApiError: 404 for an unknown model or preset, 422 for a preference that cannot be served.
        """
        name, sign, alias = (model or "").partition("@")
        if sign and not alias:
            raise ApiError(
                404,
                "the model name ends in '@'; expected NAME@PREFERENCE or NAME@PRESET",
                "model_not_found",
                "model",
            )
        stated: Preference | None = None
        if alias and "=" not in alias:
            preset = await asyncio.to_thread(self._preset, profile, alias)
            served = self.policy(name or preset.policy, "model")
            stated = self.preference(served, preset.preference.as_dict(), "model")
        else:
            served = self.policy(name, "model")
            stated = self.preference(served, alias, "model") if alias else None
        asked = self.preference(served, given) if given is not None else stated or served.default
        if stated is not None and stated != asked:
            told = f"the model name asks for {stated} and the field preference for {asked}; give one of them"
            raise ApiError(422, told, "invalid_preference", "preference")
        known = given is not None or stated is not None
        return Resolved(served, asked, served.used(asked), model or served.name, known)

    def _preset(self, profile: str, name: str) -> Any:
        found = {preset.name: preset for preset in self.store.presets(profile)} if self.store else {}
        if name not in found:
            told = f"no preset {name[:100]!r} of profile {profile!r}; {suggest(name[:100], found)}"
            raise ApiError(404, told, "model_not_found", "model")
        return found[name]

    def expected(self, served: Served, used: Preference) -> tuple[dict[str, Any] | None, bool]:
        """Return the scores the front promises, objective -> mean, low, high, and whether they were measured there."""
        if served.surface is None:
            return None, False
        found = served.surface.expected(used)
        scores = {
            name: {"mean": found.mean[name], "low": found.low[name], "high": found.high[name]}
            for name in served.objectives
        }
        return scores, found.measured

    async def record(self, record: Any) -> None:
        """Write an audit record; returns when it is durable.

        Raises:
            ApiError: 503, the store cannot be written: what is not recorded is not served.
        """
        if self.store is None:
            return
        try:
            await asyncio.get_running_loop().run_in_executor(self._writer, self.store.record_use, record)
        except ParetuneError as error:
            logger.error("the audit record cannot be written: %s", error)
            raise ApiError(
                503, "the audit record cannot be written, so nothing is served", "audit_unavailable"
            ) from error

    async def drain(self) -> None:
        """Refuse new answers and wait until those on their way have finished, at most for the grace time."""
        self.phase = "draining"
        deadline = asyncio.get_running_loop().time() + self.settings.grace
        while self.active and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.05)

    def close(self) -> None:
        """Close the store and its writer."""
        self._writer.shutdown()
        if self.store is not None:
            self.store.close()
