"""Panacea: the thirteen invariants of its mathematics, its training, and what its policy promises."""

from __future__ import annotations

import json
import math
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from functools import partial
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from transformers import AutoModelForCausalLM, LlamaForCausalLM

from paretune.core.errors import ConfigError, ModelError, TrainingError
from paretune.core.preference import Preference, preference_grid
from paretune.core.scalarise import SCALARISATIONS, Shape
from paretune.methods import panacea
from paretune.methods.base import Inputs
from paretune.methods.panacea import PanaceaConfig, objective_data, with_margins
from paretune.models.adapter import Adapter, to_peft
from paretune.models.distributed import WorkSplit
from paretune.models.gates import soup_gates
from paretune.models.language_model import LanguageModel, load
from paretune.models.singular_gates import SingularGates, initial, orthogonality
from paretune.models.steering import Steering
from paretune.models.targets import target_shapes
from paretune.policies.policy import Policy
from paretune.training import loop
from paretune.training.conditioned import ConditionedTask
from paretune.training.conditioning import Conditioning, draw_preferences
from paretune.training.lab import Lab
from paretune.training.learner import ConditionedAdapter
from paretune.training.loop import Training
from paretune.training.losses import log_ratio_gap, pair_loss
from paretune.training.scalarise import aggregate
from support.adapters import TRAINING, adapters_equal, training_run
from support.world import make_dataset

K, M = 4, 3
OBJECTIVES = ("short", "good")
IDS = torch.randint(3, 100, (3, 9), generator=torch.Generator().manual_seed(1))
WEIGHTS = torch.tensor([[0.2, 0.3, 0.5], [1.0, 0.0, 0.0], [0.0, 0.6, 0.4]])


def randomised(model: LlamaForCausalLM, seed: int = 0, **options: object) -> tuple[Steering, SingularGates]:
    """Attach a Panacea layer (k = 4, m = 3) to all linears with every value random."""
    adapter, gates = initial(target_shapes(model, ["all-linear"]), K, M, init="small", seed=seed, **options)  # type: ignore[arg-type]
    generator = torch.Generator().manual_seed(seed + 100)
    for parameter in gates.named_parameters().values():
        parameter.data = torch.randn(parameter.shape, generator=generator)
    wide = {path: (U * 5, V * 5) for path, (U, V) in adapter.factors.items()}
    return Steering.attach_adapter(model, replace(adapter, factors=wide), trainable=True), gates


@torch.no_grad()
def logits(steering: Steering, gates: object, ids: torch.Tensor = IDS, **inputs: object) -> torch.Tensor:
    with steering.at(gates):  # type: ignore[arg-type]
        return steering.model(input_ids=ids, **inputs).logits


def delta(adapter: Adapter, gate: torch.Tensor, path: str) -> torch.Tensor:
    U, V = (x.double() for x in adapter.factors[path])
    return U * gate.double() @ V


@pytest.mark.parametrize("init", ["zero-singular", "zero-left", "lora"])
def test_1_the_start_is_the_base_model(tiny_llama: Callable[..., LlamaForCausalLM], init: str) -> None:
    model = tiny_llama()
    with torch.no_grad():
        base = model(input_ids=IDS).logits
    adapter, gates = initial(target_shapes(model, ["all-linear"]), K, M, init=init)  # type: ignore[arg-type]
    steering = Steering.attach_adapter(model, adapter, trainable=True)
    assert torch.equal(logits(steering, gates.at(WEIGHTS)), base)
    with steering.off(), torch.no_grad():
        assert torch.equal(model(input_ids=IDS).logits, base)
    with steering.at(gates.at(WEIGHTS)):
        model(input_ids=IDS).logits.square().mean().backward()
    moved = {name.rpartition(".")[2] for name, p in gates.named_parameters().items() if bool(p.grad.any())}
    moved |= {name.rpartition(".")[2] for name, p in steering.named_parameters() if bool(p.grad.any())}
    assert moved == ({"sigma", "scale"} if init == "zero-singular" else {"U"})


def test_the_start_of_a_lora_is_a_soup_of_one_lora_an_objective(
    tiny_llama: Callable[..., LlamaForCausalLM],
) -> None:
    shapes = target_shapes(tiny_llama(), ["all-linear"])
    adapter, gates = initial(shapes, 0, M, groups=3, init="lora")
    assert torch.equal(gates.at(WEIGHTS)[next(iter(shapes))], soup_gates(WEIGHTS, [3] * M, [1.0] * M))
    assert all(
        not U.any() and float(V.abs().max()) <= V.shape[1] ** -0.5 for U, V in adapter.factors.values()
    )


def test_2_a_mixed_batch_is_its_rows_alone(tiny_llama: Callable[..., LlamaForCausalLM]) -> None:
    steering, gates = randomised(tiny_llama())
    together = logits(steering, gates.at(WEIGHTS))
    for row in range(3):
        alone = logits(steering, gates.at(WEIGHTS[row : row + 1]), IDS[row : row + 1])
        torch.testing.assert_close(together[row : row + 1], alone, atol=1e-5, rtol=1e-5)
    padded = torch.cat([torch.zeros(3, 4, dtype=torch.long), IDS], dim=1)
    mask = torch.cat([torch.zeros(3, 4, dtype=torch.long), torch.ones_like(IDS)], dim=1)
    positions = (mask.cumsum(-1) - 1).clamp(min=0)
    left = logits(steering, gates.at(WEIGHTS), padded, attention_mask=mask, position_ids=positions)
    torch.testing.assert_close(left[:, 4:], together, atol=1e-5, rtol=1e-5)


def test_3_4_folded_saved_exported_and_merged_compute_the_same(
    tiny_llama: Callable[..., LlamaForCausalLM], tmp_path: Path
) -> None:
    """Sigma and s folded into U; saved and loaded bit for bit; a PEFT LoRA and a dense model at one preference."""
    peft = pytest.importorskip("peft")
    model = tiny_llama()
    steering, gates = randomised(model)
    expected = logits(steering, gates.at(WEIGHTS))
    folded = gates.fold(steering.adapter())
    steering.detach()
    folded.save(tmp_path / "adapter")
    loaded = Adapter.load(tmp_path / "adapter")
    assert adapters_equal(folded, loaded) and loaded.blocks == ((K, 1.0),) + ((1, 1.0),) * M
    attached = Steering.attach_adapter(model, loaded)
    gate = torch.cat([torch.ones(3, K), WEIGHTS], dim=1)
    torch.testing.assert_close(logits(attached, gate), expected, atol=1e-5, rtol=1e-5)
    before = {name: p.clone() for name, p in model.named_parameters() if "base" in name}
    with attached.merged(gate[0]) as merged, torch.no_grad():
        dense = merged(input_ids=IDS[:1]).logits
    torch.testing.assert_close(dense, expected[:1], atol=1e-5, rtol=1e-5)
    assert all(torch.equal(p, dict(model.named_parameters())[name]) for name, p in before.items())  # 7
    attached.save_dense(tmp_path / "dense", gate[0])
    attached.detach()
    with torch.no_grad():
        plain = AutoModelForCausalLM.from_pretrained(tmp_path / "dense", dtype=torch.float32)(IDS[:1]).logits
        torch.testing.assert_close(plain, expected[:1], atol=1e-5, rtol=1e-5)
        to_peft(loaded, tmp_path / "lora", gate[0])
        lora = peft.PeftModel.from_pretrained(model, str(tmp_path / "lora"))
        torch.testing.assert_close(lora(IDS[:1]).logits, expected[:1], atol=1e-5, rtol=1e-5)


def test_learned_features_bend_the_gates_and_fold_exactly(
    tiny_llama: Callable[..., LlamaForCausalLM], tmp_path: Path
) -> None:
    """Ours: H = 0 is the paper's form; random H is no longer affine, and the folded adapter still serves it."""
    model = tiny_llama()
    with torch.no_grad():
        base = model(input_ids=IDS).logits
    adapter, gates = initial(target_shapes(model, ["all-linear"]), K, M, hidden=3)
    steering = Steering.attach_adapter(model, adapter, trainable=True)
    assert torch.equal(logits(steering, gates.at(WEIGHTS)), base), "the start is the base model"
    steering.detach()
    steering, gates = randomised(model, hidden=3)
    mixed = logits(steering, gates.at(WEIGHTS))
    middle, ends = gates.at(torch.full((1, M), 1 / M)), gates.at(torch.eye(M))
    assert any(not torch.allclose(middle[path][0], ends[path].mean(0), atol=1e-2) for path in ends)
    gates.fold(steering.adapter()).save(tmp_path / "adapter")
    steering.detach()
    lm = LanguageModel(model, None, "tiny", "tiny")  # type: ignore[arg-type]
    objectives = ("a", "b", "c")
    policy = Policy.conditioned("bent", lm, objectives, Adapter.load(tmp_path / "adapter"))
    assert len(policy.adapters[0].blocks) == 1 + M + 3
    served = Steering.attach_adapter(model, policy.adapters[0])
    preferences = [Preference(objectives, tuple(row)) for row in WEIGHTS.double().tolist()]
    torch.testing.assert_close(logits(served, policy.gates(preferences)), mixed, atol=1e-4, rtol=1e-4)
    with pytest.raises(ConfigError, match="hidden >= 0"):
        initial({"a": (5, 6)}, 2, 2, hidden=-1)


def test_5_6_the_update_is_affine_and_of_the_stated_rank(tiny_llama: Callable[..., LlamaForCausalLM]) -> None:
    steering, gates = randomised(tiny_llama())
    adapter, path = steering.adapter(), "model.layers.0.mlp.up_proj"
    corners = [delta(adapter, gates.at(torch.eye(M))[path][i].detach(), path) for i in range(M)]
    inner = delta(adapter, gates.at(WEIGHTS)[path][0].detach(), path)
    mixed = sum(w * corner for w, corner in zip(WEIGHTS[0].double(), corners, strict=True))
    assert float((inner - mixed).norm() / inner.norm()) < 1e-6

    def rank(matrix: torch.Tensor) -> int:
        return int(torch.linalg.matrix_rank(matrix, rtol=1e-6))

    assert (rank(inner), rank(corners[0]), rank(corners[0] - corners[1])) == (K + M, K + 1, 2)


def test_8_greedy_and_beam_search_follow_each_row(tiny_llama: Callable[..., LlamaForCausalLM]) -> None:
    model = tiny_llama()
    steering, gates = randomised(model)
    for beams in (1, 2):
        options = {
            "max_new_tokens": 5,
            "do_sample": False,
            "num_beams": beams,
            "eos_token_id": None,
            "pad_token_id": 0,
        }
        ones = torch.ones_like(IDS)
        with steering.at(gates.at(WEIGHTS.repeat_interleave(beams, 0))), torch.no_grad():
            together = model.generate(IDS, attention_mask=ones, **options)
        for row in range(3):
            weights = WEIGHTS[row : row + 1].repeat_interleave(beams, 0)
            with steering.at(gates.at(weights)), torch.no_grad():
                alone = model.generate(IDS[row : row + 1], attention_mask=ones[:1], **options)
            assert torch.equal(together[row], alone[0])


def test_9_10_gradients_and_what_is_trained(tiny_llama: Callable[..., LlamaForCausalLM]) -> None:
    found = []
    for checkpointing in (False, True):
        model = tiny_llama()
        steering, gates = randomised(model)
        if checkpointing:
            steering.enable_checkpointing()
            model.train()
        weights = WEIGHTS.clone().requires_grad_(True)
        with steering.at(gates.at(weights)):
            model(input_ids=IDS, use_cache=False).logits.square().mean().backward()
        assert weights.grad is None
        trained = {**dict(steering.named_parameters()), **gates.named_parameters()}
        assert not any(p.grad is not None for name, p in model.named_parameters() if ".base." in name)
        shapes = target_shapes_of(steering)
        assert sum(p.numel() for p in trained.values()) == sum((K + M) * (o + i) + K + 1 for o, i in shapes)
        found.append({name: p.grad for name, p in trained.items()})
    assert all(torch.equal(found[0][name], found[1][name]) for name in found[0])


def target_shapes_of(steering: Steering) -> list[tuple[int, int]]:
    return [(layer.U.shape[0], layer.V.shape[1]) for layer in steering.layers.values()]


@given(
    st.lists(st.floats(0, 5), min_size=M, max_size=M), st.lists(st.floats(0.01, 1), min_size=M, max_size=M)
)
def test_11_aggregations(losses: list[float], raw: list[float]) -> None:
    L = torch.tensor(losses, dtype=torch.float64, requires_grad=True)
    w = torch.tensor(raw, dtype=torch.float64)
    w, zero, mu = w / w.sum(), torch.zeros(M, dtype=torch.float64), 0.1
    (gradient,) = torch.autograd.grad(aggregate(L, w, "tchebycheff", zero), L)
    L = L.detach()
    worst = aggregate(L, w, "tchebycheff", zero)
    first = int((w * L).argmax())
    assert gradient.nonzero()[:, 0].tolist() == [first] and gradient[first] == w[first]
    smooth = aggregate(L, w, "smooth-tchebycheff", zero, Shape(mu=mu))
    assert float(worst) - 1e-9 <= float(smooth) <= float(worst) + mu * math.log(M) + 1e-9
    assert float(aggregate(L, w, "augmented-tchebycheff", zero, Shape(rho=0.05))) == pytest.approx(
        float(worst + 0.05 * (w * L).sum())
    )
    assert float(aggregate(L, w, "linear", zero)) == pytest.approx(float((w * L).sum()))
    turned = torch.tensor([2, 0, 1])
    for value in (aggregate(L[turned], w[turned], kind, zero) for kind in ("linear", "tchebycheff")):
        assert min(abs(float(value - aggregate(L, w, "linear", zero))), abs(float(value - worst))) < 1e-9


def test_11_smooth_form_does_not_overflow_and_weight_zero_drops_out() -> None:
    halves, zero = torch.tensor([0.5, 0.5]), torch.zeros(2)
    large = aggregate(torch.tensor([1e4, 0.0]), halves, "smooth-tchebycheff", zero, Shape(mu=0.01))
    assert float(large) == pytest.approx(5e3)
    assert float(aggregate(torch.tensor([1.0, math.inf]), torch.tensor([1.0, 0.0]), "linear", zero)) == 1.0


@pytest.mark.parametrize("own_scales", [False, True])
def test_12_the_order_of_objectives_means_nothing(
    tiny_llama: Callable[..., LlamaForCausalLM], own_scales: bool
) -> None:
    """Two directions an objective; columns, weights and own scales permuted together leave the logits unchanged."""
    model, turned = tiny_llama(), torch.tensor([2, 0, 1])
    steering, gates = randomised(model, groups=2, own_scales=own_scales)
    expected = logits(steering, gates.at(WEIGHTS))
    columns = torch.cat([torch.arange(K)] + [K + 2 * i + torch.arange(2) for i in turned])
    with torch.no_grad():
        for layer in steering.layers.values():
            layer.U.copy_(layer.U[:, columns])
            layer.V.copy_(layer.V[columns])
        for scale in gates.scale.values():
            scale.copy_(scale[turned] if own_scales else scale)
    torch.testing.assert_close(logits(steering, gates.at(WEIGHTS[:, turned])), expected, atol=1e-5, rtol=1e-5)


def test_steerability_and_orthogonality(tiny_llama: Callable[..., LlamaForCausalLM]) -> None:
    _, gates = initial({"a": (5, 6)}, 2, 2)
    assert gates.steerability() == {"a": 0.0}, "untrained"
    gates.scale["a"].data = torch.tensor([math.sqrt(2)])  # || s w || = sqrt 2 * sqrt(1/2) = 1
    assert gates.steerability() == {"a": None}, "nothing is shared"
    gates.sigma["a"].data = torch.tensor([3.0, 4.0])
    assert gates.steerability()["a"] == pytest.approx(1 / 5)
    U, V = torch.eye(5, 4), torch.eye(4, 6)
    assert float(orthogonality({"a": (U, V)})) == 0.0
    assert float(orthogonality({"a": (2 * U, V)})) == pytest.approx(4 * 9.0)
    with pytest.raises(ConfigError, match="at least 2 objectives"):
        initial({"a": (5, 6)}, 2, 1)
    with pytest.raises(ModelError, match=r"expected \[B, 2\]"):
        gates.at(torch.ones(1, 3))


# Training


DATA = make_dataset(), make_dataset(4, seed=9)
FAST = replace(TRAINING, learning_rate=2e-2, steps=12)


def history_of(lab: Lab) -> list[dict[str, float]]:
    return json.loads((lab.folder / "adapters/panacea/history.json").read_text())


@pytest.mark.slow
def test_13_a_policy_moves_along_its_weights(lm: LanguageModel, tmp_path: Path) -> None:
    """SFT on two sets: the likelihood of each objective's responses follows its weight, monotonically."""
    lab = Lab(lm, tmp_path, replace(FAST, steps=80, batch_pairs=4, learning_rate=1e-2))
    config = PanaceaConfig(
        loss="sft", rank=4, draw="corners", corner_share=0.5, rate_factor=1.0, gate_rate_factor=5.0
    )
    policy = panacea.train(Inputs(lab, *DATA), config)
    from paretune.data.pairs import pairs

    grid = preference_grid(OBJECTIVES, 4)  # short falls from 1 to 0
    for sign, objective in ((1, "short"), (-1, "good")):
        table = lab.pair_table(pairs(DATA[0], objective))
        groups = [(prompt, [chosen]) for prompt, chosen in zip(table.prompts, table.chosen, strict=True)]
        lengths = torch.tensor([len(chosen) for chosen in table.chosen])
        losses = []
        for preference in grid:
            logps = torch.cat(policy.logps(groups, [preference] * len(groups)))
            losses.append(float((-logps / lengths).mean()))
        assert losses == sorted(losses, reverse=sign < 0), (objective, losses)
        assert abs(losses[0] - losses[-1]) > 0.05


@pytest.mark.parametrize(
    "options",
    [
        {},
        {"per": "row", "draw": "corners", "hidden": 4},
        {"data": "labelled", "aggregation": "tchebycheff"},
        {"data": "labelled", "per": "row", "draw": "grid", "divisions": 4},
        {
            "aggregation": "smooth-tchebycheff",
            "draw": "dirichlet",
            "alpha": 0.5,
            "own_scales": True,
            "groups": 2,
        },
        {"aggregation": "min"},
        {"aggregation": "quantile", "quantile": 0.5},
        {"aggregation": "product", "worst": 2.0, "data": "labelled"},
        {
            "aggregation": "augmented-tchebycheff",
            "orthogonality": 0.01,
            "init": "zero-left",
            "rank": 0,
        },
    ],
    ids=lambda options: "-".join(str(v) for v in options.values()) or "paper",
)
@pytest.mark.slow
def test_every_option_trains_in_one_forward_a_step(
    lm: LanguageModel, tmp_path: Path, options: dict[str, object]
) -> None:
    forwards = [0]
    handle = lm.model.get_decoder().register_forward_hook(
        lambda *_: forwards.__setitem__(0, forwards[0] + torch.is_grad_enabled())
    )
    try:
        lab = Lab(lm, tmp_path, TRAINING)
        policy = panacea.train(Inputs(lab, *DATA), PanaceaConfig(**{"rank": 3, **options}))  # type: ignore[arg-type]
    finally:
        handle.remove()
    assert forwards[0] == TRAINING.steps
    (adapter,) = policy.adapters
    assert any(bool(U.any()) for U, _ in adapter.factors.values())
    for record in history_of(lab):
        assert record["weight/short"] + record["weight/good"] == pytest.approx(1, abs=1e-6)
        assert {f"{kind}/{name}" for kind in ("loss", "weighted_loss") for name in OBJECTIVES} <= set(record)
        if not options:
            total = record["weighted_loss/short"] + record["weighted_loss/good"]
            assert record["loss"] == pytest.approx(total, rel=1e-5)
    first = history_of(lab)[0]
    if not options:
        assert first["loss/short"] == pytest.approx(math.log(2), abs=1e-5)


@pytest.mark.slow
def test_modpos_loss_holds_the_other_objectives_as_margins(lm: LanguageModel, tmp_path: Path) -> None:
    """Each row's loss is MODPO's (Eq. 11) at its own preference, on margins of DPO models that are trained once."""
    lab = Lab(lm, tmp_path, TRAINING)
    config = PanaceaConfig(loss="modpo", rank=3, per="row", init="small")
    policy = panacea.train(Inputs(lab, *DATA), config)
    assert [stage.name for stage in lab.stages] == [
        f"adapters/{n}" for n in ("dpo-short", "dpo-good", "panacea")
    ]
    rewards = [Adapter.load(tmp_path / f"adapters/dpo-{name}/adapter", lm.fingerprint) for name in OBJECTIVES]
    data = with_margins(lab, objective_data(lab, DATA[0], config, lab.train_table), rewards, config.beta)
    steering = Steering.attach_adapter(lm.model, policy.adapters[0], trainable=True)
    gates = SingularGates(
        {path: torch.nn.Parameter(torch.ones(3)) for path in steering.layers},
        {path: torch.nn.Parameter(torch.ones(1)) for path in steering.layers},
        objectives=2,
        groups=1,
    )  # sigma and s are folded into the factors
    rows, weights = [range(2), range(2)], torch.tensor([[0.25, 0.75], [0.9, 0.1]])
    learner = ConditionedAdapter(steering, gates, config, TRAINING.weight_decay)
    task = ConditionedTask(training_run(lm), learner, data, None, config.beta)
    with torch.no_grad(), task._losses(data, rows, weights, torch.ones(2, 2).bool()) as (losses, present, _):
        assert bool(present.all())
    steering.detach()
    asked = [Preference(OBJECTIVES, tuple(row)) for row in weights.tolist()]
    for t, table in enumerate(data.tables):
        other = 1 - t
        logps = torch.stack(policy.logps(table.groups(rows[t]), asked))
        gap = log_ratio_gap(logps, table.reference[:2])
        margin = weights[:, other] * lab.implicit_gap(table, rewards[other], config.beta)[:2]
        expected = pair_loss(gap, config.beta, margin=margin, scale=1 / weights[:, t])
        torch.testing.assert_close(losses[:, t], expected, atol=1e-5, rtol=1e-5)
    with pytest.raises(ConfigError, match="use linear"):
        PanaceaConfig(loss="modpo", aggregation="tchebycheff")


@pytest.mark.slow
def test_scored_samples_drive_the_policy_gradient(lm: LanguageModel, tmp_path: Path) -> None:
    """Responses of more words become less likely where `short` weighs all, and more likely where it weighs nothing."""
    lab = Lab(lm, tmp_path, replace(FAST, steps=60, batch_pairs=6, learning_rate=1e-2))
    config = PanaceaConfig(
        loss="policy-gradient",
        rank=4,
        draw="corners",
        corner_share=0.5,
        rate_factor=1.0,
        gate_rate_factor=5.0,
    )
    policy = panacea.train(Inputs(lab, *DATA), config)
    record = history_of(lab)[0]
    assert record["loss"] == pytest.approx(sum(record[f"weighted_loss/{o}"] for o in OBJECTIVES), abs=1e-5)
    table = lab.response_table(DATA[0])
    groups = [(prompt, [response]) for prompt, response in zip(table.prompts, table.responses, strict=True)]
    gains = []
    for preference in preference_grid(OBJECTIVES, 1):
        logps = torch.cat(policy.logps(groups, [preference] * len(groups)))
        gains.append((table.advantages * ((logps - table.reference) / table.lengths)[:, None]).mean(0))
    assert gains[0][0] > 0.01 and gains[1][1] > 0.01, "each corner prefers what its objective scores high"
    assert gains[0][0] > gains[1][0] and gains[1][1] > gains[0][1]
    with pytest.raises(ConfigError, match="needs ideal"):
        PanaceaConfig(loss="policy-gradient", aggregation="tchebycheff")
    PanaceaConfig(loss="policy-gradient", aggregation="min")  # which reads no ideal
    with pytest.raises(ConfigError, match="aggregation product needs worst, an upper bound of every loss"):
        PanaceaConfig(aggregation="product")
    with pytest.raises(ConfigError, match="needs data: separate"):
        PanaceaConfig(loss="sft", data="labelled")
    bare = replace(
        DATA[0], rows=tuple(replace(row, scores={"good": row.scores["good"]}) for row in DATA[0].rows)
    )
    with pytest.raises(TrainingError, match=r"made:0.*has no score for some objective"):
        panacea.train(Inputs(Lab(lm, tmp_path / "bare", TRAINING), bare, bare), config)


def test_a_corner_under_linear_scalarisation_is_dpo_on_that_objective(
    lm: LanguageModel, tmp_path: Path
) -> None:
    """At a one-hot preference the other objective's pairs are not run, and its loss is reported as 0 of weight 0."""
    lab = Lab(lm, tmp_path, TRAINING)
    panacea.train(Inputs(lab, *DATA), PanaceaConfig(rank=3, draw="corners", corner_share=1.0))
    for record in history_of(lab):
        off = "good" if record["weight/short"] == 1 else "short"
        assert record[f"weight/{off}"] == 0 and record[f"loss/{off}"] == 0
        assert record["loss"] == pytest.approx(record[f"loss/{'short' if off == 'good' else 'good'}"])


@contextmanager
def stopped_before(number: int, monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Interrupt training before optimiser step ``number`` (from 0), as Ctrl-C would."""
    step = loop._Loop.step

    def stopping(self: loop._Loop, at: int, held_out: loop.Record) -> loop.Record:
        if at == number:
            raise KeyboardInterrupt
        return step(self, at, held_out)

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(loop._Loop, "step", stopping)
        yield


def test_killed_training_resumes_to_the_same_weights(
    lm: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = PanaceaConfig(rank=3, per="row")
    whole = panacea.train(Inputs(Lab(lm, tmp_path / "whole", TRAINING), *DATA), config)
    with stopped_before(5, monkeypatch):
        panacea.train(Inputs(Lab(lm, tmp_path / "killed", TRAINING), *DATA), config)
    assert len(list((tmp_path / "killed/checkpoints").glob("panacea-*.safetensors"))) == 1
    resumed = panacea.train(Inputs(Lab(lm, tmp_path / "killed", TRAINING), *DATA), config)
    assert adapters_equal(whole.adapters[0], resumed.adapters[0])
    assert history_of(Lab(lm, tmp_path / "whole", TRAINING)) == history_of(
        Lab(lm, tmp_path / "killed", TRAINING)
    )


def history_with(
    lm: LanguageModel,
    folder: Path,
    settings: Training,
    config: PanaceaConfig,
    name: str,
    stop_below: float | None,
) -> list[dict[str, float]]:
    """Train in the folder ``name`` with that ``stop_below`` and return the history."""
    lab = Lab(lm, folder / name, replace(settings, stop_below=stop_below))
    panacea.train(Inputs(lab, *DATA), config)
    return history_of(lab)


@pytest.mark.slow
def test_a_learned_objective_rests_while_the_others_go_on(
    lm: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """``stop_below`` takes an objective's pairs out of the forward until its held-out loss is above again."""
    settings = replace(TRAINING, steps=8, validate_every=2, checkpoint_every=5)
    config = PanaceaConfig(rank=3, per="row")

    train = partial(history_with, lm, tmp_path, settings, config)
    whole = train("whole", None)
    first = {name: whole[1][f"validation_loss/{name}"] for name in OBJECTIVES}
    easy, hard = sorted(OBJECTIVES, key=first.__getitem__)
    between = (first[easy] + first[hard]) / 2
    assert first[easy] < between < first[hard]
    history = train("rested", between)
    assert history[:2] == whole[:2], "nothing is known before the first validation"
    assert history[2][f"loss/{easy}"] == 0 < history[2][f"loss/{hard}"]
    assert history[2]["tokens"] < whole[2]["tokens"] and history[2] != whole[2]
    for before, after in zip(history[1::2], history[2::2], strict=False):
        rests = {name for name in OBJECTIVES if before[f"validation_loss/{name}"] <= between}
        assert {name for name in OBJECTIVES if after[f"loss/{name}"] == 0} == rests != set(OBJECTIVES)
    with stopped_before(5, monkeypatch):
        train("killed", between)
    assert train("killed", between) == history, "who rests is part of the checkpoint"
    assert len(train("all learned", max(first.values()))) == 2, "a run ends when all objectives are learned"


def test_no_step_is_drawn_for_resting_objectives_alone(lm: LanguageModel, tmp_path: Path) -> None:
    """With corners only and one preference a step, a corner of a resting objective would leave nothing to run."""
    settings = replace(TRAINING, steps=8, validate_every=2)
    config = PanaceaConfig(rank=3, draw="corners", corner_share=1.0)

    train = partial(history_with, lm, tmp_path, settings, config)
    whole = train("whole", None)
    first = {name: whole[1][f"validation_loss/{name}"] for name in OBJECTIVES}
    between = sum(first.values()) / 2
    history = train("rested", between)
    again = 0
    for number, record in enumerate(history[2:], start=2):
        known = history[number // 2 * 2 - 1]
        resting = {name for name in OBJECTIVES if known[f"validation_loss/{name}"] <= between}
        assert {name for name in OBJECTIVES if record[f"loss/{name}"] > 0}.isdisjoint(resting)
        assert record["loss"] > 0
        again += any(whole[number][f"weight/{name}"] == 1 for name in resting)
    assert again, "some step was drawn again"


def test_a_checkpoint_of_another_sampler_is_named(
    lm: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    with stopped_before(3, monkeypatch):
        panacea.train(Inputs(Lab(lm, tmp_path, TRAINING), *DATA), PanaceaConfig(rank=3))
    panacea.train(Inputs(Lab(lm, tmp_path, TRAINING), *DATA), PanaceaConfig(rank=3, draw="grid"))
    assert "checkpoint of a run with other settings" in " ".join(capsys.readouterr().err.split())


def test_preferences_are_drawn_as_asked() -> None:
    def drawn(count: int = 400, **options: object) -> torch.Tensor:
        return torch.tensor(draw_preferences(Conditioning(**options), count, 3, (1, 2, 3)))  # type: ignore[arg-type]

    uniform = drawn()
    assert torch.allclose(uniform.sum(1), torch.ones(400, dtype=torch.float64)) and bool((uniform >= 0).all())
    assert torch.equal(uniform, drawn()), "decided by the seed"
    assert torch.allclose(uniform.mean(0), torch.full((3,), 1 / 3, dtype=torch.float64), atol=0.05)
    assert float(drawn(draw="dirichlet", alpha=0.1).max(1).values.mean()) > 0.85
    lattice = drawn(draw="grid", divisions=2) * 2
    assert torch.equal(lattice, lattice.round())
    share = float((drawn(draw="corners", corner_share=0.3).max(1).values == 1).double().mean())
    assert 0.2 < share < 0.4
    with pytest.raises(ConfigError, match="corner_share"):
        Conditioning(corner_share=2)


def test_the_policy_refuses_other_objectives(lm: LanguageModel, tmp_path: Path) -> None:
    policy = panacea.train(Inputs(Lab(lm, tmp_path / "run", TRAINING), *DATA), PanaceaConfig(rank=3))
    policy.save(tmp_path / "policy")
    facts = json.loads((tmp_path / "policy/policy.json").read_text())
    (tmp_path / "policy/policy.json").write_text(json.dumps({**facts, "objectives": ["good", "short"]}))
    with pytest.raises(ModelError, match=r"trained for the objectives .*'short', 'good'"):
        Policy.load(tmp_path / "policy", lm)
    with pytest.raises(ModelError, match="1 blocks for 2 objectives"):
        Policy.conditioned("x", lm, OBJECTIVES, replace(policy.adapters[0], blocks=((5, 1.0),)))
    gates = policy.gates([Preference.parse("short=0.3,good=0.7")])
    assert gates is not None and gates[0].tolist() == pytest.approx([1, 1, 1, 0.3, 0.7])


def test_nan_names_the_objective(lm: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    import paretune.training.conditioned as conditioned

    plain, count = conditioned.pair_loss, [0]

    def poisoned(*args: object, **kwargs: object) -> torch.Tensor:
        count[0] += 1
        return plain(*args, **kwargs) * (float("nan") if count[0] == 4 else 1)  # type: ignore[arg-type]

    monkeypatch.setattr(conditioned, "pair_loss", poisoned)
    with pytest.raises(
        TrainingError, match=r"panacea: the loss of 'good' is not finite at step 2, on row \d+"
    ):
        panacea.train(Inputs(Lab(lm, tmp_path, TRAINING), *DATA), PanaceaConfig(rank=3))


def test_a_bfloat16_base_is_steered_in_fp32(lm: LanguageModel, tmp_path: Path) -> None:
    half = load(lm.name, "bfloat16", "cpu")
    lab = Lab(half, tmp_path, replace(TRAINING, steps=2))
    policy = panacea.train(Inputs(lab, *DATA), PanaceaConfig(rank=3, per="row"))
    assert all(U.dtype == V.dtype == torch.float32 for U, V in policy.adapters[0].factors.values())
    assert all(math.isfinite(record["loss"]) for record in history_of(lab))


@pytest.mark.parametrize("aggregation", SCALARISATIONS)
def test_held_out_loss_is_that_of_the_runs_own_aggregation(aggregation: str) -> None:
    """The maximum of mean losses per preference, not the mean of row maxima, picks the weights that are kept."""
    config = PanaceaConfig(aggregation=aggregation, ideal=0.1, worst=2.0)  # type: ignore[arg-type]
    random = torch.Generator().manual_seed(0)
    losses = torch.rand(12, 2, generator=random)
    task = object.__new__(ConditionedTask)
    lm = SimpleNamespace(device="cpu")
    task.run = SimpleNamespace(lm=lm, settings=replace(TRAINING, batch_pairs=5))  # type: ignore[assignment]
    task.share, task.conditioning, task.ideal = WorkSplit(), config, torch.full((2,), 0.1)
    task.validation = SimpleNamespace(objectives=OBJECTIVES, tables=[range(12), range(11)])  # type: ignore[assignment]
    asked: dict[int, torch.Tensor] = {}

    @contextmanager
    def known(
        data: object, rows: list[range], weights: torch.Tensor, wanted: torch.Tensor
    ) -> Iterator[tuple]:
        present = torch.tensor([[True, row < 11] for row in rows[0]])
        asked.update(zip(rows[0], weights, strict=True))
        yield losses[list(rows[0])], present, 0

    task._losses = known  # type: ignore[method-assign]
    record = task.validate()
    assert record is not None
    has = torch.ones(12, 2)
    has[11, 1] = 0
    w = torch.stack([asked[row] for row in range(12)])
    if aggregation == "linear":
        expected = float(((w * losses * has).sum(0) / has.sum(0)).sum())
    else:
        values = []
        for preference in w.unique(dim=0):
            mine = (w == preference).all(1)
            means = (losses * has)[mine].sum(0) / has[mine].sum(0)
            values.append(float(task._aggregate(means, preference)))
        assert len(values) == 5
        expected = sum(values) / 5
    assert record["validation_loss"] == pytest.approx(expected, rel=1e-6)


def test_the_maximum_of_mean_losses_needs_one_preference_a_batch() -> None:
    """Two rows at w = (1/2, 1/2): the maxima of rows average to .398 where the maximum of means is .283."""
    rows = torch.tensor([[1.024, 0.108], [0.108, 0.568]])
    w, ideal = torch.tensor([0.5, 0.5]), torch.zeros(2)
    assert float(aggregate(rows, w, "tchebycheff", ideal).mean()) == pytest.approx(0.398, abs=1e-3)
    assert float(aggregate(rows.mean(0), w, "tchebycheff", ideal)) == pytest.approx(0.283, abs=1e-3)
    for aggregation in set(SCALARISATIONS) - {"linear"}:
        with pytest.raises(ConfigError, match="use per: batch"):
            PanaceaConfig(per="row", aggregation=aggregation)  # type: ignore[arg-type]
