"""Whether the model hub can be asked: once, and briefly. Its own client tries for minutes."""

from __future__ import annotations

import os

from paretune.core.errors import ModelError

HUB_TIMEOUT = 4.0
"""Seconds in which the hub must answer."""


def hub() -> tuple[bool, str]:
    """Return whether the model hub answers, and a finding in words."""
    if os.environ.get("HF_HUB_OFFLINE", "0") not in ("", "0"):
        return False, "switched off by HF_HUB_OFFLINE; local models and data work"
    from huggingface_hub import constants, get_session

    try:  # by the hub's own session, which knows of proxies and certificates
        get_session().head(constants.ENDPOINT, timeout=HUB_TIMEOUT)
    except Exception as error:  # noqa: BLE001 - of whatever client the hub's library uses
        reason = " ".join(str(error).split())[:80] or type(error).__name__
        return False, f"no answer ({reason}); local models and data work"
    return True, "answers"


def check_hub(name: str, expected: str = "", revision: str | None = None) -> None:
    """Raise a ModelError unless a model of this hub name is in the hub's cache, or the hub answers.

    Args:
        name: The name as the user gave it, which is no path of this machine.
        expected: What could be given instead, as a sentence.
        revision: The branch, tag or commit.
    """
    from huggingface_hub import try_to_load_from_cache
    from huggingface_hub.errors import HFValidationError

    try:
        if isinstance(try_to_load_from_cache(name, "config.json", revision=revision), str):
            return
    except HFValidationError as error:
        raise ModelError(
            f"cannot load the model {name!r}: neither a file or folder nor a name of the hub. {expected}".rstrip()
        ) from error
    answers, finding = hub()
    if not answers:
        raise ModelError(
            f"cannot load the model {name!r}: no such file or folder, not in the hub's cache, and the hub gives {finding}. "
            f"{expected}".rstrip()
        )
