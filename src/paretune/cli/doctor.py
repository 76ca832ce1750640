"""Findings about this machine: versions, device, bfloat16, the embedded model, the hub, the cache."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
from typing import TYPE_CHECKING

import psutil
import torch

from paretune.core.files import cache_folder
from paretune.models.devices import native_bfloat16
from paretune.models.embedded import EMBEDDED, EMBEDDED_INSTALL, embedded_gguf
from paretune.models.hub_reach import hub

if TYPE_CHECKING:
    from rich.table import Table

PACKAGES = ("paretune", "torch", "transformers", "accelerate", "peft", "trl", "datasets", "moocore")


def diagnose() -> list[tuple[str, bool, str]]:
    """Return (what, whether it is fine, finding) for everything a run depends on."""
    findings = [("python", True, platform.python_version())]
    for package in PACKAGES:
        try:
            findings.append((package, True, importlib.metadata.version(package)))
        except importlib.metadata.PackageNotFoundError:
            optional = package in ("peft", "trl", "datasets")
            findings.append((package, optional, "not installed" + (" (optional)" if optional else "")))
    device = torch.accelerator.current_accelerator() or torch.device("cpu")
    memory = psutil.virtual_memory().total / 2**30
    findings.append(("device", True, f"{device.type}, {os.cpu_count()} cores, {memory:.0f} GB memory"))
    native = native_bfloat16(device)
    findings.append(
        ("bfloat16", native, "computed natively" if native else "emulated: dtype auto takes float32")
    )
    gguf = embedded_gguf()
    findings.append(
        (EMBEDDED, gguf is not None, str(gguf.name) if gguf else f"not installed: {EMBEDDED_INSTALL}")
    )
    findings.append(("hub", *hub()))
    cache = cache_folder()
    parent = next(folder for folder in (cache, *cache.parents) if folder.exists())
    free = shutil.disk_usage(parent).free / 2**30
    writable = os.access(parent, os.W_OK)
    findings.append(
        (
            "cache",
            writable and free > 2,
            f"{free:.0f} GB free" + ("" if writable else ", not writable: set PARETUNE_CACHE"),
        )
    )
    return findings


def render(findings: list[tuple[str, bool, str]]) -> Table:
    """Return the findings as a table for the terminal."""
    from rich.table import Table

    table = Table("what", "", "finding", title="This machine")
    for what, fine, finding in findings:
        table.add_row(what, "[green]ok[/]" if fine else "[yellow]-[/]", finding)
    return table
