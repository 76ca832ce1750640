"""Tiny random models of many architectures, made from transformers' configurations without a download."""

from __future__ import annotations

from typing import Any

import torch
from transformers import CONFIG_MAPPING, AutoModelForCausalLM, PreTrainedConfig, PreTrainedModel

SIZES: dict[str, Any] = {
    "vocab_size": 96,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "max_position_embeddings": 128,
    "pad_token_id": 0,
    "bos_token_id": 1,
    "eos_token_id": 2,
    "tie_word_embeddings": False,
}
HEADS = {"head_dim": 8}
BOTH = {**HEADS, "sliding_window": 6, "layer_types": ["sliding_attention", "full_attention"]}
EXPERTS = {**HEADS, "num_experts": 4, "num_experts_per_tok": 2, "moe_intermediate_size": 16}
DELTA = {
    **HEADS,
    "linear_num_value_heads": 4,
    "linear_num_key_heads": 2,
    "linear_key_head_dim": 8,
    "linear_value_head_dim": 8,
    "layer_types": ["linear_attention", "full_attention"],
}
GPT2 = {"n_embd": 32, "n_layer": 2, "n_head": 4, "n_positions": 128}

ARCHITECTURES: dict[str, dict[str, Any]] = {
    "llama": {},
    "mistral": {**HEADS, "sliding_window": 6},
    "mixtral": {"num_local_experts": 4, "num_experts_per_tok": 2},
    "qwen2": {},
    "qwen3": HEADS,
    "qwen3_moe": EXPERTS,
    "phi": {},
    "phi3": {"sliding_window": 6},
    "gemma": HEADS,
    "gemma3_text": BOTH,
    "gemma4_text": {
        **BOTH,
        "global_head_dim": 16,
        "vocab_size_per_layer_input": 96,
        "hidden_size_per_layer_input": 8,
        "num_kv_shared_layers": 0,
    },
    "olmo2": {},
    "olmo3": {"sliding_window": 6, "layer_types": BOTH["layer_types"]},
    "smollm3": {},
    "gpt_oss": {**HEADS, "num_local_experts": 4, "num_experts_per_tok": 2, "sliding_window": 6},
    "gpt2": GPT2,
    "gpt_neox": {},
    "deepseek_v3": {
        "n_routed_experts": 4,
        "num_experts_per_tok": 2,
        "moe_intermediate_size": 16,
        "n_group": 1,
        "topk_group": 1,
        "q_lora_rank": 16,
        "kv_lora_rank": 16,
        "qk_rope_head_dim": 8,
        "qk_nope_head_dim": 8,
        "v_head_dim": 8,
        "first_k_dense_replace": 1,
        "num_key_value_heads": 4,
    },
    "glm4": HEADS,
    "starcoder2": {"sliding_window": 6},
    "exaone4": BOTH,
    "ernie4_5": HEADS,
    "gemma2": BOTH,
    "cohere": {},
    "cohere2": {"sliding_window": 6},
    "granite": {"logits_scaling": 8.0},
    "qwen3_next": {**DELTA, **EXPERTS, "shared_expert_intermediate_size": 16},
    "qwen3_5_text": DELTA,
    "lfm2": {"layer_types": ["conv", "full_attention"]},
    "falcon_h1": {
        **HEADS,
        "mamba_d_ssm": 32,
        "mamba_n_heads": 4,
        "mamba_d_head": 8,
        "mamba_d_state": 8,
        "mamba_n_groups": 1,
        "mamba_chunk_size": 8,
    },
    "jamba": {"num_experts": 2, "attn_layer_period": 2, "attn_layer_offset": 1, "mamba_d_state": 4},
    "mamba": {"state_size": 4},
    "llama4_text": {
        **HEADS,
        "num_local_experts": 2,
        "interleave_moe_layer_step": 2,
        "intermediate_size_mlp": 48,
        "attention_chunk_size": 8,
    },
    "bart": {
        "d_model": 32,
        "encoder_layers": 1,
        "decoder_layers": 1,
        "decoder_attention_heads": 4,
        "encoder_attention_heads": 4,
        "decoder_ffn_dim": 32,
        "encoder_ffn_dim": 32,
    },
    "gptj": {**GPT2, "rotary_dim": 4},
    "bloom": {"n_layer": 2, "n_head": 4},
}
"""Model type -> what its configuration has beside :data:`SIZES`."""
EYE = {
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 1,
    "num_attention_heads": 2,
    "image_size": 16,
    "patch_size": 4,
}
QWEN_EYE = {
    "depth": 1,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_heads": 2,
    "out_hidden_size": 32,
    "patch_size": 4,
}
COMPOSITE: dict[str, tuple[dict[str, Any], dict[str, Any]]] = {
    "gemma3": (ARCHITECTURES["gemma3_text"], EYE),
    "gemma4": (ARCHITECTURES["gemma4_text"], EYE),
    "qwen3_5": (DELTA, {**QWEN_EYE, "num_position_embeddings": 16}),
    "llama4": (ARCHITECTURES["llama4_text"], EYE),
    "mistral3": ({**HEADS, "model_type": "mistral"}, {**EYE, "head_dim": 16, "model_type": "pixtral"}),
    "qwen2_5_vl": ({}, QWEN_EYE),
}
"""Model type that reads pictures too -> what the configurations of its decoder, beside :data:`SIZES`, and of its tower have."""


def config_of(name: str) -> PreTrainedConfig:
    """Return the configuration of a tiny model."""
    if name in COMPOSITE:
        text, eye = COMPOSITE[name]
        return CONFIG_MAPPING[name](
            text_config={**SIZES, **text}, vision_config=dict(eye), tie_word_embeddings=False
        )
    return CONFIG_MAPPING[name](**{**SIZES, **ARCHITECTURES[name]})


def make_architecture(name: str, factor: float = 4) -> PreTrainedModel:
    """Return a random frozen model.

    Its matrices are as they start times ``factor``: by default so large that what each layer does is seen in the log-probabilities.
    """
    torch.manual_seed(0)
    model: PreTrainedModel = AutoModelForCausalLM.from_config(config_of(name)).eval().requires_grad_(False)
    with torch.no_grad():
        for parameter in model.parameters():
            if parameter.dim() >= 2:
                parameter.mul_(factor)
            elif (
                factor > 1 and float(parameter.std()) == 0
            ):  # a norm's weight or a bias: all the same, which hides where it is applied
                parameter.add_(torch.rand_like(parameter) * 0.2)
    return model
