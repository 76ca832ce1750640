"""The distance of two policies token by token: whether a soup may stand in for MOD at a preference."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from paretune.core.preference import Preference
from paretune.core.progress import progress
from paretune.data.rows import Prompt
from paretune.evaluation.judged import Judged
from paretune.policies.policy import Policy

AUDITED = 16
"""The most prompts of an audit: the distance of two policies varies little between prompts."""


def token_kl(
    first: Policy,
    second: Policy,
    preference: Preference,
    prompts: Sequence[Prompt],
    texts: Sequence[str],
    truncated: Sequence[bool],
) -> np.ndarray:
    """Return KL(first || second) in nats per token, the mean over the tokens of each response ``[P]``.

    It is exact in the next token (the whole vocabulary is summed over); the responses are samples of ``first``. With the same
    adapters the soup is MOD to first order in the updates, so a large distance means that the soup is a poor copy there.
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
        first: The policy whose answers are read.
        second: The policy it is compared with.
        preferences: N preferences.
        points: N judged points of ``first`` on ``prompts``.
        prompts: P held-out conversations, of which the first 16 are used.
    """
    some = prompts[:AUDITED]
    distances = []
    for preference, point in zip(preferences, points, strict=True):
        if first.effective(preference) == second.effective(preference):
            distances.append(np.zeros(len(some)))
            continue
        texts = [answers[0] for answers in point.responses[: len(some)]]
        cut = point.truncated[: len(some), 0].tolist()
        distances.append(token_kl(first, second, preference, some, texts, cut))
    return distances
