"""Answers that a stage of training requests from a server: of the base model, or of an adapter just trained."""

from __future__ import annotations

import json
from collections.abc import Sequence

from paretune.core.sampling import Sampling
from paretune.data.rows import Prompt
from paretune.generation.endpoint import Answer, Endpoint, Question
from paretune.generation.sample import ask
from paretune.models.adapter import Adapter
from paretune.training.lab import Lab
from paretune.training.served_loras import written


def identity(endpoint: Endpoint | None) -> list[list[str]]:
    """Return what the key of a stage that ``endpoint`` samples holds beside its inputs: the address may change."""
    if endpoint is None:
        return []
    template = [json.dumps(dict(endpoint.chat_template), sort_keys=True)] if endpoint.chat_template else []
    return [["endpoint", endpoint.model, *template]]


def ask_stage(
    lab: Lab,
    endpoint: Endpoint,
    adapter: Adapter | None,
    prompts: Sequence[Prompt],
    sampling: Sampling,
    seeds: Sequence[int],
    title: str,
) -> list[Answer]:
    """Return one answer per prompt; call it where a stage of ``lab`` is made.

    The adapter is written as a plain LoRA to ``cache/loras`` of the run folder, which the server must see under the same path,
    and loaded there while it samples: one at a time, so that a server with room for one will do. Answers are kept in
    ``cache/samples`` under the adapter's parameters, the prompts and the seeds, whichever server gave them.

    Args:
        lab: Model and run folder.
        endpoint: The server; its generator is its own, so answers are not those sampled here, except for temperature 0.
        adapter: Adapter, of which every block is used at its scale; None asks the endpoint's base model.
        prompts: N conversations as the model is to read them.
        sampling: Length, temperature, top-p.
        seeds: One per prompt.
        title: Title of the progress bar.

    Raises:
        ModelError: The adapter has tokens of its own, which no LoRA server takes.
        EndpointError, ConfigError, DataError: See :func:`paretune.generation.sample.ask`.
    """

    def draw() -> list[Answer]:
        lora = None if adapter is None else written(lab.folder / "cache" / "loras", lab.lm, endpoint, adapter)
        model = lora.name if lora else endpoint.model
        questions = [Question(model, prompt, seed) for prompt, seed in zip(prompts, seeds, strict=True)]
        return ask(endpoint, questions, sampling, lab.folder / "cache" / "samples", title, lora)

    # Where the weights are divided all are here, and one asks; else the first is here alone.
    return lab.team.once(draw) if lab.team.sharded else draw()
