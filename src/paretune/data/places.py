"""Where records come from: files and folders with their splits, folders that `datasets` saved, and the hub."""

from __future__ import annotations

import json
import re
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

from paretune.core.errors import DataError, suggest
from paretune.data.columns import Records
from paretune.data.readers import READERS, read_records, suffix_of

SPLIT_WORDS = {
    "train": "train",
    "training": "train",
    "test": "test",
    "eval": "test",
    "validation": "validation",
    "valid": "validation",
    "val": "validation",
    "dev": "validation",
}
ABOUT = ("dataset_info.json", "dataset_infos.json", "dataset_dict.json", "state.json")
"""Files of a folder that describe the data, and are none."""


class Mark(NamedTuple):
    """The name of a split in a path; ``whole`` where it is the split's name itself, and not a text with a word for it."""

    name: str
    whole: bool


SHARD = re.compile(r"-\d{5}(-of-\d{5})?(-[0-9a-f]+)?$")


def streams(path: Path, split: str | None, skip: str = "") -> Iterator[tuple[str, Records]]:
    """Yield ``(folder/name, records)`` for a file, or for the files of the split below a folder.

    Args:
        path: The file or folder. A folder that `datasets` saved is read as it says.
        split: The split; by default ``train`` of a folder, and all of a file.
        skip: Pattern of paths that are left out.

    Raises:
        DataError: Nothing there, no file of the split, or files of several splits that its name could mean.
    """
    if path.is_file():
        mark = _mark(path.name)
        if split is not None and mark is None and SPLIT_WORDS.get(split.lower()) != "train":
            raise DataError(
                f"{path}: its name names no split, so that {split!r} picks nothing of it; leave the split out, or name the file "
                f"{path.stem}.{split}{path.suffix}"
            )
        if split is not None and mark and not _means(split, mark):
            raise DataError(f"{path}: by its name not of split {split!r}; name another file, or no split")
        yield f"{path.resolve().parent.name}/{path.name}", read_records(path)
        return
    for file, below in _files_of(path, split, skip).items():
        yield f"{path.resolve().name}/{below}", read_records(file)


def left_out(path: Path, split: str | None, skip: str = "") -> tuple[str, ...]:
    """Return a sentence about the data files of a folder that :func:`streams` does not read, if there are any."""
    if path.is_file():
        return ()
    read = _files_of(path, split, skip)
    others = [below for file, below in _below(path, "").items() if file not in read]
    listed = ", ".join(others[:6]) + (", ..." if len(others) > 6 else "")
    return (f"{path}: data files that are not read: {len(others)} ({listed})",) if others else ()


def _files_of(path: Path, split: str | None, skip: str) -> dict[Path, str]:
    saved = _saved(path, split)
    if saved is not None:
        return saved
    files = _below(path, skip)
    if not files:
        raise DataError(f"{path}: no data files; expected names ending in {', '.join(READERS)}")
    wanted = split or "train"
    marks = {file: _mark(below) for file, below in files.items()}
    chosen = [file for file, mark in marks.items() if mark and mark.name == wanted.lower()]
    if not chosen and split is not None:  # a folder, or a part of a name, that no word gives away as a split
        chosen = [file for file, below in files.items() if split.lower() in _pieces(below)]
    if not chosen:
        chosen = [file for file, mark in marks.items() if mark and _means(wanted, mark)]
        variants = sorted({_tail(mark.name, wanted) for file in chosen if (mark := marks[file])})
        if len(variants) > 1:
            raise DataError(
                f"{path}: the split {wanted!r} could be {', '.join(variants)}; name one of them as the split"
            )
    if not chosen and wanted == "train":  # files without any mark are all for training
        chosen = [file for file, mark in marks.items() if mark is None]
    if not chosen:
        names = sorted({mark.name for mark in marks.values() if mark})
        cure = (
            f"name one of the splits {', '.join(names)}"
            if names
            else "leave the split out to read all of them"
        )
        raise DataError(f"{path}: no file of split {wanted!r}; found {', '.join(files.values())}; {cure}")
    return {file: files[file] for file in chosen}


def _below(path: Path, skip: str) -> dict[Path, str]:
    """Return the data files below a folder, with their paths in it."""
    files = {}
    for file in sorted(path.rglob("*")):
        below = file.relative_to(path)
        hidden = any(piece.startswith(".") for piece in below.parts)
        if (
            file.is_file()
            and suffix_of(file) in READERS
            and not hidden
            and file.name not in ABOUT
            and not (skip and re.search(skip, below.as_posix()))
        ):
            files[file] = below.as_posix()
    return files


def _mark(below: str) -> Mark | None:
    """Return the split that a path names, None for none.

    A folder or a piece of the file's name between dots is a name; so is what stands before the number of a shard, as in
    ``train_prefs-00000-of-00001``, and that is the whole name. Only names with a word of `SPLIT_WORDS` count; in a folder it is the
    last word. The last name counts.
    """
    *folders, name = below.lower().split("/")
    stem = name.removesuffix(suffix_of(name))
    shard = SHARD.search(stem)
    pieces = [stem[: shard.start()].rsplit("-", 1)[-1]] if shard else stem.split(".")
    found = [
        Mark(folder, False) for folder in folders if _words(folder)[-1:] and _words(folder)[-1] in SPLIT_WORDS
    ]
    found += [
        Mark(piece, shard is not None)
        for piece in pieces
        if any(word in SPLIT_WORDS for word in _words(piece))
    ]
    return found[-1] if found else None


def _pieces(below: str) -> set[str]:
    """Return the folders of a path and the parts of its file's name between dots."""
    *folders, name = below.lower().split("/")
    return {*folders, *name.removesuffix(suffix_of(name)).split(".")}


def _words(name: str) -> list[str]:
    return [word for word in re.split(r"[^a-z]+", name) if word]


def _means(split: str, mark: Mark) -> bool:
    """Return whether a split is what ``mark`` names, or what a word in it says."""
    wanted = split.lower()
    if mark.name == wanted:
        return True
    words = [SPLIT_WORDS[word] for word in _words(mark.name) if word in SPLIT_WORDS]
    alone = len(_words(mark.name)) == 1  # another word for the split, such as val
    return (alone or not mark.whole) and wanted in SPLIT_WORDS and words[-1] == SPLIT_WORDS[wanted]


def _tail(name: str, split: str) -> str:
    """Return a name from its word for the split on: ``train_prefs`` of ``mine_train_prefs``."""
    words = [word for word in _words(name) if SPLIT_WORDS.get(word) == SPLIT_WORDS.get(split.lower())]
    return name[name.rindex(words[-1]) :] if words else name


def _saved(path: Path, split: str | None) -> dict[Path, str] | None:
    """Return the files of a folder that `datasets` saved with ``save_to_disk``; None for any other folder."""
    if (path / "dataset_dict.json").is_file():
        splits = _json(path / "dataset_dict.json").get("splits")
        if not isinstance(splits, list) or not all(isinstance(name, str) for name in splits):
            raise DataError(
                f"{path / 'dataset_dict.json'}: expected {{'splits': [...]}}; save the data again"
            )
        wanted = split or "train"
        if wanted not in splits:
            raise DataError(f"{path}: no split {wanted!r}; {suggest(wanted, splits)}")
        inner = _saved(path / wanted, None)
        if inner is None and (path / wanted).is_dir():
            inner = {file: file.name for file in sorted((path / wanted).glob("*.arrow"))}
        if not inner:
            raise DataError(f"{path / wanted}: no data of the split {wanted!r}; save the data again")
        return {file: f"{wanted}/{name}" for file, name in inner.items()}
    if not (path / "state.json").is_file():
        return None
    state = _json(path / "state.json")
    listed = state.get("_data_files")
    if not isinstance(listed, list) or not all(
        isinstance(entry, dict) and isinstance(entry.get("filename"), str) for entry in listed
    ):
        if listed is None and "_fingerprint" not in state:
            return None  # another program's file of this name
        raise DataError(
            f"{path / 'state.json'}: expected a list of files under '_data_files'; save the data again"
        )
    own = state.get("_split")
    if split is not None and isinstance(own, str) and own != split:
        raise DataError(f"{path}: holds the split {own!r}, not {split!r}; name another folder, or no split")
    if state.get("_indices_data_files"):
        raise DataError(
            f"{path}: rows are chosen by a file of indices; save the data again with flatten_indices()"
        )
    names = [Path(entry["filename"]).name for entry in listed]
    return {path / name: name for name in names}


def _json(path: Path) -> dict[str, Any]:
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise DataError(f"{path}: cannot read ({error}); save the data again") from error
    if not isinstance(value, dict):
        raise DataError(f"{path}: expected a JSON object, got {value!r:.60}; save the data again")
    return value


def is_object(value: object) -> bool:
    """Return whether a value is a data set of the ``datasets`` library, or a dictionary of these by split."""
    datasets = _library()
    if datasets is None:
        return False
    return isinstance(
        value,
        datasets.Dataset | datasets.IterableDataset | datasets.DatasetDict | datasets.IterableDatasetDict,
    )


def _library() -> Any:
    """Return the ``datasets`` library where it is loaded, as it is wherever there is an object of it; else None."""
    found = sys.modules.get("datasets")
    return found if hasattr(found, "IterableDatasetDict") else None  # another module may have this name


def from_object(value: object, split: str | None) -> Records | None:
    """Return the records of an object of the ``datasets`` library; None for any other value.

    Args:
        value: A ``Dataset`` or ``IterableDataset``, or a dictionary of these by split.
        split: The split; by default ``train`` of a dictionary, and all of a data set.

    Raises:
        DataError: There is no such split.
    """
    if not is_object(value):
        return None
    given: Any = value
    datasets = _library()
    if isinstance(given, datasets.DatasetDict | datasets.IterableDatasetDict):
        wanted = split or "train"
        if wanted not in given:
            raise DataError(
                f"the data sets given: no split {wanted!r}; {suggest(wanted, list(map(str, given)))}"
            )
        given, split = given[wanted], None
    if split is not None and given.split is not None and split != str(given.split):
        raise DataError(f"the data set given: is of the split {given.split}, not {split!r}; leave split out")
    name = given.info.dataset_name or "dataset"
    return ((f"{name}:{number}", dict(record)) for number, record in enumerate(given, start=1))


def from_hub(hub: str, config: str, part: str, split: str) -> Records:
    """Return the records of a data set on the hub, or raise a DataError that says how else to get them.

    ``hub`` is ``owner/name``, or ``owner/name@revision`` for a branch, a tag or a commit.
    """
    cure = "download its files and give their folder as path="
    name, _, revision = hub.partition("@")
    try:
        import datasets  # optional, and slow to import
    except ImportError as error:
        raise DataError(
            f"{hub}: reading from the hub needs the 'datasets' package (paretune[hub]); or {cure}"
        ) from error
    try:
        stated = {"revision": revision} if revision else {}
        table = datasets.load_dataset(name, name=config or None, data_dir=part or None, split=split, **stated)
    except Exception as error:
        reason = f"{type(error).__name__}: {error}".splitlines()[0]
        raise DataError(f"{hub}: cannot read split {split!r} from the hub ({reason:.200}); {cure}") from error
    source = f"{hub}/{part}" if part else hub
    return ((f"{source}:{number}", dict(record)) for number, record in enumerate(table, start=1))
