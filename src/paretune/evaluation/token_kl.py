"""How far two policies are from each other, token by token: which of soup and MOD to trust at a preference."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from paretune.core.preference import Preference
from paretune.core.progress import progress
from paretune.data.rows import Prompt
from paretune.evaluation.evaluate import Judged
from paretune.policies.policy import Policy

AUDITED = 16
"""Prompts of an audit at most: the distance of two policies varies little between prompts."""


def token_kl(
    first: Policy,
    second: Policy,
    preference: Preference,
    prompts: Sequence[Prompt],
    texts: Sequence[str],
    truncated: Sequence[bool],
) -> np.ndarray:
    """Return KL(first || second) in nats a token, the mean over the tokens of each response ``[P]``.

    Exact in the next token (all of the vocabulary is summed over); the responses are samples of ``first``. At equal
    adapters the soup is MOD to first order in the updates, so a large distance says that the soup is a poor copy there.
    """
    values = []
    with progress(f"distance of {first.name} and {second.name}", len(prompts)) as advance:
        for prompt, text, cut in zip(prompts, texts, truncated, strict=True):
            response = first.lm.encode_response(text, cut)
            one, two = (
                policy.distribution(
                    policy.lm.encode_prompt(policy.asked([prompt], [preference])[0]), response, preference
                )
                for policy in (first, second)
            )
            values.append(float((one.exp() * (one - two)).sum(-1).mean()))
            advance(1)
    return np.array(values)


def audit(
    first: Policy,
    second: Policy,
    preferences: Sequence[Preference],
    points: Sequence[Judged],
    prompts: Sequence[Prompt],
) -> list[np.ndarray]:
    """Return :func:`token_kl` at each preference on the first answers of ``first`` there; 0 where both are one model.

    Args:
        first: the policy whose answers are read.
        second: what it is compared with.
        preferences: N preferences.
        points: what ``first`` answered at each, on ``prompts``.
        prompts: P held-out conversations, of which the first 16 are used.
    """
    some = prompts[:AUDITED]
    found = []
    for preference, point in zip(preferences, points, strict=True):
        if first.effective(preference) == second.effective(preference):
            found.append(np.zeros(len(some)))
            continue
        texts = [answers[0] for answers in point.responses[: len(some)]]
        cut = point.truncated[: len(some), 0].tolist()
        found.append(token_kl(first, second, preference, some, texts, cut))
    return found
