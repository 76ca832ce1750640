"""One suite over every entry of METHODS: a run on the tiny model, resuming, the plan against what the model did, card, export.

A method that is added to METHODS is tested with its default settings, unless ``SETTINGS`` has others for the tiny world.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import pytest
import torch

from paretune import methods
from paretune.core.errors import ModelError
from paretune.core.preference import Preference
from paretune.fronts.record import FrontRecord
from paretune.methods import METHODS
from paretune.methods.base import Card, Inputs
from paretune.methods.sipo import rounds
from paretune.models.language_model import load
from paretune.planning.work import Stage
from paretune.policies.export import export
from paretune.policies.policy import Policy
from paretune.runs import run as runs
from paretune.runs.config import RunConfig
from paretune.runs.parse import parse_config
from paretune.runs.plan import plan, planned
from paretune.training import loop
from support.counting import Counts, answers_of_one_length, counted, texts_of_one_length
from support.world import TAGS, WORDS, write_model

OBJECTIVES = ("good", "kind")
HALF = Preference.uniform(OBJECTIVES)
SETTINGS: dict[str, dict[str, Any]] = {
    "panacea": {"rank": 2},
    "paretohqd": {"k": 4, "steps": 3, "stage2_steps": 2, "prompts": 6},
    "ric": {"form": "levels", "prompts": 7, "online_steps": 2, "quantile": 0.0},
    "sipo": {"refine": False, "conflicts": 6, "steps": 2},
    "spa": {"tolerance": 1.0, "smooth": 0.2, "doubtful": 0.5, "begin": 0.0, "window": 2, "extrapolate": 0.5},
    "morlhf": {"responses": 3, "epochs": 2},
    "gdpo": {"responses": 2, "form": "conditioned", "groups": 3},
    "mo-odpo": {"epochs": 2},
    "rewarded-soup": {
        "responses": 2,
        "epochs": 2,
    },  # fewer prompts than there are: none is drawn twice in a batch
    "bone-soup": {"responses": 2, "epochs": 2},
    "prompting": {"place": "user", "principles": {"good": "good red", "kind": "kind blue sun"}},
    "linear-alignment": {"principles": {"good": "good red", "kind": "kind blue sun"}, "strength": 1.0},
    "vas": {"responses": 2, "width": 16},
}


@dataclass
class Trial:
    """A run of one method on the tiny model, with what the model did.

    Attributes:
        config: The config; texts and answers have one length, so that the plan can be exact.
        report: Path of the report.
        training: What the model did while the method trained.
        whole: What it did in the whole run.
        steps: Optimiser steps of the whole run.
    """

    config: RunConfig
    report: Path
    training: Counts
    whole: Counts
    steps: int

    @property
    def name(self) -> str:
        """The method."""
        (name,) = self.config.methods
        return name

    @property
    def record(self) -> FrontRecord:
        """What the run measured."""
        return FrontRecord.read(self.report.parent / "front.json")

    @cached_property
    def policy(self) -> Policy:
        """What the run saved, loaded; no test changes it."""
        return Policy.load(
            self.report.parent / "policies" / self.name, load(self.config.model, "float32", "cpu")
        )


def config_of(name: str, folder: Path) -> RunConfig:
    """Write the tiny model and its data to ``folder``, and return the config of a run of one method."""
    if not (folder / "model").is_dir():
        write_model(folder / "model", words=[*WORDS, *TAGS])
        texts_of_one_length(40).write(folder / "data.jsonl")
    return parse_config(
        {
            "folder": str(folder / "run"),
            "model": str(folder / "model"),
            "dtype": "float32",
            "device": "cpu",
            "data": {
                "source": str(folder / "data.jsonl"),
                "splits": {"train": 0.6, "validation": 0.2, "test": 0.2},
            },
            "score": [
                {"objective": name, "rule": "regex", "pattern": name, "how": "count"} for name in OBJECTIVES
            ],
            "methods": {name: SETTINGS.get(name, {})},
            "preferences": 3,
            "train": {
                "steps": 4,
                "batch_pairs": 4,
                "accumulate": 2,
                "rank": 4,
                "learning_rate": 1e-2,
                "validate_every": 2,
                "checkpoint_every": 2,
            },
            "sampling": {"max_new_tokens": 6, "batch_size": 24},
            "evaluate": {"resamples": 50},
        }
    )


def scripted(patch: pytest.MonkeyPatch) -> None:
    """Make answers of one length, and let every conflicting pair of SIPO have a response that improves on it."""
    answers_of_one_length(patch)
    patch.setattr(
        rounds,
        "choose",
        lambda work, found, rewards: {
            n: found[work.places[pair.prompt]][0] for n, pair in enumerate(work.table.pairs)
        },
    )


def tried(config: RunConfig, patch: pytest.MonkeyPatch) -> Trial:
    """Run a config and count."""
    scripted(patch)
    steps: list[int] = []
    counting: list[Any] = []
    training: list[Counts] = []
    opened, train, step = runs.opened, runs.train, loop._Loop.step

    def opened_and_counted(*arguments: Any, **options: Any) -> Any:
        lab = opened(*arguments, **options)
        counting.append(counted(lab.lm))
        counting.append(counting[0].__enter__())
        return lab

    def train_and_note(*arguments: Any) -> Policy:
        before = counting[1].copy()
        policy = train(*arguments)
        training.append(counting[1].since(before))
        return policy

    def noted(self: loop._Loop, number: int, held_out: loop.Record) -> loop.Record:
        steps.append(number)
        return step(self, number, held_out)

    patch.setattr(runs, "opened", opened_and_counted)
    patch.setattr(runs, "train", train_and_note)
    patch.setattr(loop._Loop, "step", noted)
    report = runs.run(config)
    counting[0].__exit__(None, None, None)
    return Trial(config, report, training[0], counting[1], len(steps))


@pytest.fixture(scope="module", params=METHODS)
def trial(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Trial]:
    folder = tmp_path_factory.mktemp(request.param)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PARETUNE_CACHE", str(folder / "cache"))
        made = tried(config_of(request.param, folder), patch)
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PARETUNE_CACHE", str(folder / "cache"))
        scripted(patch)
        yield made


# The run


@pytest.mark.slow
def test_a_run_ends_with_a_front_and_a_report(trial: Trial) -> None:
    check_front_and_report(trial)


def check_front_and_report(trial: Trial) -> None:
    (measured,) = trial.record.policies
    assert measured.name == trial.name and len(measured.points) == 3
    assert measured.title == METHODS[trial.name].card.title
    page = trial.report.read_text()
    assert page.startswith("<!doctype html>") and METHODS[trial.name].card.title in page


@pytest.mark.slow
def test_a_second_run_reuses_every_stage(trial: Trial) -> None:
    before = trial.record
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop._Loop, "step", None)  # nothing is trained
        runs.run(trial.config)
    after = trial.record
    assert all(stage.reused for stage in after.stages) and len(after.stages) >= 3
    assert after.policies[0].points == before.policies[0].points and after.comparisons == before.comparisons


@pytest.mark.slow
def test_a_killed_run_ends_with_the_same_bytes(trial: Trial, tmp_path: Path) -> None:
    """Killed in the middle of its training steps, past a checkpoint, and started again."""
    if not trial.steps:
        pytest.skip("nothing is trained")
    config = trial.config.model_copy(update={"folder": str(tmp_path)})
    step, calls = loop._Loop.step, list[int]()

    def deadly(self: loop._Loop, number: int, held_out: loop.Record) -> loop.Record:
        calls.append(number)
        if len(calls) == trial.steps // 2:
            raise KeyboardInterrupt
        return step(self, number, held_out)

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(loop._Loop, "step", deadly)
        with pytest.raises(KeyboardInterrupt):
            runs.run(config)
    report = runs.run(config)

    def saved(folder: Path) -> dict[str, bytes]:
        files = sorted((folder / "policies").rglob("*.*"))
        return {str(file.relative_to(folder)): file.read_bytes() for file in files if file.is_file()}

    assert saved(report.parent) == saved(trial.report.parent) != {}
    (killed,), (whole,) = FrontRecord.read(report.parent / "front.json").policies, trial.record.policies
    assert [point.mean for point in killed.points] == [point.mean for point in whole.points]
    assert killed.cost and whole.cost and killed.cost.tokens == whole.cost.tokens
    assert killed.cost.sampled == whole.cost.sampled


# The policy


@pytest.mark.slow
def test_a_saved_policy_has_what_the_traits_state(trial: Trial) -> None:
    policy, entry = trial.policy, trial.config.entry(trial.name)
    traits = entry.traits
    assert traits.anchored == bool(policy.anchor_preferences)
    assert traits.extrapolates == policy.extrapolates
    assert traits.columns(entry.training.rank, 2, 3) == tuple(adapter.rank for adapter in policy.adapters)
    assert (policy.passes, policy.candidates) == (traits.copies(2), traits.candidates)
    if traits.corners is not None:
        folder, training = trial.report.parent, trial.config.corners()[1]
        assert trial.config.corners()[0] == traits.corners and training == entry.training
        corners = Policy.soup("corners", policy.lm, OBJECTIVES, corner_models(trial, folder))
        for objective in OBJECTIVES:
            corner = Preference.one_hot(objective, OBJECTIVES)
            assert policy.effective(corner) == corners.effective(corner)


def corner_models(trial: Trial, folder: Path) -> list[Any]:
    """Return the single-objective models of a finished run."""
    dpo, training = trial.config.corners()
    lab = runs.opened(trial.config)
    splits, _ = runs.prepare_data(trial.config, lab)
    with lab.trained_by(training):
        models = Inputs(lab, splits["train"], splits["validation"]).corners(dpo)
    assert all(stage.reused for stage in lab.stages)
    return models


def test_a_separable_method_trains_for_one_preference_what_it_trains_for_all(trial: Trial) -> None:
    entry = trial.config.entry(trial.name)
    if not entry.traits.separable:
        pytest.skip("its models depend on each other")
    lab = runs.opened(trial.config)
    splits, scorers = runs.prepare_data(trial.config, lab)
    with lab.trained_by(entry.training):
        alone = runs.train(trial.name, trial.config, lab, splits, [HALF], scorers)
    whole = trial.policy
    assert all(stage.reused for stage in lab.stages)
    assert alone.effective(HALF) == whole.effective(HALF)


def test_it_is_exported_or_says_why_not(trial: Trial, tmp_path: Path) -> None:
    policy = trial.policy
    if policy.no_export:
        with pytest.raises(ModelError, match=re.escape(policy.no_export)):
            export(policy, HALF, tmp_path / "lora")
        assert not (tmp_path / "lora").exists()
    else:
        assert export(policy, HALF, tmp_path / "lora").preference == HALF
        assert (tmp_path / "lora" / "adapter_config.json").is_file()
    if policy.prompt_end(HALF):
        assert trial.config.entry(trial.name).traits.prompted


# The plan


def total(stages: list[Stage]) -> Counts:
    """Return what stages are planned to do; answers have one length, so a decoding reads ``new - 1`` tokens behind a prompt."""
    passes = [work for stage in stages for work in stage.passes]
    decodings = [work for stage in stages for work in stage.decodings]
    trained, read = [[work for work in passes if work.backward is back] for back in (True, False)]
    return Counts(
        sum(work.tokens for work in trained),
        sum(work.forwards for work in trained),
        sum(work.tokens for work in read),
        sum(work.forwards for work in read),
        sum(work.rows * (work.new - 1) for work in decodings),
        sum(work.prompts for work in decodings),
    )


def test_the_work_of_a_method_is_what_the_model_does(trial: Trial) -> None:
    """Tokens and forwards with and without backward, and the tokens and prompts of sampling, exactly.

    Exact are texts of one length with two responses to each prompt, and answers that all end at the same token. Elsewhere the
    plan states estimates: mean lengths, the share of responses that pairs of several objectives have in common, objectives without
    weight at drawn preferences; and upper bounds: all steps are taken (``train.stop_below``), every response of SIPO improves.
    """
    check_work(trial)


def check_work(trial: Trial) -> None:
    entry = trial.config.entry(trial.name)
    stages = entry.method.work(planned(trial.config), entry.name, entry.settings, entry.training)
    assert vars(total(stages)) == pytest.approx(vars(trial.training))
    assert bool(trial.training.trained) == bool(trial.policy.adapters)


def test_the_plan_of_a_run_is_what_the_model_does(trial: Trial) -> None:
    """With the single-objective models and the measurement of the front."""
    check_plan(trial)


def check_plan(trial: Trial) -> None:
    whole = plan(trial.config)
    expected, found = vars(total(list(whole.stages))), vars(trial.whole)
    prompts, read = expected.pop("prompts"), found["prompts"]
    # Where one policy's corners and mixtures are decoded together they share prompts; the plan reads them apart.
    mixed = trial.config.entry(trial.name).traits
    assert prompts > read if mixed.mixed and mixed.corners is None else prompts == read
    assert {name: found[name] for name in expected} == pytest.approx(expected)
    folders = list((trial.report.parent / "adapters").glob("*"))
    assert whole.runs == len(folders)
    assert whole.policies == (tuple(adapter.rank for adapter in trial.policy.adapters),)
    assert f"front: {trial.name}" in [stage.name for stage in whole.stages]


@pytest.mark.slow
def test_what_the_contrast_of_preferences_reads_again_is_planned(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Exactly in training; held-out rows at a corner have one response less to contrast, and they are planned in the mean."""
    monkeypatch.setitem(SETTINGS, "panacea", {"rank": 2, "contrast": 0.5, "anchor": 0.5})
    monkeypatch.setenv("PARETUNE_CACHE", str(tmp_path / "cache"))
    made = tried(config_of("panacea", tmp_path), monkeypatch)
    entry = made.config.entry("panacea")
    planned_work = total(entry.method.work(planned(made.config), "panacea", entry.settings, entry.training))
    assert (planned_work.trained, planned_work.forwards) == pytest.approx(
        (made.training.trained, made.training.forwards)
    )
    assert planned_work.readings == made.training.readings
    assert planned_work.read == pytest.approx(made.training.read, rel=0.03)


# The card


@pytest.mark.parametrize("name", METHODS)
def test_the_card_tells_what_a_user_must_know(name: str) -> None:
    card = METHODS[name].card
    assert isinstance(card, Card) and all(vars(card).values()), "no field is empty"
    assert "arXiv" in card.paper and re.search(r"\b[MN1]\b", card.runs)


def test_the_names_are_listed_without_torch() -> None:
    code = "import sys; from paretune import METHODS; print(*METHODS); sys.exit('torch' in sys.modules)"
    result = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert result.returncode == 0 and result.stdout.split() == list(METHODS)


# A new method


@pytest.mark.slow
def test_a_method_is_added_by_one_file_and_one_line(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The file and the line that CONTRIBUTING shows; the method then runs, resumes, is planned and reported."""
    text = (Path(__file__).parents[2] / "CONTRIBUTING.md").read_text()
    (file,) = re.findall(r"<!-- example: method -->\n```python\n(.*?)```", text, re.DOTALL)
    ((name, module),) = re.findall(r'The line in `METHODS`: `"([\w-]+)": "(\w+)",`', text)
    (tmp_path / "methods").mkdir()
    (tmp_path / "methods" / f"{module}.py").write_text(file)
    monkeypatch.setattr(methods, "__path__", [*methods.__path__, str(tmp_path / "methods")])
    monkeypatch.setitem(METHODS.modules, name, module)
    monkeypatch.setenv("PARETUNE_CACHE", str(tmp_path / "cache"))
    made = tried(config_of(name, tmp_path), monkeypatch)
    check_front_and_report(made)
    check_work(made)
    check_plan(made)
    assert torch.is_tensor(made.policy.gates([HALF]))
