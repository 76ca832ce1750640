"""References beside the base model: adapters of it and other models with its tokenizer, and the mixtures of their probabilities."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Literal

import torch
from torch import Tensor

from paretune.core.errors import ConfigError, ModelError
from paretune.data.rows import Message
from paretune.models.adapter import FILES, PEFT_FILES, Adapter, load_any
from paretune.models.language_model import LanguageModel, load
from paretune.training.lab import Lab
from paretune.training.token_tables import PairTable

Mix = Literal["harmonic", "geometric"]
"""How the probabilities of several references become one: their weighted harmonic or geometric mean."""

PROBE = "The 3 quick foxes aren't here; they've jumped over 12 lazy dogs."
"""A text that two tokenizers of one vocabulary divide alike only where they follow the same rules."""


@dataclass(frozen=True, eq=False)
class Reference:
    """A frozen model that is a reference beside the base model.

    Attributes:
        name: Its name in messages.
        adapter: An adapter of the base model; None for another model.
        lm: The other model; None for an adapter.
    """

    name: str
    adapter: Adapter | None = None
    lm: LanguageModel | None = None

    def logps(self, lab: Lab, table: PairTable) -> Tensor:
        """Return its log-probabilities ``[N, 2]`` of chosen and rejected in nats, kept on disk under its own identity."""
        if self.lm is None:
            return lab.logps(table, self.adapter)
        other = replace(lab, lm=self.lm, scoring_forwards=0)
        values = other.logps(table)
        lab.scoring_forwards += other.scoring_forwards
        return values


def is_adapter(name: str) -> bool:
    """Return whether a name is that of a folder with an adapter, of this library or of PEFT."""
    return any((Path(name) / file).is_file() for file in (FILES[0], PEFT_FILES[0]))


def open_reference(lab: Lab, name: str) -> Reference:
    """Return the reference that a name stands for: a folder with an adapter of the base model, or another model.

    Raises:
        ModelError: It cannot be loaded, or the adapter belongs to another base model.
        ConfigError: The model has another tokenizer than the base model.
    """
    if is_adapter(name):
        return Reference(name, adapter=lab.lm.own(load_any(name), f"the reference {name}"))
    try:
        other = load(name, str(lab.lm.model.dtype).removeprefix("torch."), str(lab.lm.device))
    except ModelError as error:
        raise ModelError(
            f"the reference {name}: {error}; expected a folder with an adapter of {lab.lm.name}, or a model with its tokenizer"
        ) from error
    check_tokenizer(lab.lm, other)
    return Reference(name, lm=other)


def check_tokenizer(base: LanguageModel, other: LanguageModel) -> None:
    """Check that another model reads the token ids of the base model as the same text.

    Raises:
        ConfigError: Its vocabulary, its rules or its end of turn are others.
    """
    mine, theirs = (lm.tokenizer.get_vocab() for lm in (base, other))
    differ = len(set(mine.items()) ^ set(theirs.items()))
    if differ:
        what = f"{differ} entries of the two vocabularies differ"
    elif base.tokenizer(PROBE).input_ids != other.tokenizer(PROBE).input_ids:
        what = "it divides a text otherwise"
    elif base.turn_end != other.turn_end:
        what = "its turns end with another token"
    else:
        return
    raise ConfigError(
        f"the reference {other.name} has another tokenizer than {base.name} ({what}), so it cannot score the same tokens; give a "
        "model with the same tokenizer, or an adapter of the base model"
    )


def prompt_differs(base: LanguageModel, other: LanguageModel) -> bool:
    """Return whether another model's own chat template writes a prompt otherwise than the base model's, whose it then reads."""
    prompt = (Message("user", PROBE),)
    return base.encode_prompt(prompt) != other.encode_prompt(prompt)


def clipped(base: Tensor, other: Tensor, eta: float, shared: bool = True) -> Tensor:
    """Return ``other`` ``[N, 2]`` kept within ``base (1 +- eta_y)`` (MRPO, arXiv 2405.16388; both in nats).

    Args:
        base, other: Log-probabilities of chosen and rejected under the base reference and the other one.
        eta: Largest share of the base reference's log-probability by which the other may differ, at least 0.
        shared: ``eta`` is divided between chosen and rejected in proportion to the mean size of their log-probabilities, as the
            released code does; else each has all of it.
    """
    bound: Tensor | float = eta
    if shared:
        size = ((base + other) / 2).abs()
        bound = eta * size / size.sum(1, keepdim=True).clamp(min=torch.finfo(size.dtype).tiny)
    first, second = base * (1 + bound), base * (1 - bound)
    return other.clamp(torch.minimum(first, second), torch.maximum(first, second))


def adaptive_weight(base: Tensor, other: Tensor) -> Tensor:
    """Return the base reference's weight ``[N]`` by the released code: ``|gap| / (|gap| + |own gap|)`` with the other's gap.

    A gap is the log-probability of chosen less that of rejected. Where both are 0 the references agree, and the weight is 0.5.
    """
    own, others = (abs(logps[:, 0] - logps[:, 1]) for logps in (base, other))
    total = own + others
    return torch.where(total > 0, others / total.clamp(min=torch.finfo(total.dtype).tiny), 0.5)


def mixed(base: Tensor, others: Sequence[Tensor], weight: Tensor | float, mix: Mix) -> Tensor:
    """Return the log-probabilities ``[N, 2]`` of the mixture of references, in nats, without a constant per prompt.

    With p_0 the base reference of weight a, and K others that share the rest::

        harmonic    1 / (a / p_0 + sum_k (1 - a) / K / p_k)      for K = 1: log p_0 + log p_1 - log(a p_1 + (1 - a) p_0)
        geometric   p_0^a prod_k p_k^((1 - a) / K)

    Args:
        base: Log-probabilities ``[N, 2]`` under the base reference.
        others: Those under each other one.
        weight: a, in [0, 1], for all pairs or ``[N]``.
        mix: The mean.
    """
    own = torch.as_tensor(weight, dtype=base.dtype, device=base.device).reshape(-1, 1).expand(len(base), 1)
    weights = torch.stack([own, *[(1 - own) / len(others)] * len(others)])
    logps = torch.stack([base, *others])
    if mix == "geometric":
        return (weights * logps).sum(0)
    return -(weights.log() - logps).logsumexp(0)
