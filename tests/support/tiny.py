"""A random Llama, small enough that a step takes milliseconds."""

from __future__ import annotations

from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM


def make_tiny_llama(seed: int = 0, **overrides) -> LlamaForCausalLM:
    """Return a random fp32 Llama (hidden 64, 2 layers, vocabulary 128); equal seeds give equal weights."""
    import torch
    from transformers import LlamaConfig, LlamaForCausalLM

    settings = {
        "hidden_size": 64,
        "intermediate_size": 96,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "vocab_size": 128,
        "max_position_embeddings": 256,
        "initializer_range": 0.1,  # at the usual 0.02 all logits are near 0 and tests blunt
        "bos_token_id": 1,
        "eos_token_id": 2,
        "pad_token_id": 0,
        "tie_word_embeddings": False,
    }
    with torch.random.fork_rng():
        torch.manual_seed(seed)
        return LlamaForCausalLM(LlamaConfig(**{**settings, **overrides})).eval()
