"""Fixtures shared by the tests; heavy imports stay inside, so that tests of numbers alone start at once."""

from __future__ import annotations

import os
from collections.abc import Callable
from typing import TYPE_CHECKING

import pytest
from hypothesis import HealthCheck, settings

if TYPE_CHECKING:
    from transformers import LlamaForCausalLM

    from paretune.lm import LanguageModel

# Models here are tiny, and a process with one thread can be forked.
os.environ["OMP_NUM_THREADS"] = "1"

# The same examples in every run, however slow the machine: what passes here passes there.
settings.register_profile(
    "paretune", derandomize=True, deadline=None, suppress_health_check=[HealthCheck.too_slow]
)
settings.load_profile("paretune")


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


@pytest.fixture(scope="session")
def tiny_llama() -> Callable[..., LlamaForCausalLM]:
    """Return :func:`make_tiny_llama`: every call gives a fresh model."""
    return make_tiny_llama


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    """Return a tiny random Llama with a tokenizer, loaded as a user's model is, with a cache folder of its own."""
    from paretune.lm import load
    from world import write_model

    os.environ["PARETUNE_CACHE"] = str(tmp_path_factory.mktemp("cache"))
    return load(str(write_model(tmp_path_factory.mktemp("model"))), "float32", "cpu")
