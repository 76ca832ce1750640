"""The command line as a person meets it: quick help, and one clear message for every mistake."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest

from paretune.cli import main as cli
from paretune.core.errors import ParetuneError
from paretune.data.known import KNOWN
from support.command import call, config_file
from support.world import make_dataset

CONFIGS = sorted((Path(__file__).parents[2] / "configs").glob("*.yaml"))


BAD_CONFIGS = [
    ("trian: {steps: 3}", "unknown key trian; did you mean 'train'?"),
    ("train: {step: 3}", "unknown key train.step; did you mean 'steps'?"),
    ("train: {steps: many}", "train.steps: expected a whole number, got 'many'"),
    ("train: {seed: 3}", "unknown key train.seed; seed is that of the whole run"),
    (
        "methods: {panacea: {train: {step: 3}}}",
        "unknown key methods.panacea.train.step; did you mean 'steps'?",
    ),
    ("methods: {panacea: {train: 3}}", "methods.panacea.train: expected settings such as {steps: 50}, got 3"),
    ("train: {steps: 0}", "train.steps must be at least 1, got 0"),
    ("sampling: {temperature: -1}", "sampling.temperature must be at least 0 and at most 100, got -1"),
    ("methods: {modop: {}}", "unknown method 'modop'; did you mean 'modpo'?"),
    ("methods: {mine: {}}", "unknown method 'mine'; expected one of"),
    ("methods: {mine: {method: panaca}}", "unknown method 'panaca'; did you mean 'panacea'?"),
    (
        "methods: {modpo: {method: panacea}}",
        "methods.modpo.method: 'panacea' under the name of another method",
    ),
    ("methods: {my/own: {method: panacea}}", "it becomes the name of a folder"),
    ("methods: {mine: {method: modpo, betta: 1}}", "unknown key methods.mine.betta; did you mean 'beta'?"),
    ("methods: {modpo: {betta: 1}}", "unknown key methods.modpo.betta; did you mean 'beta'?"),
    ("data: {sorce: x}", "unknown key data.sorce; did you mean 'source'?"),
    ("[1, 2]", "expected a mapping of settings, got list"),
    ("name: [", "not valid YAML"),
]


@pytest.mark.parametrize(("text", "message"), BAD_CONFIGS)
def test_bad_configs(
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    tmp_path: Path,
    text: str,
    message: str,
) -> None:
    code, out, err = call(monkeypatch, capsys, "run", config_file(tmp_path, text))
    assert code == 2 and message in err and "Traceback" not in out + err
    assert [file.name for file in tmp_path.iterdir()] == ["config.yaml"], "nothing half-written"


def test_bad_override_and_missing_file(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    file = config_file(tmp_path, "name: x")
    assert "expected key=value" in call(monkeypatch, capsys, "run", file, "train.steps")[2]
    code, out, err = call(monkeypatch, capsys, "run", file, "train.steps=[")
    assert code == 2 and "'train.steps=['" in err and "not valid YAML" in err and "Traceback" not in out + err
    assert "train.stepps" in call(monkeypatch, capsys, "run", file, "train.stepps=3")[2]
    code, _, err = call(monkeypatch, capsys, "run", tmp_path / "none.yaml")
    assert code == 2 and "cannot read the config" in err


@pytest.mark.parametrize("file", CONFIGS, ids=lambda file: file.name)
def test_shipped_configs_are_valid(file: Path) -> None:
    from paretune.runs.parse import load_config

    config = load_config(file)
    assert config.methods and config.score and config.grid(["a", "b"])


def test_inspect_and_convert(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    source = tmp_path / "data.jsonl"
    make_dataset(6).write(source)
    code, out, _ = call(monkeypatch, capsys, "data", "inspect", source)
    assert code == 0 and "short" in out and "good" in out
    code, out, _ = call(monkeypatch, capsys, "data", "convert", source, tmp_path / "data.parquet")
    assert code == 0 and "6 rows" in out and (tmp_path / "data.parquet").is_file()
    source.write_text(source.read_text() + '{"prompt": "x", "responses": [""]}\n')
    code, out, err = call(monkeypatch, capsys, "data", "inspect", source)
    assert code == 2 and "data.jsonl:7" in err and "Traceback" not in out + err


def test_known_data_sets_are_listed(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("COLUMNS", "200")
    code, out, _ = call(monkeypatch, capsys, "data", "sets")
    assert code == 0 and all(name in out and source.licence in out for name, source in KNOWN.items())
    assert "PKU-Alignment/BeaverTails" in out and "local files only" in out


def test_methods_are_listed(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    code, out, _ = call(monkeypatch, capsys, "methods")
    assert code == 0 and all(name in out for name in ("dpo-soup", "modpo", "dpo-lw", "2310.03708"))


def test_doctor_reports(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    code, out, _ = call(monkeypatch, capsys, "doctor")
    assert code == 0 and "torch" in out and "bfloat16" in out and "switched off by HF_HUB_OFFLINE" in out


@pytest.mark.slow
def test_dry_run_counts_the_training_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    make_dataset(30).write(tmp_path / "data.jsonl")
    text = f"""
folder: {tmp_path / "run"}
data: {{source: {tmp_path / "data.jsonl"}}}
score:
  - {{objective: short, rule: length, unit: words, direction: lower}}
  - {{objective: good, rule: sentiment}}
methods: {{dpo-soup: {{}}, modpo: {{}}, dpo-lw: {{}}, panacea: {{train: {{steps: 7}}}}}}
preferences: 5
"""
    code, out, err = call(monkeypatch, capsys, "run", config_file(tmp_path, text), "--dry-run")
    # 2 DPO models, 3 inner preferences of MODPO, 5 of DPO-LW, 1 Panacea with steps of its own.
    assert code == 0 and "11 training runs" in out, err
    assert "3 runs of 100 steps" in out and "1 run of 7 steps" in out
    assert not (tmp_path / "run").exists()


def test_errors_end_in_two_without_traceback(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail() -> None:
        raise ParetuneError("the disk is full")

    monkeypatch.setattr(cli, "app", fail)
    with pytest.raises(SystemExit) as stop:
        cli.main()
    assert stop.value.code == 2 and capsys.readouterr().err == "paretune: the disk is full\n"


def test_import_and_help_do_not_load_torch() -> None:
    """The reason why they answer at once; `docs/performance.md` has the time."""
    code = (
        "import sys, paretune, paretune.cli.main, paretune.core.preference, paretune.fronts.front;"
        "import paretune.data.rows, paretune.data.pairs, paretune.data.summary;"
        "names = ('torch', 'transformers', 'accelerate', 'matplotlib', 'pandas', 'fastapi', 'sqlalchemy', 'pydantic');"
        "heavy = [m for m in names if m in sys.modules];"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    result = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=False, env=dict(os.environ)
    )
    assert result.returncode == 0, result.stderr


def test_data_select_shows_what_is_chosen(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    source, picture, chosen = tmp_path / "data.jsonl", tmp_path / "rays.png", tmp_path / "chosen.jsonl"
    # Words enough that no response counts as collapsed.
    rows = [
        replace(row, responses=tuple(f"one two three four five {r}" for r in row.responses))
        for row in make_dataset(20).rows
    ]
    replace(make_dataset(20), rows=tuple(rows)).write(source)
    code, out, _ = call(
        monkeypatch,
        capsys,
        "data",
        "select",
        source,
        "--k",
        4,
        "--preferences",
        3,
        "--out",
        picture,
        "--jsonl",
        chosen,
    )
    assert code == 0 and "neighbours share" in out and "shared with neighbours" in out
    assert picture.read_bytes()[:4] == b"\x89PNG" and chosen.read_text().count("\n") >= 12
    code, out, err = call(monkeypatch, capsys, "data", "select", source, "--preferences", 1)
    assert code == 2 and "--preferences must be at least 2" in err and "Traceback" not in out + err
