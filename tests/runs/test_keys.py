"""A typo in a config is said at once, in the words of the whole check, and before anything heavy is loaded."""

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


@pytest.mark.parametrize("values", TYPOS, ids=str)
def test_the_early_check_says_what_the_whole_check_says(tmp_path: Path, values: dict[str, Any]) -> None:
    file = tmp_path / "mine.yaml"
    file.write_text(json.dumps(values))
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
        {"methods": 3, "score": "x", "data": None, "train": [1]},
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
    ],
    ids=" ".join,
)
def test_a_typo_does_not_load_torch(words: list[str]) -> None:
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
    assert "did you mean" in done.stderr
