"""The engine of this process behind a server: policies are loaded on one base model, and events come to the event loop."""

from __future__ import annotations

import asyncio
import time
from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING, Any

from paretune.core.errors import ModelError
from paretune.core.preference import Preference
from paretune.policies.catalogue import Source
from paretune.serving.backend import Answer, Ask, End, Overloaded, Piece, PromptTooLong, Served, Unavailable

if TYPE_CHECKING:
    from paretune.policies.policy import Policy
    from paretune.serving.engine.engine import Engine, Event, Job

CHARACTERS = 8
"""Characters a token: prompts that are longer than this are looked at in part first."""


class LocalBackend:
    """Makes answers with the engine.

    Attributes:
        served: see `paretune.serving.backend.Backend`.
        engine: None until it has been started.
        failure: why the engine's thread has died.
    """

    def __init__(
        self,
        sources: Sequence[Source],
        served: Mapping[str, Served],
        dtype: str = "auto",
        device: str | None = None,
        **limits: Any,
    ) -> None:
        """Take what to load; ``limits`` are those of `paretune.serving.engine.engine.Engine`.

        Raises:
            ModelError: sources of different base models.
        """
        models = {source.model for source in sources}
        if len(models) > 1:
            raise ModelError(
                f"the base models {', '.join(sorted(models))} cannot share a server; choose with --policy"
            )
        self.sources, self.served = list(sources), dict(served)
        self.dtype, self.device, self.limits = dtype, device, limits
        self.engine: Engine | None = None
        self.failure = ""

    async def start(self) -> None:
        """Load model and adapters, and start the engine."""
        self.engine = await asyncio.to_thread(self._load)

    async def stop(self) -> None:
        """Cancel what runs and free the model."""
        if self.engine is not None:
            await asyncio.to_thread(self.engine.stop, False)

    async def submit(self, ask: Ask, on_event: Callable[[Piece | End], None], timeout: float) -> Answer:
        """Queue one answer; its prompt is tokenised in a thread."""
        from paretune.core.sampling import Sampling
        from paretune.serving.engine import engine as engines

        if self.engine is None:
            raise Unavailable("the model is not loaded")
        loop = asyncio.get_running_loop()

        def convert(event: engines.Event) -> None:
            made: Piece | End
            if isinstance(event, engines.Piece):
                if not event.text and not event.conflicts:
                    return
                made = Piece(event.text, len(event.tokens), event.conflicts)
            else:
                usage = event.usage
                made = End(event.reason, usage.prompt_tokens, usage.completion_tokens)
            loop.call_soon_threadsafe(on_event, made)

        job = engines.Job(
            ask.policy,
            ask.prompt,
            ask.preference,
            Sampling(ask.max_tokens, ask.temperature, ask.top_p),
            ask.seed,
            ask.stop,
        )
        until = time.monotonic() + timeout
        try:
            return await asyncio.to_thread(self._submit, self.engine, job, until, convert)
        except engines.Busy as error:
            raise Overloaded(str(error), error.retry_after) from error
        except engines.PromptTooLong as error:
            raise PromptTooLong(str(error)) from error
        except engines.Stopped as error:
            self.failure = str(error)
            raise Unavailable(str(error)) from error

    def upstream_name(self, preference: Preference) -> str | None:
        """The text is made here."""
        return None

    def stats(self) -> Mapping[str, float]:
        """Return the engine's figures of now."""
        if self.engine is None:
            return {"running": 0, "waiting": 0}
        stats = self.engine.stats
        names = (
            "running",
            "waiting",
            "rows",
            "cached_tokens",
            "tokens",
            "prompt_tokens",
            "tokens_per_second",
        )
        return {name: getattr(stats, name) for name in names}

    def _submit(self, engine: Engine, job: Job, until: float, on_event: Callable[[Event], None]) -> Answer:
        """Hand on a job, unless the beginning of its prompt is too long already: all of a huge one would take much memory."""
        most = self.limits.get("max_prompt_tokens") or engine.context
        text = job.prompt if isinstance(job.prompt, str) else "\n".join(m.content for m in job.prompt)
        if len(text) > CHARACTERS * most:
            count = len(engine.lm.tokenizer(text[: CHARACTERS * most]).input_ids)
            if count > most:
                raise PromptTooLong(
                    f"the prompt has more than {count} tokens, and at most {most} are taken; shorten it"
                )
        return engine.submit(job, until, on_event)

    def _load(self) -> Engine:
        from paretune.models.language_model import load
        from paretune.serving.engine.engine import Engine

        lm = load(self.sources[0].model, self.dtype, self.device)
        policies = {source.name: _policy(source, lm) for source in self.sources}
        engine = Engine(policies, **self.limits)
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
