"""A plugin by which vLLM serves policies at exactly the preference that a request names: ``model="panacea@concise=0.7,warm=0.3"``.

vLLM asks its LoRA resolvers for a model that it does not know. Ours folds the policy at the preference into a plain LoRA
(:mod:`paretune.serving.lora_cache`), and vLLM loads it and batches it with others. What may be asked for is what ``paretune serve``
serves: the run's bounds hold, and presets are those of its store. vLLM finds the plugin by the entry point
``vllm.general_plugins``; the environment says what is served, see ``docs/vllm.md``.
"""

from __future__ import annotations

import asyncio
import hashlib
import logging
import os
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from paretune.choosing.bounds import Bounds
from paretune.core.errors import ConfigError, ParetuneError, PreferenceError, suggest
from paretune.core.files import cache_folder, expanded
from paretune.core.preference import Preference
from paretune.models.embedded import hub_name
from paretune.policies.catalogue import Source, find_sources
from paretune.policies.policy_file import PolicyFile
from paretune.serving.config import ServeConfig
from paretune.serving.lora_cache import LoraCache, on_grid
from paretune.serving.run_facts import STORE, run_folder
from paretune.serving.sources import serve_source

logger = logging.getLogger(__name__)

RUNS, CACHE, SIZE, STEP, PROFILE = (
    "PARETUNE_VLLM_RUNS",
    "PARETUNE_VLLM_CACHE",
    "PARETUNE_VLLM_CACHE_SIZE",
    "PARETUNE_VLLM_STEP",
    "PARETUNE_VLLM_PROFILE",
)


@dataclass(frozen=True)
class Settings:
    """What the environment says.

    Attributes:
        runs: Folders of runs, of policies, or names of policies on the hub.
        cache: Folder of the LoRAs.
        size: Largest number of LoRAs in it.
        parts: Number of steps of a weight from 0 to 1.
        profile: Profile whose presets can be named.
    """

    runs: tuple[Path, ...]
    cache: Path
    size: int = 256
    parts: int = 100
    profile: str = "default"

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> Settings | None:
        """Read the settings; None where no run is named.

        Raises:
            ConfigError: A number that is none, or out of range.
        """
        runs = [part.strip() for part in environment.get(RUNS, "").split(os.pathsep) if part.strip()]
        if not runs:
            return None
        size, step = _number(environment, SIZE, 256), _number(environment, STEP, 0.01)
        if size < 1 or size != int(size):
            raise ConfigError(f"{SIZE}={size:g}: expected a whole number of at least 1")
        if not 0.0001 <= step <= 1 or abs(1 / step - round(1 / step)) > 1e-6:
            raise ConfigError(f"{STEP}={step:g}: expected a part of 1 down to 0.0001, such as 0.01 or 0.05")
        place = environment.get(CACHE, "")
        return cls(
            tuple(expanded(run, RUNS) for run in runs),
            expanded(place, CACHE) if place else cache_folder() / "vllm",
            int(size),
            round(1 / step),
            environment.get(PROFILE, "") or "default",
        )


def _number(environment: Mapping[str, str], name: str, otherwise: float) -> float:
    text = environment.get(name, "")
    try:
        return float(text) if text else otherwise
    except ValueError as error:
        raise ConfigError(f"{name}={text!r}: expected a number") from error


@dataclass(frozen=True)
class Offer:
    """A policy that vLLM may be asked for.

    Attributes:
        source: The policy on disk.
        facts: What its ``policy.json`` says.
        bounds: Minimum weights of its run.
        default: Preference of a request that names none.
        store: File with the presets, where ``paretune serve`` of the same folder keeps them.
    """

    source: Source
    facts: PolicyFile
    bounds: Bounds
    default: Preference
    store: Path


class Loras:
    """What the resolver answers, apart from vLLM: names of models to folders of LoRAs.

    Raises:
        ParetuneError: A folder that holds no policy, or whose bounds cannot be read.
    """

    def __init__(self, settings: Settings) -> None:
        self.settings = settings
        self.cache = LoraCache(settings.cache, settings.size)
        self.offers = _offers(settings.runs)
        self._same_base: dict[tuple[str, str], bool] = {}

    def resolve(self, base: str, name: str) -> Path | None:
        """Return the folder of the LoRA for a model's name; None where the name is of no policy here.

        Args:
            base: Name or folder of the base model that vLLM serves.
            name: ``POLICY``, ``POLICY@PREFERENCE`` or ``POLICY@PRESET``; ``RUN/POLICY`` where several runs have one of that name.

        Raises:
            ParetuneError: The policy is here, but not what is asked of it; the message says why.
        """
        policy, sign, asked = name.partition("@")
        offer = self.offers.get(policy)
        if offer is None:
            return None
        self._check_base(offer, base)
        if sign and not asked:
            raise PreferenceError(
                f"the model name {name!r} ends in '@'; expected POLICY@PREFERENCE or POLICY@PRESET"
            )
        preference = self._preference(offer, asked) if asked else offer.default
        offer.bounds.check(preference)
        served = offer.source.used(preference)
        if offer.source.anchors:
            offer.bounds.check(served, f"the nearest preference that {policy} serves,")
        else:
            served = on_grid(served, self.settings.parts, offer.bounds)
        return self.cache.get(offer.source, served)

    def _preference(self, offer: Offer, asked: str) -> Preference:
        if {"=", "+"} & set(asked):
            return Preference.parse(asked, offer.source.objectives)
        if not offer.store.is_file():
            raise PreferenceError(
                f"{asked!r} is no preference such as {offer.default}, and there is no store with presets"
            )
        from paretune.serving.store.store import Store

        store = Store.open(str(offer.store))
        try:
            presets = {preset.name: preset for preset in store.presets(self.settings.profile)}
        finally:
            store.close()
        if asked not in presets:
            raise PreferenceError(
                f"no preset {asked!r} of profile {self.settings.profile!r}; {suggest(asked, presets)}"
            )
        return presets[asked].preference.over(offer.source.objectives)

    def _check_base(self, offer: Offer, base: str) -> None:
        """Refuse a policy of another base model than the one that vLLM serves: by its name on the hub, else by its weights."""
        named = offer.facts.named_base
        if base in (named.hub_name, named.model) or hub_name(base) == named.hub_name:
            return
        key = (base, offer.facts.weights)
        if key not in self._same_base:
            self._same_base[key] = Path(base).is_dir() and _weights_are(Path(base), offer.facts.weights)
        if not self._same_base[key]:
            raise ConfigError(
                f"{offer.source.name} was trained on {named.hub_name}, and vLLM serves {base}, which has another name and is no "
                "folder with the same weights; serve its base model"
            )


def _weights_are(folder: Path, weights: str) -> bool:
    """Return whether the model in a folder has the weights of an identity."""
    from paretune.models.loading import origin_of

    origin = origin_of(folder)
    return bool(weights) and weights in (origin.weights, *origin.earlier)


def _offers(runs: tuple[Path, ...]) -> dict[str, Offer]:
    """Return the policies of some runs by their names, those of one name by the run's name before it."""
    from paretune.policies.folding import foldable

    found: dict[str, Offer] = {}
    ambiguous = set()
    for run in runs:
        place = (run_folder(run) or run).name
        floors = ServeConfig.read(run, {}).floors
        for source in find_sources(run):
            if source.loras or not foldable(source.kind):
                continue
            bounds = Bounds.of(floors, source.objectives)
            default = serve_source(source, floors, None).default
            bounds.check(default, f"the default preference of {source.name},")
            offer = Offer(source, PolicyFile.read(source.folder), bounds, default, run / STORE)
            if f"{place}/{source.name}" in found:
                raise ConfigError(f"{RUNS}: two runs are called {place}; rename the folder of one")
            found[f"{place}/{source.name}"] = offer
            ambiguous |= {source.name} & set(found)
            found[source.name] = offer
    for name in ambiguous:
        del found[name]
    if not found:
        raise ConfigError(
            f"{RUNS}: no policy here is one LoRA at a preference; vLLM serves soups, anchors and Panacea, and paretune serve the "
            "others"
        )
    return found


def number_of(name: str) -> int:
    """Return a number above 0 for a model's name, the same in every process."""
    return 1 + int.from_bytes(hashlib.sha256(name.encode()).digest()[:4], "big") // 2


def register() -> None:
    """Register the resolver with vLLM; do nothing where the environment names no run.

    Raises:
        ParetuneError: The environment names something that cannot be served.
    """
    settings = Settings.of(os.environ)
    if settings is None:
        return
    from vllm.lora.request import LoRARequest
    from vllm.lora.resolver import LoRAResolver, LoRAResolverRegistry

    loras = Loras(settings)

    class Resolver(LoRAResolver):  # type: ignore[misc]
        async def resolve_lora(self, base_model_name: str, lora_name: str) -> Any:
            try:
                folder = await asyncio.to_thread(loras.resolve, base_model_name, lora_name)
            except ParetuneError as error:
                logger.warning("%s: %s", lora_name, error)  # vLLM answers that there is no such model
                return None
            if folder is None:
                return None
            return LoRARequest(lora_name=lora_name, lora_int_id=number_of(lora_name), lora_path=str(folder))

    LoRAResolverRegistry.register_resolver("paretune", Resolver())
