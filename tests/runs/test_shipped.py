"""Configs and data that ship with the package are found by name, from any folder."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from paretune.core.errors import ConfigError, DataError
from paretune.data.load import load_data
from paretune.data.shipped import SHIPPED
from paretune.runs import shipped
from paretune.runs.parse import load_config
from support.command import call

ROOT = Path(__file__).parents[2]


def test_the_configs_of_the_repository_are_those_that_ship() -> None:
    assert (ROOT / "configs").resolve() == shipped.folder().resolve()
    assert shipped.names() == sorted(file.stem for file in (ROOT / "configs").glob("*.yaml"))


@pytest.mark.parametrize("name", shipped.names())
@pytest.mark.slow
def test_a_shipped_config_is_found_by_name_from_any_folder(
    name: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert load_config(name) == load_config(f"{name}.yaml") == load_config(ROOT / f"configs/{name}.yaml")


def test_a_file_of_ones_own_goes_before_a_shipped_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("three").write_text("name: mine")
    assert load_config("three").name == "mine" and load_config("three.yaml").name == "three"


def test_a_folder_of_this_name_does_not_hide_a_shipped_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("three").mkdir()
    Path("run").mkdir()
    assert load_config("three").name == "three"
    with pytest.raises(ConfigError, match="run: expected a YAML file, got a folder"):
        load_config("run")


def test_a_path_with_folders_is_never_a_shipped_config(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ConfigError, match=r"mine/quickstart.yaml: cannot read the config \(no such file\)"):
        load_config("mine/quickstart.yaml")
    with pytest.raises(ConfigError, match=r"did you mean 'quickstart'.*paretune init"):
        load_config("quickstrat")


def test_a_config_that_is_not_there_is_reported_before_torch_is_loaded(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(
        shipped, "names", lambda: ["three"]
    )  # the message comes from here, whatever command was called
    for command in (["run"], ["plan"], ["sweep"], ["front"]):
        code, _, err = call(monkeypatch, capsys, *command, "tree")
        assert code == 2 and "did you mean 'three'" in err and "Traceback" not in err


def test_the_smoke_size_is_a_valid_quickstart() -> None:
    config = load_config("quickstart", shipped.SMOKE)
    assert config.name == "quickstart-smoke" and config.training("panacea").steps == 2
    assert list(config.methods) == list(load_config("quickstart").methods)


@pytest.mark.parametrize("name", SHIPPED)
def test_shipped_data_are_a_source_for_every_command(
    name: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    code, out, err = call(monkeypatch, capsys, "data", "inspect", name, "--json")
    assert code == 0, err
    assert json.loads(out)["prompts"] == len(load_data(name).rows) == len(load_data({"name": name}).rows)
    code, out, _ = call(monkeypatch, capsys, "data", "convert", name, "out.jsonl")
    assert code == 0 and Path("out.jsonl").is_file()


def test_options_that_mean_nothing_for_shipped_data_are_refused() -> None:
    with pytest.raises(DataError, match="leave out split=test"):
        load_data("quickstart", "test")
    with pytest.raises(DataError, match="leave out path=elsewhere"):
        load_data("quickstart", path="elsewhere")
    with pytest.raises(DataError, match="did you mean 'quickstart'"):
        load_data("quickstat")
