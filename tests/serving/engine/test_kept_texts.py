"""Texts that are kept: the next turn is read on from them, answers stay the same, and nobody takes over another's."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

import pytest
import torch

from paretune.core.errors import ConfigError
from paretune.core.meter import counts
from paretune.core.preference import Preference
from paretune.core.sampling import Sampling
from paretune.data.rows import Message
from paretune.generation.batch import Batch
from paretune.generation.mixing import Mixing
from paretune.models.kv_cache import RowStates
from paretune.models.language_model import LanguageModel
from paretune.policies.policy import Policy
from paretune.serving.config import EngineLimits, ServeConfig
from paretune.serving.engine.engine import Engine
from paretune.serving.engine.kept_texts import SHORTEST, KeptTexts, Reader
from paretune.serving.engine.stream import Answer, gather
from paretune.serving.events import Job
from support.adapters import random_adapter

OBJECTIVES = ("short", "good")
LONG = "red sun good blue kind tree " * 4
HALF, LEANING = Preference(OBJECTIVES, (0.5, 0.5)), Preference(OBJECTIVES, (0.8, 0.2))


@pytest.fixture(scope="module")
def policies(lm: LanguageModel) -> dict[str, Policy]:
    adapters = [random_adapter(lm, seed) for seed in range(2)]
    made = [
        Policy.base(lm, OBJECTIVES),
        Policy.soup("soup", lm, OBJECTIVES, adapters),
        Policy.mod("mod", lm, OBJECTIVES, adapters),
        Policy.mod("resampled", lm, OBJECTIVES, adapters, Mixing(candidates=2)),
    ]
    return {policy.name: policy for policy in made}


def ask(engine: Engine, job: Job) -> Answer:
    return gather(engine.submit(job))


def ask_twice(policies: dict[str, Policy], job: Job, room: int) -> list[Answer]:
    with Engine(policies, EngineLimits(kept_tokens=room)) as engine:
        return [ask(engine, job), ask(engine, job)]


def turns(policies: dict[str, Policy], name: str, limits: EngineLimits, count: int = 3) -> list[Answer]:
    """A conversation in which each turn brings the answers before."""
    said: list[Message] = []
    answers = []
    with Engine(policies, limits) as engine:
        for turn in range(count):
            said.append(Message("user", LONG if not turn else f"tree {turn} blue"))
            answers.append(ask(engine, Job(name, tuple(said), HALF, Sampling(8, 1.0), turn)))
            said.append(Message("assistant", answers[-1].text))
    return answers


@pytest.mark.parametrize("name", ["base", "soup", "mod"])
def test_the_next_turn_is_read_from_where_the_last_ended(
    policies: dict[str, Policy], name: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[int] = []
    forward = Batch._forward

    def noted(self: Batch, cache: object, ids: list[list[int]], *rest: object) -> object:
        read.append(len(ids[0]) if len(ids[0]) > 1 else 0)
        return forward(self, cache, ids, *rest)  # type: ignore[arg-type]

    alone = turns(policies, name, EngineLimits(kept_tokens=0))
    monkeypatch.setattr(Batch, "_forward", noted)
    kept = turns(policies, name, EngineLimits())
    assert [answer.tokens for answer in kept] == [answer.tokens for answer in alone]
    assert [answer.end.cached_tokens for answer in alone] == [0, 0, 0]
    cached = [answer.end.cached_tokens for answer in kept]
    prompts = [answer.end.prompt_tokens for answer in kept]
    # The tiny template opens the answer that is asked for by a token that it does not write later: that far it goes.
    assert cached == [0, prompts[0] - 1, prompts[1] - 1]
    assert sum(read) == sum(prompts) - sum(cached)


def test_another_client_another_preference_and_a_policy_of_several_candidates_share_nothing(
    policies: dict[str, Policy],
) -> None:
    prompt = (Message("user", LONG),)
    with Engine(policies, EngineLimits()) as engine:
        first = ask(engine, Job("soup", prompt, HALF, Sampling(4, 0.0), client="ann"))
        whole = first.end.prompt_tokens - 1
        for job, cached in (
            (Job("soup", prompt, HALF, Sampling(4, 0.0), client="ben"), 0),
            (Job("soup", prompt, LEANING, Sampling(4, 0.0), client="ann"), 0),
            (Job("base", prompt, HALF, Sampling(4, 0.0), client="ann"), 0),
            (Job("soup", prompt, HALF, Sampling(4, 0.0), client="ann"), whole),
            # MOD at one end is one adapter alone; at the half it has a copy of each, and takes over nothing from the soup.
            (Job("mod", prompt, HALF, Sampling(4, 0.0), client="ann"), 0),
            (Job("mod", prompt, LEANING, Sampling(4, 0.0), client="ann"), whole),
            (Job("resampled", prompt, HALF, Sampling(4, 1.0), client="cat"), 0),
            (Job("resampled", prompt, HALF, Sampling(4, 1.0), client="cat"), 0),
        ):
            answer = ask(engine, job)
            assert answer.end.cached_tokens == cached, job
        again = ask(engine, Job("soup", prompt, HALF, Sampling(4, 0.0), client="ann"))
        assert again.tokens == first.tokens
        assert engine.stats.reused_tokens == 3 * whole


def test_jobs_that_go_on_from_a_text_are_served_beside_others(policies: dict[str, Policy]) -> None:
    """Each with the tokens that it has alone, whoever is read with whom."""
    prompts = [LONG, LONG + "kind", "tree", LONG + "blue sun", "sun " * 20]
    jobs = [
        Job(
            "soup",
            (Message("user", prompts[number % 5]),),
            (HALF, LEANING)[number % 2],
            Sampling(6, 1.0),
            number,
        )
        for number in range(20)
    ]
    with Engine(policies, EngineLimits(kept_tokens=0)) as engine:
        alone = [ask(engine, job).tokens for job in jobs]
    with Engine(policies, EngineLimits(max_rows=6, prefill_tokens=16)) as engine:
        streams = engine.submit_all(jobs)
        assert [gather(stream).tokens for stream in streams] == alone
        assert engine.stats.reused_tokens > 0


def test_where_memory_is_short_the_engine_goes_on(
    policies: dict[str, Policy], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A text that cannot be kept or taken over costs nothing but itself, and what is kept makes room."""
    job = Job("soup", (Message("user", LONG),), HALF, Sampling(4, 0.0))

    def full(*arguments: object) -> None:
        raise RuntimeError("out of memory")

    with Engine(policies, EngineLimits()) as engine:
        with monkeypatch.context() as patch:
            patch.setattr(Batch, "texts", full)
            first = ask(engine, job)
            assert first.end.reason == "length"
        assert ask(engine, job).end.cached_tokens == 0
        with monkeypatch.context() as patch:
            patch.setattr(Batch, "go_on_from", full)
            anew = ask(engine, job)
            assert anew.end.cached_tokens == 0 and anew.tokens == first.tokens
        again = ask(engine, job)
        assert again.end.cached_tokens > 0 and again.tokens == first.tokens
        with monkeypatch.context() as patch:
            patch.setattr(Batch, "step", full)
            ended = ask(engine, job).end
            assert (ended.reason, ended.message) == ("error", "the model failed: out of memory")
        anew = ask(engine, job)
        assert anew.end.cached_tokens == 0 and anew.tokens == first.tokens


@pytest.mark.parametrize("same", [True, False])
@pytest.mark.parametrize("system", ["kind tree blue " * 5, LONG * 3])
def test_a_burst_is_read_together_whatever_is_kept(
    policies: dict[str, Policy], monkeypatch: pytest.MonkeyPatch, system: str, same: bool
) -> None:
    """Prompts that begin with what a kept text begins with too, in a small part and for the most part."""
    forward, forwards = Batch._forward, []

    def noted(self: Batch, *arguments: object) -> object:
        forwards.append(self.copies)
        return forward(self, *arguments)  # type: ignore[arg-type]

    monkeypatch.setattr(Batch, "_forward", noted)
    own = [Message("user", "good blue " * 6 + "sun " * (0 if same else number)) for number in range(12)]
    jobs = [
        Job("soup", (Message("system", system), said), HALF, Sampling(4, 1.0), number)
        for number, said in enumerate(own)
    ]
    counted, drawn = [], []
    for limits in (EngineLimits(kept_tokens=0, prefill_tokens=1024), EngineLimits(prefill_tokens=1024)):
        with Engine(policies, limits) as engine:
            ask(engine, replace(jobs[0], prompt=(Message("system", system), Message("user", "tree"))))
            before, read = len(forwards), counts().tokens_read
            drawn.append([gather(stream).tokens for stream in engine.submit_all(jobs)])
            counted.append((len(forwards) - before, counts().tokens_read - read))
    assert drawn[0] == drawn[1]
    (forwards_anew, read_anew), (forwards_kept, read_kept) = counted
    # The first job may be admitted before the others are there.
    assert forwards_kept <= forwards_anew + 4 and forwards_kept < 16
    if not same:
        assert read_kept <= read_anew, "equal prompts are read once for all, where they are read anew"


def test_of_a_mixture_all_copies_are_kept_or_none(policies: dict[str, Policy]) -> None:
    job = Job("mod", (Message("user", LONG),), HALF, Sampling(4, 1.0))
    positions = 2 * (ask_twice(policies, job, 8192)[0].end.prompt_tokens + 4)
    for room, reused in ((positions, True), (positions - 1, False)):
        one, again = ask_twice(policies, job, room)
        assert again.tokens == one.tokens and bool(again.end.cached_tokens) == reused
    with Engine(policies, EngineLimits(kept_tokens=positions - 1)) as engine:
        ask(engine, job)
        ask(engine, replace(job, policy="base", client="ben"))
        assert engine._kept.tokens < positions // 2 + 1, "that of the other job alone"


def states_of(count: int) -> RowStates:
    return [(torch.zeros(1, count, 2), torch.zeros(1, count, 2))]


def kept(texts: KeptTexts, reader: Reader, tokens: Sequence[int]) -> None:
    texts.keep(reader, tokens, states_of(len(tokens)))


def test_texts_stay_within_their_room_and_the_oldest_go_first() -> None:
    ann, text = Reader("ann", ()), list(range(100))
    texts = KeptTexts(60)
    kept(texts, ann, text[:20])
    kept(texts, ann, text[:30])
    assert texts.tokens == 30, "a text takes the place of those that it goes on from"
    kept(texts, ann, text[:25])
    assert texts.tokens == 30, "and one that it begins with is there already"
    kept(texts, ann, [7] * 20)
    assert texts.find(ann, text[:25]) is not None, "now used later than the other"
    kept(texts, ann, [8] * 20)
    assert texts.tokens == 50 and texts.find(ann, [7] * 21) is None
    kept(texts, ann, [9] * 61)
    kept(texts, ann, [9] * (SHORTEST - 1))
    assert texts.tokens == 50, "neither what has no room nor what saves little"
    assert KeptTexts(0).find(ann, text) is None


def test_the_longest_common_beginning_is_taken_and_the_last_token_is_read() -> None:
    ann, ben = Reader("ann", ()), Reader("ann", ((0, 0.5),))
    texts = KeptTexts(1000)
    kept(texts, ann, [*range(40)])
    kept(texts, ann, [*range(20), *[99] * 30])
    kept(texts, ben, [*range(60)])
    found = texts.find(ann, [*range(30), 7])
    assert found is not None and found[1] == 30 and len(found[0].tokens) == 40
    found = texts.find(ann, [*range(40)])
    assert found is not None and found[1] == 39
    assert texts.find(ann, [*range(SHORTEST)]) is None
    assert Reader.of("ann", torch.tensor([0.0, 0.0])) == Reader.of("ann", None)


def test_how_many_tokens_are_kept_is_a_setting() -> None:
    assert ServeConfig(kept_tokens=0).engine_limits.kept_tokens == 0
    assert ServeConfig().engine_limits.kept_tokens == EngineLimits().kept_tokens > 0
    with pytest.raises(ConfigError, match="kept_tokens must be at least 0, got -1"):
        EngineLimits(kept_tokens=-1)
