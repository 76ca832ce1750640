"""Fused kernels: who gets them, what they replace, and that wrong ones are left out. None is run on CUDA here."""

from __future__ import annotations

import importlib.util
import inspect
import logging
import sys
from dataclasses import replace
from types import ModuleType, SimpleNamespace

import pytest
import torch
import torch.nn.functional as F
from torch import Tensor, nn
from transformers.models.llama import modeling_llama

from paretune.models import kernels, packing
from paretune.models.frozen_linear import FrozenNorm, freeze
from paretune.models.kernels import FusedGate, FusedNorm, FusedRotation, Kernels, fuse, kernels_for
from paretune.models.packing import pack, packed_logps, prepare
from paretune.models.steering import Steering

CPU = torch.device("cpu")
GROUPS = [(list(range(3, 14)), [[20, 21, 22], [30, 31]])]


def norm(x: Tensor, weight: Tensor, epsilon: float) -> Tensor:
    return F.rms_norm(x, weight.shape, weight, epsilon)


def gate(a: Tensor, b: Tensor) -> Tensor:
    return F.silu(a) * b


def rotate(q: Tensor, k: Tensor, cos: Tensor, sin: Tensor) -> tuple[Tensor, Tensor]:
    """Rotate halves against each other."""

    def turned(x: Tensor) -> Tensor:
        left, right = x.chunk(2, -1)
        c, s = (part[:, None, :, : x.shape[-1] // 2] for part in (cos, sin))
        return torch.cat([left * c - right * s, right * c + left * s], -1)

    return turned(q), turned(k)


RIGHT = Kernels(norm, gate, rotate)


@pytest.fixture(autouse=True)
def rotation_as_it_was(monkeypatch: pytest.MonkeyPatch) -> None:
    """Put the function of transformers back after each test."""
    monkeypatch.setattr(modeling_llama, "apply_rotary_pos_emb", modeling_llama.apply_rotary_pos_emb)


def results(model: nn.Module) -> list[Tensor]:
    steering = Steering.attach(model, ["all-linear"], 2)  # type: ignore[arg-type]
    with torch.no_grad():
        for layer in steering.layers.values():
            layer.U.normal_(0, 0.1, generator=torch.Generator().manual_seed(0))
    with steering.at(torch.ones(2)):
        logps = packed_logps(model, pack(GROUPS))  # type: ignore[arg-type]
        logps.sum().backward()
    found = [logps.detach(), *(p.grad for p in steering.parameters())]
    steering.detach()
    return found  # type: ignore[return-value]


def test_all_three_take_their_places_and_compute_the_same(tiny_llama) -> None:
    model = tiny_llama().requires_grad_(False)
    prepare(model)
    paths = list(model.state_dict())
    expected = results(model)
    assert fuse(model, RIGHT, CPU, torch.float32) == ["norm", "gated activation", "rotation"]
    kinds = [type(module) for module in model.modules()]
    layers = len(model.model.layers)
    assert kinds.count(FusedNorm) == 2 * layers + 1 and FrozenNorm not in kinds
    assert kinds.count(FusedGate) == layers
    assert isinstance(modeling_llama.apply_rotary_pos_emb, FusedRotation)
    assert list(model.state_dict()) == paths
    for a, b in zip(results(model), expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)


@pytest.mark.parametrize(
    ("wrong", "name"),
    [
        (replace(RIGHT, norm=lambda x, weight, epsilon: 1.1 * norm(x, weight, epsilon)), "norm"),
        (replace(RIGHT, norm=lambda x, weight, epsilon: norm(x, weight, epsilon).detach() + 0 * x), "norm"),
        (replace(RIGHT, gate=lambda a, b: gate(b, a)), "gated activation"),
        (replace(RIGHT, rotate=lambda q, k, cos, sin: rotate(q, k, cos, -sin)), "rotation"),
    ],
)
def test_a_kernel_that_computes_something_else_is_left_out(
    wrong: Kernels, name: str, tiny_llama, caplog: pytest.LogCaptureFixture
) -> None:
    model = tiny_llama().requires_grad_(False)
    freeze(model)
    with caplog.at_level(logging.WARNING):
        done = fuse(model, wrong, CPU, torch.float32)
    assert name not in done and len(done) == 2
    assert (
        f"the fused {name} of liger-kernel does not run here (off by" in caplog.text
        and "it is left out" in caplog.text
    )


def test_a_kernel_that_fails_is_left_out(tiny_llama, caplog: pytest.LogCaptureFixture) -> None:
    def fail(*given: object) -> Tensor:
        raise RuntimeError("Triton\nfound no compiler")

    model = tiny_llama().requires_grad_(False)
    freeze(model)
    with caplog.at_level(logging.WARNING):
        assert fuse(model, Kernels(fail, fail, fail), CPU, torch.float32) == []  # type: ignore[arg-type]
    assert caplog.text.count("(Triton found no compiler); it is left out") == 3
    assert not isinstance(modeling_llama.apply_rotary_pos_emb, FusedRotation)


def test_only_what_is_a_llamas_is_replaced() -> None:
    class Other(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.gate_proj, self.up_proj, self.down_proj = (nn.Linear(8, 8) for _ in range(3))
            self.act_fn = nn.GELU()

    model = nn.Sequential(Other(), nn.LayerNorm(8))
    assert fuse(model, RIGHT, CPU, torch.float32) == []
    assert [type(module) for module in model] == [Other, nn.LayerNorm]


def test_the_rotation_of_another_device_or_form_is_the_plain_one() -> None:
    calls = []

    def plain(
        q: Tensor, k: Tensor, cos: Tensor, sin: Tensor, unsqueeze_dim: int = 1
    ) -> tuple[Tensor, Tensor]:
        calls.append(unsqueeze_dim)
        return q, k

    q, k = torch.randn(1, 4, 3, 8), torch.randn(1, 2, 3, 8)
    cos, sin = torch.ones(2, 1, 3, 8)
    FusedRotation(plain, RIGHT, "cuda")(q, k, cos, sin)
    fused = FusedRotation(plain, RIGHT, "cpu")
    fused(q, k, cos, sin, unsqueeze_dim=2)
    fused(q, k, cos[..., :4], sin[..., :4])  # rotates a part of each head
    assert calls == [1, 2, 1]
    kept = q.clone()
    fused(q, k, cos, sin)
    assert calls == [1, 2, 1] and torch.equal(q, kept)


def test_who_gets_kernels(monkeypatch: pytest.MonkeyPatch) -> None:
    """On CUDA with liger-kernel."""
    cuda = torch.device("cuda")
    monkeypatch.setattr(kernels, "find_spec", lambda name: None)
    assert kernels_for(cuda) is None
    monkeypatch.setattr(kernels, "find_spec", lambda name: importlib.util.spec_from_loader(name, None))
    assert kernels_for(CPU) is None and kernels_for(torch.device("mps")) is None


def rms_norm(ctx, X, W, eps, offset=0.0, casting_mode="llama", in_place=True, row_mode=None):
    return norm(X, W, eps)


def silu_mul(ctx, a, b, gate_multiplier: float = 1.0, down_multiplier: float = 1.0):
    return gate(a, b)


def rope(ctx, q, k, cos, sin, position_ids=None, unsqueeze_dim=1, rotary_dim=None):
    return rotate(q, k, cos, sin)


SIGNATURES = {"LigerRMSNormFunction": rms_norm, "LigerSiLUMulFunction": silu_mul, "LigerRopeFunction": rope}
"""The functions of liger_kernel.ops with the ``forward`` that each has in liger-kernel 0.8.5."""


def test_the_kernels_are_called_as_liger_kernel_defines_them(
    tiny_llama, monkeypatch: pytest.MonkeyPatch
) -> None:
    given: dict[str, dict[str, object]] = {}

    def function(name: str) -> SimpleNamespace:
        forward = SIGNATURES[name]

        def apply(*arguments: object) -> object:
            bound = inspect.signature(forward).bind("ctx", *arguments)  # a TypeError where one is too many
            bound.apply_defaults()
            given[name] = dict(bound.arguments)
            return forward(*bound.args, **bound.kwargs)

        return SimpleNamespace(apply=apply)

    ops = ModuleType("liger_kernel.ops")
    for name in SIGNATURES:
        setattr(ops, name, function(name))
    monkeypatch.setitem(sys.modules, "liger_kernel", ModuleType("liger_kernel"))
    monkeypatch.setitem(sys.modules, "liger_kernel.ops", ops)
    monkeypatch.setattr(kernels, "find_spec", lambda name: importlib.util.spec_from_loader(name, None))
    found = kernels_for(torch.device("cuda"))
    assert found is not None
    model = tiny_llama().requires_grad_(False)
    prepare(model)
    expected = results(model)
    assert fuse(model, found, CPU, torch.float32) == ["norm", "gated activation", "rotation"]
    for a, b in zip(results(model), expected, strict=True):
        torch.testing.assert_close(a, b, atol=1e-4, rtol=1e-4)
    of_norm = given["LigerRMSNormFunction"]
    assert (of_norm["offset"], of_norm["casting_mode"], of_norm["in_place"]) == (0.0, "llama", False)
    assert of_norm["eps"] == model.config.rms_norm_eps
    of_gate, of_rope = given["LigerSiLUMulFunction"], given["LigerRopeFunction"]
    assert (of_gate["gate_multiplier"], of_gate["down_multiplier"]) == (1.0, 1.0)
    assert of_rope["position_ids"] is None and of_rope["unsqueeze_dim"] == 1
    assert of_rope["cos"].shape == (*of_rope["q"].shape[:1], *of_rope["q"].shape[2:])


def test_a_model_gets_the_kernels_of_its_device(tiny_llama, monkeypatch: pytest.MonkeyPatch) -> None:
    asked = []
    monkeypatch.setattr(packing, "kernels_for", lambda device: asked.append(device) or RIGHT)
    model = tiny_llama().requires_grad_(False)
    prepare(model)
    assert asked == [CPU] and any(type(module) is FusedGate for module in model.modules())
