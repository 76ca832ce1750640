"""A scorer's model: loaded when it is first needed, shared by all scorers of the same one, and given back when they are done."""

from __future__ import annotations

import gc
import weakref
from collections.abc import Callable, Sequence
from threading import Lock
from typing import Generic, TypeVar

import numpy as np

from paretune.core.files import fingerprint
from paretune.data.rows import Prompt

Loaded = TypeVar("Loaded")


class SharedModel(Generic[Loaded]):
    """A model that is in memory while it scores.

    Scorers that share it also share what it gives for a text: a reward model with M heads reads a text once, and not M times.
    """

    def __init__(self, load: Callable[[], Loaded]) -> None:
        self._load = load
        self._model: Loaded | None = None
        self._rows: dict[str, np.ndarray] = {}
        self._lock = Lock()
        self.users = 0

    def get(self) -> Loaded:
        """Return the model, loaded now unless it is in memory."""
        with self._lock:
            if self._model is None:
                self._model = self._load()
            return self._model

    def free(self) -> None:
        """Give back the memory of the model, and what was kept of its outputs."""
        with self._lock:
            if self._model is None:
                return
            self._model = None
            self._rows.clear()
        gc.collect()  # modules refer to each other
        import torch

        # An accelerator's allocator keeps what is free for later tensors of this process, until it is told.
        device = torch.accelerator.current_accelerator(check_available=True)
        if device is not None:
            torch.get_device_module(device).empty_cache()

    def rows(
        self,
        prompts: Sequence[Prompt],
        responses: Sequence[str],
        settings: object,
        read: Callable[[Loaded, Sequence[Prompt], Sequence[str]], np.ndarray],
    ) -> np.ndarray:
        """Return what ``read`` gives for each text, ``[n, H]``; with several scorers on the model a text is read once.

        Args:
            prompts: n prompts.
            responses: n responses.
            settings: What decides the outputs beside the model and the text.
            read: Function from the model, prompts and responses to rows ``[n, H]``.
        """
        if self.users < 2:
            return read(self.get(), prompts, responses)
        keys = [
            fingerprint(settings, [[m.role, m.content] for m in prompt], response)
            for prompt, response in zip(prompts, responses, strict=True)
        ]
        new = {key: place for place, key in enumerate(keys) if key not in self._rows}
        if new:
            places = list(new.values())
            made = read(self.get(), [prompts[i] for i in places], [responses[i] for i in places])
            self._rows.update(zip(new, made, strict=True))
        return np.stack([self._rows[key] for key in keys])


_MODELS: weakref.WeakValueDictionary[str, SharedModel[object]] = weakref.WeakValueDictionary()
"""Identity -> its model, for as long as a scorer of this process has it."""


def shared_model(identity: str, load: Callable[[], Loaded]) -> SharedModel[Loaded]:
    """Return the model of an identity, which is the same object for every scorer that asks for it.

    Args:
        identity: All that decides what ``load`` returns.
        load: Function that loads the model.
    """
    model = _MODELS.get(identity)
    if model is None:
        model = SharedModel(load)
        _MODELS[identity] = model  # type: ignore[assignment]
    model.users += 1
    return model  # type: ignore[return-value]
