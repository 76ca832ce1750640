"""TRL's trainers on PEFT's LoRA, started at the factors of one of our adapters, and their gradients beside ours."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn

from paretune.models.steering import Steering

RANK, SCALE = 4, 2.0
TARGETS = ["q_proj", "v_proj"]
PLAIN: dict[str, Any] = {"bf16": False, "use_cpu": True, "gradient_checkpointing": False, "report_to": "none"}
"""Settings of every trainer here: float32 on the CPU, no log."""


def random_steering(model: nn.Module, generator: torch.Generator | None = None) -> Steering:
    """Attach an adapter whose update is not zero."""
    steering = Steering.attach(model, TARGETS, RANK, seed=1)
    with torch.no_grad():
        for name, parameter in steering.named_parameters():
            if name.endswith(".U"):
                parameter.normal_(std=0.3, generator=generator)
    return steering


def lora_config() -> Any:
    """Return PEFT's settings of the same LoRA."""
    import peft

    return peft.LoraConfig(r=RANK, lora_alpha=int(RANK * SCALE), target_modules=TARGETS)


def copy_factors(model: Any, values: dict[str, Tensor]) -> dict[str, Any]:
    """Set PEFT's factors to ours, ``path.U`` and ``path.V``; return its layers by path."""
    paths = {name.rpartition(".")[0] for name in values}
    layers = {path: model.base_model.model.get_submodule(path) for path in paths}
    with torch.no_grad():
        for path, layer in layers.items():
            layer.lora_A["default"].weight.copy_(values[f"{path}.V"])
            layer.lora_B["default"].weight.copy_(values[f"{path}.U"])
    return layers


def check_gradients(layers: dict[str, Any], ours: dict[str, Tensor], relative: float) -> None:
    """Check that our gradients are those of PEFT's layers, and that these are not zero."""
    for path, layer in layers.items():
        for name, factor in (("U", layer.lora_B), ("V", layer.lora_A)):
            expected = factor["default"].weight.grad
            assert expected.norm() > 0
            assert (ours[f"{path}.{name}"] - expected).norm() <= relative * expected.norm()
