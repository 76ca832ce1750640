"""Policies for llama.cpp: the blocks of a policy as GGUF LoRAs, whose scales are the preference; or one LoRA at one preference.

A soup, anchors and Panacea are ``W + sum_i s_i(w) B_i A_i``, so a server that adds LoRAs at the scales of each request answers at
exactly the preference. :class:`Blocks` returns the scales.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from torch import Tensor
from typing_extensions import TypedDict

from paretune.core.errors import ModelError
from paretune.core.files import atomic_path, read_json, write_json
from paretune.core.folder_form import EXPORT, write_marker
from paretune.core.names import path_component
from paretune.core.preference import Preference
from paretune.fronts.record import FILE as FRONT
from paretune.models.adapter import Adapter, stack
from paretune.models.embedded import EMBEDDED, embedded_gguf
from paretune.models.gates import gate_of
from paretune.models.gguf_base import write_base
from paretune.models.gguf_file import BaseForm
from paretune.models.gguf_lora import check_architecture, write_lora
from paretune.models.gguf_model import ModelFile
from paretune.models.language_model import LanguageModel
from paretune.policies.catalogue import BLOCKS
from paretune.policies.export import recorded
from paretune.policies.folding import RULES, foldable
from paretune.policies.gating import Gating
from paretune.policies.policy import GatedPolicy, Policy
from paretune.policies.policy_file import FILE, PolicyFile
from paretune.policies.saving import content

logger = logging.getLogger(__name__)

BASE = "base.gguf"


class BlockFact(TypedDict):
    """A block: the name of its file without ``.gguf``, its rank, and the scale of its update."""

    name: str
    rank: int
    scale: float


class BlocksFile(TypedDict):
    """The content of ``blocks.json``: the blocks in order, and the learned features of Panacea's gates, if there are any."""

    blocks: list[BlockFact]
    features: dict[str, Any] | None


@dataclass(frozen=True)
class _Shape:
    """What a rule of gates reads of an adapter."""

    blocks: tuple[tuple[int, float], ...]
    info: Mapping[str, Any] = field(default_factory=dict)

    @property
    def rank(self) -> int:
        return sum(rank for rank, _ in self.blocks)

    @property
    def scale(self) -> float:
        return self.blocks[0][1]

    @property
    def ranks(self) -> tuple[int, ...]:
        return tuple(rank for rank, _ in self.blocks)

    @property
    def scales(self) -> tuple[float, ...]:
        return tuple(scale for _, scale in self.blocks)


@dataclass(frozen=True)
class Blocks:
    """The exported blocks of a policy.

    Attributes:
        names: Name of each block.
        objectives: M names.
        ranks: Rank of each block.
    """

    names: tuple[str, ...]
    objectives: tuple[str, ...]
    ranks: tuple[int, ...]
    _rule: Gating
    _adapters: tuple[_Shape, ...]

    @classmethod
    def read(cls, folder: Path) -> Blocks:
        """Read the blocks in a folder that :func:`export_blocks` wrote.

        Raises:
            ModelError: There are none, or the files do not fit each other.
        """
        cure = "export the policy again with --format gguf"
        facts = PolicyFile.read(folder)
        found = read_json(folder / BLOCKS, BlocksFile, cure)
        kinds = tuple((int(block["rank"]), float(block["scale"])) for block in found["blocks"])
        info = {"features": found["features"]} if found["features"] else {}
        single = facts.mix == "conditioned"
        adapters = (_Shape(kinds, info),) if single else tuple(_Shape((kind,)) for kind in kinds)
        if not foldable(facts.mix) or not kinds or (not single and len(kinds) != facts.adapters):
            raise ModelError(
                f"{folder / BLOCKS}: {len(kinds)} blocks for a policy of the kind {facts.mix}; {cure}"
            )
        names = tuple(path_component(block["name"], "the block") for block in found["blocks"])
        return cls(
            names, facts.objectives, tuple(rank for rank, _ in kinds), RULES[facts.mix](facts), adapters
        )

    def scales(self, preference: Preference) -> list[float]:
        """Return the scale of each block at a preference."""
        weights = torch.tensor(preference.over(self.objectives).array()[None], dtype=torch.float32)
        gates = self._rule.gates(cast(Sequence[Adapter], self._adapters), weights)
        assert gates is not None
        first = np.cumsum([0, *self.ranks[:-1]])
        return [float(gates[0, column]) for column in first]


def export_blocks(
    policy: Policy, folder: Path, front: Path | None = None, base: BaseForm | None = None
) -> tuple[str, ...]:
    """Write each block of a policy as a GGUF LoRA, with what a router needs to set their scales; return their names.

    Args:
        policy: A soup, anchors, a soup between anchors, or Panacea.
        folder: A new folder, or one of an earlier export.
        front: The run's record of its front, which is copied; None where nothing was measured.
        base: How the base model is written as GGUF too; None leaves it out.

    Raises:
        ModelError: The policy is no sum of blocks, the base model's architecture is not known here, llama.cpp would read or compute
            something else than it does, or the run has lost its front.
    """
    adapters = _blocks_of(policy)
    config = policy.lm.model.config
    check_architecture(config)
    measured, writing = recorded(front), _base_of(policy.lm, base)
    single = policy.kind == "conditioned"
    kinds = list(adapters[0].blocks) if single else [(adapter.rank, adapter.scale) for adapter in adapters]
    names = [path_component(f"{policy.name}-{name}", "the block") for name in _names(policy, len(kinds))]
    together = stack(adapters)
    with atomic_path(folder, EXPORT) as temporary:
        temporary.mkdir()
        start = 0
        for name, (rank, _) in zip(names, kinds, strict=True):
            columns = slice(start, start + rank)
            factors = {
                path: (_plain(U[:, columns]), _plain(V[columns])) for path, (U, V) in together.factors.items()
            }
            write_lora(temporary / f"{name}.gguf", factors, config, name)
            start += rank
        blocks = [
            {"name": name, "rank": rank, "scale": scale}
            for name, (rank, scale) in zip(names, kinds, strict=True)
        ]
        write_json(
            temporary / BLOCKS,
            {"blocks": blocks, "features": adapters[0].info.get("features") if single else None},
        )
        write_json(temporary / FILE, content(policy))
        if front is not None and measured is not None:
            shutil.copyfile(front, temporary / FRONT)
        if writing is not None:
            writing(temporary / BASE)
        write_marker(temporary)
    return tuple(names)


def export_at(
    policy: Policy, preference: Preference, folder: Path, base: BaseForm | None = None
) -> Preference:
    """Write the policy at one preference as one GGUF LoRA, and return the preference that it really serves.

    Raises:
        ModelError: As :func:`export_blocks`.
    """
    adapters = _blocks_of(policy)
    config = policy.lm.model.config
    check_architecture(config)
    writing = _base_of(policy.lm, base)
    (used,) = policy.used([preference])
    gates = policy.gates([preference])
    assert gates is not None
    together, kept = stack(adapters), gates[0].ne(0)
    kept[0] |= not bool(kept.any())  # a LoRA needs a column, be it of zeros
    factors = {
        path: (_plain((U * gate_of(gates[0], path))[:, kept]), _plain(V[kept]))
        for path, (U, V) in together.factors.items()
    }
    with atomic_path(folder, EXPORT) as temporary:
        temporary.mkdir()
        write_lora(temporary / f"{policy.name}.gguf", factors, config, f"{policy.name} at {used}")
        if writing is not None:
            writing(temporary / BASE)
        write_marker(temporary)
    return used


def _blocks_of(policy: Policy) -> tuple[Adapter, ...]:
    if not isinstance(policy, GatedPolicy) or not foldable(policy.kind):
        raise ModelError(
            policy.no_export
            or f"{policy.name} reads the preference in its prompt; export its LoRA with --format lora, and see what it says"
        )
    return policy.adapters


def _names(policy: Policy, count: int) -> Iterator[str]:
    """Yield a name for each block: what it is for."""
    if policy.kind == "soup":
        yield from policy.objectives
    elif policy.kind == "conditioned":
        bent = len((policy.adapters[0].info.get("features") or {}).get("bias", ()))
        shared = count - len(policy.objectives) - bent
        yield from ["shared"] * shared
        yield from policy.objectives
        yield from (f"feature-{number}" for number in range(bent))
    else:
        yield from (f"anchor-{number}" for number in range(count))


def _plain(tensor: Tensor) -> np.ndarray:
    return tensor.detach().cpu().float().numpy()


def _base_of(lm: LanguageModel, form: BaseForm | None) -> Callable[[Path], None] | None:
    """Return what writes the base model: its own GGUF file, or a new one; None where none is asked for.

    Raises:
        ModelError: It cannot be written so that llama.cpp reads and computes the same.
    """
    if form is None:
        return None
    source = embedded_gguf() if lm.name == EMBEDDED else Path(lm.name) if lm.name.endswith(".gguf") else None
    if source is not None and source.is_file():
        return partial(write_base, source, form=form)
    file = ModelFile.of(lm, form)
    for note in file.notes:
        logger.warning("%s: %s", lm.name, note)
    return file.write
