"""Adapters of the moment as folders that a LoRA server loads while it runs."""

from __future__ import annotations

from pathlib import Path

from paretune.core.files import fingerprint
from paretune.generation.endpoint import LORA_PREFIX, Endpoint, LoRA
from paretune.models.adapter import Adapter, to_peft
from paretune.models.language_model import LanguageModel


def written(loras: Path, lm: LanguageModel, endpoint: Endpoint, adapter: Adapter) -> LoRA:
    """Write the adapter as a LoRA into a folder of such, unless it is there: a server may be reading it."""
    name = LORA_PREFIX + fingerprint(adapter.fingerprint, lm.fingerprint, endpoint.model)
    folder = (loras / name).resolve()
    if not folder.is_dir():
        to_peft(adapter, folder, base_name=lm.portable_name)
    return LoRA(name, folder, adapter.rank)
