"""The JSON schema of configs: the committed file is that of the code, and it agrees with the parser."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml

from paretune.core.errors import ConfigError
from paretune.methods import METHODS
from paretune.runs import keys
from paretune.runs.parse import parse_config
from paretune.runs.schema import attributes, config_schema
from paretune.training.loop import Training
from support.command import call

CONFIGS = Path(__file__).parents[2] / "configs"
SCORE = [{"objective": "short", "rule": "length"}]


@pytest.fixture(scope="module")
def schema() -> jsonschema.Draft7Validator:
    made = config_schema()
    jsonschema.Draft7Validator.check_schema(made)
    return jsonschema.Draft7Validator(made)


def test_the_committed_schema_is_that_of_the_code(schema: jsonschema.Draft7Validator) -> None:
    """After a change of settings: ``paretune config schema > configs/schema.json``, where the shell empties the file first."""
    assert (CONFIGS / "schema.json").read_text() == json.dumps(schema.schema, indent=2) + "\n"


def test_a_file_that_is_empty_is_made_from_the_code(
    monkeypatch: pytest.MonkeyPatch, capsys: Any, tmp_path: Path
) -> None:
    (tmp_path / "schema.json").write_text("")
    monkeypatch.setattr(keys, "folder", lambda: tmp_path)
    keys.schema.cache_clear()
    code, printed, _ = call(monkeypatch, capsys, "config", "schema")
    keys.schema.cache_clear()
    assert code == 0 and (CONFIGS / "schema.json").read_text() == printed


@pytest.mark.slow
def test_the_command_prints_the_schema_without_loading_torch() -> None:
    code = (
        "import sys; sys.argv = ['paretune', 'config', 'schema']; from paretune.cli.main import app; "
        "app(standalone_mode=False); sys.exit('torch' in sys.modules)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and (CONFIGS / "schema.json").read_text() == done.stdout, done.stderr


@pytest.mark.parametrize("file", sorted(CONFIGS.glob("*.yaml")), ids=lambda file: file.stem)
def test_every_shipped_config_names_the_schema_and_fits_it(
    schema: jsonschema.Draft7Validator, file: Path
) -> None:
    first, _ = file.read_text().split("\n", 1)
    name = first.removeprefix("# yaml-language-server: $schema=")
    assert (file.parent / name).samefile(CONFIGS / "schema.json")
    schema.validate(yaml.safe_load(file.read_text()))


@pytest.mark.parametrize("name", METHODS)
def test_all_settings_of_a_method_are_in_the_schema(schema: jsonschema.Draft7Validator, name: str) -> None:
    """Each has a description, and the defaults that an editor shows are those of the class."""
    properties = schema.schema["$defs"][f"method-{name}"]["properties"]
    settings = {key: value for key, value in properties.items() if key not in ("method", "train")}
    defaults = {key: value["default"] for key, value in settings.items()}
    assert all(value["description"] for value in settings.values())
    assert parse_config({"methods": {name: defaults}}).entry(name) == parse_config(
        {"methods": {name: {}}}
    ).entry(name)
    schema.validate(
        {"methods": {name: defaults, "mine": {"method": name, **defaults, "train": {"steps": 3}}}}
    )


WRONG: list[dict[str, Any]] = [
    {"trian": {}},
    {"train": {"step": 3}},
    {"train": {"seed": 3}},
    {"train": {"steps": "many"}},
    {"data": {"sorce": "x"}},
    {"serve": {"queue": 0}},
    {"methods": {"modop": {}}},
    {"methods": {"mine": {}}},
    {"methods": {"mine": {"method": "panaca"}}},
    {"methods": {"modpo": {"method": "panacea"}}},
    {"methods": {"modpo": {"betta": 1}}},
    {"methods": {"mine": {"method": "modpo", "betta": 1}}},
    {"methods": {"modpo": {"margin": "explicit"}}},
    {"methods": {"morlhf": {"aggregation": "decoupled"}}},
    {"methods": {"morlhf": {"hidden": 4}}},
    {"methods": {"panacea": {"train": {"step": 3}}}},
    {"endpoint": {"model": "tiny"}},
    {"sweep": {"choose": "all"}},
]


@pytest.mark.parametrize("values", WRONG, ids=str)
def test_what_the_parser_refuses_is_outside_the_schema(
    schema: jsonschema.Draft7Validator, values: dict[str, Any]
) -> None:
    assert not schema.is_valid(values)
    with pytest.raises(ConfigError):
        parse_config(values)


@pytest.mark.parametrize(
    "score",
    [
        [{"rule": "length"}],
        [{"objective": "short"}],
        [{"objective": "short", "rule": "lenght"}],
        [{"objective": "short", "rule": "length", "unti": "words"}],
        [{"objective": "short", "rule": "length", "head": "fit"}],
        [{"objective": "short", "rule": "regex"}],
        [{"objective": "short", "model": "x", "depth": 3}],
    ],
    ids=str,
)
def test_scorers_that_cannot_be_built_are_outside_the_schema(
    schema: jsonschema.Draft7Validator, score: list[dict[str, Any]]
) -> None:
    from paretune.scoring.scorer import build_scorer

    assert schema.is_valid({"score": SCORE}) and not schema.is_valid({"score": score})
    with pytest.raises(ConfigError):
        build_scorer(score[0])


def test_entries_of_principles_are_in_the_schema(schema: jsonschema.Draft7Validator) -> None:
    whole = {"principles": "p.yaml", "model": "m", "sort": "greedy", "head": "fit"}
    assert schema.is_valid({"score": [whole, SCORE[0]]})
    for wrong in ({"objective": "x"}, {"head": "folder"}, {"sort": "quick"}, {"sorts": "greedy"}):
        assert not schema.is_valid({"score": [{**whole, **wrong}]})
    assert not schema.is_valid({"score": [{"principles": "p.yaml"}]})


def test_descriptions_are_those_of_the_docstrings() -> None:
    texts = attributes(Training)
    assert set(texts) == set(Training.__dataclass_fields__)
    assert texts["rank"].startswith("Rank") or "adapter" in texts["rank"]
    assert "\n" not in json.dumps(texts).replace("\\n", "") and "``" not in "".join(texts.values())
