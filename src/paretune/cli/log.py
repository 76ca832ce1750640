"""How much the command line says: ``-q``, ``-v`` and ``PARETUNE_LOG``."""

from __future__ import annotations

import logging
import os
import sys
import warnings
from typing import Any

from paretune.core.errors import ConfigError, DataWarning, suggest
from paretune.core.progress import announce

VARIABLE = "PARETUNE_LOG"
LEVELS = {
    "error": logging.ERROR,
    "warning": logging.WARNING,
    "info": logging.INFO,
    "debug": logging.DEBUG,
}
"""``error`` is silence but for errors and results, and hides progress; ``debug`` has other libraries speak too."""
OTHERS = ("accelerate", "huggingface_hub", "transformers")


class _StandardError(logging.StreamHandler):  # type: ignore[type-arg]
    """A handler that writes to what standard error is at the time; other libraries' messages have handlers of their own."""

    def __init__(self) -> None:
        super().__init__()
        self.setFormatter(logging.Formatter("%(levelname)s %(name)s: %(message)s"))

    def emit(self, record: logging.LogRecord) -> None:
        self.stream = sys.stderr
        super().emit(record)


def configure(verbose: int = 0, quiet: bool = False) -> None:
    """Set how much is said on standard error; options go before the environment.

    Args:
        verbose: How often ``-v`` was given: ``info``, then ``debug``.
        quiet: Whether ``-q`` was given: ``error``.

    Raises:
        ConfigError: Both were given, or the environment has an unknown level.
    """
    if verbose and quiet:
        raise ConfigError("-v and -q contradict each other; give one of them")
    name = os.environ.get("PARETUNE_LOG", "").lower() or "warning"
    if name not in LEVELS:
        raise ConfigError(f"{VARIABLE}={name}: {suggest(name, LEVELS)}")
    if verbose or quiet:
        name = "error" if quiet else "info" if verbose == 1 else "debug"
    ours = logging.getLogger("paretune")
    ours.setLevel(LEVELS[name])
    if not any(isinstance(handler, _StandardError) for handler in ours.handlers):
        ours.addHandler(_StandardError())
    if name == "error":
        warnings.simplefilter("ignore")
    else:
        _show_as_message()
    if name == "debug":
        for other in OTHERS:
            logging.getLogger(other).setLevel(logging.INFO)


def _show_as_message() -> None:
    """Have warnings about data printed as messages of this program, each time; those of other libraries stay as they are."""
    warnings.simplefilter("always", DataWarning)
    show = warnings.showwarning

    def shown(message: Warning | str, category: type[Warning], *place: Any, **more: Any) -> None:
        if issubclass(category, DataWarning):
            announce(str(message))
        else:
            show(message, category, *place, **more)

    warnings.showwarning = shown
