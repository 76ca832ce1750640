"""Re-scoring the likeliest next tokens by what they are worth: value-augmented sampling (VAS).

Han et al. 2024 (arXiv 2405.06639; the rule is that of the released code). With V_i(s + v) the value of objective i behind the text
s and the token v, and top the k likeliest tokens of the frozen policy,

    score(v) = log pi(v | s) + sum_i b_i [V_i(s + v) - mean over top of V_i]      for v in top
    score(v) = log pi(v | s)                                                       for all others

If V_i is the exact value of the frozen policy, then over all tokens and for one last token this is the optimum of
``sum_i b_i E[r_i] - KL(pi || pi_ref)``.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

import torch
from annotated_types import Ge, Le
from torch import Tensor, nn

from paretune.core.bounds import NotNegative, check_bounds
from paretune.models.values import Values

MOST_TOKENS = 4096
"""Largest number of tokens that are re-scored at a step."""


@dataclass(frozen=True)
class Augmentation:
    """How strongly values change what is sampled.

    Attributes:
        beta: Strength in nats for each unit of value; 0 is the frozen policy. It is chosen when answers are sampled, not before: it
            is one over the strength of the KL penalty whose optimum is approximated.
        candidates: Number of likeliest tokens that are re-scored, k.
    """

    beta: NotNegative = 1.0
    candidates: Annotated[int, Ge(1), Le(MOST_TOKENS)] = 20

    def __post_init__(self) -> None:
        check_bounds(self)


@dataclass(frozen=True, eq=False)
class Rescoring:
    """Value heads with the number of tokens that they re-score.

    Attributes:
        values: The heads, on the device of the model.
        embeddings: The model's input embeddings, which the heads read the candidates by.
        candidates: k.
    """

    values: Values
    embeddings: nn.Module
    candidates: int

    def __call__(self, logits: Tensor, hidden: Tensor, strengths: Tensor) -> Tensor:
        """Return the scores ``[B, V]`` of next tokens, from which logits differ among the k likeliest tokens alone.

        Args:
            logits: Logits ``[B, V]`` (fp32) of the frozen policy.
            hidden: Its last hidden states ``[B, d]`` behind the texts.
            strengths: ``b_i [B, M]``, nats for each unit of value.
        """
        top = logits.topk(min(self.candidates, logits.shape[-1]), dim=-1).indices
        values = self.values(hidden[:, None], self.embeddings(top))  # [B, k, M]
        return logits.scatter_add(-1, top, gains(values, strengths.to(values)))


def gains(values: Tensor, strengths: Tensor) -> Tensor:
    """Return ``sum_i b_i (V_i - mean over the candidates of V_i)`` as ``[B, k]``.

    Args:
        values: ``[B, k, M]`` of k candidates.
        strengths: ``b_i [B, M]``.
    """
    centred = values - values.mean(1, keepdim=True)
    return torch.einsum("bkm,bm->bk", centred, strengths)
