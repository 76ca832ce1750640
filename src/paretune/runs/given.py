"""Data given in Python become files of the run, so that its config can be read again: later, by a worker, or elsewhere."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from paretune.core.launch import rank
from paretune.data.dataset import ScoredDataset
from paretune.data.known import KNOWN
from paretune.data.load import load_data
from paretune.data.places import is_object
from paretune.data.shipped import SHIPPED
from paretune.runs.config import DataConfig, RunConfig

FOLDER = "data"
"""The folder of a run with its data."""


def read_given(config: RunConfig) -> RunConfig:
    """Return the config with each data set of the ``datasets`` library read, once, as a :class:`ScoredDataset`.

    Raises:
        DataError: A data set has no form that is known, or no such split.
    """
    data = config.data
    if not any(_given(entry) for source in (data.source, data.test) for entry in _entries(source)):
        return config

    def read(split: str | None) -> Callable[[Any], Any]:
        return lambda entry: (
            load_data(entry, split) if _given(entry) and not _is_read(entry) else _of_split(entry, split)
        )

    # The split is that of the source, so where its data are read it is stated beside the entries that are not.
    changes = {
        "source": _each(data.source, read(data.split)),
        "test": _each(data.test, read(None)),
        "split": None,
    }
    return _with_data(config, data.model_copy(update=changes))


def keep_given(config: RunConfig) -> RunConfig:
    """Write the data sets of a config into the run's folder, named by their content, and return the config that names the files.

    The folder is the run's own and locked. Of several processes the first writes.
    """
    data = config.data
    if not any(_is_read(entry) for source in (data.source, data.test) for entry in _entries(source)):
        return config

    def keep(entry: Any) -> Any:
        if not _is_read(entry):
            return entry
        # Parquet states the objectives of the data in their order, whatever the first row is scored on.
        file = config.run_folder / FOLDER / f"given-{entry.fingerprint}.parquet"
        if not rank():
            entry.write(file)
        return str(file)

    changes = {"source": _each(data.source, keep), "test": _each(data.test, keep)}
    return _with_data(config, data.model_copy(update=changes))


def _with_data(config: RunConfig, data: DataConfig) -> RunConfig:
    return config.model_copy(update={"data": data})


def _entries(source: Any) -> list[Any]:
    return source if isinstance(source, list) else [source]


def _each(source: Any, change: Callable[[Any], Any]) -> Any:
    return [change(entry) for entry in source] if isinstance(source, list) else change(source)


def _is_read(entry: Any) -> bool:
    return isinstance(entry, ScoredDataset)


def _given(entry: Any) -> bool:
    """Return whether an entry of ``data.source`` is a data set of Python, or a column map over one."""
    return (
        _is_read(entry) or is_object(entry) or (isinstance(entry, Mapping) and is_object(entry.get("path")))
    )


def _of_split(entry: Any, split: str | None) -> Any:
    """Return an entry of a config that states the split which is read of it."""
    if split is None or entry is None or _is_read(entry):
        return entry
    if isinstance(entry, Mapping):
        return {**entry, "split": split}
    known = str(entry) in KNOWN or str(entry) in SHIPPED
    return {"name" if known else "path": str(entry), "split": split}
