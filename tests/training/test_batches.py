"""Forwards bounded by tokens: what is in them, that it is said, and that a killed run draws the same ones."""

from __future__ import annotations

import json
import signal
from dataclasses import replace
from pathlib import Path

import pytest

from paretune.core.errors import ConfigError, TrainingError
from paretune.data.pairs import pairs
from paretune.models.distributed import ProcessGroup
from paretune.models.language_model import LanguageModel, load
from paretune.runs.parse import parse_config
from paretune.training.batches import Batches, group_tokens, held_out, spans
from paretune.training.conditioned import ObjectiveData
from paretune.training.conditioning import Conditioning
from paretune.training.demonstrations import Demonstration
from paretune.training.lab import Lab
from paretune.training.loop import Training
from support.adapters import TRAINING, adapters_equal, training_run
from support.kills import killed
from support.world import make_dataset, write_model

BOUND = replace(TRAINING, batch_pairs=3, batch_tokens=54)
DATA = make_dataset(), make_dataset(4, seed=9)


@pytest.fixture(scope="module")
def lm(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    return load(str(write_model(tmp_path_factory.mktemp("model"))), "float32", "cpu")


def test_spans_by_hand() -> None:
    costs = [5, 5, 5, 12, 1, 1, 1, 30, 2]
    found = spans(len(costs), 3, 12, costs.__getitem__)
    # Two of 5; then 5 alone, as 12 more are too many; 12 alone; three of 1; 30, which is too much by itself; the last.
    assert found == [range(2), range(2, 3), range(3, 4), range(4, 7), range(7, 8), range(8, 9)]
    assert spans(7, 3, 0, costs.__getitem__) == [range(3), range(3, 6), range(6, 7)]
    assert spans(0, 3, 5, costs.__getitem__) == []


@pytest.mark.parametrize("seed", range(5))
def test_spans_hold_every_position_once_and_no_more_than_fits(seed: int) -> None:
    import random

    chance = random.Random(seed)
    costs = [chance.randint(1, 40) for _ in range(200)]
    found = spans(len(costs), 6, 60, costs.__getitem__)
    assert [n for run in found for n in run] == list(range(200))
    sums = [sum(costs[n] for n in run) for run in found]
    assert all(len(run) <= 6 and total <= 60 for run, total in zip(found, sums, strict=True))
    for run, after, total in zip(found, found[1:], sums, strict=False):  # none ends before it must
        assert len(run) == 6 or total + costs[after.start] > 60


def test_a_run_bounded_by_tokens_says_what_binds_and_logs_its_pairs(
    lm: LanguageModel, tmp_path: Path
) -> None:
    lab = Lab(lm, tmp_path, BOUND)
    said: list[str] = []
    lab.say = said.append  # type: ignore[method-assign]
    table = lab.train_table(lab.pairs(DATA[0], "good", "extremes"), "good")
    lab.dpo("good", *DATA, 0.1)
    batches = Batches.of_table(training_run(lm, BOUND, tmp_path, notify=lambda text: None), table)
    history = json.loads((tmp_path / "adapters/dpo-good/history.json").read_text())
    for step, record in enumerate(history):
        (rows,) = batches.rows(step, 0)
        assert record["pairs"] == len(rows) <= 3
        assert record["tokens"] == group_tokens(table.groups(rows)) and (
            record["tokens"] <= 54 or len(rows) == 1
        )
    counts = [int(record["pairs"]) for record in history]
    by_pairs = counts.count(3)
    assert len(set(counts)) > 1  # both bind, or this test says little
    (line,) = [text for text in said if "batch_tokens" in text]
    assert (
        f"dpo-good: {6 - by_pairs} of 6 forwards are bounded by train.batch_tokens=54, {by_pairs} by" in line
    )
    assert all(len(run) <= 3 for run in held_out(BOUND, table))


def test_a_pair_that_is_too_much_by_itself_is_counted(lm: LanguageModel, tmp_path: Path) -> None:
    table = Lab(lm, tmp_path, BOUND).pair_table(pairs(DATA[0], "good"))
    said: list[str] = []
    batches = Batches.of_table(
        training_run(lm, replace(BOUND, batch_tokens=5), tmp_path, notify=said.append), table
    )
    assert batches.alone == 6 and "6 have one pair that has more tokens by itself" in said[0]


def test_a_wide_bound_is_the_fixed_number_of_pairs(lm: LanguageModel, tmp_path: Path) -> None:
    plain = Lab(lm, tmp_path / "a", TRAINING).dpo("good", *DATA, 0.1)
    wide = Lab(lm, tmp_path / "b", replace(TRAINING, batch_tokens=10_000)).dpo("good", *DATA, 0.1)
    assert adapters_equal(plain, wide)


def dpo(lab: Lab) -> object:
    return lab.dpo("good", *DATA, 0.1)


def conditioned(lab: Lab) -> object:
    def tables(part: int) -> ObjectiveData:
        names = DATA[part].objectives
        return ObjectiveData(names, tuple(lab.pair_table(pairs(DATA[part], name)) for name in names))

    return lab.fit_conditioned("all", tables(0), tables(1), 0.1, Conditioning(rank=2, groups=2))


def imitation(lab: Lab) -> object:
    items = [Demonstration(row.prompt, text) for row in DATA[0].rows for text in row.responses]
    return lab.fit_demonstrations("sft", items, items[:4])


@pytest.mark.parametrize("train", [dpo, conditioned, imitation])
@pytest.mark.slow
def test_a_killed_run_bounded_by_tokens_ends_with_the_same_weights(
    lm: LanguageModel, tmp_path: Path, train
) -> None:
    whole = train(Lab(lm, tmp_path / "whole", BOUND))
    assert killed(5, lambda: train(Lab(lm, tmp_path / "killed", BOUND))) == -signal.SIGKILL
    assert list((tmp_path / "killed/checkpoints").glob("*.safetensors"))
    assert adapters_equal(whole, train(Lab(lm, tmp_path / "killed", BOUND)))


def test_a_conditioned_step_counts_the_rows_of_all_tables(lm: LanguageModel, tmp_path: Path) -> None:
    conditioned(Lab(lm, tmp_path, BOUND))
    history = json.loads((tmp_path / "adapters/all/history.json").read_text())
    for record in history:
        assert record["pairs"] % 2 == 0 and (record["tokens"] <= 54 or record["pairs"] == 2)


def test_forwards_bounded_by_tokens_are_not_divided_among_processes() -> None:
    with pytest.raises(ConfigError, match=r"set train\.accumulate to"):
        replace(BOUND, batch_pairs=4).share(ProcessGroup(0, 2))
    assert replace(BOUND, accumulate=2).share(ProcessGroup(1, 2)).ways == 1
    assert Training(batch_pairs=4).share(ProcessGroup(0, 2)).ways == 2


def test_a_run_on_its_own_responses_refuses_a_bound_by_tokens() -> None:
    values = {
        "objectives": ["a", "b"],
        "score": [{"objective": "a", "rule": "length"}, {"objective": "b", "rule": "sentiment"}],
        "methods": {"morlhf": {}},
        "train": {"batch_tokens": 512},
    }
    with pytest.raises(ConfigError, match=r"methods\.morlhf\.train: batch_tokens=512: .*batch_tokens: 0"):
        parse_config(values)
    parse_config({**values, "methods": {"morlhf": {"train": {"batch_tokens": 0}}}})
    with pytest.raises((ConfigError, TrainingError)):
        parse_config({**values, "methods": {"dpo-soup": {}}, "train": {"batch_tokens": -1}})
