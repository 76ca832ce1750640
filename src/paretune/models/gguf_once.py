"""What transformers does again and again with a GGUF file, done once; nothing here loads torch."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import lru_cache
from pathlib import Path

from paretune.core.files import cache_folder, fingerprint


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


def conversion_of(gguf: Path) -> Path:
    """Return the folder, in the cache folder, that holds a GGUF file as a transformers model once it was converted."""
    stat = gguf.stat()
    identity = fingerprint(str(gguf.resolve()), stat.st_size, stat.st_mtime_ns)
    return cache_folder() / "models" / f"{gguf.stem}-{identity}"


def readable_at(path: Path) -> tuple[Path, dict[str, str]]:
    """Return the folder and the options by which transformers reads the config and the tokenizer of a model that exists.

    Of a GGUF file that was converted it is the conversion: to read a vocabulary out of the file itself takes seconds.
    """
    if path.suffix != ".gguf":
        return path, {}
    folder = conversion_of(path)
    return (folder, {}) if folder.is_dir() else (path.parent, {"gguf_file": path.name})
