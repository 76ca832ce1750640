"""Held-out answers that a server samples from the LoRAs of a run's policy; the policy here computes how likely they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from paretune.core.errors import ConfigError
from paretune.core.preference import Preference
from paretune.core.sampling import Sampling
from paretune.data.rows import Message, Prompt
from paretune.evaluation.evaluate import Draw
from paretune.generation.endpoint import Endpoint, Question
from paretune.generation.generate import Response
from paretune.generation.sample import ask
from paretune.models.distributed import ProcessGroup
from paretune.policies.catalogue import MANIFEST, exported
from paretune.policies.policy import Policy


def drawn_by(endpoint: Endpoint, policy: Policy, folder: Path, team: ProcessGroup = ProcessGroup()) -> Draw:  # noqa: B008 - it is frozen
    """Return a function that samples the answers of ``policy`` from ``endpoint``, which lists it under ``policies``.

    A server returns text alone, so its tokens and their log-probability are computed by the policy here. Answers are kept in
    ``folder``. Of several processes the first sends the requests, and all read the answers.

    Raises:
        ConfigError: The manifest is of another policy, or the policy is none that a LoRA can be, or reads several prompts at
            once. When sampling: a preference
            was not exported.
        EndpointError, DataError: When sampling, see :func:`paretune.generation.sample.ask`.
    """
    source = endpoint.policies[policy.name]
    if policy.asked_of_copies((Message("user", ""),), Preference.uniform(policy.objectives)):
        raise ConfigError(
            f"endpoint.policies.{policy.name}: it reads several prompts at once, so how likely a server's answers are cannot be "
            "computed here; take it out of endpoint.policies, and it is sampled here"
        )
    name = _named(source[:-1], policy) if source.endswith("@") else _exported(Path(source), policy)

    def draw(
        prompts: Sequence[Prompt],
        preferences: Sequence[Preference],
        sampling: Sampling,
        seeds: Sequence[int],
    ) -> list[Response]:
        read = policy.asked(prompts, preferences)
        # Of a policy that reads the preference in the prompt, `paretune serve` writes it there itself.
        sent = prompts if source.endswith("@") else read
        questions = [Question(name(w), p, seed) for p, w, seed in zip(sent, preferences, seeds, strict=True)]
        title = f"sampling {policy.name}"
        answers = team.once(lambda: ask(endpoint, questions, sampling, folder, title))
        lm = policy.lm
        tokens = [lm.encode_response(a.text, a.truncated) or [lm.turn_end] for a in answers]
        groups = [
            (lm.encode_prompt(prompt), [response]) for prompt, response in zip(read, tokens, strict=True)
        ]
        logps = policy.logps(groups, preferences)
        return [
            Response(answer.text, tuple(ids), answer.truncated, float(logp[0]))
            for answer, ids, logp in zip(answers, tokens, logps, strict=True)
        ]

    return draw


def _named(name: str, policy: Policy) -> Callable[[Preference], str]:
    """Return a function from a preference to the model's name at a ``paretune serve``; every digit of a weight is sent."""

    def at(preference: Preference) -> str:
        weights = preference.over(policy.objectives).as_dict()
        return f"{name}@" + ",".join(f"{objective}={weight!r}" for objective, weight in weights.items())

    return at


def _exported(manifest: Path, policy: Policy) -> Callable[[Preference], str]:
    """Return a function from a preference to the name of the LoRA exported at it."""
    if manifest.name != MANIFEST:
        raise ConfigError(
            f"endpoint.policies.{policy.name}: {manifest} is neither a {MANIFEST} of `paretune export --grid` nor NAME@, the name "
            "at a `paretune serve`"
        )
    together, _ = exported(manifest.parent)
    if policy.no_export:
        raise ConfigError(f"endpoint.policies.{policy.name}: no LoRA is this policy: {policy.no_export}")
    if (together.name, together.objectives) != (policy.name, policy.objectives):
        raise ConfigError(
            f"endpoint.policies.{policy.name}: {manifest} holds LoRAs of {together.name} for {', '.join(together.objectives)}; "
            f"expected those of {policy.name} for {', '.join(policy.objectives)}"
        )

    def at(preference: Preference) -> str:
        (used,) = policy.used([preference])
        for anchor, lora in zip(together.anchors, together.loras, strict=True):
            if np.allclose(anchor.array(), used.array()):
                return lora
        raise ConfigError(
            f"{manifest}: no LoRA at {used}, where {policy.name} is measured; export it with --grid as many as preferences are "
            f"measured ({', '.join(map(str, together.anchors))} are there)"
        )

    return at
