"""``paretune data`` and ``paretune score`` on column maps and other files of the user."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from support.command import call


def test_the_path_of_a_column_map_counts_from_its_folder_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the working folder first, as in a config; else from that of the map."""
    (tmp_path / "maps").mkdir()
    (tmp_path / "maps/pairs.yaml").write_text(
        "{path: pairs.jsonl, prompt: q, chosen: good, rejected: bad, objective: kind}\n"
    )
    row = {"q": "Hi", "good": "Hello!", "bad": "What?"}
    (tmp_path / "maps/pairs.jsonl").write_text(json.dumps(row) + "\n")
    monkeypatch.chdir(tmp_path)
    for source in ("maps/pairs.yaml", tmp_path / "maps/pairs.yaml"):
        code, out, err = call(monkeypatch, capsys, "data", "inspect", source, "--json")
        assert code == 0 and json.loads(out)["objectives"][0]["comparisons"] == 1, err
    (tmp_path / "pairs.jsonl").write_text((json.dumps(row) + "\n") * 2)
    code, out, _ = call(monkeypatch, capsys, "data", "inspect", "maps/pairs.yaml", "--json")
    assert json.loads(out)["rows"] == 2
    (tmp_path / "pairs.jsonl").unlink()
    (tmp_path / "maps/pairs.jsonl").unlink()
    code, _, err = call(monkeypatch, capsys, "data", "inspect", "maps/pairs.yaml")
    assert code == 2 and "pairs.jsonl: no such file or folder" in err
