"""The data of a run on the hub: its rows and its measured answers, as a data set with a card."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from pathlib import Path

from paretune.core.errors import ConfigError, ParetuneError
from paretune.data.dataset import ScoredDataset
from paretune.data.readers import read_records
from paretune.data.row_store import changed
from paretune.data.rows import Row
from paretune.fronts.record import FILE, FrontRecord
from paretune.policies.shared import check_repository, send, without_places
from paretune.reports.beside import ANSWERS_FILE, FOLDER
from paretune.reports.card import About
from paretune.reports.data_card import ANSWERS, ROWS, DataFacts, write_data_card
from paretune.runs.about_data import sources_of
from paretune.runs.data_files import CARD, about_of
from paretune.runs.extend import settings_of

PARTS = ("train", "validation", "test")


def push_data(
    run: Path,
    repository: str,
    about: About,
    public: bool = False,
    revision: str | None = None,
    message: str | None = None,
) -> tuple[str, dict[str, int]]:
    """Send the data of a run to the hub as a data set with a card; return its address there, and the rows of each part.

    What is sent is texts: prompts and responses of the three splits with their scores, and all measured answers. Of ``source`` only
    the last part of each path is kept.

    Args:
        run: The run's folder.
        repository: The name on the hub, ``owner/name``; it is made where there is none.
        about: Licence, languages and data sets, where the run does not know them.
        public: Whether a new repository is one that everybody sees.
        revision: The branch to write; by default the main branch.
        message: The message of the commit.

    Raises:
        ConfigError: ``repository`` is no name of the hub, or the data would be public without a licence.
        ParetuneError: The folder holds no finished run, or the hub refuses.
    """
    check_repository(repository)
    if not (run / FILE).is_file():
        raise ParetuneError(
            f"{run}: no {FILE}; expected the folder of a finished run, such as runs/quickstart: its data are sent"
        )
    record = _without_paths(FrontRecord.read(run / FILE))
    named = settings_of(run).get("data") or {}
    data = (named.get("source", "quickstart"), named.get("test"))
    known = about_of(data)
    about = replace(
        about,
        datasets=about.datasets or known.datasets,
        languages=about.languages or known.languages,
        licence=about.licence or known.licence,
        place=repository,
    )
    if public and not about.licence:
        raise ConfigError(
            "--public: the data hold texts, whose licence the run does not know; state it with --license, for example cc-by-4.0"
        )
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made) / "data"
        counts, files = _write_parts(run, folder)
        rows = {name: counts[f"{ROWS}/{name}"] for name in PARTS}
        facts = DataFacts(rows, counts.get(f"{ANSWERS}/test", 0), sources_of(*data), about, files)
        write_data_card(record, facts, folder / CARD)
        text = message or f"{record.name}: the data of a paretune run"
        address = send(folder, repository, public, revision, text, "dataset", ("*.parquet",))
    return address, counts


def _without_paths(record: FrontRecord) -> FrontRecord:
    """Return the record with the last part alone of every path that a card would show."""
    data = record.data
    changes = {
        "model": without_places(record.model),
        "objectives_info": {name: without_places(text) for name, text in record.objectives_info.items()},
        "data": data and data.model_copy(update={"notes": tuple(map(without_places, data.notes))}),
    }
    return record.model_copy(update=changes)


def _write_parts(run: Path, folder: Path) -> tuple[dict[str, int], dict[str, dict[str, str]]]:
    """Write the data as Parquet; return file without suffix -> number of rows, and the files of each part by split."""
    folder.mkdir()
    counts: dict[str, int] = {}
    files: dict[str, dict[str, str]] = {ROWS: {}}
    for name in PARTS:
        dataset = ScoredDataset.read(run / FOLDER / f"{name}.jsonl.gz")
        (folder / ROWS).mkdir(exist_ok=True)
        _placeless(dataset).write(folder / ROWS / f"{name}.parquet")
        counts[f"{ROWS}/{name}"] = len(dataset.rows)
        files[ROWS][name] = f"{ROWS}/{name}.parquet"
    answers = run / FOLDER / ANSWERS_FILE
    if answers.is_file():  # runs of earlier versions have none
        import pyarrow
        import pyarrow.parquet

        records = [record for _, record in read_records(answers)]
        (folder / ANSWERS).mkdir()
        pyarrow.parquet.write_table(pyarrow.Table.from_pylist(records), folder / ANSWERS / "test.parquet")
        counts[f"{ANSWERS}/test"] = len(records)
        files[ANSWERS] = {"test": f"{ANSWERS}/test.parquet"}
    return counts, files


def _placeless(dataset: ScoredDataset) -> ScoredDataset:
    def placeless(row: Row) -> Row:
        return replace(row, source=without_places(row.source))

    return replace(dataset, rows=changed(dataset.rows, placeless, dataset.objectives))
