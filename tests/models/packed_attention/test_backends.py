"""Each backend against padded eager attention, in output and gradients; and which of them a device gets."""

from __future__ import annotations

import inspect
import logging
from collections.abc import Callable
from dataclasses import replace
from typing import get_args

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor
from torch.nn.attention import flex_attention as torch_flex
from torch.nn.attention.varlen import varlen_attn

from paretune.core.errors import ModelError
from paretune.models import packing
from paretune.models.packed_attention import varlen
from paretune.models.packed_attention.backends import (
    BACKENDS,
    ORDER,
    Attention,
    Backend,
    Capability,
    capability_of,
    choose,
)
from paretune.models.packed_attention.blocks import PROMPT_BLOCK, RESPONSE_BLOCK, block_biases
from paretune.models.packed_attention.check import backend_error
from paretune.models.packed_attention.flex import block_mask
from paretune.models.packed_attention.interface import backend_of, implementation
from paretune.models.packed_attention.layout import PackedLayout, bias, hidden
from paretune.models.packing import prepare
from paretune.models.steering import Steering
from paretune.runs.config import RunConfig
from support.attending import Sizes, padded
from support.attending import varlen as varlen_by_the_indices

Attend = Callable[[Tensor, Tensor, Tensor], Tensor]

SIZES: dict[str, Sizes] = {
    "short": [(5, [4, 3]), (1, [1]), (2, [6])],
    "longer than a block": [(PROMPT_BLOCK + 6, [3, 140]), (PROMPT_BLOCK, [PROMPT_BLOCK]), (130, [1, 1])],
}
LONG: Sizes = [(4000, [33])]


@pytest.fixture(autouse=True)
def on_the_cpu(monkeypatch: pytest.MonkeyPatch) -> None:
    """Let FlexAttention form gradients, which it refuses on the CPU, and let FlashAttention be its documentation in torch."""
    monkeypatch.setattr(torch_flex, "_validate_device", lambda *states: None)
    monkeypatch.setattr(varlen, "kernel", lambda: varlen_by_the_indices)


def layout_of(sizes: Sizes) -> PackedLayout:
    return PackedLayout(tuple((prompt, tuple(responses)) for prompt, responses in sizes))


def states(sizes: Sizes, heads: int, shared: int, width: int) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(len(sizes))
    tokens = layout_of(sizes).tokens
    return tuple(torch.randn(1, n, tokens, width, generator=generator) for n in (heads, shared, shared))  # type: ignore[return-value]


def results(attend: Attend, inputs: tuple[Tensor, Tensor, Tensor]) -> list[Tensor]:
    """Return the output, and its gradients under weights that no symmetry hides."""
    leaves = [x.clone().requires_grad_() for x in inputs]
    out = attend(*leaves)
    weights = torch.randn(out.shape, generator=torch.Generator().manual_seed(9))
    return [out.detach(), *torch.autograd.grad((out * weights).sum(), leaves)]


def check(
    name: str, sizes: Sizes, heads: tuple[int, int], window: int | None = None, sinks: Tensor | None = None
) -> None:
    layout, inputs = layout_of(sizes), states(sizes, *heads, 8)
    attend = BACKENDS[name].attend
    found = results(lambda q, k, v: attend(layout, q, k, v, 0.3, window, sinks), inputs)
    expected = results(lambda q, k, v: padded(sizes, q, k, v, 0.3, window, sinks), inputs)
    for a, b in zip(found, expected, strict=True):
        assert a.shape == b.shape
        torch.testing.assert_close(a, b, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("window", [None, 1, 5, 100])
@pytest.mark.parametrize("heads", [(4, 2), (2, 2), (3, 1)])
@pytest.mark.parametrize("sizes", SIZES)
@pytest.mark.parametrize("name", ["blocks", "products", "sdpa", "varlen"])
def test_a_backend_is_padded_eager_attention(
    name: str, sizes: str, heads: tuple[int, int], window: int | None
) -> None:
    check(name, SIZES[sizes], heads, window)


@pytest.mark.parametrize(
    ("sizes", "heads", "window"),
    [
        *(("short", heads, window) for heads in ((4, 2), (2, 2), (3, 1)) for window in (None, 1, 5, 100)),
        *(("longer than a block", heads, window) for heads in ((4, 2), (3, 1)) for window in (None, 5)),
    ],
)
@pytest.mark.slow
def test_flex_is_padded_eager_attention(sizes: str, heads: tuple[int, int], window: int | None) -> None:
    """It is slow here, without a compiler, so long texts are read with fewer windows than by the other backends."""
    check("flex", SIZES[sizes], heads, window)


@pytest.mark.parametrize("name", ["blocks", "sdpa", "flex"])
def test_sinks_take_their_share(name: str) -> None:
    check(name, SIZES["short"], (4, 2), 5, torch.tensor([0.5, -1.0, 2.0, 0.0]))


@pytest.mark.parametrize("sinks", [None, torch.tensor([0.5, -1.0, 2.0, 0.0])])
@pytest.mark.parametrize("window", [None, 5])
def test_the_masked_fallback_never_lets_queries_share_keys_by_themselves(
    window: int | None, sinks: Tensor | None, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A mask together with ``enable_gqa`` leaves CUDA the one kernel that keeps the scores."""
    calls = spied(monkeypatch)
    check("sdpa", SIZES["short"], (4, 2), window, sinks)
    assert calls and all(call == (True, False, True) for call in calls)


def test_a_model_on_the_fallback_never_does_in_training_or_sampling(
    tiny_llama, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = tiny_llama().requires_grad_(False)
    assert model.config.num_key_value_heads < model.config.num_attention_heads
    prepare(model, attention="sdpa")
    calls = spied(monkeypatch)
    steering = Steering.attach(model, ["q_proj"], 2)
    with steering.at(torch.ones(2)):
        packing.packed_logps(model, packing.pack([([1, 2, 3], [[4, 5], [6]]), ([7], [[8]])])).sum().backward()
    packed = len(calls)
    steering.detach()
    ids = torch.tensor([[0, 5, 6], [7, 8, 9]])
    model.generate(ids, attention_mask=(ids > 0).long(), max_new_tokens=3, do_sample=False, pad_token_id=0)
    assert 0 < packed < len(calls)
    assert not any(masked and shared for masked, shared, _ in calls)


def spied(monkeypatch: pytest.MonkeyPatch) -> list[tuple[bool, bool, bool]]:
    """Let each call of torch's attention say: it has a mask, queries share keys, there are as many heads of keys as of queries."""
    calls: list[tuple[bool, bool, bool]] = []
    whole = F.scaled_dot_product_attention

    def watched(query: Tensor, key: Tensor, value: Tensor, *given: object, **options: object) -> Tensor:
        mask = given[0] if given else options.get("attn_mask")
        calls.append((mask is not None, bool(options.get("enable_gqa")), query.shape[1] == key.shape[1]))
        return whole(query, key, value, *given, **options)

    monkeypatch.setattr(F, "scaled_dot_product_attention", watched)
    return calls


@pytest.mark.slow
def test_a_prompt_of_4000_tokens() -> None:
    """All backends at once, against one run of the oracle; the window hides the beginning from the end."""
    layout, inputs = layout_of(LONG), states(LONG, 1, 1, 8)
    expected = results(lambda q, k, v: padded(LONG, q, k, v, 0.3, 3000), inputs)
    for backend in BACKENDS.values():
        found = results(lambda q, k, v, b=backend: b.attend(layout, q, k, v, 0.3, 3000, None), inputs)
        for a, b in zip(found, expected, strict=True):
            torch.testing.assert_close(a, b, atol=5e-5, rtol=5e-5)


@pytest.mark.parametrize("window", [None, 40, RESPONSE_BLOCK + 20])
def test_responses_longer_than_a_block(window: int | None) -> None:
    check(
        "blocks", [(70, [RESPONSE_BLOCK + 7, 2 * RESPONSE_BLOCK, 3]), (1, [RESPONSE_BLOCK])], (3, 1), window
    )
    check("blocks", [(2, [RESPONSE_BLOCK + 1])], (1, 1), window, torch.tensor([0.5]))
    check("products", [(140, [260, 512, 3]), (1, [256]), (600, [2])], (3, 1), window)


def test_products_with_values_of_another_width() -> None:
    layout = layout_of(SIZES["short"])
    q, k, v = states(SIZES["short"], 4, 2, 8)
    inputs = q, k, v[..., :6]
    found, expected = (
        results(lambda q, k, v, name=name: BACKENDS[name].attend(layout, q, k, v, None, None, None), inputs)
        for name in ("products", "blocks")
    )
    for a, b in zip(found, expected, strict=True):
        torch.testing.assert_close(a, b, atol=2e-5, rtol=2e-5)


@pytest.mark.parametrize("common", [0.0, 30.0])
def test_products_in_bfloat16_lose_no_more_than_rounded_inputs_do(common: float) -> None:
    """Where keys and values have much in common, scores and their gradients are small differences of large numbers."""
    sizes: Sizes = [(150, [70, 40]), (20, [300])]
    layout, generator = layout_of(sizes), torch.Generator().manual_seed(3)
    q, k, v = (x.bfloat16() for x in states(sizes, 6, 2, 64))
    offset = common * torch.randn(1, 2, 1, 64, generator=generator) / 8
    rounded = q, (k + offset).bfloat16(), (v + offset).bfloat16()

    def errors(attend: Attend) -> list[float]:
        found = results(attend, rounded)
        return [float((a.float() - b).norm() / b.norm()) for a, b in zip(found, exact, strict=True)]

    def plain(q: Tensor, k: Tensor, v: Tensor) -> Tensor:
        return BACKENDS["blocks"].attend(layout, q, k, v, None, None, None)

    exact = results(plain, tuple(x.float() for x in rounded))  # type: ignore[arg-type]
    found = errors(lambda q, k, v: BACKENDS["products"].attend(layout, q, k, v, None, None, None))
    # Queries' gradients come from products with keys, so what these have in common stays in their rounding.
    assert max(found) < (0.01 if common == 0 else 0.1)
    assert found[0] < 0.01 and found[2] < 0.02
    if common:
        assert found[1] < 0.3 * errors(plain)[1]


def test_masks_grow_with_the_length_of_a_response() -> None:
    """All biases of a batch are parts of one tensor, so a response of 4,096 tokens has no 4,096 x 4,096 mask."""
    layout = layout_of([(100, [4096, 30]), (300, [1000])])
    made = block_biases(layout, None, torch.device("cpu"), torch.float32)
    storages = {
        mask.untyped_storage().data_ptr(): mask.untyped_storage().nbytes()
        for group in made
        for text in group
        for mask in text
    }
    assert list(storages.values()) == [4 * RESPONSE_BLOCK * (100 + 4096)]
    assert sum(mask.shape[0] for group in made for text in group for mask in text) == layout.tokens


def test_blocks_are_the_attention_of_version_0_1_bit_for_bit() -> None:
    """One call for each text and for each block of 64 prompt tokens, with these biases: what the figures of old runs rest on."""
    sizes = SIZES["longer than a block"]
    q, k, v = states(sizes, 4, 2, 16)
    pieces, start = [], 0
    for prompt, responses in sizes:
        texts = [(start, first, min(64, prompt - first)) for first in range(0, prompt, 64)]
        first = start + prompt
        for number in responses:
            texts.append((first - prompt, prompt, number))
            first += number
        for own, seen, length in texts:
            begin = own + seen
            keys = torch.cat([torch.arange(start, start + seen), torch.arange(begin, begin + length)])
            mask = torch.zeros(length, seen + length).masked_fill(
                torch.ones(length, seen + length, dtype=torch.bool).triu(seen + 1), float("-inf")
            )
            query = q[:, :, begin : begin + length]
            pieces.append(
                F.scaled_dot_product_attention(
                    query, k[:, :, keys], v[:, :, keys], mask, scale=0.3, enable_gqa=True
                )
            )
        start = first
    expected = torch.cat(pieces, dim=2).transpose(1, 2)
    assert torch.equal(BACKENDS["blocks"].attend(layout_of(sizes), q, k, v, 0.3, None, None), expected)


def test_masks_of_a_text() -> None:
    assert hidden(2, 2).tolist() == [[False, False, False, True], [False, False, False, False]]
    assert hidden(2, 2, 2).tolist() == [[True, False, False, True], [True, True, False, False]]
    made = bias(hidden(0, 2), torch.device("cpu"), torch.float32)
    assert made.tolist() == [[0.0, -torch.inf], [0.0, 0.0]]


def test_the_sequences_of_flash_attention() -> None:
    """A prompt of 3 with responses of 2 and 1, and a prompt of 1 with one of 2, written out."""
    found = varlen.sequences(layout_of([(3, [2, 1]), (1, [2])]), torch.device("cpu"))
    assert found.keys.tolist() == [0, 1, 2, 0, 1, 2, 3, 4, 0, 1, 2, 5, 6, 6, 7, 8]
    assert found.query_ends.tolist() == [0, 3, 5, 6, 7, 9] and found.query_ends.dtype == torch.int32
    assert found.key_ends.tolist() == [0, 3, 8, 12, 13, 16] and found.key_ends.dtype == torch.int32
    assert (found.most_queries, found.most_keys) == (3, 5)


@pytest.mark.parametrize(("window", "given"), [(None, (-1, 0)), (4, (3, 0)), (5, (-1, 0)), (1, (0, 0))])
def test_flash_attention_is_called_as_torch_defines_it(
    window: int | None, given: tuple[int, int], monkeypatch: pytest.MonkeyPatch
) -> None:
    """The arguments bind to torch's own function; a window that hides nothing is the causal kernel."""
    calls = []

    def kernel(*arguments: object, **options: object) -> Tensor:
        calls.append(inspect.signature(varlen_attn).bind(*arguments, **options).arguments)
        return varlen_by_the_indices(*arguments, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(varlen, "kernel", lambda: kernel)
    check("varlen", [(3, [2, 1]), (1, [2])], (2, 1), window)
    assert len(calls) == 1 and calls[0]["window_size"] == given and calls[0]["enable_gqa"]


def test_blocks_that_flex_leaves_out() -> None:
    """Two groups of 128 + 128 tokens are four blocks: neither sees the other, and a response sees all of its prompt."""
    mask = block_mask(layout_of([(128, [128]), (128, [128])]), None, torch.device("cpu"))
    full, part = mask.full_kv_num_blocks[0, 0].tolist(), mask.kv_num_blocks[0, 0].tolist()
    assert (full, part) == ([0, 1, 0, 1], [1, 1, 1, 1])
    assert mask.full_kv_indices[0, 0, :, 0].tolist()[1::2] == [0, 2]
    assert mask.kv_indices[0, 0, :, 0].tolist() == [0, 1, 2, 3]


CUDA = Capability("cuda", torch.bfloat16, (9, 0), 128)


@pytest.mark.parametrize(
    ("has", "order"),
    [
        (Capability("cpu", torch.float32), ["blocks"]),
        (Capability("cpu", torch.bfloat16), ["products", "blocks"]),
        (Capability("cpu", torch.bfloat16, slow_bfloat16=True), ["blocks"]),
        (Capability("cpu", torch.bfloat16, sinks=True), ["blocks"]),
        (Capability("mps", torch.bfloat16), ["sdpa"]),
        (Capability("xpu", torch.bfloat16), ["sdpa"]),
        (CUDA, ["varlen", "flex", "sdpa"]),
        (replace(CUDA, dtype=torch.float32), ["flex", "sdpa"]),
        (replace(CUDA, compute=(7, 5)), ["flex", "sdpa"]),
        (replace(CUDA, head_dim=512), ["flex", "sdpa"]),
        (replace(CUDA, sinks=True), ["flex", "sdpa"]),
        (replace(CUDA, compute=(7, 5), compiler=False), ["sdpa"]),
    ],
)
def test_what_a_device_gets(has: Capability, order: list[str]) -> None:
    assert [backend.name for backend in choose("auto", has)] == order
    for name in set(BACKENDS) - set(order) - {"blocks", "sdpa"}:
        with pytest.raises(
            ModelError, match=f"attention '{name}' cannot run here: .+; set attention: auto, or one of blocks"
        ):
            choose(name, has)
    for name in {*order, "blocks", "sdpa"}:
        assert [backend.name for backend in choose(name, has)] == [name]


def test_a_torch_without_the_kernel_is_said(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(torch.backends.cuda, "is_flash_attention_available", lambda: False)
    without = replace(CUDA, lacking=varlen.missing())
    with pytest.raises(ModelError, match="built without FlashAttention; set attention: auto"):
        choose("varlen", without)
    assert [backend.name for backend in choose("auto", without)] == ["flex", "sdpa"]


def test_names() -> None:
    with pytest.raises(ModelError, match="attention 'flexx' is not known; did you mean 'flex'"):
        choose("flexx", CUDA)
    accepted = get_args(RunConfig.model_fields["attention"].annotation)
    assert set(accepted) == set(get_args(Attention)) == {"auto", *BACKENDS}


def test_a_prepared_model_says_its_backend(tiny_llama) -> None:
    model = tiny_llama().requires_grad_(False)
    has = capability_of(model.device, model.dtype, model)
    assert (has.device, has.head_dim, has.sinks) == ("cpu", model.model.layers[0].self_attn.head_dim, False)
    assert backend_of(model) is None
    prepare(model, attention="sdpa")
    assert backend_of(model) is BACKENDS["sdpa"]
    packing.switch_attention(model)
    assert backend_of(model) is BACKENDS["blocks"]
    assert model.config._attn_implementation == implementation("blocks")


def _wrong(change: Callable[[Tensor], Tensor]) -> Backend:
    """Return the masked backend with an output that is changed."""
    right = BACKENDS["sdpa"]
    return replace(right, attend=lambda *given: change(right.attend(*given)))


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_a_backend_that_computes_something_else_is_seen(dtype: torch.dtype) -> None:
    layout = layout_of(SIZES["short"])
    inputs = tuple(x.to(dtype) for x in states(SIZES["short"], 4, 2, 8))

    def error(backend: Backend) -> float:
        return backend_error(backend, layout, inputs, None, 5, None)  # type: ignore[arg-type]

    assert max(error(BACKENDS[name]) for name in BACKENDS) < 1
    assert error(_wrong(lambda out: out * 1.1)) > 1
    assert error(_wrong(lambda out: out.detach() + 0 * out)) > 1, "the gradients are wrong"
    assert error(_wrong(lambda out: out.roll(1, dims=1))) > 1


@pytest.mark.slow
def test_auto_leaves_a_backend_that_fails_and_says_so(
    tiny_llama, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*given: object) -> Tensor:
        raise RuntimeError("no kernel image\nfor this device")

    monkeypatch.setitem(BACKENDS, "varlen", replace(BACKENDS["varlen"], attend=fail))
    right = BACKENDS["flex"].attend
    monkeypatch.setitem(
        BACKENDS, "flex", replace(BACKENDS["flex"], attend=lambda *given: right(*given) * 1.2)
    )
    monkeypatch.setattr(
        packing,
        "choose",
        lambda asked, has: [BACKENDS[name] for name in ORDER["cuda"] if asked in ("auto", name)],
    )
    model = tiny_llama().requires_grad_(False)
    with caplog.at_level(logging.WARNING):
        prepare(model)
    assert backend_of(model) is BACKENDS["sdpa"]
    said = [record.getMessage() for record in caplog.records]
    assert "attention 'varlen' does not run here (no kernel image for this device); 'flex' is taken" in said
    assert any(
        text.startswith("attention 'flex' does not run here (attention 'flex' is off by") for text in said
    )
    with pytest.raises(ModelError, match="no kernel image for this device"):
        prepare(tiny_llama().requires_grad_(False), attention="varlen")
