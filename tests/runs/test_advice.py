"""``paretune advise``: data decide the method; a pilot's effect and spread decide the numbers, or rules that are named."""

from __future__ import annotations

import json
import re
from pathlib import Path
from typing import Any

import pytest

from paretune.core.errors import ParetuneError
from paretune.methods import METHODS
from paretune.runs import advice
from paretune.runs.advice import Advice, enough
from paretune.runs.named_sources import NamedSource
from support.command import call
from support.records import figure, point, policy, record
from support.records import test as paired


def advise(source: str, run: Path | None = None, reward: bool = False) -> Advice:
    return advice.advise([NamedSource(source, source)], run, reward)


def data(file: Path, rows: int = 60, responses: int = 2, **row: Any) -> str:
    made = [
        {"prompt": f"question {n}", "responses": [f"a {n} {k}" for k in range(responses)], **row}
        for n in range(rows)
    ]
    file.write_text("".join(json.dumps(one) + "\n" for one in made))
    return str(file)


def pilot(folder: Path, moved: tuple[float, float], steps: int = 50) -> Path:
    """Write a finished run of one policy that moved both objectives by a value with this half width."""
    movement = {
        "moved": {"warm": figure(*moved), "concise": figure(*moved)},
        "along": figure(*moved),
        "across": figure(0.0, 0.0),
    }
    ends = [{"warm": 1.0, "concise": 0.0}, {"warm": 0.0, "concise": 1.0}]
    points = [point(weights, [-4.0, -4.0], movement=movement) for weights in ends]
    against = paired("modpo", "base", 0.4, "modpo above", detectable=0.35, prompts=64)
    folder.mkdir()
    facts = record(["warm", "concise"], [policy("modpo", points)], comparisons=[against])
    (folder / "front.json").write_text(json.dumps(facts))
    (folder / "config.yaml").write_text(f"train:\n  steps: {steps}\n")
    return folder


def fitting(advice: Advice) -> list[str]:
    return [choice.method for choice in advice.methods if choice.fits]


def test_every_method_is_spoken_of_once(tmp_path: Path) -> None:
    given = advise(data(tmp_path / "a.jsonl"))
    assert sorted(choice.method for choice in given.methods) == sorted(METHODS)
    assert all(choice.why for choice in given.methods)


def test_the_method_follows_from_what_the_data_hold(tmp_path: Path) -> None:
    both = data(tmp_path / "both.jsonl", scores={"warm": [1, 2], "concise": [2, 1]})
    assert fitting(advise(both))[0] == "dpo-soup" and "ric" in fitting(advise(both))
    single = data(tmp_path / "single.jsonl", responses=1, scores={"warm": [1], "concise": [2]})
    assert fitting(advise(single)) == ["ric", "prompting", "linear-alignment"]
    bare = data(tmp_path / "bare.jsonl", responses=0)
    assert fitting(advise(bare)) == []
    assert "data.sample=4" in next(c.why for c in advise(bare).methods if c.method == "dpo-soup")
    assert fitting(advise(bare, reward=True))[:2] == ["morlhf", "gdpo"]
    mixed = data(tmp_path / "mixed.jsonl", labels={"warm": [[0, 1, 1.0]]}, scores={"concise": [2, 1]})
    assert "modpo" in fitting(advise(mixed))


def test_data_that_can_show_little_say_so(tmp_path: Path) -> None:
    same = data(tmp_path / "same.jsonl", scores={"warm": [1, 2], "concise": [1, 2]})
    assert any("disagree on 0%" in line and "the front will be short" in line for line in advise(same).data)


def test_prompts_follow_from_the_spread_that_is_assumed_or_measured(tmp_path: Path) -> None:
    source = data(tmp_path / "a.jsonl", rows=100, scores={"warm": [1, 2], "concise": [2, 1]})
    # (2.8 / 0.5)**2 = 31.36; 20 held-out prompts show 2.8 / sqrt(20) = 0.63.
    rules = advise(source)
    assert rules.basis == "rules" and rules.prompts[1].startswith(
        "32 held-out prompts show a difference of 0.5"
    )
    assert "hold out 20 prompts, which show differences from 0.63" in rules.prompts[2]
    assert rules.prompts[-1].startswith("assumed")
    # A pilot that could see 0.35 with 64 prompts has a spread of 0.35 / 2.8 * 8 = 1: as assumed, but measured.
    measured = advise(source, pilot(tmp_path / "run", (0.5, 0.25)))
    assert measured.basis == "pilot" and measured.prompts[:3] == rules.prompts[:3]
    assert "measured by tiny on 64 prompts" in measured.prompts[-1] or "on 60 prompts" in measured.prompts[-1]
    assert enough(0.25, 0.5) == enough(0.5, 1.0)


@pytest.mark.parametrize(
    ("moved", "words"),
    [
        ((0.5, 0.25), r"for 1 deviation about 100 steps \(67 to 200\)"),
        ((0.1, 0.4), r"no movement is shown; for one of 1 at least about 100 steps"),
        ((-0.5, 0.2), "wrong way, so more steps are no cure"),
        ((1.4, 0.2), "moves by more than 1 already"),
        ((0.06, 0.01), "of which a pilot says nothing"),
        ((0.01, 0.02), "nothing sure follows"),
    ],
    ids=str,
)
def test_steps_follow_from_the_movement_and_its_interval(
    tmp_path: Path, moved: tuple[float, float], words: str
) -> None:
    source = data(tmp_path / "a.jsonl", scores={"warm": [1, 2], "concise": [2, 1]})
    steps = advise(source, pilot(tmp_path / "run", moved)).steps
    assert len(steps) == 2 and all(re.search(words, line) for line in steps), steps


def test_without_a_pilot_the_rules_are_called_rules(tmp_path: Path) -> None:
    given = advise(data(tmp_path / "a.jsonl", scores={"warm": [1, 2], "concise": [2, 1]}))
    assert "rule of thumb" in given.steps[0] and "make a pilot" in given.unknown[0]


def test_a_folder_that_is_no_run_is_one_message(tmp_path: Path) -> None:
    with pytest.raises(ParetuneError, match=r"no front\.json; expected the folder of a finished run"):
        advise(data(tmp_path / "a.jsonl", scores={"warm": [1, 2]}), tmp_path)


def test_the_command_prints_the_advice_as_text_and_as_json(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    source = data(tmp_path / "a.jsonl", scores={"warm": [1, 2], "concise": [2, 1]})
    run = pilot(tmp_path / "run", (0.5, 0.25))
    code, out, err = call(monkeypatch, capsys, "advise", source, "--run", run, "--json")
    assert code == 0, err
    facts = json.loads(out)
    assert facts["basis"] == "pilot" and facts["methods"][0]["method"] == "dpo-soup"
    code, out, _ = call(monkeypatch, capsys, "advise", source)
    assert code == 0 and "How many steps (by rules of thumb" in out and "What this cannot say" in out
