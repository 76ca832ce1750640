"""What is asked of a policy, checked before anything is encoded or drawn."""

from __future__ import annotations

import operator
from collections.abc import Sequence
from typing import Any

import numpy as np

from paretune.core.errors import ModelError, ParetuneError, PreferenceError
from paretune.core.preference import Preference
from paretune.core.sampling import Sampling
from paretune.data.rows import Message, Prompt

LARGEST_SEED = 2**63


def check_rows(
    prompts: Sequence[Prompt],
    preferences: Sequence[Preference],
    sampling: Sampling | None = None,
    seeds: Sequence[int] | None = None,
) -> list[int]:
    """Check that every prompt has its preference and its seed, all of the right kind; return the seeds, by default 0..B-1.

    Raises:
        PreferenceError: Another number of preferences than prompts, or something that is no preference.
        ParetuneError: No prompts, or prompts, sampling or seeds that are something else.
    """
    for number, prompt in enumerate(_several(prompts, "prompts")):
        _check_prompt(prompt, number)
    check_preferences(preferences, len(prompts), "prompt")
    if sampling is not None and not isinstance(sampling, Sampling):
        raise ParetuneError(
            f"sampling: expected a Sampling, such as Sampling(max_new_tokens=64), got {sampling!r:.60}"
        )
    if seeds is None:
        return list(range(len(prompts)))
    checked = [_seed(seed, number) for number, seed in enumerate(_several(seeds, "seeds"))]
    if len(checked) != len(prompts):
        raise ParetuneError(f"{len(prompts)} prompts and {len(checked)} seeds; expected one seed per prompt")
    return checked


def check_groups(groups: Sequence[Any], preferences: Sequence[Preference]) -> None:
    """Check groups of token ids, each a prompt with its responses, and that each has its preference.

    Raises:
        PreferenceError: Another number of preferences than groups, or something that is no preference.
        ParetuneError: No groups, or something that is no pair of token ids and lists of these.
    """
    for number, group in enumerate(_several(groups, "groups")):
        if (
            not isinstance(group, Sequence)
            or isinstance(group, str)
            or len(group) != 2
            or not all(map(len, group))
        ):
            raise ParetuneError(
                f"group {number}: expected (token ids of a prompt, those of its responses), none empty, got {group!r:.60}"
            )
    check_preferences(preferences, len(groups), "group")


def check_preferences(preferences: Sequence[Preference], count: int, each: str) -> None:
    """Check that there are ``count`` preferences.

    Raises:
        PreferenceError: There are not, or one is something else.
    """
    for number, preference in enumerate(_several(preferences, "preferences")):
        if not isinstance(preference, Preference):
            raise PreferenceError(
                f"preference {number}: expected a Preference, such as Preference.parse('warm=1'), got {preference!r:.60}"
            )
    if len(preferences) != count:
        raise PreferenceError(
            f"{count} {each}s and {len(preferences)} preferences; expected one preference per {each}"
        )


def _several(items: Any, what: str) -> Sequence[Any]:
    if isinstance(items, (str, bytes, dict)) or not isinstance(items, (Sequence, np.ndarray)):
        raise ParetuneError(f"{what}: expected a list, got {items!r:.60}")
    if len(items) == 0:
        raise ParetuneError(f"{what}: the list is empty; give at least one")
    return items  # type: ignore[return-value]


def _check_prompt(prompt: Any, number: int) -> None:
    known = isinstance(prompt, (tuple, list)) and all(isinstance(message, Message) for message in prompt)
    if not known or not prompt:
        raise ParetuneError(
            f"prompt {number}: expected messages, such as (Message('user', 'Is basil edible?'),), got {prompt!r:.50}"
        )
    for message in prompt:
        try:
            message.content.encode("utf-8")
        except UnicodeEncodeError as error:
            raise ParetuneError(
                f"prompt {number}: half of a surrogate pair at character {error.start + 1}, which is not Unicode text"
            ) from error


def _seed(seed: Any, number: int) -> int:
    try:
        value = -1 if isinstance(seed, bool) else operator.index(seed)
    except TypeError:
        value = -1
    if not 0 <= value < LARGEST_SEED:
        raise ParetuneError(f"seed {number}: expected a whole number from 0 to 2**63 - 1, got {seed!r:.40}")
    return value


def check_objectives(trained: Sequence[str], objectives: Sequence[str]) -> None:
    """Check that an adapter was trained for these objectives in this order.

    Raises:
        ModelError: It was not.
    """
    if list(trained) != list(objectives):
        raise ModelError(
            f"the adapter was trained for the objectives {list(trained)}, in this order; it cannot serve {list(objectives)}"
        )
