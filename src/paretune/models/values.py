"""Value heads: what a language model's own samples are worth on M objectives, read from its frozen states.

A state is a text so far and one further token. ``V(text + token) [M]`` is read from the model's last hidden state behind the text
and from the token's input embedding, both frozen, by one small trunk under M linear heads:

    z = gelu(A norm(hidden) + B norm(embedding) + b),      V = H z + c

So the values of k candidates for the next token cost k small products and no further pass of the model.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
import torch.nn.functional as F  # noqa: N812
from safetensors.torch import save_file
from torch import Tensor, nn
from transformers import PreTrainedModel

from paretune.core.errors import ModelError
from paretune.core.files import atomic_path, fingerprint, read_json, write_json
from paretune.core.folder_form import FolderForm
from paretune.core.tensor_file import check_readable
from paretune.models.tensors import read_tensors

FILES = ("values.json", "values.safetensors")
FORM = FolderForm(FILES[0], ("format", "base", "objectives"), FILES)
"""The form of the folder of value heads."""
FORMAT = 1
NAMES = ("state", "token", "bias", "heads", "offset")
"""The tensors: A ``[H, d]``, B ``[H, d]``, b ``[H]``, H ``[M, H]`` and c ``[M]``."""


@dataclass(frozen=True, eq=False)
class Values:
    """M value heads on one trunk for one base model; values are in the units of the rewards that they were trained on.

    Attributes:
        tensors: Parameters in fp32 under :data:`NAMES`; a trained copy lies on the CPU.
        objectives: M names, in the order of the heads.
        base: Fingerprint of the base model whose states they read; "" when unknown.
        info: Free facts that JSON can hold.
    """

    tensors: Mapping[str, Tensor]
    objectives: tuple[str, ...]
    base: str = ""
    info: Mapping[str, Any] = field(default_factory=dict)

    def __post_init__(self) -> None:
        missing = [name for name in NAMES if name not in self.tensors]
        if missing or not self.objectives:
            raise ModelError(
                f"value heads need the tensors {', '.join(NAMES)} and at least one objective; missing: "
                f"{', '.join(missing) or 'objectives'}"
            )
        found = {name: list(self.tensors[name].shape) for name in NAMES}
        H, d = found["state"] if len(found["state"]) == 2 else (0, 0)
        M = len(self.objectives)
        expected = {"state": [H, d], "token": [H, d], "bias": [H], "heads": [M, H], "offset": [M]}
        if found != expected or not H:
            raise ModelError(
                f"value heads for {M} objectives of the shapes {found}; expected {expected} for a width H and a hidden size d"
            )

    @classmethod
    def start(
        cls, hidden: int, width: int, objectives: Sequence[str], base: str = "", seed: int = 0
    ) -> Values:
        """Return untrained heads, whose values are all 0; the trunk is drawn at random from ``seed``."""
        random = torch.Generator().manual_seed(seed)
        A, B = (torch.randn(width, hidden, generator=random) / (2 * hidden) ** 0.5 for _ in range(2))
        tensors = {
            "state": A,
            "token": B,
            "bias": torch.zeros(width),
            "heads": torch.zeros(len(objectives), width),
            "offset": torch.zeros(len(objectives)),
        }
        return cls(tensors, tuple(objectives), base)

    @property
    def hidden(self) -> int:
        """The hidden size d of the model whose states they read."""
        return self.tensors["state"].shape[1]

    @property
    def fingerprint(self) -> str:
        """Identifies the heads by their numbers and objectives."""
        raw = [self.tensors[name].contiguous().cpu().numpy().tobytes() for name in NAMES]
        return fingerprint(list(self.objectives), *raw)

    def to(self, device: torch.device) -> Values:
        """Return a copy on a device."""
        tensors = {name: tensor.to(device) for name, tensor in self.tensors.items()}
        return Values(tensors, self.objectives, self.base, self.info)

    def __call__(self, hidden: Tensor, embeddings: Tensor) -> Tensor:
        """Return the values ``[..., M]`` (fp32) of states; differentiable with respect to the parameters.

        Args:
            hidden: Last hidden states ``[..., d]`` behind the texts, before the output embeddings.
            embeddings: Input embeddings ``[..., d]`` of the further tokens; the shapes are broadcast.
        """
        trunk = self._part("state", hidden) + self._part("token", embeddings) + self.tensors["bias"]
        return F.linear(F.gelu(trunk), self.tensors["heads"], self.tensors["offset"])

    def _part(self, name: str, states: Tensor) -> Tensor:
        # Models differ a thousandfold in the size of their states; the trunk sees their direction.
        normed = F.layer_norm(states.float(), (self.hidden,))
        return F.linear(normed, self.tensors[name])

    def save(self, folder: str | Path) -> None:
        """Write ``values.json`` and ``values.safetensors``, bit-exact; ``folder`` becomes exactly these.

        Raises:
            ModelError: ``folder`` holds files of something else.
        """
        tensors = {name: self.tensors[name].detach().cpu().float().contiguous().clone() for name in NAMES}
        settings = {
            "format": FORMAT,
            "base": self.base,
            "objectives": list(self.objectives),
            "info": dict(self.info),
            "fingerprint": self.fingerprint,
        }
        with atomic_path(folder, FORM) as temporary:
            temporary.mkdir()
            save_file(tensors, temporary / FILES[1])
            write_json(temporary / FILES[0], settings)

    @classmethod
    def load(cls, folder: str | Path, base: str = "", hidden: int = 0) -> Values:
        """Read what :meth:`save` wrote.

        Args:
            folder: The folder.
            base: Fingerprint of the base model that they are meant for; "" does not check it.
            hidden: Hidden size of that model; 0 does not check it.

        Raises:
            ModelError: A file is missing or damaged, or the heads belong to another base model.
        """
        folder = Path(folder)
        check_readable(folder / FILES[0], "expected the folder of value heads")
        settings = read_json(folder / FILES[0], dict[str, Any])
        if settings.get("format") != FORMAT:
            raise ModelError(
                f"{folder / FILES[0]}: value heads of the format {settings.get('format')!r}, expected {FORMAT}; train them again"
            )
        try:
            objectives = tuple(str(name) for name in settings["objectives"])
            made_for, info = str(settings["base"]), dict(settings["info"])
            made = cls(read_tensors(folder / FILES[1], ("F32",)), objectives, made_for, info)
        except (KeyError, TypeError, ValueError) as error:
            raise ModelError(f"{folder / FILES[0]}: damaged ({error}); copy or train them again") from error
        if settings.get("fingerprint") != made.fingerprint:
            raise ModelError(
                f"{folder / FILES[1]}: its numbers are not those that were saved (the disk or a copy changed them); copy the "
                "folder again, or delete it to have the heads trained again"
            )
        made.check_base(base, hidden, str(folder))
        return made

    def check_base(self, base: str = "", hidden: int = 0, name: str = "value heads") -> None:
        """Check that the heads read the states of a model.

        Raises:
            ModelError: They belong to another base model than ``base`` ("" is unknown), or one of another size (0 is unknown).
        """
        if self.base and base and self.base != base:
            raise ModelError(
                f"{name}: value heads of the base model {self.base}, but the model in use is {base}; they read the states of their "
                "own base model alone: load that one, or train heads for this one"
            )
        if hidden and self.hidden != hidden:
            raise ModelError(
                f"{name}: value heads for states of {self.hidden} numbers, but the model in use has {hidden}; they read the "
                "states of their own base model alone: load that one, or train heads for this one"
            )


def hidden_size(model: PreTrainedModel) -> int:
    """Return d, the size of a model's last hidden states and input embeddings.

    Raises:
        ModelError: The two differ, so that value heads cannot read both alike.
    """
    d, embedded = (
        int(part.weight.shape[1]) for part in (model.get_output_embeddings(), model.get_input_embeddings())
    )
    if d != embedded:
        raise ModelError(
            f"{type(model).__name__} has input embeddings of {embedded} numbers and last states of {d}; value heads need a model "
            "in which they are equally long, such as Llama, Qwen3 or Gemma 3"
        )
    return d


@contextmanager
def last_states(model: nn.Module) -> Iterator[list[Tensor]]:
    """Collect the last hidden states ``[rows, tokens, d]`` of each forward in the context, before the output embeddings."""
    states: list[Tensor] = []
    decoder = model.get_decoder()  # type: ignore[operator]
    handle = decoder.register_forward_hook(
        lambda module, inputs, output: states.append(output.last_hidden_state)
    )
    try:
        yield states
    finally:
        handle.remove()
