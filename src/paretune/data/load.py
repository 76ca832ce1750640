"""Preference data in every form people have it, as one `ScoredDataset`.

`load_data` takes the path of a file or folder, the name of a public data set (`paretune.data.known.KNOWN`), a list of
these (their rows in order, over the union of the objectives), or a mapping, which is also what a run's YAML
holds::

    data:
      - helpsteer2                                  # a known set, from the hub
      - {name: hh-rlhf, path: downloads/hh, split: train}    # a known set, from local files
      - {path: mine.jsonl}                          # the canonical form (`paretune.data.rows`)
      - {path: theirs.parquet, objective: helpful}  # a TRL form; `objective` names what its labels mean
      - path: other.csv                             # any columns; `hub: owner/name` (with `config`) works as
      well
        prompt: question                            # text, or a list of messages
        responses: [answer_a, answer_b]             # or one column: a list, or one response a record
        scores:                                     # one column per response, or one column beside one
          helpful: [help_a, help_b]
          cost: [cost_a, cost_b]
        labels:                                     # for two responses: +1 prefers the first, -1 the second
          overall: {column: winner, values: {a: 1, b: -1, tie: 0}}
        directions: {cost: lower}                   # negated once, here: everywhere else higher is better

TRL forms are recognised by their columns: ``chosen`` and ``rejected`` (with ``prompt``, or with the prompt as their
common beginning), ``prompt, completion, label`` (records of one prompt become one row, true scores 1, false
0), ``prompt, completion``, ``messages`` and ``prompt``, each as text or as lists of messages.
"""

from __future__ import annotations

import re
import warnings
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from paretune.core.errors import DataError, suggest
from paretune.data.columns import Records
from paretune.data.dataset import ScoredDataset, concatenate
from paretune.data.formats import read_form, read_mapped
from paretune.data.known import KNOWN, Dropped
from paretune.data.readers import READERS, read_records, suffix_of
from paretune.data.row_store import changed, gather
from paretune.data.rows import Row
from paretune.data.shipped import SHIPPED, shipped_file

KEYS = (
    "name",
    "path",
    "hub",
    "config",
    "split",
    "objective",
    "directions",
    "prompt",
    "responses",
    "scores",
    "labels",
)
SPLIT_WORDS = {
    "train": "train",
    "test": "test",
    "eval": "test",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
}

Spec = str | Path | Mapping[str, Any] | Sequence[Any]


class DataWarning(UserWarning):
    """Records of a public data set that were left out, and why."""


def load_data(
    spec: Spec,
    split: str | None = None,
    *,
    path: str | Path | None = None,
    objective: str | None = None,
    directions: Mapping[str, str] | None = None,
) -> ScoredDataset:
    """Return the preference data that ``spec`` names (see the module), higher is better for every score.

    ``path`` is a file or folder with the files of a known set, instead of the hub. ``split`` picks the files
    whose name or folder names it, or the split on the hub; without it a folder or the hub gives ``train``.
    ``objective`` names what the labels of a TRL form mean. ``directions`` has ``lower`` for objectives whose
    scores are costs. ``source`` of each row is ``file:line``.

    Raises:
        DataError: Nothing there, an unknown form or key, a missing column, a malformed line; with
        ``file:line``.
    """
    if isinstance(spec, Mapping):
        return _load_mapping(spec, split, path, objective, directions)
    if not isinstance(spec, str | Path):
        if not spec:
            raise DataError("no data given; expected a path, a known name or a mapping")
        parts = (load_data(one, split, path=path, objective=objective, directions=directions) for one in spec)
        return concatenate(parts)
    if str(spec) in SHIPPED:
        dataset = _load_shipped(str(spec), path, split)
    elif str(spec) in KNOWN:
        dataset = _load_known(str(spec), path, split)
    else:
        if path is not None:
            raise DataError(f"unknown data set {str(spec)!r}; {suggest(str(spec), [*KNOWN, *SHIPPED])}")
        _check_exists(Path(spec))
        dataset = concatenate(read_form(records, objective) for _, records in _streams(Path(spec), split))
    return _nonempty(_directed(dataset, directions or {}), str(spec))


def _load_mapping(
    spec: Mapping[str, Any],
    split: str | None,
    path: str | Path | None,
    objective: str | None,
    directions: Mapping[str, str] | None,
) -> ScoredDataset:
    for key in spec:
        if key not in KEYS:
            raise DataError(f"data: unknown key {key!r}; {suggest(str(key), KEYS)}")
    stated = {"split": split, "path": path, "objective": objective, "directions": directions}
    given = {**spec, **{key: value for key, value in stated.items() if value is not None}}
    if "name" in given:
        names = [*KNOWN, *SHIPPED]
        if given["name"] not in names:
            raise DataError(f"unknown data set {given['name']!r}; {suggest(str(given['name']), names)}")
        excess = set(given) - {"name", "path", "split", "directions"}
        if excess:
            raise DataError(f"data: a known set takes path, split and directions, not {sorted(excess)[0]!r}")
        return load_data(
            given["name"], given.get("split"), path=given.get("path"), directions=given.get("directions")
        )
    if ("path" in given) == ("hub" in given):
        raise DataError("data: give one of name, path, hub")
    if "prompt" not in given and ("responses" in given or "scores" in given or "labels" in given):
        raise DataError("data: a column map needs 'prompt', the column with the prompt")
    if "hub" in given:
        source, streams = (
            given["hub"],
            _hub(given["hub"], given.get("config", ""), "", given.get("split") or "train"),
        )
        parts: Iterable[tuple[str, Records]] = [("", streams)]
    else:
        source = str(given["path"])
        _check_exists(Path(source))
        parts = _streams(Path(source), given.get("split"))
    if "prompt" in given:
        dataset = concatenate(read_mapped(records, given) for _, records in parts)
    else:
        dataset = concatenate(read_form(records, given.get("objective")) for _, records in parts)
    return _nonempty(_directed(dataset, given.get("directions") or {}), source)


def _load_shipped(name: str, path: str | Path | None, split: str | None) -> ScoredDataset:
    for what, given in (("path", path), ("split", split)):
        if given not in (None, "train"):
            raise DataError(f"{name}: ships with paretune as one file for training; leave out {what}={given}")
    return ScoredDataset.read(shipped_file(name))


def _load_known(name: str, path: str | Path | None, split: str | None) -> ScoredDataset:
    source = KNOWN[name]
    if path is not None:
        _check_exists(Path(path))
        parts: Iterable[tuple[str, Records]] = _streams(Path(path), split, source.skip)
    elif source.hub:
        wanted = source.splits.get(split or "train", split or "train")
        parts = ((part, _hub(source.hub, source.config, part, wanted)) for part in source.parts)
    else:
        raise DataError(f"{name}: not on the hub; give path=, a file or folder with its files")
    dropped: Counter[str] = Counter()
    first: dict[str, str] = {}
    present: set[str] = set()

    def usable() -> Iterator[Row]:
        for part, records in parts:
            for outcome in source.rows(records, part):
                if isinstance(outcome, Dropped):
                    dropped[outcome.reason] += 1
                    first.setdefault(outcome.reason, outcome.where)
                else:
                    present.update(outcome.scores, outcome.labels)
                    yield outcome

    rows = gather(usable())
    if dropped:
        listed = "; ".join(
            f"{count} x {reason} (first: {first[reason]})" for reason, count in dropped.items()
        )
        warnings.warn(
            f"{name}: left out {sum(dropped.values())} unusable records, {len(rows)} rows remain: {listed}",
            DataWarning,
            stacklevel=3,
        )
    objectives = tuple(objective for objective in source.objectives if objective in present)
    lower = {objective: way for objective, way in source.objectives.items() if objective in present}
    return _directed(ScoredDataset(objectives, rows), lower)


def _nonempty(dataset: ScoredDataset, source: str) -> ScoredDataset:
    if not dataset.rows:
        raise DataError(f"{source}: no rows; expected at least one prompt")
    return dataset


def _directed(dataset: ScoredDataset, directions: Mapping[str, str]) -> ScoredDataset:
    """Negate the scores of objectives that are costs; comparisons already state what is preferred."""
    for objective, direction in directions.items():
        if objective not in dataset.objectives:
            raise DataError(
                f"directions: unknown objective {objective!r}; {suggest(objective, dataset.objectives)}"
            )
        if direction not in ("higher", "lower"):
            raise DataError(
                f"directions.{objective}: expected higher or lower (which is better), got {direction!r}"
            )
    lower = {objective for objective, direction in directions.items() if direction == "lower"}
    if not lower:
        return dataset

    def negated(row: Row) -> Row:
        return replace(
            row,
            scores={
                name: tuple(0.0 - v for v in values) if name in lower else values
                for name, values in row.scores.items()
            },
        )

    return ScoredDataset(dataset.objectives, changed(dataset.rows, negated, dataset.objectives))


# Where records come from


def _check_exists(path: Path) -> None:
    if not path.exists():
        raise DataError(
            f"{path}: no such file or folder, and not a known data set; {suggest(str(path), [*KNOWN, *SHIPPED])}"
        )


def _streams(path: Path, split: str | None, skip: str = "") -> Iterator[tuple[str, Records]]:
    """Yield ``(folder/name, records)`` for a file, or for the files of the split below a folder."""
    if path.is_file():
        if split is not None and _split_of(path.name) not in (None, _split_of(split) or split):
            raise DataError(f"{path}: by its name not of split {split!r}; name another file, or no split")
        yield f"{path.resolve().parent.name}/{path.name}", read_records(path)
        return
    files = {}
    for file in sorted(path.rglob("*")):
        below = file.relative_to(path)
        hidden = any(piece.startswith(".") for piece in below.parts)
        if (
            file.is_file()
            and suffix_of(file) in READERS
            and not hidden
            and not (skip and re.search(skip, below.as_posix()))
        ):
            files[file] = below.as_posix()
    if not files:
        raise DataError(f"{path}: no data files; expected names ending in {', '.join(READERS)}")
    wanted = split or "train"
    marked = {file: _split_of(below) for file, below in files.items()}
    chosen = [file for file in files if marked[file] == (_split_of(wanted) or wanted)]
    if not chosen and wanted == "train":  # files without any mark are all for training
        chosen = [file for file in files if marked[file] is None]
    if not chosen:
        raise DataError(f"{path}: no file of split {wanted!r}; found {', '.join(files.values())}")
    for file in chosen:
        yield f"{path.resolve().name}/{files[file]}", read_records(file)


def _split_of(name: str) -> str | None:
    """Return the split that a path or a split name mentions, the last one where there are several, or None."""
    splits = [SPLIT_WORDS[word] for word in re.split(r"[^a-z]+", name.lower()) if word in SPLIT_WORDS]
    return splits[-1] if splits else None


def _hub(hub: str, config: str, part: str, split: str) -> Records:
    cure = "download its files and give their folder as path="
    try:
        import datasets  # optional, and slow to import
    except ImportError as error:
        raise DataError(
            f"{hub}: reading from the hub needs the 'datasets' package (paretune[hub]); or {cure}"
        ) from error
    try:
        table = datasets.load_dataset(hub, name=config or None, data_dir=part or None, split=split)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise DataError(f"{hub}: cannot read split {split!r} from the hub ({reason:.200}); {cure}") from error
    source = f"{hub}/{part}" if part else hub
    return ((f"{source}:{number}", dict(record)) for number, record in enumerate(table, start=1))
