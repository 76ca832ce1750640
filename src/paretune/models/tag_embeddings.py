"""Tokens beyond the vocabulary: each has an input embedding of its own, learned with the adapter, and no row in the head."""

from __future__ import annotations

import torch
from torch import Tensor, nn

from paretune.core.errors import ModelError

NOT_PORTABLE = (
    "the adapter has embeddings for tokens of its own, which neither a LoRA nor a model of the base's vocabulary can hold; "
    "serve it with paretune, or train it with tags in plain text (methods.ric.form=levels)"
)


class TokenEmbedding(nn.Module):
    """A model's input embedding with n further rows, numbered on from its last; the rows before are looked up as ever.

    Raises:
        ModelError: ``rows`` are not ``[n, d]`` for an embedding of width d, or the model's is no nn.Embedding.
    """

    def __init__(self, base: nn.Module, rows: Tensor, trainable: bool) -> None:
        super().__init__()
        if not isinstance(base, nn.Embedding):
            raise ModelError(
                f"the model's input embedding is {type(base).__name__}; tokens of their own need an nn.Embedding (use tags in "
                "plain text: methods.ric.form=levels)"
            )
        if rows.dim() != 2 or rows.shape[1] != base.embedding_dim:
            raise ModelError(
                f"embeddings of shape {list(rows.shape)} for further tokens; the model's are [n, {base.embedding_dim}]"
            )
        self.base = base
        # A module after ``base``, not a parameter here: transformers takes a model's dtype from its first parameter.
        rows = rows.detach().to(base.weight.device, torch.float32, copy=True)
        self.learned = nn.Embedding.from_pretrained(rows, freeze=not trainable)
        self.train(base.training)

    @property
    def weight(self) -> Tensor:
        """The model's own rows ``[V, d]``: some models look at their dtype or number."""
        return self.base.weight

    def forward(self, ids: Tensor) -> Tensor:
        """Return the embeddings ``[..., d]`` of ``ids [...]`` in the base's dtype; the learned rows stay fp32."""
        first = self.base.num_embeddings
        known = self.base(ids.clamp(max=first - 1))
        learned = self.learned((ids - first).clamp(min=0)).to(known.dtype)
        return torch.where((ids >= first)[..., None], learned, known)
