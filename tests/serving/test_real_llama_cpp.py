"""llama.cpp itself, where the package xllamacpp is installed, answers at exactly the preference and draws as the engine does."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest
import torch

from paretune.core.preference import Preference
from paretune.core.sampling import Sampling
from paretune.data.rows import Message
from paretune.models.language_model import LanguageModel, load
from paretune.policies.gguf_export import export_blocks
from paretune.policies.policy import Policy
from paretune.serving.config import ServeConfig
from paretune.serving.events import Job
from paretune.serving.upstream import Upstream
from support.adapters import random_adapter
from support.tiny_gguf import write_tiny_gguf

pytest.importorskip(
    "xllamacpp", reason="the package xllamacpp, which is llama.cpp's server, is not installed"
)
pytest.importorskip("gguf")

OBJECTIVES = ("short", "good")
LONG = "red sun blue moon good kind " * 4
OTHER = "kind moon"


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    return load(str(write_tiny_gguf(tmp_path_factory.mktemp("base") / "base.gguf")), "float32", "cpu")


@pytest.fixture(scope="module")
def soup(model: LanguageModel) -> Policy:
    return Policy.soup("soup", model, OBJECTIVES, [random_adapter(model, seed) for seed in (0, 1)])


@pytest.fixture(scope="module")
def blocks(soup: Policy, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("export") / "blocks"
    export_blocks(soup, folder, base="f32")
    return folder


@pytest.fixture(scope="module")
def address(blocks: Path) -> Iterator[str]:
    from support.llama_program import llama_server

    with llama_server(blocks) as found:
        yield found


def asked(
    address: str, blocks: Path, text: str, weight: float, sampling: Sampling
) -> tuple[str, dict[str, Any]]:
    """Return path and body of what the backend sends for a text at a preference."""
    backend = Upstream.of(f"{address}/v1", blocks / "blocks.json", "llama.cpp", ServeConfig())
    preference = Preference(OBJECTIVES, (weight, round(1 - weight, 2)))
    job = Job("soup", (Message("user", text),), preference, sampling, 7, logprobs=5)

    async def started() -> tuple[str, dict[str, Any]]:
        await backend.start()
        found = backend.request(job)
        await backend.stop()
        return found

    return asyncio.run(started())


def post(address: str, path: str, body: dict[str, Any]) -> dict[str, Any]:
    whole = {key: value for key, value in body.items() if key not in ("stream", "stream_options")}
    answer = httpx.post(f"{address}{path}", json={**whole, "ignore_eos": True}, timeout=60)
    assert answer.status_code == 200, answer.text
    return answer.json()  # type: ignore[no-any-return]


def told(address: str, blocks: Path, text: str, weight: float) -> list[dict[int, float]]:
    """Return the log-probabilities of the likeliest tokens at each step of a greedy answer."""
    path, body = asked(address, blocks, text, weight, Sampling(3, 0.0))
    steps = post(address, f"/v1{path}", body)["choices"][0]["logprobs"]["content"]
    return [{top["id"]: top["logprob"] for top in step["top_logprobs"]} for step in steps]


def own(soup: Policy, text: str, weight: float) -> torch.Tensor:
    """Return the policy's log-probabilities of the first token."""
    prompt = soup.lm.encode_prompt((Message("user", text),))
    preference = Preference(OBJECTIVES, (weight, round(1 - weight, 2)))
    return soup.distribution(list(prompt), [5], preference)[0].float()


@pytest.mark.parametrize("weight", [1.0, 0.37, 0.0])
def test_log_probabilities_are_the_policys(address: str, blocks: Path, soup: Policy, weight: float) -> None:
    first, expected = told(address, blocks, "red sun", weight)[0], own(soup, "red sun", weight)
    assert int(expected.argmax()) == max(first, key=lambda token: first[token])
    torch.testing.assert_close(
        torch.tensor(list(first.values())), expected[list(first)], atol=1e-3, rtol=1e-4
    )


def test_a_prompt_that_was_read_at_other_scales_is_read_again(address: str, blocks: Path) -> None:
    alone = told(address, blocks, LONG, 0.0)
    assert told(address, blocks, LONG, 1.0) != alone, "the scales matter"
    told(address, blocks, OTHER, 0.0)
    assert told(address, blocks, LONG, 0.0) == alone


def test_tokens_are_drawn_from_what_the_engine_draws_from(address: str, blocks: Path, soup: Policy) -> None:
    _, body = asked(address, blocks, "red sun", 0.37, Sampling(1, 1.5, 0.6))
    sampled = {
        key: value for key, value in body.items() if key not in ("messages", "logprobs", "top_logprobs")
    }
    prompt = list(soup.lm.encode_prompt((Message("user", "red sun"),)))
    probabilities = {"prompt": prompt, "n_predict": 1, "n_probs": 20, "post_sampling_probs": True}
    (step,) = post(address, "/completion", {**sampled, **probabilities})["completion_probabilities"]
    found = {top["id"]: top["prob"] for top in step["top_probs"]}
    spread, order = (own(soup, "red sun", 0.37) / 1.5).softmax(-1).sort(descending=True)
    kept = spread[spread.cumsum(0) - spread < 0.6]
    expected = dict(zip(order.tolist(), (kept / kept.sum()).tolist(), strict=False))
    assert len(kept) > 20, "more tokens are kept than top-k or min-p would keep"
    assert found == {token: pytest.approx(expected[token], abs=1e-4) for token in found}
