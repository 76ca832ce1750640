"""What ``paretune export --format gguf`` writes and says."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, cast

from paretune.core.errors import ConfigError
from paretune.models.gguf_file import BASE_FORMS, BaseForm
from paretune.policies.catalogue import BLOCKS
from paretune.policies.gguf_export import BASE, export_at, export_blocks

if TYPE_CHECKING:
    from paretune.core.preference import Preference
    from paretune.policies.policy import Policy


def base_form(with_base: bool, base_type: str | None, form: str) -> BaseForm | None:
    """Return how ``--with-base`` and ``--base-type`` ask for the base model, None where they do not.

    Raises:
        ConfigError: They do not fit each other or the format of the export.
    """
    if with_base and form != "gguf":
        raise ConfigError("--with-base writes a GGUF file; give --format gguf with it")
    if base_type is None:
        return "copy" if with_base else None
    if base_type not in BASE_FORMS:
        raise ConfigError(f"--base-type {base_type}: expected one of {', '.join(BASE_FORMS)}")
    if not with_base:
        raise ConfigError("--base-type says how the base model is written; give --with-base with it")
    return cast("BaseForm", base_type)


def write_gguf(
    policy: Policy, asked: Preference | None, folder: Path, front: Path | None, base: BaseForm | None
) -> str:
    """Write a policy's blocks, or with a preference one LoRA, and return what was written and how it is served.

    Raises:
        ParetuneError: See :func:`paretune.policies.gguf_export.export_blocks`.
    """
    file = folder / BASE if base else "BASE.gguf"
    if asked is not None:
        used = export_at(policy, asked, folder, base)
        snapped = "" if used == asked else f", the anchor nearest to {asked}"
        return f"{folder}: {policy.name} at {used}{snapped}\nllama-server -m {file} --lora {folder / f'{policy.name}.gguf'}"
    names = export_blocks(policy, folder, front, base)
    loras = " ".join(f"--lora {folder / f'{name}.gguf'}" for name in names)
    return (
        f"{folder}: {len(names)} blocks of {policy.name} ({', '.join(names)}) and {BLOCKS}\n"
        f"llama-server -m {file} --lora-init-without-apply {loras} --port 8001\n"
        f"paretune serve --upstream http://127.0.0.1:8001/v1 --upstream-kind llama.cpp --manifest {folder / BLOCKS}"
    )
