"""The memory of attention in a plan, by backend: worked numbers, and what autograd keeps on the CPU."""

from __future__ import annotations

from dataclasses import replace

import pytest
import torch

from paretune.core.errors import ModelError
from paretune.models.packed_attention.backends import BACKENDS
from paretune.models.packed_attention.layout import PackedLayout
from paretune.planning.cost import Model
from paretune.planning.memory import attention_bytes
from paretune.planning.shapes import KNOWN, Shape
from paretune.planning.work import Step
from paretune.runs.config import RunConfig
from paretune.runs.memory import planned_model

PAIR = Step(tokens=4096 + 2 * 200, targets=400, seen=4096**2 / 2 + 2 * 200 * 4196)
LLAMA_8B = Model(KNOWN["8b"], "bfloat16", (), 16)


def test_the_kernel_that_keeps_the_scores() -> None:
    """A prompt of 4096 tokens has 8.4 million scores in each of 32 heads and 32 blocks, in float32: 34 GB, and its responses' 7."""
    blocks = attention_bytes(LLAMA_8B, PAIR)
    assert blocks == 2 * PAIR.seen + 32 * 32 * 4 * PAIR.seen
    assert 40e9 < blocks < 42e9


def test_the_others_keep_a_few_percent_of_that() -> None:
    """Keys and values of 1024 numbers for 4496 + 2 * 4096 keys, and 32 sums a token, in 32 blocks: 1.7 GB; sums alone 18 MB."""
    varlen = attention_bytes(replace(LLAMA_8B, attention="varlen"), PAIR)
    assert PAIR.keys == 4496 + 2 * 4096
    assert varlen == 32 * (2 * 2 * 1024 * PAIR.keys + 4 * 32 * 4496)
    assert attention_bytes(replace(LLAMA_8B, attention="flex"), PAIR) == 32 * 4 * 32 * 4496
    sdpa = attention_bytes(replace(LLAMA_8B, attention="sdpa"), PAIR)
    assert sdpa == 3 * 2 * PAIR.seen + 32 * (3 * 2 * 4096 * 4496 + 4 * 32 * 4496)
    assert max(varlen, sdpa) < 0.1 * attention_bytes(LLAMA_8B, PAIR)


def test_products_keep_probabilities_of_few_keys() -> None:
    """A pair of 200 and 100 tokens twice, where half of a block is hidden; a long pair computes most of its own again."""
    host = replace(LLAMA_8B, host=True, attention="products")
    short = Step(tokens=400, targets=200, seen=200**2 / 2 + 2 * 100 * 250)
    assert attention_bytes(host, short) == pytest.approx(
        32 * 32 * 2 * short.seen * 3 / 2 + 4 * 4 * short.seen
    )
    assert attention_bytes(host, PAIR) == 32 * 32 * 2 * 512 * 4496 + 4 * 4 * 256 * 4496


def test_with_checkpointing_one_block_keeps_it_at_a_time() -> None:
    varlen = replace(LLAMA_8B, attention="varlen")
    less = attention_bytes(replace(varlen, checkpointing=True), PAIR)
    assert less == pytest.approx(attention_bytes(varlen, PAIR) / 32)


@pytest.mark.parametrize(
    ("asked", "dtype", "width", "host", "taken"),
    [
        ("auto", "bfloat16", 128, False, "varlen"),
        ("auto", "float32", 128, False, "flex"),
        ("auto", "bfloat16", 512, False, "flex"),
        ("sdpa", "bfloat16", 128, False, "sdpa"),
        ("blocks", "bfloat16", 128, False, "blocks"),
        ("auto", "bfloat16", 128, True, "products"),
        ("auto", "float32", 128, True, "blocks"),
        ("blocks", "bfloat16", 128, True, "blocks"),
        ("sdpa", "float32", 128, True, "sdpa"),
    ],
)
def test_a_plan_takes_the_backend_of_its_device(
    asked: str, dtype: str, width: int, host: bool, taken: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("paretune.models.packed_attention.backends.slow_bfloat16", lambda: False)
    shape = replace(KNOWN["8b"], head_dim=width)
    model = planned_model(RunConfig(attention=asked), shape, dtype, host)
    assert model.attention == taken


def test_a_backend_that_the_device_lacks_is_refused() -> None:
    with pytest.raises(ModelError, match="attention 'varlen' cannot run here: its kernel is for bfloat16"):
        planned_model(RunConfig(attention="varlen"), KNOWN["8b"], "float32", False)


@pytest.mark.parametrize("name", ["sdpa", "varlen"])
def test_what_is_counted_is_what_is_kept(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """All that autograd keeps between queries, keys and values and the output, beside these.

    The kernels are replaced by one that saves its inputs, its output and a sum for each token and head, as FlashAttention and the
    memory-efficient kernel do.
    """
    H, G, d, prompt, responses = 4, 2, 16, 64, (64, 64)
    layout = PackedLayout(((prompt, responses),))
    T = layout.tokens
    q, k, v = (torch.randn(1, n, T, d, requires_grad=True) for n in (H, G, G))

    class Kernel(torch.autograd.Function):
        @staticmethod
        def forward(ctx, q, k, v):  # type: ignore[no-untyped-def, override]
            ctx.save_for_backward(q, k, v, q, q.new_zeros(T, H))
            return q.clone()

        @staticmethod
        def backward(ctx, *outputs):  # type: ignore[no-untyped-def, override]
            return outputs[0], None, None

    monkeypatch.setattr(
        "paretune.models.packed_attention.varlen.kernel",
        lambda: lambda q, k, v, *a, **o: Kernel.apply(q, k, v),
    )
    monkeypatch.setattr(
        "paretune.models.packed_attention.sdpa.F.scaled_dot_product_attention",
        lambda q, k, v, **o: Kernel.apply(q, k, v),
    )
    found: dict[int, int] = {}

    def keep(x: torch.Tensor) -> torch.Tensor:
        storage = x.untyped_storage()
        if x.is_floating_point():
            found[storage.data_ptr()] = storage.nbytes()
        return x

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda x: x):
        BACKENDS[name].attend(layout, q, k, v, None, None, None)
    own = {x.untyped_storage().data_ptr() for x in (q, k, v)}
    kept = sum(size for place, size in found.items() if place not in own)
    shape = Shape("one", H * d, 4 * H * d, 1, H, G, d, 100, True)
    step = Step(T, T - prompt, 0.0, len(responses))
    said = attention_bytes(Model(shape, "float32", (), 4, attention=name), step)
    assert kept == said


def test_what_products_keep_is_at_most_what_is_counted() -> None:
    """Probabilities of all blocks of 512 keys or fewer, and none of more; the output is that of the layer."""
    H, G, d = 4, 2, 16
    for prompt, responses, seen in (
        (150, (70, 60), 150**2 / 2 + 70 * 185 + 60 * 180),
        (1500, (40,), 1500**2 / 2 + 40 * 1520),
    ):
        layout = PackedLayout(((prompt, responses),))
        T = layout.tokens
        q, k, v = (torch.randn(1, n, T, d, requires_grad=True) for n in (H, G, G))
        kept: list[torch.Tensor] = []
        with torch.autograd.graph.saved_tensors_hooks(lambda x, kept=kept: kept.append(x) or x, lambda x: x):
            out = BACKENDS["products"].attend(layout, q, k, v, None, None, None)
        own = {x.untyped_storage().data_ptr() for x in (q, k, v, out)}
        held = sum(x.nbytes for x in kept if x.untyped_storage().data_ptr() not in own)
        shape = Shape("one", H * d, 4 * H * d, 1, H, G, d, 100, True)
        step = Step(T, T - prompt, seen, len(responses))
        bias = 4 * 2 * min(seen, 256 * T)
        said = attention_bytes(Model(shape, "float32", (), 4, attention="products"), step) - bias
        assert 0.2 * said < held <= said
