"""One tree of errors. Each message states what was given, what was expected and what to do."""

from __future__ import annotations

import difflib
from collections.abc import Iterable


class ParetuneError(ValueError):
    """A mistake in the input or an impossible request; the command line prints it without a traceback and exits with 2."""


class PreferenceError(ParetuneError):
    """A preference off the simplex, or over unknown objectives."""


class DataError(ParetuneError):
    """The data cannot be used; the message starts with ``file:line`` (and the column) wherever there is one."""


class ConfigError(ParetuneError):
    """A run configuration with an unknown key, a wrong type or an impossible combination."""


class ModelError(ParetuneError):
    """A model, tokenizer or adapter that cannot be loaded, or does not belong to the base model in use."""


class ScoreError(ParetuneError):
    """A scorer that failed or returned something that is not a finite number."""


class TrainingError(ParetuneError):
    """The training cannot start or continue: a NaN loss, missing scores, a checkpoint of another run."""


class EndpointError(ParetuneError):
    """A server that samples responses cannot be reached, or its answer is not what was requested."""


class StoreError(ParetuneError):
    """The store of votes, presets and the audit cannot be opened, read or written."""


NO_MEMORY = (
    "can't allocate memory",
    "cannot allocate memory",
    "out of memory",
    "failed to map segment",
    "not enough memory",
)
"""How the messages of libraries say that there is no memory left, on a processor and on accelerators."""


def lacks_memory(error: BaseException) -> bool:
    """Return whether something failed because there is no memory left."""
    if isinstance(error, ParetuneError):
        return False
    return isinstance(error, MemoryError) or any(words in str(error).lower() for words in NO_MEMORY)


class DataWarning(UserWarning):
    """Records that were left out, and why; or an objective that names nothing."""


class NoteWarning(DataWarning):
    """What the notes of a data set say too: one who says the notes need not hear it."""


def reason_of(error: BaseException) -> str:
    """Return in one line, of at most 300 characters, why a library failed; a bare key gets the name of the error before it.

    >>> reason_of(KeyError("rope")), reason_of(ValueError("too\nlong.")), reason_of(TypeError())
    ("KeyError 'rope'", 'too long', 'TypeError')
    """
    said = " ".join(str(error).split())[:300].rstrip(".")
    named = isinstance(error, (OSError, ValueError)) and said
    return said if named else f"{type(error).__name__} {said}".strip()


def suggest(given: str, options: Iterable[str]) -> str:
    """Return ``did you mean 'x'? expected one of: ...`` for a name that is not among ``options``."""
    options = [str(o) for o in options]
    near = difflib.get_close_matches(given, options, n=1, cutoff=0.6)
    hint = f"did you mean {near[0]!r}? " if near else ""
    return f"{hint}expected one of: {', '.join(options) if options else '(none)'}"
