"""``paretune score fit`` in its two forms, and what is refused of their options."""

from __future__ import annotations

import json
from dataclasses import replace
from pathlib import Path

import pytest

from paretune.models.language_model import LanguageModel
from paretune.models.reward_heads import RewardModel
from paretune.runs.scores import scorer_cautions, scorer_facts
from paretune.scoring.scorer import build_scorer
from support.command import call
from support.world import make_dataset

FAST = ["--train", "steps=40", "--train", "learning_rate=5e-3", "--train", "rank=4", "--train", "alpha=8"]


@pytest.fixture
def data(tmp_path: Path) -> Path:
    make_dataset(90, 3, seed=3).write(tmp_path / "data.jsonl")
    return tmp_path / "data.jsonl"


def fitting(lm: LanguageModel, data: Path, out: Path, *objectives: str) -> list[object]:
    """Return the words that fit a reward model of some objectives in float32 on the CPU."""
    named = [word for name in objectives for word in ("--objective", name)]
    where = ["--folder", out, "--dtype", "float32", "--device", "cpu"]
    return ["score", "fit", data, "--form", "lora", "--model", lm.name, *named, *where, *FAST]


@pytest.mark.slow
def test_a_reward_model_of_two_objectives(
    lm: LanguageModel,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "reward"
    words = fitting(lm, data, out, "good", "short")
    code, told, err = call(monkeypatch, capsys, *words)
    assert code == 0, err
    assert told.count("held-out pairs (95 %") == 2 and "calibration error" in told
    assert RewardModel.load(out).objectives == ("good", "short")
    seen = {row.key for row in make_dataset(90, 3, seed=3).rows}
    held = make_dataset(60, 3, seed=8)
    held = replace(held, rows=tuple(row for row in held.rows if row.key not in seen)[:40])
    held.write(tmp_path / "test.jsonl")
    more = ["--test", tmp_path / "test.jsonl", "--json", "--no-ties", "--margins"]
    code, told, err = call(monkeypatch, capsys, *words, *more)
    assert code == 0, err
    reports = json.loads(told)
    assert [report["objective"] for report in reports] == ["good", "short"]
    assert 30 < reports[0]["test_prompts"] <= len(held.rows) and reports[1]["slope"] < 0


@pytest.mark.slow
def test_the_report_of_a_run_knows_the_reward_model(
    lm: LanguageModel,
    data: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    out = tmp_path / "reward"
    code, _, err = call(monkeypatch, capsys, *fitting(lm, data, out, "short"))
    assert code == 0, err
    scorer = build_scorer({"objective": "brief", "reward": str(out), "name": "short", "dtype": "float32"})
    keys = [row.key for row in make_dataset(90, 3, seed=3).rows]
    facts = scorer_facts(scorer, keys)
    assert facts.accuracy is not None and facts.accuracy.low <= facts.accuracy.value <= facts.accuracy.high
    assert facts.pairs and facts.seen and 0 < facts.seen < len(set(keys))
    assert any("was fitted on" in caution for caution in scorer_cautions({"brief": facts}))
    assert scorer_facts(scorer, []).seen == 0


@pytest.mark.parametrize(
    ("words", "message"),
    [
        (["--objective", "good", "--objective", "short"], "a head has one objective"),
        (["--objective", "good", "--train", "steps=3"], "settings of --form lora"),
        (["--objective", "good", "--no-ties"], "settings of --form lora"),
        (["--objective", "good", "--form", "lora", "--train", "stps=3"], "did you mean 'steps'"),
        (["--objective", "good", "--form", "lora", "--train", "steps"], "expected KEY=VALUE"),
        (["--objective", "good", "--form", "lora", "--train", "steps=many"], "train.steps"),
        (["--objective", "kind", "--form", "lora"], "kind"),
        (["--objective", "good", "--form", "lora", "--test", "nowhere.jsonl"], "nowhere.jsonl"),
        (["--objective", "good", "--form", "tree"], "'tree' is not one of"),
    ],
)
def test_what_cannot_be_is_one_message(
    data: Path, tmp_path: Path, words: list[str], message: str,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    code, _, err = call(monkeypatch, capsys, "score", "fit", data, "--folder", tmp_path / "out", *words)
    assert code == 2 and message in " ".join(err.split()), err
    assert not (tmp_path / "out").exists()


@pytest.mark.slow
def test_a_known_set_names_its_objectives_itself(
    lm: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for part in ("a/helpful", "a/harmless", "test/helpful"):
        said = [f"\n\nHuman: {part} {n}\n\nAssistant:" for n in range(80)]
        pairs = [{"chosen": f"{text} yes do", "rejected": f"{text} no"} for text in said]
        path = tmp_path / f"{part}.jsonl"
        path.parent.mkdir(exist_ok=True)
        path.write_text("".join(json.dumps(pair) + "\n" for pair in pairs))
    (tmp_path / "test.yaml").write_text(f"name: hh-rlhf\npath: {tmp_path / 'test'}\n")
    words = fitting(lm, Path("hh-rlhf"), tmp_path / "reward", "helpful")
    words += ["--path", tmp_path / "a", "--test", tmp_path / "test.yaml", "--json"]
    code, told, err = call(monkeypatch, capsys, *words)
    assert code == 0, err
    assert json.loads(told)[0]["test_pairs"] == 80
