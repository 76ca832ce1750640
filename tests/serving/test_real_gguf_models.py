"""llama.cpp itself, where the package xllamacpp is installed, reads and computes with written base models as the policy does."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import httpx
import pytest
import torch

from paretune.core.preference import Preference
from paretune.data.rows import Message
from paretune.models.adapter import Adapter
from paretune.models.gguf_model import ModelFile
from paretune.models.language_model import LanguageModel, load
from paretune.models.targets import target_shapes
from paretune.policies.gguf_export import Blocks, export_blocks
from paretune.policies.policy import Policy
from support.tiny_models import CHATML, TEXTS, byte_tokenizer, piece_tokenizer, write_random

pytest.importorskip(
    "xllamacpp", reason="the package xllamacpp, which is llama.cpp's server, is not installed"
)
pytest.importorskip("gguf")

OBJECTIVES = ("short", "good")
LLAMA3 = {
    "rope_type": "llama3", "rope_theta": 10_000.0, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0,
    "original_max_position_embeddings": 64,
}  # fmt: skip
YARN = {"rope_type": "yarn", "rope_theta": 10_000.0, "factor": 4.0, "original_max_position_embeddings": 64}
LINEAR = {"rope_type": "linear", "rope_theta": 10_000.0, "factor": 2.0}
LONG = {
    "rope_type": "longrope", "rope_theta": 10_000.0, "original_max_position_embeddings": 256,
    "short_factor": [1.0 + 0.1 * i for i in range(8)], "long_factor": [2.0 + i for i in range(8)],
}  # fmt: skip
GEMMA = {
    "head_dim": 32, "query_pre_attn_scalar": 32, "num_hidden_layers": 7, "sliding_window": 8, "tie_word_embeddings": True,
    "rope_parameters": {
        "full_attention": {**LINEAR, "rope_theta": 1e6}, "sliding_attention": {"rope_type": "default", "rope_theta": 1e4},
    },
}  # fmt: skip
CASES: dict[str, tuple[str, Any, dict[str, Any]]] = {
    "llama of bytes": ("llama", lambda: byte_tokenizer("llama-bpe", begins=True), {"rope_parameters": LLAMA3}),
    "llama that splits digits": ("llama", lambda: byte_tokenizer("smollm"), {"tie_word_embeddings": True}),
    "llama of pieces": ("llama", piece_tokenizer, {"attention_bias": True, "mlp_bias": True}),
    "llama with wide heads": ("llama", lambda: piece_tokenizer("always"), {"head_dim": 24, "rope_parameters": YARN}),
    "llama with a factor": ("llama", lambda: byte_tokenizer("llama-bpe", ignore_merges=False),
        {"rope_parameters": {**YARN, "attention_factor": 1.3}}),
    "mistral of pieces": ("mistral", lambda: piece_tokenizer("first"), {"sliding_window": 200}),
    "mistral of bytes": ("mistral", lambda: byte_tokenizer("tekken"), {"head_dim": 32, "rope_parameters": LINEAR}),
    "qwen2": ("qwen2", lambda: byte_tokenizer("qwen2"), {"rope_parameters": YARN}),
    "qwen3": ("qwen3", lambda: byte_tokenizer("qwen2"), {"head_dim": 32, "tie_word_embeddings": True}),
    "phi3 of pieces": ("phi3", piece_tokenizer, {"rope_parameters": LONG, "max_position_embeddings": 1024}),
    "phi3 of bytes": ("phi3", lambda: byte_tokenizer("gpt-4o"), {"partial_rotary_factor": 0.5}),
    "gemma3": ("gemma3_text", lambda: piece_tokenizer("plain", CHATML), GEMMA),
}  # fmt: skip


@dataclass
class World:
    """A server of a written model, and the policy that it is to be."""

    client: httpx.Client
    lm: LanguageModel
    soup: Policy
    blocks: Blocks
    spaced: bool
    """Whether texts without a template are read with another space, as the writer says."""

    def ids(self, text: str) -> list[int]:
        body = {"content": text, "add_special": True, "parse_special": True}
        return list(self.post("/tokenize", body)["tokens"])

    def post(self, path: str, body: dict[str, Any]) -> dict[str, Any]:
        answer = self.client.post(path, json=body)
        assert answer.status_code == 200, answer.text
        return answer.json()  # type: ignore[no-any-return]


def adapter(lm: LanguageModel, seed: int) -> Adapter:
    """Return a random update of all linear layers."""
    generator = torch.Generator().manual_seed(seed)
    factors = {
        path: (
            torch.randn(out, 2, generator=generator) * 0.2,
            torch.randn(2, inputs, generator=generator) * 0.2,
        )
        for path, (out, inputs) in target_shapes(lm.model, ["all-linear"]).items()
    }
    return Adapter(factors, 1.0, lm.fingerprint)


@pytest.fixture(scope="module", params=CASES)
def world(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[World]:
    kind, tokenizer, settings = CASES[request.param]
    folder = tmp_path_factory.mktemp("world")
    lm = load(str(write_random(folder / "model", kind, tokenizer(), padded=3, **settings)), "float32", "cpu")
    soup = Policy.soup("soup", lm, OBJECTIVES, [adapter(lm, seed) for seed in (0, 1)])
    export_blocks(soup, folder / "out", base="f32")
    blocks = Blocks.read(folder / "out")
    spaced = any("text without it" in note for note in ModelFile.of(lm, "f32").notes)
    from support.llama_program import llama_server

    with llama_server(folder / "out") as address, httpx.Client(base_url=address, timeout=60) as client:
        yield World(client, lm, soup, blocks, spaced)


def test_texts_and_prompts_are_the_same_tokens(world: World) -> None:
    for text in TEXTS:
        turns = (Message("user", text), Message("assistant", "It is."), Message("user", text.strip()))
        messages = [{"role": turn.role, "content": turn.content} for turn in turns]
        prompt = world.post("/apply-template", {"messages": messages})["prompt"]
        assert world.ids(prompt) == world.lm.encode_prompt(turns), prompt
        if not world.spaced:
            assert world.ids(text) == world.lm.encode_text(text), text


@pytest.mark.parametrize("weight", [1.0, 0.37, 0.0])
def test_log_probabilities_are_the_policys(world: World, weight: float) -> None:
    preference = Preference(OBJECTIVES, (weight, round(1 - weight, 2)))
    whole = world.lm.encode_text(" ".join(TEXTS))
    scales = [{"id": number, "scale": scale} for number, scale in enumerate(world.blocks.scales(preference))]
    asked = {
        "n_predict": 1,
        "temperature": 0.0,
        "n_probs": 30,
        "lora": scales,
        "cache_prompt": False,
        "ignore_eos": True,
    }
    compared = 0
    for length in (40, 60, 80, 100):
        prompt = whole[:length]
        steps = world.post("/completion", {"prompt": prompt, **asked}).get("completion_probabilities")
        if not steps:  # the server tells none of a token that is a part of a character
            continue
        found = {top["id"]: top["logprob"] for top in steps[0]["top_logprobs"]}
        own = world.soup.distribution(prompt, [5], preference)[0].float()
        torch.testing.assert_close(torch.tensor(list(found.values())), own[list(found)], atol=1e-3, rtol=1e-4)
        assert int(own.argmax()) == max(found, key=lambda token: found[token])
        compared += 1
    assert compared
