"""Responses sampled from the policy being trained: sampled once, kept on disk, and read again by a run that is resumed."""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import torch
from safetensors import safe_open
from safetensors.torch import save_file
from torch import Tensor

from paretune.core.errors import TrainingError
from paretune.core.files import atomic_path
from paretune.generation.generate import Response
from paretune.models.packing import TokenGroup

NOTHING = torch.zeros(0)
"""Log-probabilities that are not needed."""


@dataclass(frozen=True, eq=False)
class Rollout:
    """N sampled responses, K to each prompt one behind the other.

    Attributes:
        responses: Token ids, end of turn included unless cut.
        truncated: Whether the token limit cut each.
        logps: fp32 ``[N]``, their log-probabilities under the policy that sampled them, in nats, as decoding found them.
        old_logps: fp32 ``[S]``, the same of every response token as a training forward finds them; empty where the responses
            serve for one step only, whose own forward finds them.
        drawn_logps: fp32 ``[S]``, the same where they were drawn: by a server, or under the parameters that it had loaded; empty
            where they were drawn from the policy itself.
    """

    responses: tuple[tuple[int, ...], ...]
    truncated: tuple[bool, ...]
    logps: Tensor
    old_logps: Tensor
    drawn_logps: Tensor = NOTHING

    @classmethod
    def of(cls, drawn: Sequence[Response], old_logps: Tensor) -> Rollout:
        """Take over decoded responses."""
        return cls(
            tuple(response.tokens for response in drawn),
            tuple(response.truncated for response in drawn),
            torch.tensor([response.logp for response in drawn]),
            old_logps,
        )

    def save(self, file: Path, key: str) -> None:
        """Write everything to one safetensors file, atomically."""
        lengths = [len(response) for response in self.responses]
        tensors = {
            "tokens": torch.tensor([token for response in self.responses for token in response]),
            "lengths": torch.tensor(lengths),
            "truncated": torch.tensor(self.truncated),
            "logps": self.logps,
            "old_logps": self.old_logps,
        }
        if len(self.drawn_logps):
            tensors["drawn_logps"] = self.drawn_logps
        with atomic_path(file) as temporary:
            save_file(tensors, temporary, metadata={"paretune": json.dumps({"key": key})})

    @classmethod
    def load(cls, file: Path, key: str) -> Rollout:
        """Read what :meth:`save` wrote.

        Raises:
            TrainingError: It cannot be read, or is of another run.
        """
        try:
            with safe_open(file, framework="pt") as opened:
                made_for = str(json.loads(opened.metadata()["paretune"])["key"])
                tensors = {name: opened.get_tensor(name) for name in opened.keys()}  # noqa: SIM118 - no mapping
            lengths = tensors["lengths"]
            shapes = [tensors[name].shape for name in ("truncated", "logps")]
            kinds = [lengths.dtype, tensors["tokens"].dtype, tensors["truncated"].dtype]
            drawn = tensors.setdefault("drawn_logps", NOTHING)
            floats = [tensors[name].dtype for name in ("logps", "old_logps", "drawn_logps")]
            counts = {tensors["old_logps"].numel(), drawn.numel()}
            if (
                shapes != [lengths.shape] * 2
                or kinds != [torch.int64, torch.int64, torch.bool]
                or floats != [torch.float32] * 3
                or not counts <= {0, tensors["tokens"].numel()}
            ):
                raise ValueError("its tensors do not fit together")
            parts = tensors["tokens"].split(lengths.tolist())
            made = cls(
                tuple(tuple(part.tolist()) for part in parts),
                tuple(tensors["truncated"].tolist()),
                tensors["logps"],
                tensors["old_logps"],
                drawn,
            )
        except Exception as error:
            raise TrainingError(
                f"{file}: cannot read the sampled responses ({error}); delete it to have them sampled again"
            ) from error
        if made_for != key:
            raise TrainingError(
                f"{file}: these responses are of a run with other settings; delete the folder"
            )
        return made


@dataclass(frozen=True, eq=False)
class Sampled:
    """The G prompts of an optimiser step with K scored responses each, on the model's device.

    Attributes:
        weights: fp32 ``[G, M]``, the preference of each prompt.
        counted: fp32 ``[G, M]``, what a unit of each objective counts: the preference, or what a rule made of it.
        groups: Prompts as the policy reads them, with their responses.
        raw, rewards: fp32 ``[G, K, M]``, as the functions gave them and standardised.
        reference: fp32 ``[S]`` of each forward: log-probabilities of response tokens under the base model.
        old: The same under the policy before the first step on them; empty where the training forward itself finds them.
        drawn: The same where they were drawn, if a server drew them; else empty.
        combined: ``[G, K]``, one reward a response.
        strength: ``[G, 1]``, what the penalty weighs beside it.
        cut: Share of responses cut by the token limit.
    """

    weights: Tensor
    counted: Tensor
    groups: list[TokenGroup]
    raw: Tensor
    rewards: Tensor
    reference: list[Tensor]
    old: list[Tensor]
    drawn: list[Tensor]
    combined: Tensor
    strength: Tensor
    cut: float


def drop_rollouts(folder: Path, before: int) -> None:
    """Remove the rollouts with a number below ``before``, to which no checkpoint leads back."""
    for file in folder.glob("*.safetensors"):
        if file.stem.isdigit() and int(file.stem) < before:
            file.unlink(missing_ok=True)


def rollout_folder(checkpoint: Path) -> Path:
    """Return the folder of the responses sampled by the run of this checkpoint."""
    return checkpoint.with_suffix(".rollouts")
