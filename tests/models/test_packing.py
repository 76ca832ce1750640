"""Packed batches against padded batches with full logits: values, gradients, neighbours."""

from __future__ import annotations

import pytest
import torch
from transformers import LlamaConfig, LlamaForCausalLM

from paretune.core.errors import ModelError, TrainingError
from paretune.models.packing import pack, packed_logps, packed_token_logps, prepare
from paretune.models.steering import Steering

Group = tuple[list[int], list[list[int]]]


def make_model(seed: int = 0, layers: int = 2) -> LlamaForCausalLM:
    torch.manual_seed(seed)
    config = LlamaConfig(
        vocab_size=300,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=layers,
        num_attention_heads=4,
        num_key_value_heads=2,
        max_position_embeddings=512,
    )
    model = LlamaForCausalLM(config).eval()
    # Random initial weights give nearly flat distributions; larger ones make the comparison sharp.
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() == 2:
                parameter.mul_(4)
    return model.requires_grad_(False)


def make_groups(seed: int, sizes: list[tuple[int, list[int]]]) -> list[Group]:
    generator = torch.Generator().manual_seed(seed)

    def ids(count: int) -> list[int]:
        return torch.randint(0, 300, (count,), generator=generator).tolist()

    return [(ids(prompt), [ids(length) for length in lengths]) for prompt, lengths in sizes]


def padded_logps(model: LlamaForCausalLM, groups: list[Group]) -> torch.Tensor:
    """The plain way: every prompt + response a padded row, full logits, log-softmax, mask."""
    rows = [(prompt, response) for prompt, responses in groups for response in responses]
    width = max(len(prompt) + len(response) for prompt, response in rows)
    ids = torch.zeros(len(rows), width, dtype=torch.long)
    mask, scored = torch.zeros_like(ids), torch.zeros_like(ids)
    for i, (prompt, response) in enumerate(rows):
        end = len(prompt) + len(response)
        ids[i, :end] = torch.tensor(prompt + response)
        mask[i, :end], scored[i, len(prompt) : end] = 1, 1
    logps = model(input_ids=ids, attention_mask=mask, use_cache=False).logits[:, :-1].float().log_softmax(-1)
    return (logps.gather(-1, ids[:, 1:, None])[..., 0] * scored[:, 1:]).sum(-1)


def test_packed_equals_padded_in_value_and_gradient() -> None:
    groups = make_groups(1, [(40, [60, 45]), (12, [90, 3]), (75, [1, 70])])
    model = make_model()
    results = []
    for compute in (padded_logps, lambda m, g: packed_logps(m, pack(g))):
        if compute is not padded_logps:
            prepare(model)
        steering = Steering.attach(model, ["q_proj", "v_proj", "down_proj"], 4, seed=3)
        with torch.no_grad():
            for name, parameter in steering.named_parameters():
                if name.endswith(".U"):
                    parameter.copy_(
                        torch.randn(parameter.shape, generator=torch.Generator().manual_seed(len(name))) * 0.1
                    )
        with steering.at(torch.ones(4)):
            logps = compute(model, groups)
            # A weighting that no symmetry can hide.
            (logps * torch.arange(1.0, 7.0)).sum().backward()
        results.append((logps.detach(), [p.grad.clone() for p in steering.parameters()]))  # type: ignore[union-attr]
        steering.detach()
    (expected, gradients), (found, packed_gradients) = results
    assert expected.min() < -300  # long enough for the tolerance to mean something
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)
    for a, b in zip(packed_gradients, gradients, strict=True):
        assert (a - b).norm() <= 1e-4 * b.norm()


def test_neighbours_do_not_matter() -> None:
    model = make_model()
    prepare(model)
    group = make_groups(2, [(20, [30, 25])])
    left, right = make_groups(3, [(9, [14])]), make_groups(4, [(33, [5, 8])])
    alone = packed_logps(model, pack(group))
    torch.testing.assert_close(packed_logps(model, pack(left + group + right))[1:3], alone, atol=1e-4, rtol=0)
    swapped = [(group[0][0], group[0][1][::-1])]
    torch.testing.assert_close(packed_logps(model, pack(swapped)).flip(0), alone, atol=1e-4, rtol=0)


def test_tokens_sum_to_the_response() -> None:
    model = make_model()
    prepare(model)
    batch = pack(make_groups(5, [(6, [4, 7])]))
    tokens = packed_token_logps(model, batch)
    assert tokens.shape == (11,) and (tokens < 0).all()
    torch.testing.assert_close(torch.stack([tokens[:4].sum(), tokens[4:].sum()]), packed_logps(model, batch))


def test_changing_one_response_changes_only_its_own_value() -> None:
    model = make_model()
    prepare(model)
    group = make_groups(6, [(10, [8, 8])])
    before = packed_logps(model, pack(group))
    group[0][1][0][2] = (group[0][1][0][2] + 1) % 300
    after = packed_logps(model, pack(group))
    assert before[1] == after[1] and before[0] != after[0]


def test_no_logits_are_kept_for_backward() -> None:
    """The head's gradient is formed in the forward pass: what is saved is as small as the hidden states."""
    model = make_model()
    prepare(model)
    steering = Steering.attach(model, ["q_proj"], 2)
    batch = pack(make_groups(7, [(10, [40, 40])]))
    saved: list[torch.Size] = []
    hooks = torch.autograd.graph.saved_tensors_hooks(lambda x: saved.append(x.shape) or x, lambda x: x)
    with steering.at(torch.ones(2)), hooks:
        packed_logps(model, batch)
    assert saved and not any(shape[-1] == 300 and len(shape) > 1 and shape[0] == 80 for shape in saved)


def test_generation_still_works_after_prepare() -> None:
    model = make_model()
    ids = torch.tensor([[5, 6, 7, 8]])
    expected = model.generate(ids, max_new_tokens=8, do_sample=False, pad_token_id=0)
    prepare(model)
    assert torch.equal(model.generate(ids, max_new_tokens=8, do_sample=False, pad_token_id=0), expected)


def test_empty_texts_are_refused() -> None:
    with pytest.raises(TrainingError, match="group 1 has a prompt or a response without tokens"):
        pack([([1], [[2]]), ([1], [[2], []])])


def test_an_architecture_with_scaled_logits_is_refused() -> None:
    class Scaled(LlamaForCausalLM):
        def forward(self, *args: object, **kwargs: object):  # type: ignore[no-untyped-def, override]
            output = super().forward(*args, **kwargs)
            output.logits = output.logits / 3
            return output

    torch.manual_seed(0)
    config = LlamaConfig(
        vocab_size=300,
        hidden_size=64,
        intermediate_size=96,
        num_hidden_layers=1,
        num_attention_heads=4,
        num_key_value_heads=2,
    )
    model = Scaled(config).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.mul_(8)
    with pytest.raises(ModelError, match="other log-probabilities"):
        prepare(model)


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_reference_and_policy_round_alike(tiny_llama, dtype: torch.dtype) -> None:
    """Where an adapter adds nothing, log-probabilities with gradients are those without, bit for bit."""
    model = tiny_llama().to(dtype).requires_grad_(False)
    prepare(model)
    batch = pack([(list(range(3, 90)), [[7, 8, 9], [10, 11]]), ([5, 6], [[4] * 20])])
    with torch.no_grad():
        reference = packed_logps(model, batch)
    steering = Steering.attach(model, ["all-linear"], 4)
    with steering.at(torch.ones(4)):
        policy = packed_logps(model, batch)
    assert policy.requires_grad and torch.equal(policy.detach(), reference)
