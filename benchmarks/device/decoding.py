"""Decoding with a preference of its own in every row: tokens a second."""

from __future__ import annotations

import time
from collections.abc import Sequence

import torch

from benchmarks.device.equality import groups_of
from benchmarks.device.rows import Figures, wait
from benchmarks.training.inputs import random_lora
from paretune.core.sampling import Sampling
from paretune.generation.generate import attached, generate
from paretune.models.adapter import stack
from paretune.models.gates import soup_gates
from paretune.models.language_model import LanguageModel


def decoding(lm: LanguageModel, rows: Sequence[int], prompt: int, new: int) -> Figures:
    """Sample ``new`` tokens behind prompts of ``prompt`` tokens, for each number of rows; a soup of two adapters answers."""
    adapters = [random_lora(lm, ["all-linear"], seed) for seed in (1, 2)]
    ranks, scales = [adapter.rank for adapter in adapters], [adapter.scale for adapter in adapters]
    figures: dict[str, float | str] = {
        "work": f"prompts of {prompt} tokens, answers of {new}, a soup of two adapters"
    }
    for count in rows:
        groups = groups_of([(prompt, ())] * count, lm.model.config.vocab_size)
        share = torch.linspace(0, 1, count)
        gates = soup_gates(torch.stack([share, 1 - share], dim=1), ranks, scales)
        sampling = Sampling(new, 1.0, 0.95, batch_size=count)
        with attached(lm, stack(adapters)) as steering:
            taken, tokens = [], 0
            for _ in range(2):
                wait(lm.device)
                begin = time.perf_counter()
                answers = generate(
                    lm, [list(ids) for ids, _ in groups], sampling, range(count), steering, gates
                )
                wait(lm.device)
                taken.append(time.perf_counter() - begin)
                tokens = sum(len(answer.tokens) for answer in answers)
        figures[f"{count} rows of {count} preferences, tokens a second"] = tokens / taken[-1]
    return figures
