"""How far the logits of a dense model are from those of the policy that it was made of: its weights are rounded once more."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from paretune.core.preference import Preference
from paretune.data.rows import Message
from paretune.models.language_model import LanguageModel
from paretune.models.steering import Steering
from paretune.policies.policy import Policy

PROBES = (
    ("How do I keep basil alive indoors?", "Give it light and water it when the soil is dry."),
    ("My order has not arrived. What can you do?", "I am sorry to hear that. We will send it again today."),
    ("Explain in two sentences why the sky is blue.", "Air scatters blue light more than red light."),
    ("I failed my exam and feel awful.", "That hurts. One exam says little of what you can do."),
)
"""Prompts and answers at whose tokens logits are compared; they need no data of the run."""


@dataclass(frozen=True)
class Rounding:
    """Differences of logits between a dense model and the policy, over all tokens of the vocabulary at some positions.

    Attributes:
        dtype: Number format of the dense model.
        mean, largest: Mean and largest absolute difference.
        moved: Mean absolute difference between the policy and its base model, which the update makes.
        positions: Number of positions.
        prompts: Number of prompts.
    """

    dtype: str
    mean: float
    largest: float
    moved: float
    positions: int
    prompts: int

    def __str__(self) -> str:
        return (
            f"Merged in {self.dtype}, its logits differ from the policy's by {self.mean:.2g} on average and {self.largest:.2g} at "
            f"most, at {self.positions} positions of {self.prompts} prompts; the update itself moves them by {self.moved:.2g} on "
            "average."
        )


class Probe:
    """The logits of a policy at one preference on a few prompts, to compare those of its dense model with."""

    def __init__(self, policy: Policy, preference: Preference, steering: Steering, gates: Tensor) -> None:
        """Compute the logits of the policy and of its base model.

        Args:
            policy: The policy.
            preference: The preference, for what the policy writes at the end of a prompt.
            steering: The policy's update, attached to its model.
            gates: Gates ``[R]`` at the preference.
        """
        self._texts = probes(policy.lm, policy.prompt_end(preference))
        with torch.no_grad(), steering.at(gates):
            self._steered = _logits(policy.lm.model, self._texts)
        with torch.no_grad(), steering.at(torch.zeros_like(gates)):
            base = _logits(policy.lm.model, self._texts)
        self._moved = float((self._steered - base).abs().mean())

    def compare(self, model: torch.nn.Module) -> Rounding:
        """Return how far ``model``, the dense one, is from the policy."""
        with torch.no_grad():
            off = (_logits(model, self._texts) - self._steered).abs()
        kind = str(next(model.parameters()).dtype).removeprefix("torch.")
        return Rounding(kind, float(off.mean()), float(off.max()), self._moved, len(off), len(self._texts))


def probes(lm: LanguageModel, end: str) -> list[list[int]]:
    """Return the token ids of the prompts, which end with ``end``, each with its answer."""
    return [
        lm.encode_prompt((Message("user", f"{asked}{end}"),)) + lm.encode_response(answer)
        for asked, answer in PROBES
    ]


def _logits(model: torch.nn.Module, texts: Sequence[Sequence[int]]) -> Tensor:
    """Return the logits ``[T, V]`` in float32 at all tokens of some texts, on the CPU."""
    device = next(model.parameters()).device
    rows = [
        model(input_ids=torch.tensor([list(ids)], device=device)).logits[0].float().cpu() for ids in texts
    ]
    return torch.cat(rows)
