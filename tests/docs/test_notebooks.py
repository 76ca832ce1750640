"""Every notebook runs from its first cell to its last at a tiny size, and has the outputs of a real run saved in it."""

from __future__ import annotations

import re
import socket
from pathlib import Path
from typing import Any

import nbformat
import pytest
from nbclient import NotebookClient

from support.chat_models import CHATML, write_chat_model
from support.scripts import script

ROOT = Path(__file__).parents[2]
NOTEBOOKS = sorted((ROOT / "docs/notebooks").glob("*.ipynb"))
TINY = {"steps": 2, "batch_pairs": 2, "prompts": 4, "tokens": 8, "trials": 40}


def parameters(notebook: Any) -> Any:
    """Return the cell whose values a reader changes first."""
    (cell,) = (cell for cell in notebook.cells if "parameters" in cell.metadata.get("tags", []))
    return cell


def of_size(source: str, values: dict[str, Any]) -> str:
    """Return the cell with other values for its names, all of which must be known."""
    names = re.findall(r"^([a-z_, ]+) = ", source, re.MULTILINE)
    wanted = [name for line in names for name in line.split(", ")]
    return "\n".join(f"{name} = {values[name]!r}" for name in wanted)


def outputs(notebook: Any) -> str:
    """Return all text that the cells printed."""
    found = (output for cell in notebook.cells if cell.cell_type == "code" for output in cell.outputs)
    return "".join(output.get("text", "") for output in found if output.get("name") == "stdout")


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
@pytest.mark.slow
def test_a_notebook_runs_from_its_first_cell_to_its_last(
    file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    model = write_chat_model(tmp_path / "model", CHATML, max_position_embeddings=512)
    monkeypatch.setenv("PARETUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PYTHONPATH", str(ROOT / "src"))
    monkeypatch.setenv("OMP_NUM_THREADS", "1")
    notebook = nbformat.read(file, as_version=4)
    cell = parameters(notebook)
    cell.source = of_size(cell.source, {**TINY, "model": str(model)})
    client = NotebookClient(notebook, timeout=300, resources={"metadata": {"path": str(tmp_path)}})
    client.execute()  # raises where a cell does
    assert {"compare": "by test in", "own-data": "reachable: "}[file.stem] in outputs(notebook)


def texts(notebook: Any) -> list[str]:
    """Return every text that a reader of the outputs sees, and what stands for a picture."""
    found = []
    for output in (output for cell in notebook.cells for output in cell.get("outputs", [])):
        data = output.get("data", {})
        found += [str(output.get("text", "")), *(str(data[kind]) for kind in data if "image" not in kind)]
    return found


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_saved_outputs_are_those_of_one_whole_run_of_the_code_beside_them(file: Path) -> None:
    notebook = nbformat.read(file, as_version=4)
    nbformat.validate(notebook)
    cells = [cell for cell in notebook.cells if cell.cell_type == "code"]
    assert [cell.execution_count for cell in cells] == list(range(1, len(cells) + 1))
    assert notebook.metadata.get("outputs_of") == script("docs/notebooks/run.py").digest(notebook), (
        "the code is not that of the outputs: give make notebooks"
    )
    printing = [cell for cell in cells if re.search(r"^ *print\(|^Image\(", cell.source, re.MULTILINE)]
    assert printing and all(cell.outputs for cell in printing)


@pytest.mark.parametrize("file", NOTEBOOKS, ids=lambda file: file.stem)
def test_saved_outputs_are_results_and_name_no_machine(file: Path) -> None:
    notebook = nbformat.read(file, as_version=4)
    outputs = [output for cell in notebook.cells for output in cell.get("outputs", [])]
    assert {output.output_type for output in outputs} <= {"stream", "execute_result"}
    assert {output.get("name", "stdout") for output in outputs} == {"stdout"}
    for text in texts(notebook):
        assert not re.search(r"(?<![\w.:/])/(\w[\w.-]*)/\w", text), "a path of a machine"
        assert socket.gethostname() not in text and "Warning" not in text, text


def test_an_edit_of_the_code_makes_the_outputs_those_of_other_code() -> None:
    digest = script("docs/notebooks/run.py").digest
    notebook = nbformat.read(NOTEBOOKS[0], as_version=4)
    of_code = digest(notebook)
    next(cell for cell in notebook.cells if cell.cell_type == "markdown").source += " and more"
    assert digest(notebook) == of_code
    parameters(notebook).source += "\nseed = 1"
    assert digest(notebook) != of_code


def test_the_notebooks_of_the_navigation_are_there() -> None:
    assert [file.stem for file in NOTEBOOKS] == ["compare", "own-data"]
