"""Held-out answers of a run's policy, made by a server that has its LoRAs; the policy here says how likely they are."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

import numpy as np

from paretune.core.errors import ConfigError
from paretune.core.preference import Preference
from paretune.core.sampling import Sampling
from paretune.data.rows import Prompt
from paretune.evaluation.evaluate import Draw
from paretune.generation.endpoint import Endpoint, Question
from paretune.generation.generate import Response
from paretune.generation.sample import ask
from paretune.models.distributed import ProcessGroup
from paretune.policies.catalogue import MANIFEST, exported
from paretune.policies.policy import Policy


def drawn_by(endpoint: Endpoint, policy: Policy, folder: Path, team: ProcessGroup = ProcessGroup()) -> Draw:  # noqa: B008 - it is frozen
    """Return what draws the answers of ``policy`` by ``endpoint``, which lists it under ``policies``.

    The tokens of an answer are those of its text, read anew, and their log-probability is that under the policy here: a server
    tells neither. Answers are kept in ``folder``. Of several processes the first asks, and all read.

    Raises:
        ConfigError: the manifest is of another policy, or the policy is a mixture, which no LoRA is.
        EndpointError, DataError: when drawing, see :func:`paretune.generation.sample.ask`; ConfigError, a preference
        that was not exported.
    """
    source = endpoint.policies[policy.name]
    name = _told(source[:-1], policy) if source.endswith("@") else _loaded(Path(source), policy)

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


def _told(name: str, policy: Policy) -> Callable[[Preference], str]:
    """Return preference -> the model's name at a ``paretune serve``; every digit of a weight is sent."""

    def at(preference: Preference) -> str:
        weights = preference.over(policy.objectives).as_dict()
        return f"{name}@" + ",".join(f"{objective}={weight!r}" for objective, weight in weights.items())

    return at


def _loaded(manifest: Path, policy: Policy) -> Callable[[Preference], str]:
    """Return preference -> the name of the LoRA exported at it."""
    if manifest.name != MANIFEST:
        raise ConfigError(
            f"endpoint.policies.{policy.name}: {manifest} is neither a {MANIFEST} of `paretune export --grid` nor NAME@, the name "
            "at a `paretune serve`"
        )
    together, _ = exported(manifest.parent)
    if policy.mix == "mod" or (together.name, together.objectives) != (policy.name, policy.objectives):
        raise ConfigError(
            f"endpoint.policies.{policy.name}: {manifest} holds LoRAs of {together.name} for {', '.join(together.objectives)}; "
            f"expected those of {policy.name} for {', '.join(policy.objectives)}, which no LoRA is where it mixes distributions"
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
