"""Adapters loaded by PEFT on transformers' own model, as people serve them today."""

from __future__ import annotations

import tempfile
from collections.abc import Sequence

import torch
from peft import PeftModel
from transformers import AutoModelForCausalLM, PreTrainedModel

from paretune.models.adapter import Adapter, to_peft
from paretune.models.gates import Gates
from paretune.models.loading import locate


def plain_model(source: str, dtype: torch.dtype) -> PreTrainedModel:
    """Return transformers' own model, as it loads."""
    return AutoModelForCausalLM.from_pretrained(locate(source), dtype=dtype).eval().requires_grad_(False)


def with_adapters(
    source: str, dtype: torch.dtype, adapters: Sequence[tuple[Adapter, Gates | None]]
) -> PeftModel:
    """Return a model with each adapter at its gates, under the names 0, 1, ..; their numbers are of the model's format."""
    model = plain_model(source, dtype)
    with tempfile.TemporaryDirectory() as folder:
        for number, (adapter, gates) in enumerate(adapters):
            to_peft(adapter, f"{folder}/{number}", gates)
        peft = PeftModel.from_pretrained(model, f"{folder}/0", adapter_name="0", autocast_adapter_dtype=False)
        for number in range(1, len(adapters)):
            peft.load_adapter(f"{folder}/{number}", adapter_name=str(number), autocast_adapter_dtype=False)
    return peft.to(dtype).eval().requires_grad_(False)
