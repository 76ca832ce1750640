"""What is trained: one adapter under a constant gate, or one whose gates follow the preference of each row."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass, replace
from typing import Any, Protocol

import torch
from torch import Tensor

from paretune.models.adapter import Adapter
from paretune.models.gates import Gates, soup_gates
from paretune.models.singular_gates import SingularGates, initial
from paretune.models.steering import Steering
from paretune.models.targets import target_shapes
from paretune.training.conditioning import Conditioning
from paretune.training.loop import Group, TrainingRun, attach


class Learner(Protocol):
    """Trainable layers and the gates of rows at preferences ``[n, M]``."""

    @property
    def steering(self) -> Steering:
        """The layers, attached to the model."""

    def groups(self) -> list[Group]:
        """Return all trainable parameters, see :class:`paretune.training.loop.Task`."""

    def gates(self, weights: Tensor) -> Gates:
        """Return the gates of n rows; gradients flow through them to the parameters they are made of."""

    def decoding(self, weights: Tensor) -> AbstractContextManager[Tensor]:
        """Provide gates ``[n, R]`` of n rows that hold for all matrices, as decoding needs them."""

    def adapter(self, info: Mapping[str, Any]) -> Adapter:
        """Return the trained adapter in the form that a policy serves."""


@dataclass(frozen=True, eq=False)
class OneAdapter:
    """One adapter at a constant gate. It serves one preference, or all of them where the prompt states the preference."""

    steering: Steering
    scale: float
    weight_decay: float

    @property
    def gate(self) -> Tensor:
        """The scale of the update, for each of its columns: ``[R]``."""
        return torch.full((self.steering.rank,), self.scale)

    def groups(self) -> list[Group]:
        """Return U and V of every adapted matrix, and the embeddings of tags."""
        return [Group(dict(self.steering.named_parameters()), weight_decay=self.weight_decay)]

    def gates(self, weights: Tensor) -> Tensor:
        """Return the constant gate of every row."""
        return self.gate.repeat(len(weights), 1)

    def decoding(self, weights: Tensor) -> AbstractContextManager[Tensor]:
        """Provide the same gates."""
        return nullcontext(self.gates(weights))

    def adapter(self, info: Mapping[str, Any]) -> Adapter:
        """Return the adapter with its scale."""
        return self.steering.adapter(self.scale, info)


@dataclass(frozen=True, eq=False)
class ConditionedAdapter:
    """One adapter whose gates are ``[sigma, s w]`` at the preference w of a row (:mod:`paretune.models.singular_gates`)."""

    steering: Steering
    singular: SingularGates
    conditioning: Conditioning
    weight_decay: float

    def groups(self) -> list[Group]:
        """Return U and V, and apart from them sigma and s with their own rate and no weight decay."""
        named, rates = dict(self.steering.named_parameters()), self.conditioning
        return [
            Group(named, rate_factor=rates.rate_factor, weight_decay=self.weight_decay),
            Group(self.singular.named_parameters(), rate_factor=rates.gate_rate_factor),
        ]

    def gates(self, weights: Tensor) -> dict[str, Tensor]:
        """Return the gates of every matrix."""
        return self.singular.at(weights)

    @contextmanager
    def decoding(self, weights: Tensor) -> Iterator[Tensor]:
        """Fold sigma and s into U until the context ends, so that one gate vector per row serves all matrices."""
        kept = self.steering.adapter()
        self.steering.set(self.singular.fold(kept))
        shared = torch.ones(len(weights), len(kept.blocks) - weights.shape[1])
        try:
            yield soup_gates(torch.cat([shared, weights.cpu()], dim=1), kept.ranks, kept.scales)
        finally:
            self.steering.set(kept)

    def adapter(self, info: Mapping[str, Any]) -> Adapter:
        """Return the folded adapter."""
        facts = {**info, "steerability": self.singular.steerability()}
        return self.singular.fold(self.steering.adapter(info=facts))


def one_adapter(run: TrainingRun) -> OneAdapter:
    """Attach a fresh LoRA, or a trainable copy of ``run.start``."""
    return OneAdapter(*attach(run.lm, run.settings, run.start), run.settings.weight_decay)


def conditioned_adapter(run: TrainingRun, objectives: int, conditioning: Conditioning) -> ConditionedAdapter:
    """Attach a fresh adapter whose gates follow the preference; ``rank`` and ``alpha`` of the settings are not read."""
    lm, settings = run.lm, run.settings
    start, singular = initial(
        target_shapes(lm.model, settings.targets),
        conditioning.rank,
        objectives,
        groups=conditioning.groups,
        own_scales=conditioning.own_scales,
        hidden=conditioning.hidden,
        init=conditioning.init,
        seed=settings.seed,
    )
    singular = singular.to(lm.device)
    steering = Steering.attach_adapter(lm.model, replace(start, base=lm.fingerprint), trainable=True)
    return ConditionedAdapter(steering, singular, conditioning, settings.weight_decay)
