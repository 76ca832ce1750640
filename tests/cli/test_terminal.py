"""What a run says while it works: bars with the time left at a terminal, plain lines elsewhere, nothing where it is to be quiet."""

from __future__ import annotations

import json
import re
import sys
from itertools import groupby
from pathlib import Path

import pytest

from support.runs_world import quick_config
from support.world import write_model

if sys.platform == "win32":
    pytest.skip("there are no pseudo-terminals", allow_module_level=True)

from support.terminal import at_pipe, at_terminal

STAGE = re.compile(r"paretune: \[\d:\d\d:\d\d\] ([\w/-]+)(; whole run: about .+ left|: found finished)?")


@pytest.fixture(scope="module")
def config(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("told")
    train = {"steps": 4, "batch_pairs": 2, "rank": 2}
    values = quick_config(folder, write_model(folder / "model"), train=train)
    del values["folder"]  # a run of its own in each test's working folder
    (folder / "run.yaml").write_text(json.dumps(values))
    return folder / "run.yaml"


@pytest.mark.slow
def test_at_a_terminal_bars_are_drawn_with_the_time_left(config: Path, tmp_path: Path) -> None:
    code, drawn = at_terminal(tmp_path, "run", config, minute=0.05)
    assert code == 0, drawn
    for what in ("dpo-short", "dpo-good"):
        bars = [line for line in drawn if re.match(rf"{what} +[━╸╺ ]+ +\d/4 +\d:\d\d:\d\d left [-\d]", line)]
        assert bars, (what, drawn)
        assert " 4/4 " in bars[-1] and re.search(r"loss \d", bars[-1])
    assert any("left" in line and "/" in line and "sampling" in line for line in drawn)
    assert not any(STAGE.match(line) for line in drawn), "the lines are for where no terminal is"


@pytest.mark.slow
def test_elsewhere_each_stage_is_a_line_and_each_minute_another(config: Path, tmp_path: Path) -> None:
    code, said = at_pipe(tmp_path, "run", config, "train.steps=40", minute=0.05)
    assert code == 0, said
    told = [found[1] for line in said if (found := STAGE.fullmatch(line))]
    stages = [name for name, _ in groupby(told)]  # a stage without steps is told again as it was
    for name in ("start", "score", "adapters/dpo-short", "adapters/dpo-good", "front/base", "report"):
        assert stages.count(name) == 1, (name, said)
    steps = r" of 40, loss \d\.\d{3}, .+(a second|each), .+ left; whole run: about .+ left"
    assert any(re.search(rf"adapters/dpo-\w+: \d+{steps}", line) for line in said), said
    assert not any("\x1b" in line or "━" in line or "\r" in line for line in said)


@pytest.mark.parametrize("where", [at_terminal, at_pipe])
@pytest.mark.slow
def test_quiet_is_silent_everywhere(where: object, config: Path, tmp_path: Path) -> None:
    assert where(tmp_path, "-q", "run", config, minute=0.05) == (0, [])  # type: ignore[operator]
