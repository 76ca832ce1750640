"""Reading prompts before decoding: in parts of similar length, and what they all begin with once."""

from __future__ import annotations

import random
from types import SimpleNamespace

import pytest
import torch
from transformers import AutoModelForCausalLM, DynamicCache, Phi3Config

from paretune.core.meter import counts
from paretune.core.sampling import Sampling
from paretune.generation import prefill
from paretune.generation.batch import Batch, Slot
from paretune.generation.generate import Response, attached, generate, response_logps
from paretune.models.kv_cache import growing_cache, keys_follow_length, rows_beginning, rows_gathered
from paretune.models.language_model import LanguageModel
from paretune.models.packing import BEGINNING, share_beginning
from support.adapters import random_adapter
from support.architectures import SIZES

DRAWN = Sampling(5, temperature=1.0, batch_size=64)
SYSTEM = list(range(3, 15))
"""What prompts begin with, longer than :data:`BEGINNING`."""


@pytest.fixture
def shapes(monkeypatch: pytest.MonkeyPatch) -> list[tuple[int, int]]:
    """Rows and tokens of each forward in which prompts are read."""
    found: list[tuple[int, int]] = []
    forward = Batch._forward

    def noted(self: Batch, cache: DynamicCache, ids: list[list[int]], *rest: object) -> object:
        if not self.rows or not self.rows[0].tokens:
            found.append((len(ids), len(ids[0])))
        return forward(self, cache, ids, *rest)  # type: ignore[arg-type]

    monkeypatch.setattr(Batch, "_forward", noted)
    return found


def made_prompts(count: int, longest: int, beginning: list[int]) -> list[list[int]]:
    chance = random.Random(0)
    return [
        [*beginning, *(chance.randrange(3, 18) for _ in range(chance.randint(1, longest)))]
        for _ in range(count)
    ]


def assert_same(together: list[Response], alone: list[Response]) -> None:
    assert [answer.tokens for answer in together] == [answer.tokens for answer in alone]
    assert [answer.logp for answer in together] == pytest.approx([answer.logp for answer in alone], abs=1e-4)
    assert len({answer.tokens for answer in together}) > len(together) // 2, "they tell rows from each other"


@pytest.mark.parametrize("steered", [False, True])
def test_what_prompts_begin_with_is_read_once_for_each_vector_of_gates(
    lm: LanguageModel, shapes: list[tuple[int, int]], steered: bool
) -> None:
    prompts = made_prompts(8, 9, SYSTEM)
    gates = torch.tensor([[1.0, 0.0], [0.3, 0.7]])[[0, 1] * 4] if steered else None
    kinds = 2 if steered else 1
    with attached(lm, random_adapter(lm, 0)) as steering:
        alone = [
            generate(lm, [prompt], DRAWN, [n], steering, None if gates is None else gates[[n]])[0]
            for n, prompt in enumerate(prompts)
        ]
        shapes.clear()
        before = counts().tokens_read
        together = generate(lm, prompts, DRAWN, range(8), steering, gates)
    widest = max(map(len, prompts))
    assert shapes == [(kinds, len(SYSTEM)), (8, widest - len(SYSTEM))]
    # A row that is shorter than the widest reads what its padding pushes out of the beginning again.
    rest = sum(len(p) - max(0, len(SYSTEM) - (widest - len(p))) for p in prompts)
    assert counts().tokens_read - before == kinds * len(SYSTEM) + rest < sum(map(len, prompts))
    assert_same(together, alone)


def test_where_little_is_in_common_prompts_are_read_whole(
    lm: LanguageModel, shapes: list[tuple[int, int]]
) -> None:
    prompts = made_prompts(8, 9, SYSTEM[: BEGINNING - 1])
    generate(lm, prompts, DRAWN, range(8))
    assert shapes == [(8, max(map(len, prompts)))]
    shapes.clear()
    generate(lm, [SYSTEM, [*SYSTEM, 7], [*SYSTEM, 8, 9]], DRAWN, range(3))
    assert shapes[0] == (1, len(SYSTEM) - 1), "of each prompt at least its last token is read on its own"


def test_prompts_are_read_in_parts_of_similar_length(
    lm: LanguageModel, shapes: list[tuple[int, int]], monkeypatch: pytest.MonkeyPatch
) -> None:
    prompts = made_prompts(12, 30, [])
    alone = [generate(lm, [prompt], DRAWN, [n])[0] for n, prompt in enumerate(prompts)]
    monkeypatch.setattr(prefill, "READ_TOKENS", (64, 32))
    shapes.clear()
    together = generate(lm, [*prompts, prompts[0]], DRAWN, [*range(12), 0])
    assert sum(rows for rows, _ in shapes) == 12, "a prompt that is there twice is read once"
    assert len(shapes) > 4 and all(rows == 1 or rows * width <= 32 for rows, width in shapes)
    assert [width for _, width in shapes] == sorted(width for _, width in shapes)
    assert together[12].tokens == together[0].tokens
    assert_same(together[:12], alone)


@pytest.mark.parametrize("steered", [False, True])
def test_log_probabilities_behind_a_common_beginning_are_those_behind_whole_prompts(
    lm: LanguageModel, steered: bool
) -> None:
    """Responses of one token too, whose first token the end of the prompt predicts."""
    chance = random.Random(1)
    prompts = made_prompts(6, 9, SYSTEM)
    groups = [(p, [[chance.randrange(3, 18) for _ in range(n % 3 + 1)]]) for n, p in enumerate(prompts)]
    gates = torch.tensor([1.0, 0.5]) if steered else None
    with attached(lm, random_adapter(lm, 0)) as steering:
        alone = [response_logps(lm, [group], steering, gates)[0] for group in groups]
        before = counts().tokens_read
        together = response_logps(lm, groups, steering, gates)
        assert counts().tokens_read - before == sum(len(p) + len(r[0]) for p, r in groups) - 5 * len(SYSTEM)
        if gates is not None:
            rows = response_logps(
                lm, groups, steering, gates.expand(6, 2)
            )  # groups with gates of their own share nothing
            torch.testing.assert_close(torch.cat(rows), torch.cat(alone), atol=1e-5, rtol=1e-5)
    torch.testing.assert_close(torch.cat(together), torch.cat(alone), atol=1e-5, rtol=1e-5)
    assert torch.cat(alone).unique().numel() == 6


def test_groups_of_several_responses_keep_their_prompts() -> None:
    two = [([*SYSTEM, 3], [[4], [5]]), ([*SYSTEM, 6], [[7]])]
    assert share_beginning(two) == (two, [[0, 0], [0]])
    one = [(SYSTEM, [[4, 5]])]
    assert share_beginning(one) == (one, [[0]])
    alike = [(SYSTEM, [[4, 5]]), ([*SYSTEM, 9], [[6]])]
    assert share_beginning(alike) == ([(SYSTEM[:-1], [[14, 4, 5], [14, 9, 6]])], [[1, 2]])


def test_rows_of_several_caches_are_gathered_and_begin_like_others(lm: LanguageModel) -> None:
    generator = torch.Generator().manual_seed(0)

    def filled(rows: int, length: int) -> DynamicCache:
        cache = growing_cache(lm.model.config)
        for layer in range(2):
            states = [torch.randn(rows, 2, length, 4, generator=generator) for _ in range(2)]
            cache.update(*states, layer)
        return cache

    parts = filled(2, 3), filled(3, 5)
    kept = [[(layer.keys.clone(), layer.values.clone()) for layer in part.layers] for part in parts]
    sources = [(1, 2), (0, 1), (1, 2), (0, 0), (1, 0), (1, 1)]
    found = rows_gathered(parts, sources)
    assert found.get_seq_length() == 5
    for number, layer in enumerate(found.layers):
        for row, (part, source) in enumerate(sources):
            length = (3, 5)[part]
            for ours, theirs in zip((layer.keys, layer.values), kept[part][number], strict=True):
                assert torch.equal(ours[row, :, 5 - length :], theirs[source])
                assert not ours[row, :, : 5 - length].any()

    read, pads = filled(2, 4), [0, 3, 6, 1]
    begun = rows_beginning(read, [1, 0, 1, 0], pads)
    assert begun.get_seq_length() == read.get_seq_length() == 4
    for ours, theirs in zip(begun.layers, read.layers, strict=True):
        for row, (source, pad) in enumerate(zip([1, 0, 1, 0], pads, strict=True)):
            for mine, other in ((ours.keys, theirs.keys), (ours.values, theirs.values)):
                assert torch.equal(mine[row, :, pad:], other[source, :, : max(0, 4 - pad)])
                assert bool(mine.isfinite().all())
    more = [torch.randn(4, 2, 1, 4, generator=generator) for _ in range(2)]
    keys, _ = begun.update(*more, 0)
    assert keys.shape[-2] == 5 and torch.equal(keys[:, :, 4:], more[0])


def test_no_part_is_read_before_where_positions_are_rotated_by_the_length_of_a_text() -> None:
    """Phi-3's longrope has other factors beyond its first context, so a beginning that is read alone has other keys."""
    factors = {"short_factor": [1.0] * 4, "long_factor": [1.0, 2.0, 4.0, 8.0]}
    rope = {"rope_type": "longrope", "rope_theta": 10000.0, "original_max_position_embeddings": 40, **factors}
    config = Phi3Config(
        **{**SIZES, "max_position_embeddings": 256, "original_max_position_embeddings": 40},
        rope_parameters=rope,
    )
    assert keys_follow_length(config) and not keys_follow_length(Phi3Config(**SIZES))
    torch.manual_seed(0)
    model = AutoModelForCausalLM.from_config(config).eval().requires_grad_(False)
    for parameter in model.parameters():
        if parameter.dim() > 1:
            parameter.mul_(4)
    lm = SimpleNamespace(model=model, device=torch.device("cpu"), turn_end=2, stops=frozenset())
    prompts = made_prompts(4, 1, SYSTEM)
    prompts = [[*prompt, *range(3, 60 - len(prompt) + 3)] for prompt in prompts]
    rows = [Slot(prompt, Sampling(1, temperature=0.0), 0) for prompt in prompts]
    Batch(lm, None, rows).read()  # type: ignore[arg-type]
    for row in rows:
        logps = model(torch.tensor([row.prompt])).logits[0, -1].log_softmax(-1)
        assert row.logp == pytest.approx(float(logps.max()), abs=1e-5)
