"""The gated low-rank layer against PEFT, dense merges and plain runs of the same model."""

from __future__ import annotations

import json
import math
import shutil
from pathlib import Path

import pytest
import torch
from peft import LoraConfig, PeftModel, get_peft_model
from safetensors.torch import load_file, save_file
from transformers import AutoModelForCausalLM

from paretune.core.errors import ModelError
from paretune.models.adapter import Adapter, from_peft, stack, to_peft
from paretune.models.gated_linear import GatedLinear
from paretune.models.gates import anchor_gates, nearest_anchor, soup_gates
from paretune.models.steering import Steering
from support.random_models import ALL, checkpointed, ids, logits, random_adapter


def dense_logits(model, updates: dict[str, torch.Tensor], tokens: torch.Tensor) -> torch.Tensor:
    """The oracle: weights changed in fp64 sums, no layer of ours."""
    for path, update in updates.items():
        weight = model.get_submodule(path).weight
        weight.data = (weight.data.double() + update).float()
    return logits(model, tokens)


def relative(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a - b).norm() / b.norm())


def update_of(adapter: Adapter, gate: torch.Tensor) -> dict[str, torch.Tensor]:
    return {path: (U.double() * gate.double()) @ V.double() for path, (U, V) in adapter.factors.items()}


# --- the layer ---------------------------------------------------------------------------------------------


def test_fresh_layers_and_off_are_the_base_exactly(tiny_llama):
    model = tiny_llama()
    before = logits(model, ids())
    steering = Steering.attach(model, ["all-linear"], rank=4)
    with steering.at(torch.full((4,), 2.0)):
        assert torch.equal(logits(model, ids()), before)
    for layer in steering.layers.values():
        layer.U.data.normal_()
    with steering.off():
        assert torch.equal(logits(model, ids()), before)
    with steering.at(torch.full((4,), 2.0)):
        assert relative(logits(model, ids()), before) > 0.1
    with steering.at(torch.zeros(4)):
        assert torch.equal(logits(model, ids()), before)


def test_fresh_layers_depend_on_the_seed_alone(tiny_llama):
    first = Steering.attach(tiny_llama(), ["q_proj"], rank=4, seed=3).adapter()
    torch.rand(5)
    again = Steering.attach(tiny_llama(), ["q_proj"], rank=4, seed=3).adapter()
    other = Steering.attach(tiny_llama(), ["q_proj"], rank=4, seed=4).adapter()
    for path, (U, V) in first.factors.items():
        assert not U.any() and float(V.abs().max()) <= 1 / math.sqrt(64) and float(V.std()) > 0.05
        assert torch.equal(V, again.factors[path][1]) and not torch.equal(V, other.factors[path][1])


@pytest.mark.parametrize(
    ("targets", "count"),
    [
        (["q_proj"], 2),
        (["self_attn.q_proj", "o_proj"], 4),
        (["layers.1.mlp.up_proj"], 1),
        (["all-linear"], 14),
        (ALL, 14),
    ],
)
def test_targets_are_leaf_names_ends_of_paths_or_all(tiny_llama, targets, count):
    steering = Steering.attach(tiny_llama(), targets, rank=2)
    assert len(steering.layers) == count and "lm_head" not in steering.layers
    assert len(steering.parameters()) == 2 * count


@pytest.mark.parametrize(
    ("targets", "message"),
    [
        (["q_proj@7-"], "'q_proj@7-' names no layer of this model, whose blocks are 0 to 1"),
        (["q_proj@x"], "blocks are given as FIRST- or FIRST-LAST"),
        (["q_proj", "qq_proj"], "no linear layer is called 'qq_proj'.*down_proj.*v_proj"),
        (["proj"], "'proj'"),
        (["lm_head"], "'lm_head'"),
        ([], "no target modules given"),
    ],
)
def test_targets_without_match_are_refused_and_the_model_is_left_alone(tiny_llama, targets, message):
    model = tiny_llama()
    with pytest.raises(ModelError, match=message):
        Steering.attach(model, targets, rank=2)
    assert not any(isinstance(m, GatedLinear) for m in model.modules())
    assert all(p.requires_grad for p in model.parameters())


def test_attaching_twice_is_refused(tiny_llama):
    model = tiny_llama()
    Steering.attach(model, ["q_proj"], rank=2)
    with pytest.raises(ModelError, match="already"):
        Steering.attach(model, ["all-linear"], rank=2)


def test_a_layer_with_bias_is_base_plus_update(tiny_llama):
    model = tiny_llama(attention_bias=True, mlp_bias=True)
    for module in model.modules():
        if isinstance(module, torch.nn.Linear) and module.bias is not None:
            module.bias.data.normal_()
    adapter = random_adapter(model)
    steering = Steering.attach_adapter(model, adapter)
    with steering.at(adapter.gates()):
        ours = logits(model, ids())
    steering.detach()
    assert relative(dense_logits(model, update_of(adapter, adapter.gates()), ids()), ours) < 1e-5


def test_forward_without_state_raises_and_contexts_nest(tiny_llama):
    model = tiny_llama()
    adapter = random_adapter(model)
    steering = Steering.attach_adapter(model, adapter)
    with pytest.raises(ModelError, match="no preference is set"):
        logits(model, ids())
    with steering.at(adapter.gates()):
        outer = logits(model, ids())
        with steering.off():
            base = logits(model, ids())
            with steering.at(0.5 * adapter.gates()):
                inner = logits(model, ids())
            assert torch.equal(logits(model, ids()), base)
        assert torch.equal(logits(model, ids()), outer)
        with pytest.raises(RuntimeError, match="mine"), steering.off():
            raise RuntimeError("mine")
        assert torch.equal(logits(model, ids()), outer)
    assert not torch.equal(inner, outer) and not torch.equal(inner, base)
    with pytest.raises(ModelError, match="no preference is set"):
        logits(model, ids())


# --- gates of rows and tokens -------------------------------------------------------------------------------


def three_rows(model) -> tuple[Steering, torch.Tensor]:
    stacked = stack([random_adapter(model, 4, 2.0, 1), random_adapter(model, 2, 0.7, 2)])
    preferences = torch.tensor([[1.0, 0.0], [0.3, 0.7], [0.0, 1.0]])
    return Steering.attach_adapter(model, stacked), soup_gates(preferences, stacked.ranks, stacked.scales)


def test_rows_of_a_batch_equal_rows_run_singly(tiny_llama):
    model = tiny_llama()
    steering, gates = three_rows(model)
    with steering.at(gates):
        batch = logits(model, ids())
    for row in range(3):
        with steering.at(gates[row]):
            single = logits(model, ids()[row : row + 1])
        torch.testing.assert_close(batch[row : row + 1], single, rtol=0, atol=2e-6)
    with steering.at(gates[1].expand(3, -1)):
        rows = logits(model, ids())
    with steering.at(gates[1]):
        torch.testing.assert_close(rows, logits(model, ids()), rtol=0, atol=2e-6)


def test_token_index_of_a_packed_batch_equals_rows(tiny_llama):
    model = tiny_llama()
    steering, gates = three_rows(model)
    tokens = ids()
    allowed = torch.block_diag(*[torch.ones(7, 7).tril()] * 3).bool()[None, None]
    index = torch.arange(3).repeat_interleave(7)
    positions = torch.arange(7).repeat(3)[None]
    with steering.at(gates):
        rows = logits(model, tokens)
    with steering.at(gates, index):
        packed = logits(model, tokens.reshape(1, -1), attention_mask=allowed, position_ids=positions)
    torch.testing.assert_close(packed.reshape(rows.shape), rows, rtol=0, atol=5e-6)


def test_left_padding_is_neutral(tiny_llama):
    model = tiny_llama()
    steering, gates = three_rows(model)
    tokens = ids()
    padded = torch.cat([torch.zeros(3, 5, dtype=torch.long), tokens], dim=1)
    mask = (torch.arange(12) >= 5).long().expand(3, -1)
    with steering.at(gates):
        plain = logits(model, tokens)
        left = logits(model, padded, attention_mask=mask, position_ids=(mask.cumsum(-1) - 1).clamp(min=0))
    torch.testing.assert_close(left[:, 5:], plain, rtol=0, atol=5e-6)


def test_generation_of_a_mixed_batch_equals_single_rows(tiny_llama):
    model = tiny_llama()
    steering, gates = three_rows(model)
    settings = {"max_new_tokens": 8, "do_sample": False, "eos_token_id": None}
    with steering.at(gates):
        batch = model.generate(ids(), **settings)
    for row in range(3):
        with steering.at(gates[row]):
            assert torch.equal(model.generate(ids()[row : row + 1], **settings)[0], batch[row])
    with steering.at(gates.repeat_interleave(2, 0)):
        beams = model.generate(ids(), num_beams=2, **settings)
    for row in range(3):
        with steering.at(gates[row]):
            assert torch.equal(model.generate(ids()[row : row + 1], num_beams=2, **settings)[0], beams[row])


def test_gates_that_do_not_fit_are_refused(tiny_llama):
    model = tiny_llama()
    steering, gates = three_rows(model)
    for bad, index, message in [
        (gates[:, :5], None, r"gates of shape \[3, 5\].*expected floats \[6\], or \[B, 6\]"),
        (gates.long(), None, "int64"),
        (gates[None], None, r"\[1, 3, 6\]"),
        (gates[0, 0], None, r"shape \[\]"),
        (gates * float("nan"), None, "NaN"),
        (gates[0], torch.zeros(7, dtype=torch.long), "choose a row"),
        (gates, torch.zeros(7), "choose a row"),
        (gates, torch.full((7,), 3), "index from 3 to 3, but there are 3 rows"),
        (gates, torch.full((7,), -1), "index from -1"),
        ({"lm_head": gates}, None, "lm_head"),
        ({next(iter(steering.layers)): gates}, None, "no gate for"),
    ]:
        with pytest.raises(ModelError, match=message), steering.at(bad, index):
            pass
    with steering.at(gates), pytest.raises(ModelError, match="3 rows, but the batch has 2"):
        logits(model, ids(2))
    with steering.at(gates), pytest.raises(ModelError, match="no row dimension"):
        next(iter(steering.layers.values()))(torch.zeros(3, 64))
    index = torch.zeros(7, dtype=torch.long)
    for rows, tokens in [(1, 6), (2, 7)]:
        with steering.at(gates, index), pytest.raises(ModelError, match="index for 7 tokens"):
            logits(model, ids(rows, tokens))
    with steering.at(gates, index):
        next(iter(steering.layers.values()))(torch.zeros(7, 64))


def test_gates_by_module_carry_gradients(tiny_llama):
    model = tiny_llama()
    adapter = random_adapter(model)
    steering = Steering.attach_adapter(model, adapter)
    sigma = {path: torch.nn.Parameter(torch.rand(4)) for path in steering.layers}
    weights = torch.tensor([[1.0], [0.5], [0.0]])
    with steering.at({path: weights * value for path, value in sigma.items()}):
        model(input_ids=ids()).logits.square().sum().backward()
    assert all(value.grad is not None and value.grad.abs().sum() > 0 for value in sigma.values())
    path = "model.layers.1.mlp.up_proj"

    def loss(value: torch.Tensor) -> torch.Tensor:
        moved = {**{p: weights * v for p, v in sigma.items()}, path: weights * value}
        with steering.at(moved):
            return logits(model, ids()).double().square().sum()

    step = torch.zeros(4)
    step[2] = 1e-2
    numeric = float((loss(sigma[path].data + step) - loss(sigma[path].data - step)) / 2e-2)
    assert numeric == pytest.approx(float(sigma[path].grad[2]), rel=0.02, abs=0.05)


# --- training -----------------------------------------------------------------------------------------------


def trainable(model, seed: int = 0) -> Steering:
    return Steering.attach_adapter(model, random_adapter(model, seed=seed), trainable=True)


def gradients(steering: Steering) -> list[torch.Tensor]:
    return [p.grad.clone() for p in steering.parameters()]


GATES = torch.tensor([[2.0, 0.0, 0.5, 0.1], [0.0, 1.0, 0.3, 0.7], [0.1, 0.2, 0.3, 0.4]])


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("mode", ["steering", "non-reentrant", "reentrant"])
@pytest.mark.parametrize("gates", [GATES, GATES[0]], ids=["rows", "constant"])
def test_gradients_with_checkpointing_are_those_without(tiny_llama, mode, gates):
    found = {}
    for each in ("none", mode):
        model = tiny_llama()
        steering = trainable(model)
        checkpointed(model, each, steering)
        for _ in range(2):  # a second step, with a reference pass nested in the first
            with steering.at(gates):
                loss = model(input_ids=ids()).logits.square().mean()
                with steering.off(), torch.no_grad():
                    reference = model(input_ids=ids()).logits.mean()
                (loss + reference).backward()
        found[each] = gradients(steering)
    assert all(g.abs().sum() > 0 for g in found["none"])
    assert all(torch.equal(a, b) for a, b in zip(found["none"], found[mode], strict=True))


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("mode", ["non-reentrant", "reentrant"])
def test_leaving_the_context_before_backward_raises(tiny_llama, mode):
    model = tiny_llama()
    steering = trainable(model)
    checkpointed(model, mode, steering)
    with steering.at(GATES):
        loss = model(input_ids=ids()).logits.square().mean()
    with pytest.raises(ModelError, match="until backward has ended"):
        loss.backward()


@pytest.mark.filterwarnings("ignore::FutureWarning")
@pytest.mark.parametrize("outer", ["other gates", "off"])
def test_backward_under_other_gates_raises(tiny_llama, outer):
    model = tiny_llama()
    steering = trainable(model)
    checkpointed(model, "non-reentrant", steering)
    with steering.at(0.5 * GATES) if outer == "other gates" else steering.off():
        with steering.at(GATES):
            loss = model(input_ids=ids()).logits.square().mean()
        with pytest.raises(ModelError, match="under other gates"):
            loss.backward()


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_own_checkpointing_remembers_the_gates_of_each_forward(tiny_llama):
    found = []
    for mode in ("none", "steering"):
        model = tiny_llama()
        steering = trainable(model)
        checkpointed(model, mode, steering)
        with steering.at(0.5 * GATES):
            loss = model(input_ids=ids()).logits.square().mean()
            with steering.at(GATES):
                loss = loss + model(input_ids=ids(seed=2)).logits.square().mean()
        loss.backward()
        found.append(gradients(steering))
        with pytest.raises(ModelError, match="no preference is set"):
            model(input_ids=ids())
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


@pytest.mark.filterwarnings("ignore::FutureWarning")
def test_own_checkpointing_allows_a_backward_for_each_objective(tiny_llama):
    found = []
    for mode in ("none", "steering"):
        model = tiny_llama()
        steering = trainable(model)
        checkpointed(model, mode, steering)
        with steering.at(GATES):
            output = model(input_ids=ids()).logits
            for column in (3, 5):
                output[..., column].sum().backward(retain_graph=True)
        found.append(gradients(steering))
    assert all(torch.equal(a, b) for a, b in zip(*found, strict=True))


def test_only_the_update_is_trained_and_contexts_leave_flags_alone(tiny_llama):
    model = tiny_llama()
    steering = trainable(model)
    own = {id(p) for p in steering.parameters()}
    assert len(own) == 28

    def flags() -> bool:
        return all(p.requires_grad == (id(p) in own) for p in model.parameters())

    assert flags()
    with steering.at(GATES):
        assert flags()
        with steering.off():
            assert flags()
        model(input_ids=ids()).logits.square().mean().backward()
    assert flags() and all((p.grad is not None) == (id(p) in own) for p in model.parameters())
    assert not any(
        p.requires_grad for p in Steering.attach_adapter(tiny_llama(), steering.adapter()).parameters()
    )


def test_a_zero_gate_gives_its_columns_no_gradient_and_the_rest_their_own(tiny_llama):
    results = []
    for constant in (True, False):
        model = tiny_llama()
        steering = trainable(model)
        gate = torch.tensor([0.0, 2.0, 1.0, 0.0])
        with steering.at(gate if constant else gate.clone().requires_grad_()):
            model(input_ids=ids()).logits.square().mean().backward()
        for layer in steering.layers.values():
            assert not layer.U.grad[:, [0, 3]].any() and not layer.V.grad[[0, 3]].any()
        results.append(gradients(steering))
    for a, b in zip(*results, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-6)


def test_update_on_a_bf16_base_is_fp32(tiny_llama):
    exact, half = tiny_llama(), tiny_llama().to(torch.bfloat16)
    found = []
    for model in (exact, half):
        steering = trainable(model)
        with steering.at(GATES):
            output = model(input_ids=ids()).logits
            assert output.dtype == model.dtype
            output.float().square().mean().backward()
        assert all(p.dtype == p.grad.dtype == torch.float32 for p in steering.parameters())
        found.append((output.detach().float(), torch.cat([g.flatten() for g in gradients(steering)])))
    assert relative(found[1][0], found[0][0]) < 0.05
    assert float(torch.cosine_similarity(found[0][1], found[1][1], dim=0)) > 0.98


def test_training_lowers_the_loss_and_set_restores_values_in_place(tiny_llama):
    model = tiny_llama()
    steering = Steering.attach(model, ALL, rank=4, base="b")
    start, parameters = steering.adapter(), steering.parameters()
    optimizer = torch.optim.AdamW(parameters, lr=1e-2)
    losses = []
    for _ in range(15):
        with steering.at(torch.full((4,), 2.0)):
            loss = model(input_ids=ids(), labels=ids()).loss
            loss.backward()
        optimizer.step()
        optimizer.zero_grad()
        losses.append(float(loss))
    assert losses[-1] < 0.7 * losses[0]
    trained = steering.adapter(scale=2.0, info={"step": 15})
    assert trained.scales == (2.0,) and trained.base == "b" and trained.info == {"step": 15}
    steering.set(start)
    assert all(a is b for a, b in zip(parameters, steering.parameters(), strict=True))
    for path, (U, V) in start.factors.items():
        assert torch.equal(steering.layers[path].U, U) and torch.equal(steering.layers[path].V, V)
        assert not torch.equal(trained.factors[path][0], U)  # the copy did not move with the layers
    with pytest.raises(ModelError, match="rank 2"):
        steering.set(random_adapter(tiny_llama(), rank=2))
    with pytest.raises(ModelError, match="trained on base model other"):
        steering.set(random_adapter(tiny_llama(), base="other"))


# --- detach, merge, dense checkpoint ------------------------------------------------------------------------


def test_detach_restores_modules_and_flags(tiny_llama):
    model = tiny_llama()
    model.model.embed_tokens.weight.requires_grad_(False)
    modules = dict(model.named_modules())
    flags = {name: p.requires_grad for name, p in model.named_parameters()}
    before = logits(model, ids())
    steering = Steering.attach(model, ["all-linear"], rank=2)
    with steering.off(), pytest.raises(ModelError, match="cannot detach"):
        steering.detach()
    steering.detach()
    after = dict(model.named_modules())
    assert list(after) == list(modules) and all(after[name] is module for name, module in modules.items())
    assert {name: p.requires_grad for name, p in model.named_parameters()} == flags
    assert torch.equal(logits(model, ids()), before)
    with pytest.raises(ModelError, match="detached"), steering.at(torch.ones(2)):
        pass


def test_merged_is_the_dense_sum_and_leaves_no_trace(tiny_llama):
    model = tiny_llama()
    steering, gates = three_rows(model)
    with steering.at(gates[1]):
        eager = logits(model, ids())
    layers = dict(steering.layers)
    with steering.merged(gates[1]) as plain:
        assert not any(isinstance(m, GatedLinear) for m in plain.modules())
        assert relative(logits(plain, ids()), eager) < 1e-5
        for action in (lambda: steering.at(gates), steering.off, lambda: steering.merged(gates[0])):
            with pytest.raises(ModelError, match="merged into the model"), action():
                pass
    with steering.at(gates[1]):
        assert torch.equal(logits(model, ids()), eager)
        with pytest.raises(ModelError, match="cannot merge while"), steering.merged(gates[1]):
            pass
    assert all(model.get_submodule(path) is layer for path, layer in layers.items())
    with pytest.raises(ModelError, match="only one preference"), steering.merged(gates):
        pass


@pytest.mark.parametrize("tied", [False, True])
def test_dense_checkpoint_is_loaded_by_plain_transformers(tiny_llama, tmp_path, tied):
    model = tiny_llama(tie_word_embeddings=tied)
    steering, gates = three_rows(model)
    with steering.at(gates[1]):
        eager = logits(model, ids())
    steering.save_dense(tmp_path / "dense", gates[1])
    plain = AutoModelForCausalLM.from_pretrained(tmp_path / "dense", dtype=torch.float32)
    torch.testing.assert_close(logits(plain, ids()), eager, rtol=0, atol=1e-5)
    assert not any(isinstance(m, GatedLinear) for m in plain.modules())
    steering.save_dense(tmp_path / "dense", gates[0])  # over an older checkpoint
    (tmp_path / "thesis").mkdir()
    (tmp_path / "thesis" / "thesis.tex").write_text("x")
    with pytest.raises(ModelError, match="holds other files"):
        steering.save_dense(tmp_path / "thesis", gates[0])
    assert (tmp_path / "thesis" / "thesis.tex").exists()


def test_dense_checkpoint_of_a_bf16_base_rounds_once(tiny_llama, tmp_path):
    model = tiny_llama().to(torch.bfloat16)
    adapter = random_adapter(model)
    steering = Steering.attach_adapter(model, adapter)
    path = "model.layers.0.self_attn.q_proj"
    weight = steering.layers[path].base.weight.float() + update_of(adapter, adapter.gates())[path].float()
    steering.save_dense(tmp_path / "dense")
    saved = load_file(tmp_path / "dense" / "model.safetensors")[f"{path}.weight"]
    assert saved.dtype == torch.bfloat16
    torch.testing.assert_close(saved.float(), weight, rtol=2**-8, atol=1e-6)


def test_merging_into_a_layer_of_another_kind_is_refused(tiny_llama):
    class Quantised(torch.nn.Linear):
        pass

    model = tiny_llama()
    model.model.layers[0].self_attn.q_proj = Quantised(64, 64, bias=False)
    steering = Steering.attach(model, ["q_proj"], rank=2)
    with steering.at(torch.ones(2)):
        logits(model, ids())
    with (
        pytest.raises(ModelError, match=r"layers\.0\.self_attn\.q_proj: cannot merge into Quantised"),
        steering.merged(),
    ):
        pass


# --- soups and anchors --------------------------------------------------------------------------------------


def test_soup_is_the_sum_of_updates_and_averaging_factors_is_not(tiny_llama):
    first, second = (random_adapter(tiny_llama(), 4, scale, seed) for scale, seed in ((2.0, 1), (0.7, 2)))
    stacked = stack([first, second])
    updates = [update_of(a, a.gates()) for a in (first, second)]
    soup = {path: 0.5 * updates[0][path] + 0.5 * updates[1][path] for path in updates[0]}
    exact = dense_logits(tiny_llama(), soup, ids())
    model = tiny_llama()
    steering = Steering.attach_adapter(model, stacked)
    with steering.at(soup_gates(torch.tensor([[0.5, 0.5]] * 3), stacked.ranks, stacked.scales)):
        assert relative(logits(model, ids()), exact) < 1e-5
    averaged = {}
    for path in soup:
        (U1, V1), (U2, V2) = first.factors[path], second.factors[path]
        averaged[path] = (0.5 * 2.0 * U1 + 0.5 * 0.7 * U2) @ (0.5 * V1 + 0.5 * V2)
    assert relative(dense_logits(tiny_llama(), averaged, ids()), exact) > 0.1


@pytest.mark.parametrize("scales", [(2.0, 0.7, 1.0), (1 / 3, 16 / math.sqrt(3), 0.1)])
@pytest.mark.parametrize("tokens", [1, 7, 33])
def test_one_hot_soup_is_the_adapter_bit_for_bit(tiny_llama, scales, tokens):
    model = tiny_llama()
    adapters = [
        random_adapter(model, rank, scale, i)
        for i, (rank, scale) in enumerate(zip((4, 3, 16), scales, strict=True))
    ]
    stacked = stack(adapters)
    steering = Steering.attach_adapter(model, stacked)
    for j, adapter in enumerate(adapters):
        single = tiny_llama()
        alone = Steering.attach_adapter(single, adapter)
        with alone.at(adapter.gates()):
            expected = logits(single, ids(3, tokens))
        one_hot = torch.eye(3)[j].expand(3, -1)
        for gates in (
            soup_gates(one_hot, stacked.ranks, stacked.scales)[0],
            anchor_gates(torch.full((3,), j), stacked.ranks, stacked.scales)[0],
        ):
            with steering.at(gates):
                assert torch.equal(logits(model, ids(3, tokens)), expected)
        with steering.at(soup_gates(one_hot, stacked.ranks, stacked.scales)):
            torch.testing.assert_close(logits(model, ids(3, tokens)), expected, rtol=0, atol=2e-6)


def test_order_of_stacking_does_not_matter(tiny_llama):
    model = tiny_llama()
    adapters = [
        random_adapter(model, rank, scale, i)
        for i, (rank, scale) in enumerate([(4, 2.0), (3, 0.7), (5, 1.0)])
    ]
    found = []
    for order in ([0, 1, 2], [2, 0, 1]):
        stacked = stack([adapters[i] for i in order])
        steering = Steering.attach_adapter(model, stacked)
        preferences = torch.tensor([[0.2, 0.3, 0.5]])[:, order]
        with steering.at(soup_gates(preferences, stacked.ranks, stacked.scales)[0]):
            found.append(logits(model, ids()))
        steering.detach()
    assert relative(found[1], found[0]) < 1e-6


def test_stack_keeps_factors_blocks_and_fills_missing_modules(tiny_llama):
    model = tiny_llama()
    first = random_adapter(model, 4, 2.0, 1, targets=["q_proj", "v_proj"])
    second = random_adapter(model, 2, 0.7, 2, targets=["q_proj", "o_proj"], base="")
    stacked = stack([first, stack([second, first])])
    assert stacked.rank == 10 and stacked.ranks == (4, 2, 4) and stacked.scales == (2.0, 0.7, 2.0)
    assert stacked.base == "b" and len(stacked.factors) == 6
    U, V = stacked.factors["model.layers.0.self_attn.v_proj"]
    assert torch.equal(U[:, :4], first.factors["model.layers.0.self_attn.v_proj"][0])
    assert not U[:, 4:6].any() and not V[4:6].any() and V[6:].any()
    assert stacked.gates().tolist() == pytest.approx([2.0] * 4 + [0.7] * 2 + [2.0] * 4)
    with pytest.raises(ModelError, match="trained on base model c, but the model in use is b"):
        stack([second, first, random_adapter(model, base="c")])
    with pytest.raises(ModelError, match="give at least one"):
        stack([])
    wide = random_adapter(tiny_llama(hidden_size=32))
    with pytest.raises(ModelError, match="share one base model"):
        stack([first, wide])


def test_gate_maps_on_worked_numbers():
    gates = soup_gates(torch.tensor([[0.25, 0.75], [1.0, 0.0]]), ranks=[1, 2], scales=[2.0, 4.0])
    assert gates.dtype == torch.float32 and gates.tolist() == [[0.5, 3.0, 3.0], [2.0, 0.0, 0.0]]
    assert anchor_gates(torch.tensor([1, 0]), [1, 2], [2.0, 4.0]).tolist() == [
        [0.0, 4.0, 4.0],
        [2.0, 0.0, 0.0],
    ]
    preferences = torch.tensor([[0.5, 0.5]], requires_grad=True)
    soup_gates(preferences, [1, 2], [2.0, 4.0]).sum().backward()
    assert preferences.grad.tolist() == [[2.0, 8.0]]
    for bad in (torch.tensor([0.5, 0.5]), torch.ones(1, 3)):
        with pytest.raises(ModelError, match="one column, one rank and one scale"):
            soup_gates(bad, [1, 2], [2.0, 4.0])
    for bad in (torch.tensor([2]), torch.tensor([-1])):
        with pytest.raises(ModelError, match="2 anchors, 0 to 1"):
            anchor_gates(bad, [1, 2], [2.0, 4.0])
    with pytest.raises(ModelError, match="one integer for each row"):
        anchor_gates(torch.tensor([0.5]), [1, 2], [2.0, 4.0])


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_nearest_anchor_breaks_ties_towards_the_first(dtype):
    anchors = torch.tensor([[1 - k / 10, k / 10] for k in (0, 2, 4, 6, 8, 10)], dtype=dtype)
    preferences = torch.tensor([[1 - k / 10, k / 10] for k in range(11)], dtype=dtype)
    choice, distance = nearest_anchor(preferences, anchors)
    assert choice.tolist() == [0, 0, 1, 1, 2, 2, 3, 3, 4, 4, 5]
    assert distance.tolist() == pytest.approx([0.0, 0.2] * 5 + [0.0], abs=1e-6)
    with pytest.raises(ModelError, match="same objectives"):
        nearest_anchor(preferences, torch.ones(2, 3))
    with pytest.raises(ModelError, match="at least one anchor"):
        nearest_anchor(preferences, torch.ones(0, 2))


# --- files --------------------------------------------------------------------------------------------------


def test_save_and_load_are_bit_exact(tiny_llama, tmp_path):
    model = tiny_llama()
    adapter = stack([random_adapter(model, 4, 1 / 3, 1), random_adapter(model, 2, 0.1, 2)])
    adapter.save(tmp_path / "a")
    loaded = Adapter.load(tmp_path / "a", base="b")
    assert loaded.blocks == adapter.blocks and loaded.scale == adapter.scale and loaded.base == "b"
    assert loaded.info == {"stack": [{"seed": 1}, {"seed": 2}]}
    assert set(loaded.factors) == set(adapter.factors)
    for path, (U, V) in adapter.factors.items():
        assert torch.equal(U, loaded.factors[path][0]) and torch.equal(V, loaded.factors[path][1])
    assert {p.name for p in (tmp_path / "a").iterdir()} == {"adapter.json", "adapter.safetensors"}
    random_adapter(model, 2).save(tmp_path / "a")
    assert Adapter.load(tmp_path / "a").rank == 2


def test_an_adapter_of_another_base_or_shape_is_refused(tiny_llama, tmp_path):
    model = tiny_llama()
    random_adapter(model, base="1111").save(tmp_path / "a")
    with pytest.raises(ModelError, match="a: trained on base model 1111, but the model in use is 2222"):
        Adapter.load(tmp_path / "a", base="2222")
    adapter = Adapter.load(tmp_path / "a")
    with pytest.raises(ModelError, match=r"1111.*2222"):
        Steering.attach_adapter(model, adapter, base="2222")
    with pytest.raises(ModelError, match=r"matrix of \(64, \d+\), the model's is \(128, \d+\)"):
        Steering.attach_adapter(tiny_llama(hidden_size=128), adapter)
    with pytest.raises(ModelError, match=r"layers.1.*no linear layer of this model"):
        Steering.attach_adapter(tiny_llama(num_hidden_layers=1), adapter)
    with pytest.raises(ModelError, match="without any module"):
        Adapter({})
    with pytest.raises(ModelError, match=r"p: U \[3, 2\] and V \[4, 3\]"):
        Adapter({"p": (torch.zeros(3, 2), torch.zeros(4, 3))})
    with pytest.raises(ModelError, match="do not add up"):
        Adapter({"p": (torch.zeros(3, 2), torch.zeros(2, 3))}, blocks=((1, 1.0),))


def test_missing_and_damaged_files_are_named(tiny_llama, tmp_path):
    random_adapter(tiny_llama()).save(tmp_path / "good")

    def damaged(name: str, change) -> Path:
        folder = tmp_path / name
        shutil.copytree(tmp_path / "good", folder)
        change(folder)
        return folder

    def edit_json(folder: Path, **changes) -> None:
        settings = json.loads((folder / "adapter.json").read_text())
        (folder / "adapter.json").write_text(json.dumps({**settings, **changes}))

    def edit_tensors(folder: Path, change) -> None:
        tensors = load_file(folder / "adapter.safetensors")
        save_file(change(tensors), folder / "adapter.safetensors")

    weights = "adapter.safetensors"
    q = "model.layers.0.self_attn.q_proj"
    cases = [
        ("json", lambda f: (f / "adapter.json").unlink(), "adapter.json: no such file"),
        ("tensors", lambda f: (f / weights).unlink(), "adapter.safetensors: no such file"),
        (
            "cut",
            lambda f: (f / weights).write_bytes((f / weights).read_bytes()[:-9]),
            r"adapter.safetensors: is cut, it has \d+ of \d+ bytes",
        ),
        (
            "half",
            lambda f: (f / "adapter.json").write_text("{"),
            "half: the adapter is damaged.*adapter.json",
        ),
        ("other", lambda f: (f / "adapter.json").write_text("[]"), "no 'format' in it"),
        ("format", lambda f: edit_json(f, format=2), "adapter format 2, expected 1"),
        (
            "lone",
            lambda f: edit_tensors(f, lambda t: {k: v for k, v in t.items() if k != f"{q}.U"}),
            "one factor of two",
        ),
        ("odd", lambda f: edit_tensors(f, lambda t: {**t, "x": torch.ones(1)}), "'x' is not a factor"),
        ("empty", lambda f: edit_tensors(f, lambda t: {}), "no tensors"),
    ]
    for name, change, message in cases:
        with pytest.raises(ModelError, match=message):
            Adapter.load(damaged(name, change))
    with pytest.raises(ModelError, match="no such file"):
        Adapter.load(tmp_path / "nowhere")


def test_saving_never_destroys_other_files(tiny_llama, tmp_path):
    adapter = random_adapter(tiny_llama())
    (tmp_path / "thesis.tex").write_text("x")
    for write in (adapter.save, lambda folder: to_peft(adapter, folder)):
        with pytest.raises(ModelError, match=r"other files.*thesis.tex"):
            write(tmp_path)
        with pytest.raises(ModelError, match="is a file"):
            write(tmp_path / "thesis.tex")
    assert (tmp_path / "thesis.tex").read_text() == "x"


# --- PEFT at the border -------------------------------------------------------------------------------------


def peft_saved(tiny_llama, folder: Path, dtype: torch.dtype = torch.float32, **settings) -> torch.Tensor:
    """Save a random LoRA with PEFT itself and return its logits."""
    config = LoraConfig(
        **{"r": 4, "lora_alpha": 12, "target_modules": ALL, "task_type": "CAUSAL_LM", **settings}
    )
    model = get_peft_model(tiny_llama().to(dtype), config)
    generator = torch.Generator().manual_seed(5)
    for name, parameter in model.named_parameters():
        if "lora_" in name:
            parameter.data = (torch.randn(parameter.shape, generator=generator) * 0.2).to(dtype)
    model.save_pretrained(folder)
    weights = load_file(folder / "adapter_model.safetensors")
    save_file({name: value.float() for name, value in weights.items()}, folder / "adapter_model.safetensors")
    return logits(model.eval(), ids())


@pytest.mark.parametrize(
    ("settings", "scale", "rank"),
    [
        ({}, 3.0, 4),
        ({"use_rslora": True}, 6.0, 4),
        ({"target_modules": ["q_proj", "down_proj"], "r": 5, "lora_alpha": 7}, 1.4, 5),
        ({"alpha_pattern": {"q_proj": 20, "layers.1.mlp.up_proj": 2}}, 3.0, 4),
        ({"rank_pattern": {"layers.0.self_attn.q_proj": 9, r"layers\.1\..*_proj": 2}}, None, 9),
        ({"rank_pattern": {"down_proj": 2}, "alpha_pattern": {"down_proj": 5}, "use_rslora": True}, 6.0, 4),
        ({"init_lora_weights": "gaussian", "lora_dropout": 0.1}, 3.0, 4),
        ({"target_modules": "all-linear"}, 3.0, 4),
    ],
    ids=["plain", "rslora", "odd", "alpha", "rank", "both+rslora", "init", "all-linear"],
)
def test_a_lora_of_peft_gives_equal_logits(tiny_llama, tmp_path, settings, scale, rank):
    # In fp64, because these updates are several times the base and fp32 rounding would hide small errors.
    expected = peft_saved(tiny_llama, tmp_path, torch.float64, **settings)
    adapter = from_peft(tmp_path, base="b")
    assert adapter.rank == rank and adapter.base == "b"
    assert scale is None or adapter.scale == pytest.approx(scale)
    model = tiny_llama().double()
    steering = Steering.attach_adapter(model, adapter)
    with steering.at(adapter.gates()):
        ours = logits(model, ids())
    torch.testing.assert_close(ours, expected, rtol=0, atol=1e-5)
    assert relative(expected, logits(tiny_llama().double(), ids())) > 0.1


@pytest.mark.parametrize("case", ["constant", "soup", "anchor", "one-hot", "default", "by module", "zero"])
def test_peft_loads_what_to_peft_writes(tiny_llama, tmp_path, case):
    model = tiny_llama()
    stacked = stack([random_adapter(model, 4, 2.0, 1), random_adapter(model, 2, 0.7, 2)])
    gates = {
        "constant": torch.full((6,), 1.3),
        "soup": soup_gates(torch.tensor([[0.3, 0.7]]), stacked.ranks, stacked.scales)[0],
        "anchor": anchor_gates(torch.tensor([1]), stacked.ranks, stacked.scales)[0],
        "one-hot": soup_gates(torch.tensor([[1.0, 0.0]]), stacked.ranks, stacked.scales)[0],
        "default": stacked.gates(),
        "by module": {path: torch.rand(6) for path in stacked.factors},
        "zero": torch.zeros(6),
    }[case]
    to_peft(stacked, tmp_path / "peft", None if case == "default" else gates, base_name="tiny")
    config = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
    assert config["r"] == config["lora_alpha"] == {"anchor": 2, "one-hot": 4, "zero": 1}.get(case, 6)
    assert config["base_model_name_or_path"] == "tiny" and sorted(config["target_modules"]) == sorted(ALL)
    steering = Steering.attach_adapter(model, stacked)
    with steering.at(gates):
        ours = logits(model, ids())
    loaded = PeftModel.from_pretrained(tiny_llama(), str(tmp_path / "peft"))
    torch.testing.assert_close(logits(loaded.eval(), ids()), ours, rtol=0, atol=1e-5)
    torch.testing.assert_close(logits(loaded.merge_and_unload(), ids()), ours, rtol=0, atol=1e-5)
    again = from_peft(tmp_path / "peft")
    assert again.scale == 1.0 and again.rank == config["r"]


@pytest.mark.filterwarnings("error:.*[Mm]issing.*key")
def test_an_adapter_of_some_layers_only_is_written_with_full_paths(tiny_llama, tmp_path):
    model = tiny_llama()
    whole = random_adapter(model, targets=["q_proj"])
    part = Adapter({p: f for p, f in whole.factors.items() if "layers.1" in p}, 2.0)
    to_peft(part, tmp_path / "peft")
    config = json.loads((tmp_path / "peft" / "adapter_config.json").read_text())
    assert config["target_modules"] == ["model.layers.1.self_attn.q_proj"]
    steering = Steering.attach_adapter(model, part)
    with steering.at(part.gates()):
        ours = logits(model, ids())
    loaded = PeftModel.from_pretrained(tiny_llama(), str(tmp_path / "peft"))
    torch.testing.assert_close(logits(loaded.eval(), ids()), ours, rtol=0, atol=1e-5)


def test_to_peft_refuses_gates_of_rows(tiny_llama, tmp_path):
    adapter = random_adapter(tiny_llama())
    with pytest.raises(ModelError, match=r"gate \[1, 4\], expected \[4\]"):
        to_peft(adapter, tmp_path / "peft", torch.ones(1, 4))
    with pytest.raises(ModelError, match="no gate for"):
        to_peft(adapter, tmp_path / "peft", {"q": torch.ones(4)})
    assert not (tmp_path / "peft").exists()


@pytest.mark.parametrize(
    ("settings", "field"),
    [
        ({"use_dora": True}, "use_dora"),
        ({"bias": "lora_only"}, "bias='lora_only'"),
        ({"modules_to_save": ["lm_head"]}, "modules_to_save"),
        ({"lora_bias": True}, "lora_bias"),
        ({"layer_replication": [(0, 2), (0, 2)]}, "layer_replication"),
        ({"trainable_token_indices": [3]}, "trainable_token_indices"),
        ({"init_lora_weights": "pissa"}, "init_lora_weights='pissa'"),
        ({"init_lora_weights": "olora"}, "init_lora_weights='olora'"),
        ({"target_modules": ["q_proj", "embed_tokens"]}, "is not a factor of a linear layer"),
    ],
    ids=lambda value: value if isinstance(value, str) else "",
)
def test_variants_of_lora_saved_by_peft_are_refused(tiny_llama, tmp_path, settings, field):
    peft_saved(tiny_llama, tmp_path, **settings)
    with pytest.raises(ModelError, match=field):
        from_peft(tmp_path)


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"fan_in_fan_out": True}, "fan_in_fan_out=True.*nn.Linear"),
        ({"kasa_config": {"x": 1}}, "kasa_config.*not supported"),
        ({"a_field_of_tomorrow": 0.5}, "a_field_of_tomorrow=0.5 is not plain LoRA"),
        ({"peft_type": "IA3"}, "peft_type 'IA3'; only LORA"),
        ({"r": 8}, "has rank 4 where the configuration says 8"),
    ],
)
def test_configurations_that_do_not_describe_a_plain_lora_are_refused(tiny_llama, tmp_path, changes, message):
    peft_saved(tiny_llama, tmp_path)
    config = json.loads((tmp_path / "adapter_config.json").read_text())
    (tmp_path / "adapter_config.json").write_text(json.dumps({**config, **changes}))
    with pytest.raises(ModelError, match=message):
        from_peft(tmp_path)
    (tmp_path / "adapter_model.safetensors").unlink()
    with pytest.raises(ModelError, match=r"adapter_model.safetensors: no such file.*pickles"):
        from_peft(tmp_path)


def test_targets_in_some_blocks_leave_the_others_without_a_backward_pass(tiny_llama) -> None:
    model = tiny_llama(num_hidden_layers=4)
    steering = Steering.attach(model, ["q_proj@1-2", "down_proj@3-"], 2)
    assert list(steering.layers) == [
        "model.layers.1.self_attn.q_proj",
        "model.layers.2.self_attn.q_proj",
        "model.layers.3.mlp.down_proj",
    ]
    reached = []
    for number, block in enumerate(model.model.layers):
        block.register_forward_hook(lambda _, __, out, n=number: reached.append((n, out.requires_grad)))
    with steering.at(torch.ones(2)):
        model(input_ids=torch.tensor([[3, 4, 5]])).logits.sum().backward()
    assert reached == [(0, False), (1, True), (2, True), (3, True)]
