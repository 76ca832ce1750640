"""A step of MODPO by the calls of its official program (github.com/ZHZisZZ/modpo, `src/trainer/modpo_trainer.py`).

Two objectives: the policy's forward and backward, the reference's forward, and for the margin reward the margin model's and
once more the reference's, all on padded rows of chosen and rejected with full logits in float32. One model carries both
adapters, and the reference is the model with its adapters off, as there. What that program does again for each batch and
costs little (tokenising and padding) is done once here.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F  # noqa: N812
from peft import PeftModel, get_peft_model
from torch import Tensor
from transformers import AutoModelForCausalLM

from benchmarks.training.trl_step import lora_config, set_lora
from paretune.models.adapter import Adapter
from paretune.models.loading import locate
from paretune.training.token_tables import PairTable


@dataclass(frozen=True)
class Padded:
    """Rows of chosen, then of rejected responses, padded on the right; labels are -100 at prompts and padding."""

    ids: Tensor
    mask: Tensor
    labels: Tensor


def padded(table: PairTable, rows: Sequence[int]) -> Padded:
    """Return the batch of ``rows`` of a table."""
    texts = [(table.prompts[row], table.chosen[row]) for row in rows]
    texts += [(table.prompts[row], table.rejected[row]) for row in rows]
    width = max(len(prompt) + len(response) for prompt, response in texts)
    ids, mask = (torch.zeros(len(texts), width, dtype=torch.long) for _ in range(2))
    labels = torch.full_like(ids, -100)
    for row, (prompt, response) in enumerate(texts):
        begin, end = len(prompt), len(prompt) + len(response)
        ids[row, :end], mask[row, :end] = torch.tensor(prompt + response), 1
        labels[row, begin:end] = torch.tensor(response)
    return Padded(ids, mask, labels)


def two_adapters(source: str, targets: Sequence[str], adapters: Mapping[str, Adapter]) -> PeftModel:
    """Return the model in float32 with PEFT adapters of the given names and values; the first is trained."""
    model = AutoModelForCausalLM.from_pretrained(locate(source), dtype=torch.float32)
    first, *others = adapters
    peft = get_peft_model(model, lora_config(targets), adapter_name=first)
    for name in others:
        peft.add_adapter(name, lora_config(targets))
    for name, adapter in adapters.items():
        set_lora(peft, adapter, name)
    return peft.train()


def log_probabilities(model: PeftModel, batch: Padded) -> Tensor:
    """Return the log-probability of each response ``[2B]``, as the official `_get_batch_logps` does."""
    logits = model(input_ids=batch.ids, attention_mask=batch.mask, use_cache=False).logits.to(torch.float32)
    labels, logits = batch.labels[:, 1:].clone(), logits[:, :-1]
    wanted = labels != -100
    labels[~wanted] = 0
    each = torch.gather(logits.log_softmax(-1), dim=2, index=labels.unsqueeze(2)).squeeze(2)
    return (each * wanted).sum(-1)


def losses(model: PeftModel, batch: Padded, weight: float, beta: float) -> tuple[Tensor, Tensor]:
    """Return the loss ``[B]`` and the rewards ``[2B]`` at ``weight`` on the objective that the pairs are of."""
    policy = log_probabilities(model, batch)
    with torch.no_grad():
        with model.disable_adapter():
            reference = log_probabilities(model, batch)
        model.set_adapter("margin")
        margin = log_probabilities(model, batch)
        with model.disable_adapter():
            again = log_probabilities(model, batch)
        model.set_adapter("default")
    reward = beta * (margin - again)
    chosen, rejected = (beta * (policy - reference)).chunk(2)
    good, bad = reward.chunk(2)
    z = (chosen - rejected - (1 - weight) * (good - bad)) / weight
    return F.softplus(-z), torch.cat([chosen, rejected]).detach()


def step(
    model: PeftModel, optimizer: torch.optim.Optimizer, batch: Padded, weight: float, beta: float
) -> tuple[Tensor, Tensor, float]:
    """Take one optimiser step; return the loss ``[B]``, the rewards ``[2B]`` and the norm of the gradient."""
    optimizer.zero_grad(set_to_none=True)
    loss, rewards = losses(model, batch, weight, beta)
    loss.mean().backward()
    norm = float(torch.nn.utils.clip_grad_norm_(trained(model), 1.0))
    optimizer.step()
    return loss.detach(), rewards, norm


def trained(model: PeftModel) -> list[torch.nn.Parameter]:
    """Return the parameters of the adapter "default"."""
    return [parameter for name, parameter in model.named_parameters() if ".default." in name]
