"""One thread at a time on a model: gates are state of its layers, so two threads would see each other's."""

from __future__ import annotations

from threading import Lock, RLock
from weakref import WeakKeyDictionary

from torch import nn

_locks: WeakKeyDictionary[nn.Module, RLock] = WeakKeyDictionary()  # type: ignore[valid-type]
_making = Lock()


def exclusive(model: nn.Module) -> RLock:  # type: ignore[valid-type]
    """Return the lock of a model, to be held while adapters are attached to it or it computes.

    A thread may take it again while it holds it. Others wait.
    """
    with _making:
        if model not in _locks:
            _locks[model] = RLock()
        return _locks[model]
