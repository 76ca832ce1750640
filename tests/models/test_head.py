"""The head in chunks: values and gradients whatever the chunk, and a chunk that fits the device."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from paretune.models import head
from paretune.models.frozen_linear import FrozenLinear
from paretune.models.head import FEWEST, HEAD_CHUNK, MOST, chunk_for, chunk_of, logit_bytes, target_logps


@pytest.mark.parametrize("chunk", [None, 1, 7, 1000])
def test_the_chunk_changes_nothing(chunk: int | None) -> None:
    torch.manual_seed(0)
    layer = FrozenLinear(nn.Linear(16, 50, bias=False).requires_grad_(False), prepack=False)
    hidden, targets = torch.randn(20, 16, requires_grad=True), torch.randint(50, (20,))
    found = target_logps(hidden, layer, targets, chunk)
    (slope,) = torch.autograd.grad((found * torch.arange(20.0)).sum(), hidden)
    plain = (hidden @ layer.weight.T).log_softmax(-1).gather(-1, targets[:, None])[:, 0]
    (expected,) = torch.autograd.grad((plain * torch.arange(20.0)).sum(), hidden)
    torch.testing.assert_close(found, plain)
    torch.testing.assert_close(slope, expected, atol=1e-5, rtol=1e-5)


def test_a_chunk_fills_a_share_of_the_memory() -> None:
    """A position of 128,256 tokens in bfloat16 has 1.28 MB of logits: a 64th of 24 GB holds 292, of 80 GB 974."""
    assert logit_bytes(128_256, 2) == 1_282_560
    assert chunk_for(24e9, 8e9, 128_256, 2) == 256
    assert chunk_for(80e9, 60e9, 128_256, 2) == 512
    assert chunk_for(80e9, 1.5e9, 128_256, 2) == 128, "an eighth of what is free holds 146"
    assert chunk_for(80e9, 0, 128_256, 2) == chunk_for(80e9, -1e9, 128_256, 2) == FEWEST
    assert chunk_for(1e15, 1e15, 128_256, 2) == MOST


def test_a_device_is_asked_once(monkeypatch: pytest.MonkeyPatch) -> None:
    assert (
        chunk_of(torch.device("cpu"), 1000, 4) == chunk_of(torch.device("mps"), 1000, 4) == HEAD_CHUNK == 256
    )
    free = iter([(6e9, 80e9), (1e6, 80e9)])
    monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device: next(free))
    monkeypatch.setattr(torch.cuda, "memory_reserved", lambda device: 12e9)
    monkeypatch.setattr(torch.cuda, "memory_allocated", lambda device: 10e9)
    head.chunk_of.cache_clear()
    chunks = [chunk_of(torch.device("cuda", 0), 128_256, 2) for _ in range(3)]
    head.chunk_of.cache_clear()
    assert chunks == [512, 512, 512]
