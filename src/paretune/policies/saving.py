"""Policies on the disk: ``policy.json`` and one folder per adapter. Nothing but this file knows what ``policy.json`` holds."""

from __future__ import annotations

from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, ValidationError

from paretune.core.errors import ModelError
from paretune.core.files import atomic_path, read_json, write_json
from paretune.core.preference import Preference
from paretune.generation.mixing import Mixing
from paretune.models.adapter import Adapter
from paretune.models.language_model import LanguageModel
from paretune.models.language_model import load as load_model
from paretune.policies.mixed import MixedPolicy
from paretune.policies.policy import Policy

FILE = "policy.json"

Kind = Literal["base", "soup", "anchors", "conditioned", "mod", "prompt"]


class PolicyFile(BaseModel):
    """The content of ``policy.json``, unchanged since paretune 0.1.

    Attributes:
        name: The policy's name in its run.
        model: The base model's name or folder.
        base: The base model's fingerprint.
        objectives: M names.
        mix: The policy's kind.
        anchors: The preferences of its anchors, empty for other kinds.
        adapters: The number of adapters, in the folders ``adapter-0``, ``adapter-1``, ...
        mixing: The rule of MOD, see :class:`paretune.generation.mixing.Mixing`; other kinds ignore it.
    """

    model_config = ConfigDict(frozen=True, extra="ignore")
    name: str
    model: str
    base: str
    objectives: tuple[str, ...]
    mix: Kind
    anchors: tuple[dict[str, float], ...] = ()
    adapters: int = 0
    mixing: dict[str, Any] = {}

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
        try:
            return cls.model_validate(read_json(file))
        except ValidationError as error:
            first = error.errors()[0]
            key = ".".join(map(str, first["loc"])) or "the whole file"
            raise ModelError(
                f"{file}: {key}: {first['msg']}; expected a policy saved by paretune, save it again"
            ) from error

    @property
    def anchor_preferences(self) -> tuple[Preference, ...]:
        """The preferences the policy answers with, if only these; otherwise none."""
        return tuple(Preference.of(weights, self.objectives) for weights in self.anchors)

    @property
    def exportable(self) -> bool:
        """Whether one LoRA does what the policy does at one preference."""
        return self.mix not in ("base", "mod")


def save(policy: Policy, folder: str | Path) -> None:
    """Write ``policy.json`` and one folder per adapter into ``folder``, atomically."""
    mixing = policy.mixing if isinstance(policy, MixedPolicy) else Mixing()
    with atomic_path(folder) as temporary:
        temporary.mkdir()
        for number, adapter in enumerate(policy.adapters):
            adapter.save(temporary / f"adapter-{number}")
        write_json(
            temporary / FILE,
            {
                "name": policy.name,
                "model": policy.lm.name,
                "base": policy.lm.fingerprint,
                "objectives": list(policy.objectives),
                "mix": policy.kind,
                "anchors": [preference.as_dict() for preference in policy.anchor_preferences],
                "adapters": len(policy.adapters),
                "mixing": vars(mixing),
            },
        )


def load(folder: str | Path, lm: LanguageModel) -> Policy:
    """Read a policy written by :func:`save` onto its base model.

    Raises:
        ModelError: The folder holds no policy, or one of another base model.
    """
    folder = Path(folder)
    facts = PolicyFile.read(folder)
    if facts.base != lm.fingerprint:
        raise ModelError(
            f"{folder}: made for base model {facts.model} ({facts.base}), but {lm.name} ({lm.fingerprint}) is loaded"
        )
    adapters = [
        Adapter.load(folder / f"adapter-{number}", lm.fingerprint) for number in range(facts.adapters)
    ]
    whose = (facts.name, lm, facts.objectives)
    match facts.mix:
        case "base":
            return Policy.base(lm, facts.objectives)
        case "soup":
            return Policy.soup(*whose, adapters)
        case "anchors":
            return Policy.anchors(*whose, adapters, facts.anchor_preferences)
        case "conditioned":
            return Policy.conditioned(*whose, adapters[0])
        case "mod":
            return Policy.mod(*whose, adapters, Mixing(**facts.mixing))
        case "prompt":
            return Policy.prompted(*whose, adapters[0])


def load_policy(folder: str | Path, dtype: str = "auto") -> Policy:
    """Load a policy together with its base model, which its ``policy.json`` names.

    Args:
        folder: The policy's folder, such as ``RUN/policies/modpo``.
        dtype: The base model's number format: ``auto``, ``float32`` or ``bfloat16``.

    Raises:
        ModelError: The folder holds no policy, or its base model cannot be loaded.
    """
    return load(folder, load_model(PolicyFile.read(Path(folder)).model, dtype))
