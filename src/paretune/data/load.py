"""Preference data in every form people have it, as one `ScoredDataset`.

`load_data` takes the path of a file or folder, the name of a public data set (`paretune.data.known.KNOWN`), a list of
these (their rows in order, over the union of the objectives), an object of the ``datasets`` library, or a mapping, which is
also what a run's YAML holds::

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
        system: instructions                        # further columns: the system message, earlier turns (history),
        weight: importance                          # and for pairs a weight and a margin in the loss
      - path: pairs.csv                             # in place of responses, a pair under one objective
        prompt: question
        chosen: good
        rejected: bad
        objective: helpful

Public forms are recognised by their columns, see `paretune.data.formats`. ``ignore: [a, b]`` leaves columns of such a file out
that are an error otherwise, since they look like responses, scores or a part of the prompt.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from paretune.core.errors import DataError, DataWarning, NoteWarning, suggest
from paretune.data.column_maps import KEYS as MAPPED
from paretune.data.column_maps import ColumnMap, read_mapped
from paretune.data.columns import Records
from paretune.data.dataset import ScoredDataset, concatenate
from paretune.data.formats import UnnamedObjectiveError, read_form
from paretune.data.known import KNOWN, Dropped
from paretune.data.places import from_hub, from_object, left_out, streams
from paretune.data.row_store import changed, gather
from paretune.data.rows import Row
from paretune.data.shipped import SHIPPED, shipped_file

KEYS = ("name", "path", "hub", "config", "split", "objective", "directions", "ignore", *MAPPED)

HUB = "hub:"
"""What the name of a data set on the hub begins with where a path could stand: ``hub:owner/name``."""

Spec = str | Path | Mapping[str, Any] | Sequence[Any] | ScoredDataset


def load_data(
    spec: Spec,
    split: str | None = None,
    *,
    path: str | Path | None = None,
    objective: str | None = None,
    directions: Mapping[str, str] | None = None,
) -> ScoredDataset:
    """Return the preference data that ``spec`` names (see the module), higher is better for every score.

    ``spec`` may be an object of the ``datasets`` library too, and so may ``path`` in a column map; ``hub:owner/name`` (or
    ``hub:owner/name@revision``) is a data set on the hub, wherever a path could stand. A :class:`ScoredDataset` stands for itself.

    ``path`` is a file or folder with the files of a known set, instead of the hub. ``split`` picks the files
    whose name or folder names it, or the split on the hub; without it a folder or the hub gives ``train``.
    ``objective`` names what the labels of a form mean. ``directions`` has ``lower`` for objectives whose
    scores are costs. ``source`` of each row is ``file:line``; ``notes`` of the result say what was left out.

    Raises:
        DataError: Nothing there, an unknown form or key, a missing column, a column that looks like data and
            is not read, a malformed line; with ``file:line``.
    """
    if isinstance(spec, ScoredDataset):
        for what, given in (("path", path), ("split", split), ("objective", objective)):
            if given is not None:
                raise DataError(f"a ScoredDataset is data that are read already; leave out {what}={given}")
        return _nonempty(_directed(spec, directions or {}), "the data set given")
    records = from_object(spec, split)
    if records is not None:
        if path is not None:
            raise DataError(
                f"path={path} is where the files of a known set lie; leave it out with a data set given"
            )
        dataset = read_form(records, objective, ())
        return _nonempty(_directed(dataset, directions or {}), "the data set given")
    if isinstance(spec, str) and spec.startswith(HUB):
        spec = {"hub": spec.removeprefix(HUB)}
    if isinstance(spec, Mapping):
        return _load_mapping(spec, split, path, objective, directions)
    if isinstance(spec, list | tuple):
        if not spec:
            raise DataError("no data given; expected a path, a known name or a mapping")
        parts = (load_data(one, split, path=path, objective=objective, directions=directions) for one in spec)
        return concatenate(parts)
    if not isinstance(spec, str | Path) or not str(spec) or "\0" in str(spec):
        raise DataError(
            f"data: expected a source (a path, a known name, a column map or a list of these), got {spec!r:.60}"
        )
    if str(spec) in SHIPPED:
        dataset = _load_shipped(str(spec), path, split, objective)
    elif str(spec) in KNOWN:
        if objective is not None:
            raise DataError(
                f"{spec}: a known set names its objectives ({', '.join(KNOWN[str(spec)].objectives)}), so "
                f"objective={objective} has no meaning; leave it out"
            )
        dataset = _load_known(str(spec), path, split)
    else:
        if path is not None:
            _refuse_path(spec, path)
        _check_exists(Path(spec))
        dataset = _read_forms(Path(spec), split, objective)
    return _nonempty(_directed(dataset, directions or {}), str(spec))


def load_named(spec: Spec, objective: str) -> tuple[Spec, ScoredDataset]:
    """Return a source and its data; labels that name no objective get ``objective``, and the source then says so.

    Raises:
        DataError: See :func:`load_data`.
    """
    try:
        return spec, load_data(spec)
    except UnnamedObjectiveError:
        named = {**(spec if isinstance(spec, Mapping) else {"path": spec}), "objective": objective}
        return named, load_data(named)


def _refuse_path(spec: str | Path, path: str | Path) -> None:
    if Path(spec).exists():
        raise DataError(
            f"{spec}: path={path} is where the files of a known set lie, and {spec} is a file or folder itself; leave path out"
        )
    raise DataError(f"unknown data set {str(spec)!r}; {suggest(str(spec), [*KNOWN, *SHIPPED])}")


def _read_forms(
    path: Path, split: str | None, objective: str | None, ignored: Collection[str] = ()
) -> ScoredDataset:
    dataset = concatenate(read_form(records, objective, ignored) for _, records in streams(path, split))
    if objective is not None and dataset.rows and objective not in dataset.objectives:
        _warn(f"{path}: objective={objective} is not used: the data have no labels that it could name")
    return replace(dataset, notes=(*dataset.notes, *left_out(path, split)))


def _warn(message: str) -> None:
    warnings.warn(message, DataWarning, stacklevel=4)


def _load_mapping(
    spec: Mapping[str, Any],
    split: str | None,
    path: str | Path | None,
    objective: str | None,
    directions: Mapping[str, str] | None,
) -> ScoredDataset:
    stated = {"split": split, "path": path, "directions": directions}
    given = {**spec, **{key: value for key, value in stated.items() if value is not None}}
    _check_keys(given)
    if objective is not None:
        mapped = "prompt" in given and "chosen" not in given  # such a map names what it compares
        if "objective" not in given and not mapped and "name" not in given:
            given["objective"] = objective
        elif given.get("objective") != objective:
            _warn(f"objective={objective} is not used: the source names its objectives itself")
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
    if str(given.get("path")).startswith(HUB):
        given["hub"] = str(given.pop("path")).removeprefix(HUB)
    if "config" in given and "hub" not in given:
        raise DataError("data: config: belongs to a data set on the hub, and here is a path; leave it out")
    named = sorted(set(MAPPED) & set(given) - {"weight", "margin", "system", "history"})
    if named and "prompt" not in given:
        raise DataError("data: a column map needs 'prompt', the column with the prompt")
    columns = ColumnMap.parse(given) if "prompt" in given else None
    ignored = _ignored(given)
    if "hub" in given:
        source = str(given["hub"])
        records = from_hub(source, str(given.get("config", "")), "", given.get("split") or "train")
        parts: Iterable[tuple[str, Records]] = [("", records)]
    else:
        source = str(given["path"]) if isinstance(given["path"], str | Path) else "the data set given"
        held = from_object(given["path"], given.get("split"))
        if held is None:
            _check_exists(Path(source))
        if held is None and columns is None:
            dataset = _read_forms(Path(source), given.get("split"), given.get("objective"), ignored)
            return _nonempty(_directed(dataset, given.get("directions") or {}), source)
        parts = streams(Path(source), given.get("split")) if held is None else [("", held)]
    if columns is not None:
        dataset = concatenate(read_mapped(records, columns, ignored) for _, records in parts)
        if "objective" in given and not columns.compared:
            _warn(
                f"objective={given['objective']} is not used: scores and labels of a column map name their objectives"
            )
    else:
        dataset = concatenate(read_form(records, given.get("objective"), ignored) for _, records in parts)
    if "path" in given and held is None:
        dataset = replace(dataset, notes=(*dataset.notes, *left_out(Path(source), given.get("split"))))
    return _nonempty(_directed(dataset, given.get("directions") or {}), source)


def _check_keys(given: Mapping[str, Any]) -> None:
    for key in given:
        if key not in KEYS:
            raise DataError(f"data: unknown key {key!r}; {suggest(str(key), KEYS)}")
    for key in ("name", "path", "hub", "config", "split", "objective"):
        value = given.get(key)
        if key == "path" and from_object(value, given.get("split")) is not None:
            continue
        if key in given and (not isinstance(value, str | Path) or not str(value) or "\0" in str(value)):
            raise DataError(f"data: {key}: expected text, got {value!r:.60}")
    if not isinstance(given.get("directions") or {}, Mapping):
        raise DataError(f"data: directions: expected {{objective: lower}}, got {given['directions']!r:.60}")


def _ignored(given: Mapping[str, Any]) -> tuple[str, ...]:
    ignored = given.get("ignore") or []
    if not isinstance(ignored, list | tuple) or not all(isinstance(name, str) for name in ignored):
        raise DataError(f"data: ignore: expected a list of columns, got {ignored!r:.60}")
    return tuple(ignored)


def _load_shipped(
    name: str, path: str | Path | None, split: str | None, objective: str | None
) -> ScoredDataset:
    for what, given in (("path", path), ("split", split)):
        if given not in (None, "train"):
            raise DataError(f"{name}: ships with paretune as one file for training; leave out {what}={given}")
    dataset = ScoredDataset.read(shipped_file(name))
    if objective is not None:
        raise DataError(
            f"{name}: its objectives are {', '.join(dataset.objectives) or '(none)'}, so objective={objective} has no "
            "meaning; leave it out"
        )
    return dataset


def _load_known(name: str, path: str | Path | None, split: str | None) -> ScoredDataset:
    source = KNOWN[name]
    if path is not None:
        _check_exists(Path(path))
        parts: Iterable[tuple[str, Records]] = streams(Path(path), split, source.skip)
    elif source.hub:
        wanted = source.splits.get(split or "train", split or "train")
        parts = ((part, from_hub(source.hub, source.config, part, wanted)) for part in source.parts)
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
    notes: tuple[str, ...] = left_out(Path(path), split, source.skip) if path is not None else ()
    if dropped:
        listed = "; ".join(
            f"{count} x {reason} (first: {first[reason]})" for reason, count in dropped.items()
        )
        notes = (
            f"{name}: unusable records left out: {sum(dropped.values())}, rows that remain: {len(rows)}; {listed}",
            *notes,
        )
        warnings.warn(notes[0], NoteWarning, stacklevel=3)
    objectives = tuple(objective for objective in source.objectives if objective in present)
    lower = {objective: way for objective, way in source.objectives.items() if objective in present}
    return _directed(ScoredDataset(objectives, rows, notes), lower)


def _nonempty(dataset: ScoredDataset, source: str) -> ScoredDataset:
    if not dataset.rows:
        raise DataError(f"{source}: no rows; expected at least one prompt")
    return dataset


def _directed(dataset: ScoredDataset, directions: Mapping[str, str]) -> ScoredDataset:
    """Negate the scores of objectives that are costs; comparisons already state what is preferred."""
    for objective, direction in directions.items():
        if objective not in dataset.objectives:
            raise DataError(
                f"directions: unknown objective {objective!r}; {suggest(str(objective), dataset.objectives)}"
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

    return replace(dataset, rows=changed(dataset.rows, negated, dataset.objectives))


def _check_exists(path: Path) -> None:
    try:
        if path.exists():
            return
    except OSError as error:
        raise DataError(f"{str(path)[:60]}: cannot read ({error.strerror})") from error
    if len(path.parts) > 1 or path.suffix:
        raise DataError(f"{path}: no such file or folder; check the path")
    raise DataError(
        f"{path}: no such file or folder, and not a known data set; {suggest(str(path), [*KNOWN, *SHIPPED])}"
    )
