"""A reward model: a LoRA on a language model and one linear head per objective on the state of a response's last token.

    r_m(x, y) = h_m . state(x, y)

The slope b_m by which the model rewards a response for its length alone is kept beside it: r_m(x, y) - b_m log |y|, with |y| the
number of tokens of the response, is the reward without it.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor

from paretune.core.errors import ModelError
from paretune.core.files import atomic_path, fingerprint, read_json, write_json
from paretune.core.folder_form import FolderForm
from paretune.core.tensor_file import check_readable
from paretune.models.adapter import FILES as ADAPTER_FILES
from paretune.models.adapter import Adapter
from paretune.models.language_model import LanguageModel
from paretune.models.packing import TokenGroup, ends, pack, packed_states
from paretune.models.tensors import read_tensors

FILE, HEADS, ADAPTER = "reward.json", "heads.safetensors", "adapter"
FORM = FolderForm(
    FILE, ("format", "objectives", "model"), (HEADS, *(f"{ADAPTER}/{name}" for name in ADAPTER_FILES))
)
"""The form of the folder of a reward model."""
FORMAT = 1


@dataclass(frozen=True, eq=False)
class RewardModel:
    """A reward model for one base model.

    Attributes:
        adapter: The LoRA.
        heads: fp32 ``[M, d]`` on the CPU.
        objectives: M names.
        slopes: The M slopes b, in units of reward per nat of length.
        model: Name or folder of the base model.
        report: What was measured on held-out pairs, as JSON holds it; with the keys of the prompts that it was fitted on.
    """

    adapter: Adapter
    heads: Tensor
    objectives: tuple[str, ...]
    slopes: tuple[float, ...]
    model: str
    report: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        M = len(self.objectives)
        if self.heads.ndim != 2 or len(self.heads) != M or len(self.slopes) != M or not M:
            raise ModelError(
                f"a reward model of {M} objectives with heads {list(self.heads.shape)} and {len(self.slopes)} slopes; expected one "
                "of each for every objective"
            )

    @property
    def fingerprint(self) -> str:
        """Identifies the model by its numbers and objectives."""
        raw = self.heads.contiguous().numpy().tobytes()
        return fingerprint(self.adapter.fingerprint, list(self.objectives), list(self.slopes), raw)

    def number(self, objective: str) -> int:
        """Return the place of an objective.

        Raises:
            ModelError: It has none of this name.
        """
        if objective not in self.objectives:
            raise ModelError(
                f"the reward model has no objective {objective!r}; it has {', '.join(self.objectives)}: name one with name:"
            )
        return self.objectives.index(objective)

    def save(self, folder: str | Path) -> None:
        """Write the model; ``folder`` becomes exactly this.

        Raises:
            ModelError: ``folder`` holds files of something else.
        """
        settings = {
            "format": FORMAT,
            "objectives": list(self.objectives),
            "slopes": list(self.slopes),
            "model": self.model,
            "fingerprint": self.fingerprint,
            "report": dict(self.report),
        }
        with atomic_path(folder, FORM) as temporary:
            temporary.mkdir()
            self.adapter.save(temporary / ADAPTER)
            save_file({"heads": self.heads.contiguous()}, temporary / HEADS)
            write_json(temporary / FILE, settings)

    @classmethod
    def load(cls, folder: str | Path) -> RewardModel:
        """Read what :meth:`save` wrote.

        Raises:
            ModelError: A file is missing or damaged.
        """
        folder = Path(folder)
        cure = "fit it again with: paretune score fit --form lora"
        check_readable(folder / FILE, f"expected the folder of a reward model; {cure}")
        settings = read_json(folder / FILE, dict[str, Any])
        if settings.get("format") != FORMAT:
            raise ModelError(
                f"{folder / FILE}: a reward model of the format {settings.get('format')!r}, expected {FORMAT}; {cure}"
            )
        try:
            made = cls(
                Adapter.load(folder / ADAPTER),
                read_tensors(folder / HEADS, ("F32",))["heads"],
                tuple(str(name) for name in settings["objectives"]),
                tuple(float(slope) for slope in settings["slopes"]),
                str(settings["model"]),
                dict(settings["report"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(f"{folder / FILE}: damaged ({error}); {cure}") from error
        if settings.get("fingerprint") != made.fingerprint:
            raise ModelError(
                f"{folder}: its numbers are not those that were saved (the disk or a copy changed them); copy it again, or {cure}"
            )
        return made


def states(lm: LanguageModel, groups: Sequence[TokenGroup]) -> Tensor:
    """Return the state ``[R, d]`` (fp32) of the last token of each response, in one forward; differentiable."""
    batch = pack(groups, lm.device)
    return packed_states(lm.model, batch)[ends(batch)].float()


def log_lengths(groups: Sequence[TokenGroup]) -> Tensor:
    """Return log |y| of each response ``[R]``."""
    return torch.tensor([len(response) for _, responses in groups for response in responses]).float().log()
