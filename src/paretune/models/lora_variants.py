"""Which of PEFT's configurations are a plain LoRA, W + scale * B A, and what to do about the others."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from paretune.core.errors import ModelError

# Settings of a LoRA that leave its mathematics at W + scale * B A; any other setting that is switched on is
# refused, so that a variant of a later PEFT is never read as a plain LoRA.
_PLAIN = frozenset(
    (
        "alpha_pattern",
        "auto_mapping",
        "base_model_name_or_path",
        "bias",
        "corda_config",
        "ensure_weight_tying",
        "eva_config",
        "exclude_modules",
        "inference_mode",
        "init_lora_weights",
        "layers_pattern",
        "layers_to_transform",
        "loftq_config",
        "lora_alpha",
        "lora_dropout",
        "lora_ga_config",
        "megatron_core",
        "peft_type",
        "peft_version",
        "qalora_group_size",
        "r",
        "rank_pattern",
        "revision",
        "runtime_config",
        "target_modules",
        "task_type",
        "use_rslora",
    )
)
_CURES = {
    "fan_in_fan_out": "its base model stores transposed matrices (Conv1D); use a base with nn.Linear layers",
    "use_dora": "DoRA rescales the base weights; merge it into the base model with PEFT, or train without it",
    "modules_to_save": "it replaces whole modules; merge it into the base with PEFT, or train without it",
    "lora_bias": "it adds a bias; train with lora_bias=False",
    "layer_replication": "it changes the number of layers; merge it into the base model with PEFT first",
    "trainable_token_indices": "it changes token embeddings; merge it into the base model with PEFT first",
    "target_parameters": "it adapts parameters that are not nn.Linear weights; train on target_modules only",
}
_BASE_CHANGING = ("pissa", "olora", "loftq", "corda", "lora_ga")


def refuse_variants(settings: Mapping[str, Any], file: Path) -> None:
    """Raise a ModelError that names setting and cure unless PEFT's configuration ``file`` describes a plain LoRA."""
    if settings.get("peft_type") != "LORA":
        raise ModelError(
            f"{file}: peft_type {settings.get('peft_type')!r}; only LORA can be loaded, convert the adapter "
            "with PEFT"
        )
    for name, value in settings.items():
        if name not in _PLAIN and value:
            cure = _CURES.get(
                name, "this variant of LoRA is not supported; merge it into the base model with PEFT"
            )
            raise ModelError(f"{file}: {name}={value!r} is not plain LoRA: {cure}")
    if settings.get("bias", "none") != "none":
        raise ModelError(
            f"{file}: bias={settings['bias']!r} trains biases of the base model; train with bias='none'"
        )
    init = settings.get("init_lora_weights")
    if isinstance(init, str) and init.startswith(_BASE_CHANGING):
        raise ModelError(
            f"{file}: init_lora_weights={init!r} changed the base weights; "
            "save it as a plain LoRA with PEFT's path_initial_model_for_weight_conversion"
        )
