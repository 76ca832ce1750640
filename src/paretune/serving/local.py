"""The engine in this process as a backend: policies are loaded on one base model, and events reach the event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from paretune.core.errors import ModelError
from paretune.core.preference import Preference
from paretune.policies.catalogue import Source, find_sources
from paretune.policies.policy_file import BaseChoice, loaded_as
from paretune.serving.backend import Served, served_base
from paretune.serving.config import EngineLimits, ServeConfig
from paretune.serving.events import Cancellable, End, Event, Job, PromptTooLong, Unavailable, written
from paretune.serving.run_facts import RunFacts
from paretune.serving.several import ServedRun, qualified, run_names
from paretune.serving.sources import serve_source

if TYPE_CHECKING:
    from paretune.policies.policy import Policy
    from paretune.serving.engine.engine import Engine

CHARACTERS = 8
"""Characters per token; of prompts with more than this, the first part is tokenised alone."""
FIGURES = (
    "running",
    "waiting",
    "rows",
    "cached_tokens",
    "tokens",
    "prompt_tokens",
    "reused_tokens",
    "tokens_per_second",
)


class LocalBackend:
    """The backend that generates answers with the engine.

    Attributes:
        served: Model name -> what it serves, see `paretune.serving.backend.Backend`.
        facts: What is known of the run.
        base_model: The base model itself.
        engine: The engine; None until it has started.
        failure: Reason why the engine's thread has died.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        served: Mapping[str, Served],
        base: BaseChoice = BaseChoice(),  # noqa: B008 - it is frozen
        limits: EngineLimits = EngineLimits(),  # noqa: B008 - it is frozen
    ) -> None:
        """Keep what :meth:`start` loads; the base model, its number format and its quantisation are by default those of the run.

        Raises:
            ModelError: The sources have different base models or, where none is given, number formats or quantisations.
        """
        models = {source.model for source in sources}
        if len(models) > 1 and base.model is None:
            raise ModelError(
                f"the base models {', '.join(sorted(models))} cannot share a server; start one for each, with its own --port, or "
                "choose policies of one with --policy (where they are one model under two names, name it with --model)"
            )
        self.sources, self.served = list(sources), dict(served)
        self.base_model = served_base(served)
        formats = {source.dtype for source in sources}
        if base.dtype is None and len(formats) > 1:
            raise ModelError(
                f"the policies were made in the number formats {', '.join(sorted(formats))}; choose one with --dtype, or policies "
                "of one with --policy"
            )
        held = {source.quantization for source in sources}
        if base.quantization is None and len(held) > 1:
            raise ModelError(
                f"the policies were made with the quantisations {', '.join(sorted(held))} of the base model; choose one with "
                "--quantization, or policies of one with --policy"
            )
        self.base, self.limits = base, limits
        self.dtype = base.dtype or next(iter(formats), "auto")
        self.quantization = loaded_as(next(iter(held), "none"), base.quantization)
        facts = RunFacts.of(self.sources[0].folder) if self.sources else RunFacts()
        self.facts = replace(facts, device=base.device)
        self.engine: Engine | None = None
        self.failure = ""

    @classmethod
    def of(
        cls,
        run: Path,
        config: ServeConfig,
        base: BaseChoice = BaseChoice(),  # noqa: B008 - it is frozen
    ) -> LocalBackend:
        """Find what a run folder, a policy's folder or a folder of exported LoRAs has to serve.

        Raises:
            ParetuneError: There is nothing to serve, or a policy cannot serve the default preference.
        """
        return cls.of_runs([(run, config)], base)

    @classmethod
    def of_runs(
        cls,
        runs: Sequence[tuple[Path, ServeConfig]],
        base: BaseChoice = BaseChoice(),  # noqa: B008 - it is frozen
    ) -> LocalBackend:
        """Find what several runs have to serve, each with its settings.

        The first run's policies have their own names, and those of the others ``run/policy``: the store, in which votes and presets
        are told apart by these names, then never takes what belongs to one run for another's.

        Raises:
            ParetuneError: There is nothing to serve, or not by one server.
        """
        names = run_names([place for place, _ in runs])
        sources, served = [], {}
        for name, (place, config) in zip(names, runs, strict=True):
            found = find_sources(place, config.policies)
            facts = replace(RunFacts.of(found[0].folder), device=base.device)
            run = ServedRun(name, facts, config)
            for source in found if name == names[0] else [qualified(one, name) for one in found]:
                stated = Preference.parse(config.preference, source.objectives) if config.preference else None
                served[source.name] = replace(serve_source(source, config.floors, stated), run=run)
                sources.append(source)
        return cls(sources, served, base, runs[0][1].engine_limits)

    async def start(self) -> None:
        """Load model and adapters, and start the engine."""
        self.engine = await asyncio.to_thread(self._load)

    async def stop(self) -> None:
        """Cancel running answers and free the model."""
        if self.engine is not None:
            await asyncio.to_thread(self.engine.stop, False)

    async def submit(
        self, jobs: Sequence[Job], on_event: Callable[[int, Event], None], timeout: float
    ) -> Sequence[Cancellable]:
        """Queue answers; their prompts are tokenised in a thread."""
        if self.engine is None:
            raise Unavailable("the model is not loaded")
        loop = asyncio.get_running_loop()

        def pass_on(number: int, event: Event) -> None:
            if isinstance(event, End):
                event = replace(event, message="")  # internals stay in the server's log
            elif not (event.text or event.conflicts or event.logprobs or event.calls):
                return
            loop.call_soon_threadsafe(on_event, number, event)

        until = time.monotonic() + timeout
        callbacks = [partial(pass_on, number) for number in range(len(jobs))]
        try:
            return await asyncio.to_thread(self._submit, self.engine, jobs, until, callbacks)
        except Unavailable as error:
            self.failure = str(error)
            raise

    def upstream_name(self, preference: Preference) -> str | None:
        """Return None: the text is generated here."""
        return None

    def stats(self) -> Mapping[str, float]:
        """Return the engine's current figures."""
        if self.engine is None:
            return {"running": 0, "waiting": 0}
        stats = self.engine.stats
        return {name: getattr(stats, name) for name in FIGURES}

    def _submit(
        self, engine: Engine, jobs: Sequence[Job], until: float, callbacks: Sequence[Callable[[Event], None]]
    ) -> Sequence[Cancellable]:
        """Submit jobs, unless the start of a prompt is too long already: to tokenise a huge one takes much memory."""
        longest = self.limits.max_prompt_tokens or engine.context
        for text in {written(job.prompt) for job in jobs}:
            if len(text) > CHARACTERS * longest:
                count = len(engine.lm.tokenizer(text[: CHARACTERS * longest]).input_ids)
                if count > longest:
                    raise PromptTooLong(
                        f"the prompt has more than {count} tokens, but at most {longest} are accepted; shorten it"
                    )
        return engine.submit_all(jobs, until, callbacks)

    def _load(self) -> Engine:
        from paretune.policies.base_model import load_base
        from paretune.policies.policy import Policy
        from paretune.serving.engine.engine import Engine

        first, base = self.sources[0], self.base
        named, place = first.named_base, first.folder
        lm = load_base(named, place, self.dtype, base.device, base.model, base.revision, self.quantization)
        policies = {source.name: _policy(source, lm) for source in self.sources}
        if self.base_model is not None:
            policies[self.base_model.name] = Policy.base(lm, self.base_model.objectives)
        engine = Engine(policies, self.limits)
        engine.start()
        return engine


def _policy(source: Source, lm: Any) -> Policy:
    """Load one policy, or exported LoRAs as anchors."""
    from paretune.models.adapter import from_peft
    from paretune.policies.policy import Policy

    if not source.loras:
        return Policy.load(source.folder, lm)
    adapters = [from_peft(source.folder / name, lm.fingerprint) for name in source.loras]
    return Policy.anchors(source.name, lm, source.objectives, adapters, source.anchors)
