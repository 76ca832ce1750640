"""A config that cannot be is refused as it is read, in one line that names the file and the key, in words a user knows."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from paretune.core.errors import ConfigError
from paretune.runs.parse import load_config
from support.bad_configs import BASE, BadConfig, bad_configs, changed

CASES = bad_configs()
RAW = ("Input should", "validation error", "pydantic", "Traceback", "dataclass", "NoneType", "literal[")


@pytest.mark.parametrize("case", CASES, ids=lambda case: case.name)
def test_a_bad_config_is_refused_in_one_line_with_its_key(case: BadConfig, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_bytes(case.content)
    with pytest.raises(ConfigError) as refusal:
        load_config(file, case.overrides)
    message = str(refusal.value)
    assert case.key in message, message
    assert "\n" not in message and len(message) < 900, message
    assert not [word for word in RAW if word in message], message
    assert case.overrides or message.startswith(str(file)), message


def test_there_are_many_of_them() -> None:
    assert len(CASES) > 400


def test_the_config_that_they_change_is_right(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_bytes(changed("train", {"targets": "all-linear", "steps": "7", "alpha": 3}))
    config = load_config(file, ["sweep.seeds=[0,1]", "methods.dpo-soup.train.rank=4", "seed='3'"])
    assert config.train.targets == ("all-linear",) and config.train.steps == 7
    assert config.seed == 3 and config.training().seed == 3 and type(config.seed) is int
    assert config.run_folder == Path.cwd() / "runs" / BASE["name"]


def test_merged_keys_and_a_byte_order_mark_are_no_mistakes(tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    text = "\ufefftrain: &t {steps: 3, rank: 2}\nmethods:\n  modpo: {train: {<<: *t, steps: 4}}\n"
    file.write_text(text + "  mod: {train: {<<: *t, steps: 5}}\n", encoding="utf-8")
    config = load_config(file)
    assert [config.training(name).steps for name in ("modpo", "mod")] == [4, 5]


@pytest.mark.parametrize(
    ("setting", "told"),
    [
        ("train.learning_rate=-1e-4", "train.learning_rate must be above 0 and at most 1, got -0.0001"),
        ("sampling.top_p=1e1", "sampling.top_p must be above 0 and at most 1, got 10.0"),
        ("train.learning_rate=1e400", "train.learning_rate must be a finite number, got inf"),
        ("train.learning_rate=1e-4x", "train.learning_rate: expected a number, got '1e-4x'"),
    ],
)
def test_a_number_that_yaml_reads_as_text_is_told_its_bounds(setting: str, told: str, tmp_path: Path) -> None:
    file = tmp_path / "config.yaml"
    file.write_bytes(changed("train", {"learning_rate": "1e-4"}))
    assert load_config(file).train.learning_rate == 1e-4
    with pytest.raises(ConfigError, match=re.escape(told)):
        load_config(file, [setting])
