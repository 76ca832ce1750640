"""One token of each row by few operations, against the model's own way; and which blocks take it."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor
from transformers import Qwen3Config, Qwen3ForCausalLM
from transformers.models.llama.modeling_llama import LlamaDecoderLayer

from paretune.models.decoding_block import DecodingBlock, decode_by_few_operations
from paretune.models.gated_linear import FEW
from paretune.models.kv_cache import given_cache, growing_cache
from paretune.models.packing import prepare
from paretune.models.steering import Steering
from support.tiny import make_tiny_llama

PROMPTS = torch.tensor([[0, 0, 5, 9, 3], [4, 7, 11, 6, 8], [0, 3, 3, 12, 10]])
PADS = torch.tensor([2, 0, 1])


def decoded(model, tokens: Tensor, calls: list[int] | None = None) -> Tensor:
    """Return the logits ``[B, t, V]`` of ``tokens [B, t]``, read one by one behind left-padded prompts."""
    rows = len(tokens)
    ids, pads = (x.repeat(-(-rows // 3), *[1] * (x.dim() - 1))[:rows] for x in (PROMPTS, PADS))
    cache, found, width = growing_cache(model.config), [], 0
    for part in (ids, *tokens.split(1, dim=1)):
        width += part.shape[1]
        columns = torch.arange(width)
        out = model(
            input_ids=part,
            attention_mask=(columns >= pads[:, None]).long(),
            position_ids=(columns[-part.shape[1] :] - pads[:, None]).clamp(min=0),
            use_cache=True,
            **given_cache(model, cache),
        )
        found.append(out.logits[:, -1:])
    return torch.cat(found[1:], dim=1)


@pytest.fixture
def both(monkeypatch: pytest.MonkeyPatch):
    """Return the same prepared model twice, of which the second decodes by its own operations."""
    quick, plain = (make_tiny_llama(max_position_embeddings=512).requires_grad_(False) for _ in range(2))
    prepare(quick)
    with monkeypatch.context() as patch:
        patch.setattr("paretune.models.packing.decode_by_few_operations", lambda model: 0)
        prepare(plain)
    assert all(isinstance(block, DecodingBlock) for block in quick.model.layers)
    assert all(type(block) is LlamaDecoderLayer for block in plain.model.layers)
    return quick, plain


GATES = {
    "none": None,
    "off": "off",
    "one for all": torch.tensor([0.5, -1.0, 2.0, 0.3]),
    "a block of them": torch.tensor([0.0, 0.0, 2.0, 0.3]),
    "by row": "rows",
    "by path": "paths",
}


@pytest.mark.parametrize("targets", [["all-linear"], ["q_proj", "v_proj", "down_proj"]])
@pytest.mark.parametrize("rows", [1, 3, FEW + 2])
@pytest.mark.parametrize("gates", GATES)
@torch.no_grad()
def test_a_token_is_what_the_model_computes(both, gates: str, rows: int, targets: list[str]) -> None:
    tokens = torch.randint(3, 128, (rows, 4), generator=torch.Generator().manual_seed(1))
    chosen, found = GATES[gates], []
    for model in both:
        if chosen is None:
            found.append(decoded(model, tokens))
            continue
        steering = Steering.attach(model, targets, 4)
        generator = torch.Generator().manual_seed(2)
        for parameter in steering.parameters():
            parameter.copy_(torch.randn(parameter.shape, generator=generator) / 4)
        given: object = chosen
        if chosen == "rows":
            given = torch.randn(rows, 4, generator=generator)
        if chosen == "paths":
            given = {path: torch.randn(4, generator=generator) for path in steering.layers}
        with steering.off() if chosen == "off" else steering.at(given):  # type: ignore[arg-type]
            found.append(decoded(model, tokens))
        if chosen not in ("off", "paths"):  # what is kept of the factors follows them
            first = next(iter(steering.layers.values()))
            before = found.pop()
            first.V.mul_(-3)
            with steering.at(given):  # type: ignore[arg-type]
                found.append(decoded(model, tokens))
            assert not torch.allclose(before, found[-1], atol=1e-3)
    torch.testing.assert_close(*found, atol=2e-5, rtol=2e-5)


@torch.no_grad()
def test_few_operations_are_taken_for_one_token_alone(both, monkeypatch: pytest.MonkeyPatch) -> None:
    quick, _ = both
    calls: list[int] = []
    right = DecodingBlock._decoded
    monkeypatch.setattr(
        DecodingBlock, "_decoded", lambda block, x, *given: calls.append(len(x)) or right(block, x, *given)
    )
    decoded(quick, torch.tensor([[5, 6, 7]]))
    assert calls == [1] * 2 * 3
    with torch.enable_grad():
        decoded(quick, torch.tensor([[5]]))
    quick(input_ids=torch.tensor([[5]]), use_cache=False)
    assert len(calls) == 6


def test_blocks_that_are_no_llama_s_stay() -> None:
    config = Qwen3Config(
        **{"hidden_size": 32, "intermediate_size": 48, "num_hidden_layers": 2, "num_attention_heads": 4},
        **{"num_key_value_heads": 2, "head_dim": 8, "vocab_size": 64, "max_position_embeddings": 64},
    )
    model = Qwen3ForCausalLM(config).eval().requires_grad_(False)
    prepare(model)
    assert not any(isinstance(block, DecodingBlock) for block in model.model.layers)


def test_blocks_with_another_result_stay(monkeypatch: pytest.MonkeyPatch) -> None:
    """The parts are those of a Llama, and the sums are not."""
    model = make_tiny_llama().requires_grad_(False)
    right = LlamaDecoderLayer.forward
    monkeypatch.setattr(LlamaDecoderLayer, "forward", lambda self, x, **given: 0.9 * right(self, x, **given))
    with monkeypatch.context() as patch:
        patch.setattr("paretune.models.packing.decode_by_few_operations", lambda model: 0)
        prepare(model)
    assert decode_by_few_operations(model) == 0
    assert all(type(block) is LlamaDecoderLayer for block in model.model.layers)
