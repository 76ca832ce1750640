"""What a caller gets wrong in Python is a ParetuneError, and threads take turns on a model."""

from __future__ import annotations

from concurrent.futures import ThreadPoolExecutor
from typing import Any

import pytest

from paretune.core.errors import DataError, ParetuneError
from paretune.core.preference import Preference
from paretune.core.sampling import Sampling
from paretune.data.rows import Message
from paretune.models.language_model import LanguageModel
from paretune.policies.policy import Policy
from support.random_models import random_adapter

OBJECTIVES = ("short", "good")
PROMPT = (Message("user", "Say a word"),)
WISH = Preference.parse("short=0.5,good=0.5")
SHORT = Sampling(max_new_tokens=4)


@pytest.fixture(scope="module")
def policy(lm: LanguageModel) -> Policy:
    adapters = [random_adapter(lm.model, seed=seed, base=lm.fingerprint) for seed in (1, 2)]
    return Policy.soup("soup", lm, OBJECTIVES, adapters)


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (([], []), "prompts: the list is empty"),
        ((None, [WISH]), "prompts: expected a list"),
        (("Hi", [WISH]), "prompts: expected a list"),
        ((["Hi"], [WISH]), "prompt 0: expected messages"),
        (([()], [WISH]), "prompt 0: expected messages"),
        (([PROMPT[0]], [WISH]), "prompt 0: expected messages"),
        (([[{"role": "user", "content": "Hi"}]], [WISH]), "prompt 0: expected messages"),
        (([(Message("user", "\udcff"),)], [WISH]), "prompt 0: half of a surrogate pair"),
        (([PROMPT], []), "preferences: the list is empty"),
        (([PROMPT], [WISH, WISH]), "1 prompts and 2 preferences"),
        (([PROMPT], ["short=1"]), "preference 0: expected a Preference"),
        (([PROMPT], [[0.5, 0.5]]), "preference 0: expected a Preference"),
        (([PROMPT], WISH), "preferences: expected a list"),
        (([PROMPT], [WISH], {"max_new_tokens": 4}), "sampling: expected a Sampling"),
        (([PROMPT], [WISH], SHORT, []), "seeds: the list is empty"),
        (([PROMPT], [WISH], SHORT, [1, 2]), "1 prompts and 2 seeds"),
        (([PROMPT], [WISH], SHORT, [2**70]), "seed 0: expected a whole number"),
        (([PROMPT], [WISH], SHORT, [-1]), "seed 0: expected a whole number"),
        (([PROMPT], [WISH], SHORT, ["1"]), "seed 0: expected a whole number"),
        (([PROMPT], [WISH], SHORT, [1.5]), "seed 0: expected a whole number"),
        (([PROMPT], [WISH], SHORT, [True]), "seed 0: expected a whole number"),
        (([PROMPT], [WISH], SHORT, 1), "seeds: expected a list"),
        (([PROMPT], [Preference.parse("polite=1")], SHORT), "polite"),
    ],
)
def test_a_wrong_call_of_generate_says_what_was_expected(
    policy: Policy, arguments: tuple[Any, ...], words: str
) -> None:
    with pytest.raises(ParetuneError, match=words):
        policy.generate(*arguments)


@pytest.mark.parametrize(
    ("groups", "preferences", "words"),
    [
        ([], [], "groups: the list is empty"),
        ([([1, 2], [[3]])], [], "preferences: the list is empty"),
        ([([1, 2], [[3]])], [WISH, WISH], "1 groups and 2 preferences"),
        ([([1, 2], [])], [WISH], "group 0: expected"),
        (["text"], [WISH], "group 0: expected"),
        ([([1, 2], [[3]])], ["short=1"], "preference 0: expected a Preference"),
    ],
)
def test_a_wrong_call_of_logps_says_what_was_expected(
    policy: Policy, groups: Any, preferences: Any, words: str
) -> None:
    with pytest.raises(ParetuneError, match=words):
        policy.logps(groups, preferences)


@pytest.mark.parametrize(("role", "content"), [("zz", "x"), ("user", 5), (None, "x"), ("user", None)])
def test_a_message_of_no_role_or_without_text_is_refused(role: Any, content: Any) -> None:
    with pytest.raises(DataError, match="message"):
        Message(role, content)


def test_seeds_of_numpy_and_ranges_are_seeds(policy: Policy) -> None:
    import numpy as np

    first = policy.generate([PROMPT] * 2, [WISH] * 2, SHORT, range(2))
    assert policy.generate([PROMPT] * 2, [WISH] * 2, SHORT, np.arange(2)) == first
    assert policy.generate([PROMPT] * 2, [WISH] * 2, SHORT) == first


def test_threads_take_turns_and_get_what_one_thread_gets(policy: Policy) -> None:
    def ask(seed: int) -> list[Any]:
        return policy.generate([PROMPT], [WISH], SHORT, [seed])

    alone = [ask(seed) for seed in range(6)]
    with ThreadPoolExecutor(4) as pool:
        assert list(pool.map(ask, range(6))) == alone


def test_a_length_that_no_memory_holds_is_refused_with_the_estimate(policy: Policy) -> None:
    with pytest.raises(ParetuneError, match=r"max_new_tokens 1000000000000: .* GB"):
        policy.generate([PROMPT], [WISH], Sampling(max_new_tokens=10**12))
