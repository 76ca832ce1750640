"""What transformers does again and again when it converts a GGUF file, done once."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import lru_cache


@contextmanager
def read_once() -> Iterator[None]:
    """Remember, inside the context, what the package gguf makes of a file and of an architecture.

    transformers reads the whole file for the tokenizer, for the config and for the weights, and makes the table of an
    architecture's tensor names anew for each module: three quarters of the time that a conversion takes.
    """
    import gguf

    with ExitStack() as stack:
        for name in ("GGUFReader", "get_tensor_name_map"):
            made = getattr(gguf, name)
            setattr(gguf, name, lru_cache(made))
            stack.callback(setattr, gguf, name, made)
        yield
