"""What every route of the server needs: the policy and preference of a request, the store, and the running answers."""

from __future__ import annotations

import asyncio
import logging
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Literal

from paretune.choosing.bounds import Bounds, BoundsError
from paretune.core.errors import ParetuneError, PreferenceError, suggest
from paretune.core.preference import Preference
from paretune.data.rows import Prompt
from paretune.scoring.auto_head import AUTO
from paretune.serving.api_errors import ApiError
from paretune.serving.auto import Chooser, Chosen, last_turn
from paretune.serving.backend import BASE, Backend, Served
from paretune.serving.caller_limits import CallerLimits
from paretune.serving.callers import Caller
from paretune.serving.config import ServeConfig
from paretune.serving.metrics import Metrics
from paretune.serving.scorers import Scorers

if TYPE_CHECKING:
    from paretune.fronts.surface import Surface
    from paretune.serving.run_facts import RunFacts
    from paretune.serving.store.entries import Preset
    from paretune.serving.store.store import Store

logger = logging.getLogger(__name__)

GRACE_SECONDS = 60.0
"""Time that running answers have to finish when the server is asked to stop."""


def measured_surface(served: Served) -> Surface:
    """Return the measured front of a policy.

    Raises:
        ApiError: 409; nothing was measured.
    """
    if served.surface is None:
        raise ApiError(
            409,
            f"no front of {served.name} was measured; run `paretune run` to the end",
            "not_measured",
            "policy",
        )
    return served.surface


def require_own(caller: Caller, owner: str | None, what: str, param: str | None = None) -> None:
    """Raise an ApiError, 403, where ``what`` belongs to another key than the caller's."""
    if not caller.may_use(owner):
        raise ApiError(
            403, f"{what} belongs to another API key; choose a name of your own", "not_yours", param
        )


def _other_names(served: Mapping[str, Served]) -> dict[str, str]:
    """Return names by which policies of several runs may be asked for as well -> the names that they are served under."""
    found: dict[str, list[str]] = {}
    for name, one in served.items():
        if one.run is not None:
            for other in (one.name_in_run, f"{one.run.name}/{one.name_in_run}"):
                found.setdefault(other, []).append(name)
    return {other: names[0] for other, names in found.items() if len(names) == 1 and other not in served}


STRONG = ("soup", "anchors", "between", "conditioned", "values")
"""Kinds of policies that can be steered more or less as a whole: their update, or the values that re-score, is multiplied."""


@dataclass(frozen=True)
class Resolved:
    """The policy and the preference of a request.

    Attributes:
        served: The policy.
        asked: Requested preference.
        used: Preference that is served.
        model: Model name in the request, repeated in the response.
        stated: Whether the request gave a preference; otherwise it is the policy's default.
        strength: How far the answer is steered; 0 is the base model.
        chosen: What a head chose for the conversation, where the request asked for ``auto``.
    """

    served: Served
    asked: Preference
    used: Preference
    model: str
    stated: bool
    strength: float = 1.0
    chosen: Chosen | None = None


class Service:
    """One running server: the served policies with their bounds, the store, and the number of running answers.

    Raises:
        ParetuneError: The default preference of a policy is outside the bounds, or the head of ``auto`` is for no served policy.
    """

    def __init__(
        self,
        backend: Backend,
        store: Store | None,
        config: ServeConfig = ServeConfig(),  # noqa: B008 - it is frozen
        auto: Chooser | None = None,
    ) -> None:
        self.backend, self.store, self.config, self.auto = backend, store, config, auto
        self._scorers: dict[str, Scorers] = {}
        self.bounds = {
            name: Bounds.of(self.config_of(served).floors, served.objectives)
            for name, served in backend.served.items()
        }
        for name, served in backend.served.items():
            self.bounds[name].check(served.default, f"the default preference of {name},")
            self._check(served, served.default)
        self.default = next(iter(backend.served))
        # Where there are floors, an answer of the base model would go round them.
        self.base = (
            None
            if any(self.config_of(served).floors for served in backend.served.values())
            else backend.base_model
        )
        if auto is not None:
            served = backend.served.get(auto.held.policy) or backend.served[self.default]
            auto.held.check_for(served.name, served.objectives)
        self._other_names = _other_names(backend.served)
        self.phase: Literal["starting", "ok", "draining"] = "starting"
        self.active = 0
        self.limits = CallerLimits(config.rate, config.share, config.max_rows + config.queue)
        self.metrics = Metrics(self.stats)
        # One thread: audit records that arrive together wait for each other's commits, but never for tokens.
        self._writer = ThreadPoolExecutor(1, "audit")

    def config_of(self, served: Served) -> ServeConfig:
        """Return the settings of the run that a policy is of."""
        return self.config if served.run is None else served.run.config

    def facts_of(self, served: Served) -> RunFacts:
        """Return what is known of the run that a policy is of."""
        return self.backend.facts if served.run is None else served.run.facts

    def scorers_of(self, served: Served) -> Scorers:
        """Return the scorers of the run that a policy is of."""
        name, facts = "" if served.run is None else served.run.name, self.facts_of(served)
        return self._scorers.setdefault(name, Scorers(facts.score, facts.folder, facts.device))

    def stats(self) -> dict[str, float]:
        """Return current figures."""
        return {**self.backend.stats(), "requests_active": self.active}

    def require_ready(self) -> None:
        """Refuse new work while the model loads or the server stops."""
        if self.phase != "ok":
            reason = "the model is being loaded" if self.phase == "starting" else "the server is stopping"
            raise ApiError(503, f"{reason}; try again soon", self.phase, retry_after=2)

    def require_store(self) -> Store:
        """Return the store.

        Raises:
            ApiError: 409; the server runs without a store.
        """
        if self.store is None:
            raise ApiError(409, "this server runs without a store; start it without --no-store", "no_store")
        return self.store

    def require_person(self, caller: Caller, profile: str) -> Store:
        """Return the store, in which a caller may use a profile: its own, or one that belongs to nobody.

        Raises:
            ApiError: 409, there is no store; 403, another key made the profile.
        """
        store = self.require_store()
        found = store.find_profile(profile)
        if found is not None:
            require_own(caller, found.owner, f"the profile {found.name!r}", "profile")
        return store

    def policy(self, name: str | None, param: str = "policy") -> Served:
        """Return the policy of a name; without a name, the default.

        Of several runs, ``run/policy`` always names a policy, and its own name where it is the first run's or the only one.
        """
        known = self.backend.served
        name = self._other_names.get(name or "", name)
        if name and name not in known:
            raise ApiError(
                404, f"no model {name[:100]!r}; {suggest(name[:100], known)}", "model_not_found", param
            )
        return known[name or self.default]

    def preference(
        self, served: Served, given: Mapping[str, float] | Sequence[str], param: str = "preference"
    ) -> Preference:
        """Return a preference over the policy's objectives, within the bounds.

        Args:
            served: The policy.
            given: Weights by objective, a list of objectives that get equal weights, or either as text.
            param: Where it stands in the request, for the error.

        Raises:
            ApiError: 422; the message names the objectives, or the minimum weights that are not met.
        """
        names = served.objectives
        try:
            if isinstance(given, str):
                asked = Preference.parse(given, names)
            elif not given:
                raise PreferenceError("the preference is empty")
            elif isinstance(given, Mapping):
                asked = Preference.of(given, names)
            else:
                asked = Preference.checked(given, names)
            self._check(served, asked)
        except BoundsError as error:
            raise ApiError(422, str(error)[:2000], "preference_out_of_bounds", param) from error
        except PreferenceError as error:
            message = f"{str(error)[:1000]} (objectives of {served.name}: {', '.join(names)})"
            raise ApiError(422, message, "invalid_preference", param) from error
        return asked

    def _check(self, served: Served, asked: Preference) -> None:
        """Check both the requested and the served preference against the bounds: an anchor may lie outside them."""
        bounds = self.bounds[served.name]
        bounds.check(asked)
        used = served.used(asked)
        if used != asked:
            bounds.check(used, f"the nearest preference that {served.name} serves,")

    async def resolve(
        self,
        model: str | None,
        given: Mapping[str, float] | Sequence[str] | None,
        profile: str,
        caller: Caller,
        strength: float = 1.0,
        prompt: Prompt | str | None = None,
    ) -> Resolved:
        """Return policy and preference of ``model``: ``NAME``, ``NAME@PRESET``, ``NAME@auto``, or ``NAME@`` with weights as text.

        Raises:
            ApiError: 404 for an unknown model or preset, 422 for a preference or a strength that cannot be served, 409 for ``auto``
                where the server has no head.
        """
        name, sign, alias = (model or "").partition("@")
        if name == BASE and self.base is not None:
            return self._base(self.base, given is not None or bool(sign), strength)
        if sign and not alias:
            raise ApiError(
                404,
                "the model name ends in '@'; expected NAME@PREFERENCE or NAME@PRESET",
                "model_not_found",
                "model",
            )
        if await self._wants_auto(model, given, profile, caller):
            served, chosen = await self._chosen(name, alias, given, prompt)
            used = served.used(chosen.preference)
            self._check_strength(served, used, strength)
            return Resolved(served, chosen.preference, used, model or served.name, True, strength, chosen)
        stated: Preference | None = None
        if alias and not {"=", "+"} & set(alias):
            preset = await asyncio.to_thread(self._preset, profile, alias, caller)
            served = self.policy(name, "model") if name else self._of_preset(preset)
            stated = self.preference(served, preset.preference.as_dict(), "model")
        else:
            served = self.policy(name, "model")
            stated = self.preference(served, alias, "model") if alias else None
        asked = self.preference(served, given) if given is not None else stated or served.default
        if stated is not None and stated != asked:
            message = (
                f"the model name asks for {stated} but the field preference for {asked}; give one of them"
            )
            raise ApiError(422, message, "invalid_preference", "preference")
        is_stated = given is not None or stated is not None
        used = served.used(asked)
        self._check_strength(served, used, strength)
        return Resolved(served, asked, used, model or served.name, is_stated, strength)

    @staticmethod
    def _base(base: Served, steered: bool, strength: float) -> Resolved:
        """Return the base model for a request, which may not be ``steered``: its strength is 0, whatever the preference."""
        if steered or strength not in (0, 1):
            message = (
                "the base model follows no preference; leave out preference and strength, or ask for a policy"
            )
            raise ApiError(422, message, "invalid_preference", "preference" if steered else "strength")
        return Resolved(base, base.default, base.default, BASE, False, 0.0)

    async def _wants_auto(
        self,
        model: str | None,
        given: Mapping[str, float] | Sequence[str] | None,
        profile: str,
        caller: Caller,
    ) -> bool:
        """Return whether a request asks for ``auto``: not where this is an objective, or a preset of a server without a head."""
        name, _, alias = (model or "").partition("@")
        if isinstance(given, str) and given.strip() == AUTO:
            return AUTO not in self.policy(name, "model").objectives
        if alias != AUTO or self.auto is not None or self.store is None:
            return alias == AUTO
        store = self.require_person(caller, profile)
        return AUTO not in {preset.name for preset in await asyncio.to_thread(store.presets, profile)}

    async def _chosen(
        self,
        name: str,
        alias: str,
        given: Mapping[str, float] | Sequence[str] | None,
        prompt: Prompt | str | None,
    ) -> tuple[Served, Chosen]:
        """Return the policy, and what the head chooses for a conversation.

        Raises:
            ApiError: 409, the server has no head for this policy; 422, there is no user's message, or a preference beside it.
        """
        where = "model" if alias == AUTO else "preference"
        if self.auto is None:
            message = (
                "this server has no head that chooses a preference for 'auto'; give a preference, or start it with --auto FOLDER, "
                "which `paretune auto fit` writes"
            )
            raise ApiError(409, message, "no_auto", where)
        if alias not in ("", AUTO) or (
            given is not None and not (isinstance(given, str) and given.strip() == AUTO)
        ):
            message = f"the model name and the field preference differ, and one of them is {AUTO!r}; give one of them"
            raise ApiError(422, message, "invalid_preference", "preference")
        served = self.policy(name or self.auto.held.policy, "model")
        if served.name != self.auto.held.policy:
            message = (
                f"{AUTO!r} chooses preferences of {self.auto.held.policy}, and not of {served.name}; give one"
            )
            raise ApiError(409, message, "no_auto", where)
        text = last_turn(prompt)
        if text is None:
            message = f"{AUTO!r} reads the last message of a user, and there is none; ask /v1/chat/completions, or state weights"
            raise ApiError(422, message, "invalid_preference", where)
        began = time.perf_counter()
        chosen = await asyncio.to_thread(self.auto.choose, text, served, self.bounds[served.name])
        self.metrics.auto.observe(time.perf_counter() - began)
        return served, chosen

    def _check_strength(self, served: Served, used: Preference, strength: float) -> None:
        """Check that a policy can be steered by another strength than it was trained at, and that no floor is gone round."""
        if strength == 1:
            return
        reason = ""
        if self.backend.upstream_name(used) is not None:
            reason = "its LoRAs are served upstream at the strength that they were exported at"
        elif served.facts.get("kind") not in STRONG:
            reason = "the preference is not in the gates of one update"
        elif strength < 1 and self.config_of(served).floors:
            reason = "this server has floors, and a strength below 1 would go round them"
        if reason:
            message = (
                f"{served.name} cannot be served at strength {strength:g}: {reason}; leave the strength out"
            )
            raise ApiError(422, message, "invalid_preference", "strength")

    def _of_preset(self, preset: Preset) -> Served:
        """Return the policy that a preset was saved on, by exactly its name: another run may have one of the same name."""
        if preset.policy not in self.backend.served:
            message = f"the preset {preset.name!r} is of the model {preset.policy[:100]!r}, which this server has not"
            raise ApiError(404, message, "model_not_found", "model")
        return self.backend.served[preset.policy]

    def _preset(self, profile: str, name: str, caller: Caller) -> Preset:
        found = self.require_person(caller, profile).presets(profile) if self.store else []
        presets = {preset.name: preset for preset in found}
        if name not in presets:
            message = f"no preset {name[:100]!r} of profile {profile!r}; {suggest(name[:100], presets)}"
            raise ApiError(404, message, "model_not_found", "model")
        return presets[name]

    def expected(self, served: Served, used: Preference) -> tuple[dict[str, Any] | None, bool]:
        """Return the scores to expect, objective -> mean, low, high, and whether they were measured at ``used`` itself."""
        if served.surface is None:
            return None, False
        expected = served.surface.expected(used)
        scores = {
            name: {"mean": expected.mean[name], "low": expected.low[name], "high": expected.high[name]}
            for name in served.objectives
        }
        return scores, expected.measured

    def take(self, caller: Caller, answers: int) -> None:
        """Count a request and its answers as running.

        Raises:
            ApiError: 429; the key has used up its rate or its share.
        """
        self.limits.take(caller, answers)
        self.active += 1

    def release(self, caller: Caller, answers: int) -> None:
        """Count a request and its answers as over."""
        self.limits.release(caller, answers)
        self.active -= 1

    async def record(self, record: Any) -> None:
        """Write an audit record and wait until it is durable.

        Raises:
            ApiError: 503; the store cannot be written, and an answer that is not recorded is not served.
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
        """Refuse new answers and wait for the running ones, at most for the grace period."""
        self.phase = "draining"
        deadline = asyncio.get_running_loop().time() + GRACE_SECONDS
        while self.active and asyncio.get_running_loop().time() < deadline:
            await asyncio.sleep(0.05)

    def close(self) -> None:
        """Close the store and its writer."""
        self._writer.shutdown()
        if self.store is not None:
            self.store.close()
