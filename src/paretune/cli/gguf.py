"""What ``paretune export --format gguf`` writes and says."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from paretune.policies.catalogue import BLOCKS
from paretune.policies.gguf_export import BASE, export_at, export_blocks

if TYPE_CHECKING:
    from paretune.core.preference import Preference
    from paretune.policies.policy import Policy


def write_gguf(
    policy: Policy, asked: Preference | None, folder: Path, front: Path | None, with_base: bool
) -> str:
    """Write a policy's blocks, or with a preference one LoRA, and return what was written and how it is served.

    Raises:
        ParetuneError: See :func:`paretune.policies.gguf_export.export_blocks`.
    """
    base = folder / BASE if with_base else "BASE.gguf"
    if asked is not None:
        used = export_at(policy, asked, folder, with_base)
        snapped = "" if used == asked else f", the anchor nearest to {asked}"
        return f"{folder}: {policy.name} at {used}{snapped}\nllama-server -m {base} --lora {folder / f'{policy.name}.gguf'}"
    names = export_blocks(policy, folder, front, with_base)
    loras = " ".join(f"--lora {folder / f'{name}.gguf'}" for name in names)
    return (
        f"{folder}: {len(names)} blocks of {policy.name} ({', '.join(names)}) and {BLOCKS}\n"
        f"llama-server -m {base} --lora-init-without-apply {loras} --port 8001\n"
        f"paretune serve --upstream http://127.0.0.1:8001/v1 --upstream-kind llama.cpp --manifest {folder / BLOCKS}"
    )
