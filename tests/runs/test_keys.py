"""A mistake in a config is said at once, in the words of the whole check, and before anything heavy is loaded."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from paretune.core.errors import ConfigError
from paretune.runs.keys import read_values
from paretune.runs.parse import parse_config

SCORE = {"objective": "short", "rule": "length"}
TYPOS: list[dict[str, Any]] = [
    {"trian": {}},
    {"train": {"step": 3}},
    {"data": {"sorce": "x"}},
    {"serve": {"queu": 0}},
    {"sweep": {"resources": {"cpu": 1}}},
    {"endpoint": {"url": "http://x/v1", "modle": "tiny"}},
    {"sampling": {"max_tokens": 3}},
    {"evaluate": {"prompt": 3}},
    {"methods": {"modpo": {"betta": 1}}},
    {"methods": {"mine": {"method": "modpo", "betta": 1}}},
    {"methods": {"panacea": {"train": {"step": 3}}}},
    {"score": [{**SCORE, "unti": "words"}]},
    {"score": [{"objective": "short", "rule": "lenght"}]},
]
WRONG: list[dict[str, Any]] = [
    {"seed": -1},
    {"seed": "one"},
    {"seed": True},
    {"name": 3},
    {"dtype": "float33"},
    {"trackers": "wandb"},
    {"trackers": [1]},
    {"preferences": {"a": 1}},
    {"train": {"steps": 0}},
    {"train": {"steps": "many"}},
    {"train": {"steps": 2.5}},
    {"train": {"learning_rate": -0.1}},
    {"train": {"learning_rate": float("nan")}},
    {"train": {"optimizer": "adan"}},
    {"data": {"splits": {"train": "most"}}},
    {"data": {"limit": -3}},
    {"data": {"too_long": "fold"}},
    {"evaluate": {"resamples": 3}},
    {"evaluate": {"reference_point": {"warm": "x"}}},
    {"sampling": {"temperature": -1}},
    {"sweep": {"seeds": [0, -1]}},
    {"sweep": {"resources": {"cpus": 0}}},
    {"serve": {"max_rows": 0}},
    {"methods": {"modpo": {"beta": 0}}},
    {"methods": {"mine": {"method": "modpo", "beta": "low"}}},
    {"methods": {"panacea": {"train": {"steps": -1}}}},
]


@pytest.mark.parametrize("values", TYPOS + WRONG, ids=str)
def test_the_early_check_says_what_the_whole_check_says(tmp_path: Path, values: dict[str, Any]) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(json.dumps(values).replace("NaN", ".nan"))  # as YAML writes it
    with pytest.raises(ConfigError) as early:
        read_values(file)
    with pytest.raises(ConfigError) as whole:
        parse_config(values, str(file))
    assert (
        str(early.value).partition(" expected one of")[0] == str(whole.value).partition(" expected one of")[0]
    )


@pytest.mark.parametrize(
    "values",
    [
        {"methods": {"mine": {"method": "modpo", "beta": 1, "train": {"steps": 3}}}, "train": {"rank": 2}},
        {"methods": {"modop": {}}, "train": {"seed": 3}},  # the whole check has words of its own for these
        {
            "score": [SCORE],
            "evaluate": {"reference_point": {"anything": 1}},
            "data": {"source": {"prompt": "p"}},
        },
    ],
    ids=str,
)
def test_what_is_no_typo_passes_the_early_check(tmp_path: Path, values: dict[str, Any]) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(json.dumps(values))
    assert read_values(file)[1] == values


@pytest.mark.parametrize(
    "words",
    [
        ["run", "quickstart", "trian.steps=3"],
        ["plan", "three", "train.stepz=3"],
        ["quickstart", "evalute.prompts=3"],
        ["run", "quickstart", "train.steps=0"],
        ["plan", "three", "methods.panacea.train.steps=lots"],
        ["quickstart", "dtype=float33"],
    ],
    ids=" ".join,
)
@pytest.mark.slow
def test_a_mistake_does_not_load_torch(words: list[str]) -> None:
    code = (
        f"import sys; sys.argv = ['paretune', *{words!r}]\n"
        "from paretune.cli.main import main\n"
        "try: main()\n"
        "except SystemExit as end: print('code', end.code)\n"
        "heavy = sorted({'torch', 'transformers', 'accelerate'} & set(sys.modules))\n"
        "sys.exit(str(heavy) if heavy else 0)"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 0 and "code 2" in done.stdout, done.stderr
    key = words[-1].partition("=")[0]
    assert done.stderr.count("\n") == 1 and any(part in done.stderr for part in (key, key.partition(".")[0]))
