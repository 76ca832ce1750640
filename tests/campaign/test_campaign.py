"""A small part of the campaign, the same in every run; ``make campaign`` runs all of it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from campaign import bad_commands, bad_configs, case_files, corruption, full_disk, kills, requests, user_files
from campaign.__main__ import planned, table
from campaign.kinds import KINDS
from campaign.trial import Bench, Fault, Outcome, Trial, attempt, chance_of
from campaign.warm import Warm
from campaign.worlds import world

SEED = 0
COUNTS = {requests.KIND: 40, bad_commands.KIND: 10**6}
"""kind -> among how many trials the part is looked for: all command lines, since a new option changes which ones are drawn."""
PART = {
    kills.KIND: ["dpo-soup-0"],
    corruption.KIND: [
        "run:dpo-soup:policies/adapter.safetensors:flipped",
        "generate:dpo-soup:policies/adapter.json:truncated",
        "generate:dpo-soup:hashes/*:unreadable",
        "run:dpo-soup:adapters/stage.json:of-wrong-form",
    ],
    full_disk.KIND: ["data-convert-0"],
    user_files.KIND: ["export lora", "adapter.save", "data sample", "data convert onto a file"],
    bad_configs.KIND: [
        "sweep.seeds=[0, 0]",
        "data.splits=~train~: nan, ~validation~: 0.2, ~test~: 0.2~",
        "score=[~rule~: ~length~]",
        "a file with an open bracket",
        "random 9",
        "of the table 1",
    ],
    bad_commands.KIND: [
        "run config.yaml train.steps=many",
        "generate run/policies/dpo-soup red sun --max-new-tokens 3 --preference=good+nonsense",
        "export run out --preference=good=0.5,good=0.5",
        "serve run --port 0 --no-store --max-rows=1000000000000000000000000000000",
        "choose run --between=good",
        "data select world/data.jsonl --k 2 --split=nonsense",
    ],
    requests.KIND: ["block-0"],
    case_files.KIND: [
        *(f"right {form} jsonl" for form in ("canonical", "dialogues", "unpaired")),
        "right preference csv",
        "right messages parquet",
        *(f"wrong {number}" for number in (10, 11, 12, 13)),
    ],
}
"""kind -> names of the trials of this part."""


@pytest.fixture(scope="module")
def shared(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("campaign")


@pytest.fixture(scope="module")
def warm(shared: Path) -> Iterator[Warm]:
    made = Warm(shared / "cache")
    yield made
    made.close()


def part() -> list[Trial]:
    return [
        trial
        for kind, names in PART.items()
        for trial in planned([kind], COUNTS.get(kind), SEED)
        if trial.name in names
    ]


@pytest.mark.slow
@pytest.mark.parametrize("trial", part(), ids=lambda trial: f"{trial.kind} {trial.name}")
def test_what_must_hold_holds(trial: Trial, shared: Path, warm: Warm) -> None:
    outcome = attempt(trial, SEED, shared, warm)
    assert outcome.held, outcome.remark


def test_every_name_of_the_part_is_a_trial() -> None:
    assert sorted((trial.kind, trial.name) for trial in part()) == sorted(
        (kind, name) for kind, names in PART.items() for name in names
    )


@pytest.mark.parametrize("kind", KINDS)
def test_trials_have_names_of_their_own_and_depend_on_the_seed_alone(kind: str) -> None:
    names = [trial.name for trial in planned([kind], None, SEED)]
    assert len(set(names)) == len(names) >= 20
    assert [trial.name for trial in planned([kind], 5, 7)] == [trial.name for trial in planned([kind], 5, 7)]


def test_a_trial_that_does_not_hold_is_told_with_what_was_seen(shared: Path, warm: Warm) -> None:
    def fails(bench: Bench) -> None:
        raise Fault("a file is lost")

    outcome = attempt(Trial("kills", "x", fails), SEED, shared, warm)
    assert not outcome.held and outcome.remark == "a file is lost"
    assert table([outcome, Outcome("kills", "y", True, "", 1.0)]).splitlines()[-1].split()[:3] == [
        "kills",
        "2",
        "1",
    ]


@pytest.mark.slow
def test_every_kind_of_file_of_a_run_is_damaged_somewhere(shared: Path, warm: Warm) -> None:
    """A new file of a run folder must be listed in ``campaign.corruption.FILES``."""
    made = world(Bench(shared, shared, warm, chance_of(SEED)), "dpo-soup")
    found = {corruption.kind_of(path, made.folder) for path in corruption.every_file(made.folder / "run")}
    assert found == set(corruption.FILES["dpo-soup"])
