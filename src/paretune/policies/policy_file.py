"""The content of ``policy.json``: all that can be known of a saved policy without loading it. Nothing here loads torch."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from paretune.core.bounds import Natural
from paretune.core.errors import ModelError, PreferenceError
from paretune.core.files import read_json
from paretune.core.preference import Preference
from paretune.core.settings import explained
from paretune.models.embedded import EMBEDDED, hub_name

FILE = "policy.json"

Kind = Literal["base", "soup", "anchors", "between", "conditioned", "mod", "prompt", "principles", "values"]


@dataclass(frozen=True)
class NamedBase:
    """The base model as a file names it.

    Attributes:
        model: The name or folder under which it was loaded.
        hub: Its name on the hub; empty where it is not known.
        revision: The commit on the hub; empty likewise.
        chat_template: The arguments of its chat template.
    """

    model: str
    hub: str = ""
    revision: str = ""
    chat_template: Mapping[str, Any] = field(default_factory=dict, hash=False)

    @property
    def is_embedded(self) -> bool:
        """Whether it is the model that comes as a package."""
        return self.model == EMBEDDED

    @property
    def hub_name(self) -> str:
        """The name that other programs know: the hub's where it is known, else the name as it is."""
        return self.hub or hub_name(self.model)


@dataclass(frozen=True)
class BaseChoice:
    """How the base model of a policy is loaded where it is not as the policy says.

    Attributes:
        model: Another name or folder of the same weights; None for that which the policy names.
        revision: The branch, tag or commit on the hub; None for that which the policy names, else the main branch.
        device: The device; None for an accelerator where there is one.
        dtype: The number format; None for that of the run.
        quantization: How the matrices are held (``none``, ``nf4``, ``int8``); None for how they were in the run.
    """

    model: str | None = None
    revision: str | None = None
    device: str | None = None
    dtype: str | None = None
    quantization: str | None = None


def loaded_as(quantization: str, asked: str | None) -> str:
    """Return the quantisation in which the base model of a policy is loaded.

    Args:
        quantization: That in which it was trained.
        asked: That which is wanted; None for the same.
    """
    if asked is not None:
        return asked
    return (
        "auto" if quantization == "fp4" else quantization
    )  # fp4 is had from a folder that is saved so alone


class PolicyFile(BaseModel):
    """The content of ``policy.json``; files of paretune 0.1, which state no ``dtype``, are read.

    Attributes:
        name: The policy's name in its run.
        model: The base model's name or folder.
        base: The base model's fingerprint.
        objectives: M names.
        mix: The policy's kind.
        anchors: The preferences of its anchors, empty for other kinds.
        trained: The preferences of the adapters of a soup between anchors, empty for other kinds.
        adapters: The number of adapters, in the folders ``adapter-0``, ``adapter-1``, ...
        mixing: The rule of MOD, see :class:`paretune.generation.mixing.Mixing`; other kinds ignore it.
        principles: The words of a policy that asks in words, see :class:`paretune.policies.principles.Principles`.
        guidance: Its strength of linear alignment, see :class:`paretune.policies.principles.Guidance`; None is plain prompting.
        augmentation: Strength and candidates of a policy with value heads, in the folder ``values``, see
            :class:`paretune.generation.rescoring.Augmentation`.
        dtype: The number format of the base model in the run.
        weights: The identity of the base model's weights, wherever they lie.
        hub: The base model's name on the hub; empty where it is not known, and in files of paretune 0.1.
        revision: The commit on the hub; empty likewise.
        quantization: How the base model's matrices were held in the run; ``none`` in files of paretune 0.1.
        chat_template: The arguments of the base model's chat template; empty for most.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")
    name: str
    model: str
    base: str
    objectives: tuple[str, ...]
    mix: Kind
    anchors: tuple[dict[str, float], ...] = ()
    trained: tuple[dict[str, float], ...] = ()
    adapters: Natural = 0
    mixing: dict[str, Any] = {}
    principles: dict[str, Any] = {}
    guidance: dict[str, Any] | None = None
    augmentation: dict[str, Any] = {}
    dtype: Literal["auto", "float32", "bfloat16"] = "auto"
    weights: str = ""
    hub: str = ""
    revision: str = ""
    quantization: Literal["none", "nf4", "fp4", "int8"] = "none"
    chat_template: dict[str, Any] = {}

    @classmethod
    def read(cls, folder: Path) -> PolicyFile:
        """Read the ``policy.json`` in ``folder``.

        Raises:
            ModelError: There is no such file, or it lacks a key or holds a wrong value.
        """
        file = folder / FILE
        if not file.is_file():
            raise ModelError(
                f"{folder}: no {FILE}; expected the folder of a policy, such as RUN/policies/modpo"
            )
        saved = "expected a policy saved by paretune, save it again"
        try:
            read = cls.model_validate(read_json(file, dict[str, Any]))
            Preference.checked(read.objectives)
            _ = read.anchor_preferences
        except ValidationError as error:
            raise ModelError(f"{file}: {'; '.join(explained(error, cls))}; {saved}") from error
        except PreferenceError as error:
            raise ModelError(f"{file}: {error}; {saved}") from error
        return read

    @property
    def named_base(self) -> NamedBase:
        """The base model as this file names it."""
        return NamedBase(self.model, self.hub, self.revision, self.chat_template)

    @property
    def anchor_preferences(self) -> tuple[Preference, ...]:
        """The preferences the policy answers with, if only these; otherwise none."""
        return tuple(Preference.of(weights, self.objectives) for weights in self.anchors)

    @property
    def trained_preferences(self) -> tuple[Preference, ...]:
        """The preferences that a soup of anchors interpolates between; otherwise none."""
        return tuple(Preference.of(weights, self.objectives) for weights in self.trained)

    @property
    def exportable(self) -> bool:
        """Whether one LoRA does what the policy does at one preference."""
        return self.mix not in ("base", "mod", "principles", "values")
