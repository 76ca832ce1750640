"""Frozen linear layers against the plain ones they replace, and the gated layer on top of both."""

from __future__ import annotations

import copy
import time

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.models.llama.modeling_llama import LlamaRMSNorm

from paretune.models import frozen_linear
from paretune.models.frozen_linear import MANY_ROWS, FrozenLinear, FrozenNorm, _onednn, freeze
from paretune.models.packed_attention.interface import decoding_attention
from paretune.models.steering import Steering

TOLERANCE = {torch.float32: 1e-5, torch.bfloat16: 2e-2}


def linear(
    inputs: int = 48, outputs: int = 80, bias: bool = False, dtype: torch.dtype = torch.float32
) -> nn.Linear:
    torch.manual_seed(0)
    return nn.Linear(inputs, outputs, bias).to(dtype).requires_grad_(False)


def close(found: Tensor, expected: Tensor, dtype: torch.dtype = torch.float32) -> None:
    assert found.dtype == expected.dtype and found.shape == expected.shape
    scale = expected.detach().abs().max().item() if expected.numel() else 1.0
    assert torch.allclose(found, expected, rtol=0, atol=TOLERANCE[dtype] * scale)


@pytest.fixture(params=["fast", "slow", "without"])
def bfloat16(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """Have the processor be one that is fast at bfloat16, slow, or without instructions for it."""
    kind = str(request.param)
    if kind == "without":
        monkeypatch.setattr(frozen_linear, "prepacked_formats", lambda: (torch.float32,))
    elif torch.bfloat16 not in frozen_linear.prepacked_formats():
        pytest.skip("this processor has no instructions for bfloat16")
    monkeypatch.setattr(frozen_linear, "slow_bfloat16", lambda: kind != "fast")
    return kind


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("shape", [(1,), (7,), (3, 5), (2, 1), (0,), (20,), (300,)])
def test_output_and_gradient_are_those_of_the_plain_layer(
    shape: tuple[int, ...], bias: bool, dtype: torch.dtype, bfloat16: str
) -> None:
    plain = linear(bias=bias, dtype=dtype)
    frozen = FrozenLinear(plain)
    x = torch.randn(*shape, 48, dtype=dtype)
    close(frozen(x), plain(x), dtype)
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    factor = torch.randn(*shape, 80, dtype=dtype)
    (frozen(a) * factor).sum().backward()
    (plain(b) * factor).sum().backward()
    close(a.grad, b.grad, dtype)
    close(frozen.transposed_product(factor), factor @ plain.weight, dtype)


def test_the_prepacked_weight_is_used_and_made_once_for_each_direction(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(frozen_linear, "layout_gains", lambda kind: True)
    monkeypatch.setattr(frozen_linear, "wide_vectors", lambda: False)
    frozen = FrozenLinear(linear())
    assert not frozen._packed
    frozen(torch.randn(4, 48))
    forward, backward = (False, torch.float32), (True, torch.float32)
    assert list(frozen._packed) == [forward] and frozen._packed[forward][1].is_mkldnn
    first = frozen._packed[forward][1]
    frozen(torch.randn(4, 48, requires_grad=True)).sum().backward()
    assert set(frozen._packed) == {forward, backward} and frozen._packed[forward][1] is first


@pytest.mark.parametrize("gains", [True, False])
def test_many_rows_keep_copies_only_where_they_gain(monkeypatch: pytest.MonkeyPatch, gains: bool) -> None:
    """Training forms its products from the weight as it is where a copy gains little; few rows (decoding) have one everywhere."""
    monkeypatch.setattr(frozen_linear, "layout_gains", lambda kind: gains)
    monkeypatch.setattr(frozen_linear, "wide_vectors", lambda: False)
    plain = linear()
    frozen, x = FrozenLinear(plain), torch.randn(frozen_linear.MANY_ROWS, 48, requires_grad=True)
    out = frozen(x)
    out.sum().backward()
    assert len(frozen._packed) == 2 * gains
    close(out.detach(), plain(x).detach(), torch.float32)
    close(x.grad, torch.ones_like(out) @ plain.weight, torch.float32)
    few = torch.randn(frozen_linear.MANY_ROWS - 1, 48)
    first = [frozen(few) for _ in range(frozen_linear.OFTEN)]
    assert len(frozen._packed) == 2 * gains, "the rest of a text's batches may be few"
    last = frozen(few)
    assert len(frozen._packed) == 1 + gains, "decoding asks often"
    assert all(torch.equal(each, last) for each in first), "a copy changes no bit"


ROWS = 1, 2, 3, 5, 8, 16, 33, 64, 128, 255, 256, 700


@pytest.mark.parametrize("shape", [(192, 576), (1536, 576), (576, 1536)])
def test_a_copy_that_comes_later_changes_no_bit(shape: tuple[int, int]) -> None:
    for rows in ROWS:
        frozen = FrozenLinear(linear(shape[1], shape[0]))
        x, y = torch.randn(rows, shape[1]), torch.randn(rows, shape[0])
        with torch.no_grad():
            found = [
                (frozen.product(x), frozen.transposed_product(y)) for _ in range(frozen_linear.OFTEN + 1)
            ]
        few = rows < frozen_linear.MANY_ROWS
        assert len(frozen._packed) == few * (1 if frozen_linear.wide_vectors() else 2)
        assert all(torch.equal(a, found[-1][0]) and torch.equal(b, found[-1][1]) for a, b in found)


@pytest.mark.skipif(not frozen_linear.wide_vectors(), reason="this processor has no AVX-512")
@pytest.mark.parametrize("shape", [(192, 576), (1536, 576), (576, 1536), (1000, 64)])
def test_with_avx512_float32_weights_as_they_are_give_the_bits_of_copies(shape: tuple[int, int]) -> None:
    for rows in ROWS:
        frozen = FrozenLinear(linear(shape[1], shape[0]))
        x, y = torch.randn(rows, shape[1]), torch.randn(rows, shape[0])
        with torch.no_grad():
            assert torch.equal(frozen.transposed_product(y), _onednn(y, frozen._layout(True)))
            if rows >= frozen_linear.MANY_ROWS:
                out = frozen.product(x)
                assert (False, torch.float32) not in frozen._packed
                assert torch.equal(out, _onednn(x, frozen._layout(False), frozen.bias))


@pytest.mark.parametrize(
    ("capability", "wide"), [("AVX512", True), ("AMX", True), ("AVX2", False), ("DEFAULT", False)]
)
def test_the_kind_of_processor_decides_about_copies(
    monkeypatch: pytest.MonkeyPatch, capability: str, wide: bool
) -> None:
    monkeypatch.setattr(torch.backends.cpu, "get_cpu_capability", lambda: capability)
    frozen_linear.wide_vectors.cache_clear()
    found = frozen_linear.wide_vectors(), *map(frozen_linear.layout_gains, (torch.bfloat16, torch.float32))
    frozen_linear.wide_vectors.cache_clear()
    assert found == (wide, wide, False)


@pytest.mark.parametrize(
    ("rows", "prepack", "wide"),
    [(8, True, False), (20, True, True), (300, True, True), (20, False, False), (300, False, True)],
)
def test_a_slow_bfloat16_is_computed_in_float32_where_there_are_many_rows(
    rows: int, prepack: bool, wide: bool, bfloat16: str
) -> None:
    """Equal numbers are multiplied, so the only rounding is that of the sum."""
    plain = linear(bias=True, dtype=torch.bfloat16)
    frozen = FrozenLinear(plain, prepack)
    x = torch.randn(rows, 48, dtype=torch.bfloat16)
    exact = (x.double() @ plain.weight.double().t() + plain.bias.double()).to(torch.bfloat16)
    wide = {"fast": False, "slow": wide, "without": wide or prepack}[bfloat16]
    assert frozen.widens(x) is wide
    found, packed = frozen(x), list(frozen._packed)
    if wide:
        assert (found != exact).float().mean() < 0.002, "but for ties, where the sum in float32 is rounded"
        assert packed == ([(False, torch.float32)] if rows < MANY_ROWS else [])
    else:
        close(found, exact, torch.bfloat16)
        assert packed == ([(False, torch.bfloat16)] if prepack else [])
    y = torch.randn(rows, 80, dtype=torch.bfloat16)
    close(frozen.transposed_product(y), (y.double() @ plain.weight.double()).to(torch.bfloat16), x.dtype)


def test_the_speed_of_bfloat16_is_measured_once_and_quickly() -> None:
    frozen_linear.slow_bfloat16.cache_clear()
    began = time.process_time()
    found = frozen_linear.slow_bfloat16()
    assert time.process_time() - began < 1 and frozen_linear.slow_bfloat16() is found


def test_a_processor_without_bfloat16_is_never_asked_for_a_product_in_it(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """oneDNN refuses to lay out a bfloat16 weight there, which made every model in bfloat16 look unsupported."""
    monkeypatch.setattr(frozen_linear, "prepacked_formats", lambda: (torch.float32,))
    frozen_linear.slow_bfloat16.cache_clear()
    try:
        assert frozen_linear.slow_bfloat16()
        monkeypatch.setattr(frozen_linear, "_onednn", lambda x, *rest: pytest.fail(f"a product in {x.dtype}"))
        thin = torch.randn(4, 48, dtype=torch.bfloat16)
        close(frozen_linear.product(thin, thin), thin @ thin.t(), torch.bfloat16)
    finally:
        frozen_linear.slow_bfloat16.cache_clear()


def test_without_prepacking_products_are_the_plain_ones() -> None:
    plain = linear()
    frozen = FrozenLinear(plain, prepack=False)
    x = torch.randn(5, 48, requires_grad=True)
    out = frozen(x)
    assert torch.equal(out, plain(x)) and not frozen._packed
    out.sum().backward()
    close(x.grad, plain.weight.sum(0).expand(5, 48))


def test_the_environment_turns_prepacking_off(lm, monkeypatch: pytest.MonkeyPatch) -> None:
    from paretune.models.language_model import load

    monkeypatch.setenv("PARETUNE_PREPACK", "0")
    assert not load(lm.name, "float32", "cpu").model.get_output_embeddings().prepack
    assert lm.model.get_output_embeddings().prepack


def test_an_input_that_is_not_contiguous() -> None:
    plain = linear()
    x = torch.randn(48, 6).t()
    close(FrozenLinear(plain)(x), plain(x))


@pytest.mark.parametrize("change", ["in place", "data"])
def test_a_changed_weight_is_packed_anew(change: str) -> None:
    plain = linear()
    frozen = FrozenLinear(plain)
    x = torch.randn(3, 48)
    before = frozen(x)
    if change == "in place":
        with torch.no_grad():
            plain.weight.mul_(2)
    else:
        plain.weight.data = plain.weight.data * 2
    close(frozen(x), before * 2)


def test_a_weight_that_is_trained_gets_its_gradient() -> None:
    frozen = FrozenLinear(linear())
    frozen.weight.requires_grad_(True)
    x = torch.randn(3, 48)
    frozen(x).sum().backward()
    close(frozen.weight.grad, x.sum(0).expand(80, 48))


def test_a_format_that_is_not_prepacked_and_one_that_does_not_match() -> None:
    plain = linear(dtype=torch.float64)
    x = torch.randn(3, 48, dtype=torch.float64)
    assert torch.equal(FrozenLinear(plain)(x), plain(x))
    with pytest.raises(RuntimeError, match="dtype"):
        FrozenLinear(linear())(x)


@pytest.mark.parametrize("dtype", TOLERANCE)
def test_a_norm_and_its_gradient_are_those_of_llama(dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    plain = LlamaRMSNorm(48, 1e-5).to(dtype).requires_grad_(False)
    plain.weight.uniform_(0.5, 1.5)
    x, factor = torch.randn(2, 3, 7, 48, dtype=dtype)
    a, b = x.clone().requires_grad_(), x.clone().requires_grad_()
    found, expected = FrozenNorm(plain)(a), plain(b)
    assert torch.equal(found, expected)
    (found * factor).sum().backward()
    (expected * factor).sum().backward()
    close(a.grad, b.grad, dtype)


def test_a_norm_that_only_looks_like_llamas_is_left_alone() -> None:
    class Shifted(LlamaRMSNorm):
        def forward(self, hidden_states: Tensor) -> Tensor:
            return super().forward(hidden_states) + hidden_states

    model = nn.Sequential(Shifted(8), LlamaRMSNorm(8), nn.LayerNorm(8))
    freeze(model)
    assert [type(module) for module in model] == [Shifted, FrozenNorm, nn.LayerNorm]
    assert list(model.state_dict()) == ["0.weight", "1.weight", "2.weight", "2.bias"]


def test_copies_states_and_the_model(tiny_llama) -> None:
    model = tiny_llama()
    keys, ids = list(model.state_dict()), torch.tensor([[3, 4, 5]])
    plain = model(input_ids=ids).logits
    freeze(model)
    model.requires_grad_(False)
    assert all(type(m) is FrozenLinear for m in model.modules() if isinstance(m, nn.Linear))
    assert list(model.state_dict()) == keys
    close(model(input_ids=ids).logits, plain)
    twin = copy.deepcopy(model)
    close(twin(input_ids=ids).logits, plain)
    assert twin.lm_head.weight is not model.lm_head.weight


@pytest.mark.parametrize("form", ["one", "rows", "tokens", "learned"])
@pytest.mark.parametrize("dtype", TOLERANCE)
def test_gated_layers_give_the_same_on_frozen_layers(
    tiny_llama, form: str, dtype: torch.dtype, bfloat16: str
) -> None:
    """Outputs and gradients of U, V, the gates and everything below, against autograd through the parts.

    In bfloat16 both are rounded; the frozen layers may not be further from float32 than the plain ones.
    """
    ids = torch.randint(
        3, 120, (1, 12) if form == "tokens" else (3, 6), generator=torch.Generator().manual_seed(1)
    )
    found = []
    for kind, frozen in ((dtype, False), (dtype, True), (torch.float32, False)):
        model = tiny_llama().to(dtype).to(kind)
        if frozen:
            freeze(model)
        steering = Steering.attach(model, ["all-linear"], 4, seed=2)
        generator = torch.Generator().manual_seed(3)
        with torch.no_grad():
            for layer in steering.layers.values():
                layer.U.normal_(0, 0.1, generator=generator)
        gates = {
            "one": torch.tensor([0.5, 1.0, -0.3, 2.0]),
            "rows": torch.rand(3, 4, generator=generator),
            "learned": torch.rand(3, 4, generator=generator).requires_grad_(),
            "tokens": torch.rand(2, 4, generator=generator),
        }[form]
        index = torch.tensor([0] * 5 + [1] * 7) if form == "tokens" else None
        with steering.at(gates, index):
            logits = model(input_ids=ids).logits.float()
            logits.square().mean().backward()
            with torch.no_grad():
                silent = model(input_ids=ids).logits.float()
        gradients = [p.grad for p in steering.parameters()]
        if form == "learned":
            gradients.append(gates.grad)
        found.append([logits.detach(), silent, *gradients])
    if dtype == torch.float32:
        for expected, got, _ in zip(*found, strict=True):
            close(got, expected)
    else:
        plain, ours = (
            sum(((a - b).norm() / b.norm()) ** 2 for a, b in zip(rounded, found[2], strict=True)) ** 0.5
            for rounded in found[:2]
        )
        assert ours <= 1.3 * plain < 0.2


@pytest.mark.parametrize("dtype", TOLERANCE)
@pytest.mark.parametrize("heads", [2, 4, 8])
@pytest.mark.parametrize("masked", [False, True])
def test_attention_of_one_query_position(heads: int, masked: bool, dtype: torch.dtype) -> None:
    torch.manual_seed(0)
    query = torch.randn(3, heads, 1, 16, dtype=dtype)
    key, value = torch.randn(2, 3, 2, 9, 16, dtype=dtype)
    mask = torch.rand(3, 1, 1, 9) < 0.7 if masked else None
    if mask is not None:
        mask[..., -1] = True
    plain = F.scaled_dot_product_attention(query, key, value, attn_mask=mask, scale=0.3, enable_gqa=True)
    close(decoding_attention(query, key, value, mask, 0.3), plain.transpose(1, 2), dtype)
