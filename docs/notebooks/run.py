"""Runs the notebooks at their full size and saves them with their outputs.

    python docs/notebooks/run.py [NAME ...] [--work FOLDER]

A run that was stopped goes on from where it was, if the folder is the same.
"""

from __future__ import annotations

import argparse
import hashlib
from pathlib import Path
from typing import Any

import nbformat
from nbclient import NotebookClient

FOLDER = Path(__file__).resolve().parent


def digest(notebook: Any) -> str:
    """Return the identity of the code of a notebook; the outputs in it are those of this code."""
    sources = [cell.source for cell in notebook.cells if cell.cell_type == "code"]
    return hashlib.sha256("\0".join(sources).encode()).hexdigest()[:16]


def execute(file: Path, work: Path) -> None:
    """Run one notebook in a working folder and write it back."""
    work.mkdir(parents=True, exist_ok=True)
    notebook = nbformat.read(file, as_version=4)
    kept = dict(notebook.metadata)
    NotebookClient(notebook, timeout=None, resources={"metadata": {"path": str(work)}}).execute()
    # Versions and times of day would differ with every run.
    notebook.metadata = nbformat.from_dict({**kept, "outputs_of": digest(notebook)})
    for cell in notebook.cells:
        cell.metadata.pop("execution", None)
        if cell.cell_type == "code":  # what is said while it works is not a result
            cell.outputs = [output for output in cell.outputs if output.get("name") != "stderr"]
    nbformat.write(notebook, file)


if __name__ == "__main__":
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("names", nargs="*", help="notebooks without .ipynb; by default all")
    parser.add_argument("--work", type=Path, default=Path("build/notebooks"), help="folder for data and runs")
    given = parser.parse_args()
    for path in sorted(FOLDER.glob("*.ipynb")):
        if not given.names or path.stem in given.names:
            execute(path, given.work.resolve() / path.stem)
            print(path)
