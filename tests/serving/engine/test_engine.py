"""Continuous batching: the tokens of the library's own `generate`, whoever joins and leaves; and nobody is left waiting."""

from __future__ import annotations

import asyncio
import gc
import math
import random
import threading
import time
from collections.abc import Callable, Iterator
from dataclasses import replace

import pytest
import torch
from torch._subclasses import FakeTensor
from transformers import DynamicCache, MistralConfig, MistralForCausalLM

from paretune.core.errors import ConfigError, DataError, ModelError, PreferenceError
from paretune.core.preference import Preference
from paretune.core.sampling import Sampling
from paretune.data.rows import Message
from paretune.generation.batch import Batch, Slot
from paretune.generation.generate import Response, generate
from paretune.generation.mixing import Mixing
from paretune.generation.rescoring import Augmentation
from paretune.models.embedded import EMBEDDED, embedded_gguf
from paretune.models.kv_cache import ROOM, growing_cache, rows_join, rows_leave
from paretune.models.language_model import LanguageModel, load
from paretune.models.singular_gates import initial
from paretune.models.targets import target_shapes
from paretune.models.values import Values, hidden_size
from paretune.policies.policy import GatedPolicy, Policy
from paretune.policies.prompts import Prompting
from paretune.policies.valued import ValuedPolicy
from paretune.serving.config import EngineLimits
from paretune.serving.engine.engine import Engine
from paretune.serving.engine.stream import Answer, gather
from paretune.serving.events import (
    End,
    Event,
    Job,
    Overloaded,
    Piece,
    PromptTooLong,
    Unavailable,
    Unsupported,
)
from support.adapters import random_adapter
from support.world import TAGS, WORDS, make_dataset, write_model

OBJECTIVES = ("short", "good")
LONG = Sampling(max_new_tokens=200)


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    """A tiny model that knows the tags of Rewards-in-Context."""
    folder = write_model(tmp_path_factory.mktemp("model"), words=[*WORDS, *TAGS])
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PARETUNE_CACHE", str(tmp_path_factory.mktemp("cache")))
        return load(str(folder), "float32", "cpu")


def random_values(lm: LanguageModel) -> Values:
    start, random = Values.start(hidden_size(lm.model), 8, OBJECTIVES, lm.fingerprint), torch.Generator()
    heads = torch.randn(len(OBJECTIVES), 8, generator=random.manual_seed(6))
    return replace(start, tensors={**start.tensors, "heads": heads})


@pytest.fixture(scope="module")
def policies(lm: LanguageModel) -> dict[str, Policy]:
    """One of every kind; several share adapters."""
    adapters = [random_adapter(lm, seed) for seed in range(3)]
    panacea, gates = initial(target_shapes(lm.model, ["all-linear"]), 4, 2, init="small")
    for parameter in gates.named_parameters().values():
        parameter.data.uniform_(1.0, 2.0)
    folded = gates.fold(replace(panacea, base=lm.fingerprint))
    prompting = Prompting.of(OBJECTIVES, torch.randn(50, 2).numpy(), form="levels")
    reader = replace(random_adapter(lm, 3), info={"prompting": prompting.to_dict()})
    spelled = replace(prompting, form="tokens")
    rows = torch.randn(
        len(spelled.tags), lm.model.config.hidden_size, generator=torch.Generator().manual_seed(4)
    )
    speller = replace(random_adapter(lm, 5), info={"prompting": spelled.to_dict()}, tokens=rows)
    corners = [Preference(OBJECTIVES, w) for w in ((1.0, 0.0), (0.5, 0.5), (0.0, 1.0))]
    forward = [replace(a, info={"method": "dpo", "divergence": "forward-kl"}) for a in adapters[:2]]
    made = [
        Policy.base(lm, OBJECTIVES),
        Policy.soup("soup", lm, OBJECTIVES, adapters[:2]),
        Policy.anchors("anchors", lm, OBJECTIVES, adapters, corners),
        Policy.conditioned("panacea", lm, OBJECTIVES, folded),
        Policy.mod("mod", lm, OBJECTIVES, adapters[1:]),
        Policy.mod("forward", lm, OBJECTIVES, forward, Mixing("forward-kl")),
        Policy.mod("resampled", lm, OBJECTIVES, adapters[:2], Mixing(candidates=3)),
        Policy.prompted("ric", lm, OBJECTIVES, reader),
        Policy.prompted("ric-tokens", lm, OBJECTIVES, speller),
        ValuedPolicy.of("vas", lm, OBJECTIVES, random_values(lm), Augmentation(2.0, 7)),
    ]
    return {policy.name: policy for policy in made}


def jobs_for(policies: dict[str, Policy], count: int) -> list[Job]:
    """Jobs of all policies at many preferences, some greedy, some with top-p, of different lengths."""
    rng, prompts = random.Random(0), [row.prompt for row in make_dataset(30, seed=5).rows]
    jobs = []
    for number in range(count):
        name, weight = list(policies)[number % len(policies)], rng.choice([0.0, 0.1, 0.35, 0.5, 0.8, 1.0])
        sampling = Sampling(
            rng.randint(1, 25), rng.choice([0.0, 0.0, 0.7, 1.0, 1.3]), rng.choice([1.0, 1.0, 0.8])
        )
        prompt = (Message("user", "sun " * rng.randint(0, 30)), *rng.choice(prompts))
        prompt = tuple(Message("user", message.content) for message in prompt)
        jobs.append(Job(name, prompt, Preference(OBJECTIVES, (weight, 1 - weight)), sampling, number))
    return jobs


def expected(policies: dict[str, Policy], job: Job, known: dict = {}) -> Response:  # noqa: B006
    """Return what `generate` gives the job alone."""
    assert not isinstance(job.prompt, str)
    policy = policies[job.policy]
    key = (id(policy), job, policy.lm.stops)
    if key not in known:
        (known[key],) = policy.generate([job.prompt], [job.preference], job.sampling, [job.seed])
    return known[key]


def check(policies: dict[str, Policy], jobs: list[Job], answers: list[Answer]) -> None:
    """Compare answers with what `generate` gives each job alone; the engine has given the model back."""
    for job, answer in zip(jobs, answers, strict=True):
        want = expected(policies, job)
        assert (answer.tokens, answer.text) == (want.tokens, want.text), job
        assert answer.end.reason == ("length" if want.truncated else "stop")
        assert answer.end.completion_tokens == len(want.tokens)
        assert answer.end.first_token_seconds is not None
        assert answer.conflicts == pytest.approx([-z for z in want.normalisers], abs=1e-4)


def wait_for(condition: Callable[[], bool], seconds: float = 20.0) -> None:
    limit = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < limit, "waited in vain"
        time.sleep(0.002)


# The cache


def test_rows_join_and_leave_the_cache(lm: LanguageModel) -> None:
    """Against a list of rows held apart: what is visible is theirs, what is padding is finite."""
    rng, generator = random.Random(0), torch.Generator().manual_seed(0)
    cache = growing_cache(lm.model.config)
    rows: list[torch.Tensor] = []

    def fill(target: object, added: torch.Tensor) -> None:
        for layer in range(2):
            target.update(added + layer, -added - layer, layer)  # type: ignore[attr-defined]

    for _ in range(150):
        width = max((row.shape[1] for row in rows), default=0)
        action = rng.choice(["grow", "grow", "join", "leave"])
        if action == "join" and len(rows) < 9:
            count, length = rng.randint(1, 3), rng.choice([1, 5, width, width + 7, width + ROOM + 3])
            new = torch.randn(count, 2, max(length, 1), 4, generator=generator)
            other = growing_cache(lm.model.config)
            fill(other, new)
            if rows:
                rows_join(cache, other)
            else:
                cache = other
            rows += list(new)
        elif action == "leave" and len(rows) > 1:
            kept = sorted(rng.sample(range(len(rows)), rng.randint(1, len(rows))))
            longest = max(rows[row].shape[1] for row in kept)
            rows = [rows[row] for row in rows_leave(cache, kept, width - longest)]
        elif rows:
            new = torch.randn(len(rows), 2, 1, 4, generator=generator)
            fill(cache, new)
            rows = [torch.cat([row, more], 1) for row, more in zip(rows, new, strict=True)]
        width = max((row.shape[1] for row in rows), default=0)
        assert cache.get_seq_length() == width
        for number, layer in enumerate(cache.layers[:2] if rows else []):
            assert layer.keys.shape[:3] == (len(rows), 2, width)
            assert bool(layer.keys.isfinite().all() and layer.values.isfinite().all())
            for place, row in enumerate(rows):
                torch.testing.assert_close(layer.keys[place, :, width - row.shape[1] :], row + number)
                torch.testing.assert_close(layer.values[place, :, width - row.shape[1] :], -row - number)


def test_a_joining_row_does_not_see_what_stood_there_before(lm: LanguageModel) -> None:
    """A row whose numbers were not finite leaves; the row that takes its place is as if alone."""
    words = lm.encode_prompt(make_dataset(1).rows[0].prompt)
    prompts = [words * 2, words, words[:3]]
    sampling = Sampling(6, 0.0)
    alone = generate(lm, prompts, sampling, [0, 1, 2])
    rows = [Slot(prompt, sampling, seed) for seed, prompt in enumerate(prompts)]
    vars(lm)["stops"], stops = frozenset(), lm.stops
    try:
        batch, second, third = (Batch(lm, None, [row]) for row in rows)
        for part in (batch, second, third):
            part.read()
        batch.join(second)
        for layer in batch._cache.layers:
            layer.keys[1], layer.values[1] = float("nan"), float("nan")
        batch.step()
        batch.leave([rows[1]])
        batch.join(third)
        for _ in range(4):
            batch.step()
    finally:
        vars(lm)["stops"] = stops
    for place in (0, 2):
        both = zip(rows[place].tokens, alone[place].tokens, strict=False)
        assert all(mine == theirs for mine, theirs in both) and math.isfinite(rows[place].logp)
    assert math.isnan(rows[1].logp)


def test_a_sliding_window_is_kept_by_the_mask(lm: LanguageModel) -> None:
    """Rows of different lengths, longer than the window, against a forward without cache."""
    torch.manual_seed(0)
    config = MistralConfig(
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=2,
        num_attention_heads=4,
        num_key_value_heads=2,
        vocab_size=26,
        sliding_window=6,
        initializer_range=0.3,
    )
    model = MistralForCausalLM(config).eval()
    other = LanguageModel(model, lm.tokenizer, "mistral", "x")
    vars(other)["stops"] = frozenset()
    prompts = [[3, 5, 6, 7, 8, 9, 10, 11, 12], [3, 5, 6], [7, 8, 9, 10, 11]]
    for prompt, found in zip(prompts, generate(other, prompts, Sampling(20, 0.0), [0, 1, 2]), strict=True):
        ids = torch.tensor([prompt])
        with torch.no_grad():
            for _ in range(20):
                ids = torch.cat([ids, model(input_ids=ids, use_cache=False).logits[:, -1:].argmax(-1)], dim=1)
        assert tuple(ids[0, len(prompt) :].tolist()) == found.tokens


# The same tokens


@pytest.mark.parametrize("prefill", [7, 256])
@pytest.mark.slow
def test_tokens_are_those_of_generate(lm: LanguageModel, policies: dict[str, Policy], prefill: int) -> None:
    """Rows of all kinds join and leave at different times; long prompts are read in parts."""
    jobs, rng = jobs_for(policies, 64), random.Random(1)
    streams = []
    with Engine(policies, EngineLimits(max_rows=12, prefill_tokens=prefill)) as engine:
        for job in jobs:
            streams.append(engine.submit(job))
            time.sleep(rng.choice([0, 0, 0.002, 0.01]))
        answers = [gather(stream) for stream in streams]
        wait_for(lambda: engine.stats.rows == 0)
        stats = engine.stats
    check(policies, jobs, answers)
    assert stats.running == stats.waiting == stats.cached_tokens == 0
    assert stats.first_tokens == len(jobs) and stats.first_token_seconds > 0
    assert stats.tokens >= sum(len(answer.tokens) for answer in answers) and stats.tokens_per_second > 0
    assert stats.prompt_tokens == sum(answer.end.prompt_tokens for answer in answers)
    assert sum(stats.ended.values()) == len(jobs)


def test_rows_share_forwards(
    lm: LanguageModel, policies: dict[str, Policy], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Eight policies at once: no more forwards than the longest answer has tokens, but for those that read prompts."""
    sizes = []
    real = Batch._forward

    def counted(self: Batch, cache: DynamicCache, ids: list[list[int]], *rest: object) -> object:
        sizes.append((len(ids), len(ids[0])))
        return real(self, cache, ids, *rest)

    monkeypatch.setattr(Batch, "_forward", counted)
    vars(lm)["stops"], stops = frozenset(), lm.stops
    try:
        prompt, w = (Message("user", "red sun"),), Preference(OBJECTIVES, (0.4, 0.6))
        engine, all_there = (
            Engine(policies, EngineLimits(max_rows=64, prefill_tokens=10_000)),
            threading.Event(),
        )
        let_go = engine._drop_over
        monkeypatch.setattr(engine, "_drop_over", lambda: all_there.wait() and let_go())
        with engine:
            streams = [engine.submit(Job(name, prompt, w, Sampling(9))) for name in policies]
            all_there.set()
            assert {len(gather(stream).tokens) for stream in streams} == {9}
    finally:
        vars(lm)["stops"] = stops
    steps = [rows for rows, columns in sizes if columns == 1]
    copies = 5 + 2 + 3 + 3 * 2 + 2  # MOD has two copies, under the forward KL three; three candidates of two
    assert steps == [copies] * 8 and len(sizes) == 9


def test_raw_text_is_continued_without_the_template(lm: LanguageModel, policies: dict[str, Policy]) -> None:
    w = Preference(OBJECTIVES, (0.5, 0.5))
    with Engine(policies) as engine:
        answer = gather(engine.submit(Job("base", "red sun", w, Sampling(5, 0.0))))
        empty = gather(engine.submit(Job("base", "", w, Sampling(5, 0.0))))
        tagged = gather(engine.submit(Job("ric", "red sun", w, Sampling(5, 0.0))))
        spelled = gather(engine.submit(Job("ric-tokens", "red sun", w, Sampling(5, 0.0))))
    ids = lm.tokenizer("red sun").input_ids
    assert answer.tokens == generate(lm, [ids], Sampling(5, 0.0), [0])[0].tokens
    assert answer.end.prompt_tokens == len(ids)
    assert empty.end.prompt_tokens == 1
    assert tagged.end.prompt_tokens > len(ids)
    reader = policies["ric-tokens"]
    read = reader.lm.encode_text("red sun" + reader.prompt_end(w))
    assert spelled.end.prompt_tokens == len(read)
    assert sum(token >= lm.model.config.vocab_size for token in read) == len(OBJECTIVES)


def test_adapters_are_stacked_once(lm: LanguageModel, policies: dict[str, Policy]) -> None:
    engine, asked = Engine(policies), ([(Message("user", "sun"),)], [Preference.uniform(OBJECTIVES)])
    panacea = policies["panacea"].adapters[0].rank
    assert sum(adapter.rank for adapter in engine._intake.adapters) == 3 * 2 + 2 + 2 + panacea
    with engine, pytest.raises(ModelError, match="gated layers already"):
        policies["soup"].generate(*asked)
    assert policies["soup"].generate(*asked)


# Text


@pytest.mark.slow
def test_pieces_make_the_text_and_stop_strings_do_not_appear(
    lm: LanguageModel, policies: dict[str, Policy]
) -> None:
    jobs = [replace(job, sampling=LONG) for job in jobs_for(policies, 16)]
    whole = [expected(policies, job).text for job in jobs]
    stops = [" ".join(text.split()[3:5]) for text in whole]
    with Engine(policies) as engine:
        plain = [list(engine.submit(job)) for job in jobs]
        stopped = [
            gather(engine.submit(replace(job, stop=(stop, "never met"))))
            for job, stop in zip(jobs, stops, strict=True)
            if stop
        ]
    for text, events in zip(whole, plain, strict=True):
        assert isinstance(events[-1], End) and all(isinstance(event, Piece) for event in events[:-1])
        assert "".join(event.text for event in events[:-1]) == text  # type: ignore[union-attr]
        assert len(events) > min(len(text.split()), 2) or not text
    assert len(stopped) >= 8
    for answer, text, stop in zip(
        stopped, [t for t, s in zip(whole, stops, strict=True) if s], filter(None, stops), strict=True
    ):
        assert answer.text == text[: text.index(stop)].rstrip()
        assert answer.end.reason == "stop" and stop not in answer.text


def test_events_come_to_an_event_loop(lm: LanguageModel, policies: dict[str, Policy]) -> None:
    jobs = jobs_for(policies, 8)

    async def one(engine: Engine, job: Job) -> Answer:
        loop, events = asyncio.get_running_loop(), asyncio.Queue()  # type: ignore[var-annotated]
        engine.submit(job, on_event=lambda event: loop.call_soon_threadsafe(events.put_nowait, event))
        seen: list[Event] = []
        while not seen or not isinstance(seen[-1], End):
            seen.append(await events.get())
        return gather(seen)

    async def everything(engine: Engine) -> list[Answer]:
        return await asyncio.gather(*(one(engine, job) for job in jobs))

    with Engine(policies) as engine:
        answers = asyncio.run(everything(engine))
    check(policies, jobs, answers)


# Ends before the end


@pytest.fixture
def endless(lm: LanguageModel, policies: dict[str, Policy]) -> Iterator[Job]:
    """A job that runs for its 200 tokens."""
    stops = lm.stops
    vars(lm)["stops"] = frozenset()
    yield Job("soup", (Message("user", "red sun"),), Preference(OBJECTIVES, (0.4, 0.6)), LONG)
    vars(lm)["stops"] = stops


@pytest.mark.slow
def test_cancelling(lm: LanguageModel, policies: dict[str, Policy], endless: Job) -> None:
    with Engine(policies, EngineLimits(max_rows=9)) as engine:
        running = [engine.submit(replace(endless, policy=name)) for name in ("soup", "mod", "resampled")]
        waiting = [engine.submit(endless) for _ in range(3)]
        events = iter(running[0])
        assert isinstance(next(events), Piece)
        for stream in (running[0], running[2], waiting[2]):
            stream.cancel()
        ends = [gather(stream).end.reason for stream in (running[2], waiting[2])]
        assert ends == ["cancelled", "cancelled"]
        assert gather(events).end.reason == "cancelled"
        others = [gather(stream) for stream in (running[1], *waiting[:2])]
        running[1].cancel()  # has ended: nothing happens
    want = [expected(policies, replace(endless, policy=name)).tokens for name in ("mod", "soup", "soup")]
    assert [answer.tokens for answer in others] == want


@pytest.mark.slow
def test_deadlines(lm: LanguageModel, policies: dict[str, Policy], endless: Job) -> None:
    with Engine(policies, EngineLimits(max_rows=9)) as engine:
        now = time.monotonic()
        streams = [engine.submit(endless, deadline=now + wait) for wait in (-1.0, 0.05, 60.0)]
        late, cut, whole = (gather(stream) for stream in streams)
    assert (late.end.reason, late.tokens, late.end.first_token_seconds) == ("timeout", (), None)
    assert cut.end.reason == "timeout" and 0 < len(cut.tokens) < 200
    assert cut.tokens == whole.tokens[: len(cut.tokens)]
    assert whole.end.reason == "length"


def test_a_full_queue(lm: LanguageModel, policies: dict[str, Policy], endless: Job) -> None:
    with Engine(policies, EngineLimits(max_rows=9, max_waiting=2)) as engine:
        streams = [engine.submit(endless)]
        wait_for(lambda: engine.stats.running == 1)
        streams += [engine.submit(replace(endless, policy="resampled"))]
        with pytest.raises(Overloaded, match="requests are waiting already") as caught:
            for _ in range(20):
                streams.append(engine.submit(replace(endless, policy="resampled")))
        assert caught.value.retry_after >= 1
        assert len(streams) >= 3
        for stream in streams:
            stream.cancel()
        for stream in streams:
            gather(stream)
        engine.submit(endless).cancel()


def test_jobs_are_admitted_all_or_none(lm: LanguageModel, policies: dict[str, Policy], endless: Job) -> None:
    with Engine(policies, EngineLimits(max_rows=9, max_waiting=9)) as engine:
        refused, lock, streams = [], threading.Lock(), []

        def ask() -> None:
            try:
                made = engine.submit_all([replace(endless, seed=n) for n in range(8)])
            except Overloaded:
                refused.append(1)
            else:
                with lock:
                    streams.extend(made)

        threads = [threading.Thread(target=ask) for _ in range(5)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(streams) == 16 and len(refused) == 3, "two requests fit together, and no half of another"
        with pytest.raises(Unsupported, match="ask for fewer"):
            engine.submit_all([endless] * 19)
        for stream in streams:
            stream.cancel()
        assert {gather(stream).end.reason for stream in streams} == {"cancelled"}
        wait_for(lambda: engine.stats.running == 0)
        at_once = engine.submit_all([replace(endless, sampling=Sampling(1), seed=n) for n in range(18)])
        assert len([gather(stream) for stream in at_once]) == 18, "free rows and the queue together"


def test_a_short_prompt_does_not_wait_for_long_ones(
    lm: LanguageModel, policies: dict[str, Policy], endless: Job
) -> None:
    long = replace(endless, prompt=(Message("user", "sun " * 200),), sampling=Sampling(8))
    limits = EngineLimits(prefill_tokens=8)
    with Engine(policies, limits) as engine:
        order: list[Event] = []
        streams = [engine.submit(replace(long, seed=n)) for n in range(3)]
        engine.submit(replace(endless, sampling=Sampling(1)), on_event=order.append)
        wait_for(lambda: bool(order))
        assert engine.stats.first_tokens == 1, "no long one has begun"
        answers = [gather(stream) for stream in streams]
    check(policies, [replace(long, seed=n) for n in range(3)], answers)


def test_rows_are_shared_out_among_clients(
    lm: LanguageModel, policies: dict[str, Policy], endless: Job
) -> None:
    with Engine(policies, EngineLimits(max_rows=9)) as engine:
        held = [engine.submit(replace(endless, client="many")) for _ in range(9)]
        wait_for(lambda: engine.stats.running == 9)
        order: list[str] = []
        short = replace(endless, sampling=Sampling(2))
        for client in ("many", "many", "many", "few"):
            engine.submit(replace(short, client=client), on_event=lambda event, c=client: order.append(c))  # type: ignore[misc]
        held[0].cancel()
        wait_for(lambda: "few" in order)
        assert order[0] == "few", "the oldest of the client with the fewest rows is next"
        for stream in held:
            stream.cancel()


def test_refusals(lm: LanguageModel, policies: dict[str, Policy], endless: Job) -> None:
    engine = Engine(policies, EngineLimits(max_prompt_tokens=40))
    with pytest.raises(Unavailable, match="start the engine first"):
        engine.submit(endless)
    with engine:
        for job, error, message in [
            (replace(endless, prompt=(Message("user", "sun " * 60),)), PromptTooLong, "at most 40"),
            (replace(endless, sampling=Sampling(300)), PromptTooLong, "together more than 256"),
            (replace(endless, policy="soap"), PreferenceError, "did you mean 'soup'"),
            (replace(endless, preference=Preference(("a", "b"), (0.5, 0.5))), PreferenceError, "'a'"),
            (replace(endless, seed=-1), ConfigError, "seed -1"),
            (replace(endless, seed=2**63), ConfigError, "seed"),
        ]:
            with pytest.raises(error, match=message):
                engine.submit(job)
        with pytest.raises(DataError, match="already holds the tag"):
            engine.submit(replace(endless, policy="ric", prompt=(Message("user", "a <short: 3/10>"),)))
        assert len(gather(engine.submit(endless)).tokens) == 200
        with pytest.raises(Unavailable, match="create a new one"):
            engine.start()
    with pytest.raises(Unavailable, match="create a new one"):
        engine.submit(endless)
    for options, message in [
        ({"max_rows": 8}, "resampled takes up to 9 rows"),
        ({"max_waiting": 0}, "max_waiting must be at least 1"),
    ]:
        with pytest.raises(ConfigError, match=message):
            Engine(policies, EngineLimits(**options))
    with pytest.raises(ModelError, match="no policy"):
        Engine({})
    other = replace(lm, fingerprint="another")
    with pytest.raises(ModelError, match="base model"):
        Engine({**policies, "other": Policy.base(other, OBJECTIVES)})
    broken = Policy.soup("b", lm, OBJECTIVES, [random_adapter(lm, 0, float("nan"))] * 2)
    with pytest.raises(ModelError, match="not finite"):
        Engine({**policies, "b": broken})


@pytest.mark.slow
def test_the_cache_stays_within_its_bound(lm: LanguageModel, policies: dict[str, Policy]) -> None:
    jobs = jobs_for({"soup": policies["soup"], "mod": policies["mod"]}, 24)
    with Engine(policies, EngineLimits(max_cached_tokens=9 * 120)) as engine:
        most = 0
        streams = [engine.submit(job) for job in jobs]
        while engine.stats.running or engine.stats.waiting:
            most = max(most, engine.stats.cached_tokens)
        answers = [gather(stream) for stream in streams]
    assert 0 < most <= 9 * 120
    check(policies, jobs, answers)


# The end of the engine


@pytest.mark.slow
def test_draining_finishes_what_was_accepted(
    lm: LanguageModel, policies: dict[str, Policy], endless: Job
) -> None:
    engine = Engine(policies, EngineLimits(max_rows=9))
    engine.start()
    streams = [engine.submit(endless) for _ in range(12)]
    stopping = threading.Thread(target=engine.stop)
    stopping.start()
    wait_for(lambda: engine._state != "running")
    with pytest.raises(Unavailable, match="is stopping"):
        engine.submit(endless)
    assert {len(gather(stream).tokens) for stream in streams} == {200}
    stopping.join()
    engine.stop()  # a second time does nothing
    policies["soup"].generate([endless.prompt], [endless.preference], Sampling(1))  # the model is free again


def test_stopping_at_once_ends_every_stream(
    lm: LanguageModel, policies: dict[str, Policy], endless: Job
) -> None:
    for stop in (lambda e: e.stop(drain=False), lambda e: e.stop(timeout=0.05)):
        engine = Engine(policies, EngineLimits(max_rows=9))
        engine.start()
        streams = [engine.submit(endless) for _ in range(20)]
        wait_for(lambda engine=engine: engine.stats.tokens > 20)
        stop(engine)
        ends = [gather(stream).end for stream in streams]
        assert {end.reason for end in ends} <= {"cancelled", "length"} and ends[-1].reason == "cancelled"
    Engine(policies).stop()  # never started


def test_a_dead_thread_fails_all_streams(
    lm: LanguageModel, policies: dict[str, Policy], endless: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    with Engine(policies, EngineLimits(max_rows=9)) as engine:
        streams = [engine.submit(endless) for _ in range(20)]
        wait_for(lambda: engine.stats.tokens > 20)
        monkeypatch.setattr(engine, "_drop_over", lambda: (_ for _ in ()).throw(SystemExit("gone")))
        ends = [gather(stream).end for stream in streams]
        assert {(end.reason, end.message) for end in ends} == {
            ("error", "the engine's thread died: SystemExit('gone')")
        }
        with pytest.raises(Unavailable, match="thread died"):
            engine.submit(endless)
    policies["soup"].generate([endless.prompt], [endless.preference], Sampling(1))


# Errors of one leave the others


@pytest.mark.slow
def test_errors_of_one_row_leave_the_others(
    lm: LanguageModel, policies: dict[str, Policy], endless: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    w = endless.preference
    huge = Policy.soup("huge", lm, OBJECTIVES, [random_adapter(lm, seed, 1e18) for seed in (7, 8)])
    real = GatedPolicy.gates

    def gates(self: GatedPolicy, preferences: list[Preference]) -> object:
        if self.name == "anchors":
            raise RuntimeError("a policy that raises")
        return real(self, preferences)

    def failing(event: Event) -> None:
        raise RuntimeError("the loop is closed")

    want = expected(policies, endless).tokens
    monkeypatch.setattr(GatedPolicy, "gates", gates)
    with Engine({**policies, "huge": huge}, EngineLimits(max_rows=9)) as engine:
        before = engine.submit(endless)
        wait_for(lambda: engine.stats.tokens > 5)
        with pytest.raises(RuntimeError, match="a policy that raises"):
            engine.submit(replace(endless, policy="anchors"))
        infinite = gather(engine.submit(Job("huge", endless.prompt, w, LONG)))
        assert infinite.end.reason == "error" and "not finite" in infinite.end.message
        engine.submit(endless, on_event=failing)
        after = engine.submit(endless)
        assert gather(before).tokens == gather(after).tokens == want
        wait_for(lambda: engine.stats.running == 0)
        assert engine.stats.ended == {"error": 1, "cancelled": 1, "length": 2}


@pytest.mark.slow
def test_a_failing_forward_ends_its_rows_and_the_engine_goes_on(
    lm: LanguageModel, policies: dict[str, Policy], endless: Job, monkeypatch: pytest.MonkeyPatch
) -> None:
    real, broken = Batch._forward, threading.Event()

    def forward(self: Batch, *arguments: object) -> torch.Tensor:
        if broken.is_set():
            broken.clear()
            raise RuntimeError("out of memory")
        return real(self, *arguments)

    monkeypatch.setattr(Batch, "_forward", forward)
    with Engine(policies, EngineLimits(max_rows=9)) as engine:
        for _ in range(3):
            streams = [engine.submit(endless) for _ in range(3)]
            wait_for(lambda: engine.stats.running == 3)
            broken.set()
            ends = [gather(stream).end for stream in streams]
            assert "error" in {end.reason for end in ends}
            assert all(end.message == "the model failed: out of memory" for end in ends if end.message)
        again = gather(engine.submit(endless))
    assert again.tokens == expected(policies, endless).tokens


# Nobody is stuck, nothing is left


@pytest.mark.slow
def test_random_joins_leaves_and_cancels(lm: LanguageModel, policies: dict[str, Policy]) -> None:
    """120 jobs from four threads; a third is cancelled, some have little time, a quarter is never read."""
    jobs = jobs_for(policies, 120)
    for job in jobs[: len(policies)]:
        expected(policies, job)  # what a model keeps from its first use on is there
    gc.collect()
    before = held()
    engine = Engine(policies, EngineLimits(max_rows=16, max_waiting=1000, prefill_tokens=32))
    with engine:
        ends: list[tuple[int, Answer]] = []

        def client(numbers: range) -> None:
            rng = random.Random(numbers.start)
            for number in numbers:
                deadline = time.monotonic() + rng.choice([0.01, 60, 60, 60])
                stream = engine.submit(jobs[number], deadline)
                if rng.random() < 0.33:
                    time.sleep(rng.random() * 0.02)
                    stream.cancel()
                if rng.random() < 0.75:
                    ends.append((number, gather(stream)))

        threads = [threading.Thread(target=client, args=(range(start, 120, 4),)) for start in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join(120)
            assert not thread.is_alive()
        wait_for(lambda: engine.stats.running == engine.stats.waiting == engine.stats.rows == 0)
        stats = engine.stats
        assert stats.cached_tokens == 0
        assert sum(stats.ended.values()) == 120 and "error" not in stats.ended
        gc.collect()
        assert not [thing for thing in gc.get_objects() if type(thing) is Slot], "requests are forgotten"
        assert all(layer._storage is None for layer in engine._batch._cache.layers)
    gc.collect()
    assert held() <= before * 1.01
    reasons = {answer.end.reason for _, answer in ends}
    assert reasons >= {"stop", "length", "cancelled"} and len(ends) > 60
    for number, answer in ends:
        whole = answer.end.reason in ("stop", "length")
        if whole or answer.tokens:
            tokens = expected(policies, jobs[number]).tokens
            assert answer.tokens == (tokens if whole else tokens[: len(answer.tokens)])


def held() -> int:
    """Bytes of all tensors that are alive, but those without storage: in oneDNN's own layout (frozen weights), or a shape alone."""
    storages = {
        thing.untyped_storage().data_ptr(): thing.untyped_storage().nbytes()
        for thing in gc.get_objects()
        if issubclass(type(thing), torch.Tensor)
        and not thing.is_mkldnn
        and not issubclass(type(thing), FakeTensor)
    }
    return sum(storages.values())


@pytest.mark.model
@pytest.mark.skipif(embedded_gguf() is None, reason="the package of the embedded model is not installed")
@pytest.mark.slow
def test_the_embedded_model(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.delenv("PARETUNE_CACHE", raising=False)
    lm = load(EMBEDDED, "float32", "cpu")
    adapters = [random_adapter(lm, seed, 0.03) for seed in range(2)]
    policies = {
        "soup": Policy.soup("soup", lm, OBJECTIVES, adapters),
        "mod": Policy.mod("mod", lm, OBJECTIVES, adapters),
    }
    jobs = [
        Job(
            name,
            (Message("user", question),),
            Preference(OBJECTIVES, (weight, 1 - weight)),
            Sampling(12, temperature, 0.9),
            number,
        )
        for number, (name, question, weight, temperature) in enumerate(
            [
                ("soup", "Write three emoji: 😀", 0.2, 0.0),
                ("mod", "How do I bake bread that rises?", 0.6, 0.0),
                ("soup", "Name a cat.", 0.9, 1.0),
                ("mod", "Sing.", 0.5, 0.8),
            ]
        )
    ]
    with Engine(policies, EngineLimits(prefill_tokens=64)) as engine:
        streams = []
        for job in jobs:
            streams.append(engine.submit(job))
            time.sleep(0.3)
        answers = [gather(stream) for stream in streams]
    check(policies, jobs, answers)
