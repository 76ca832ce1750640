"""Drawing responses for prompts: in parts that survive a kill, with the embedded model at the end."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from unittest.mock import Mock

import numpy as np
import pytest
import torch
from transformers import DynamicCache

from paretune.core.errors import ConfigError, DataError, ModelError
from paretune.core.files import fingerprint
from paretune.core.progress import listening
from paretune.core.sampling import Sampling
from paretune.data.dataset import ScoredDataset
from paretune.data.pairs import pairs
from paretune.data.shipped import SHIPPED, shipped_file
from paretune.generation import generate as generate_module
from paretune.generation import resumable, sample
from paretune.generation.batch import Slot
from paretune.generation.draw import draw
from paretune.generation.generate import SHARE, generate, together
from paretune.generation.mixing import Mixture
from paretune.generation.sample import sample_dataset
from paretune.models.embedded import EMBEDDED, embedded_gguf
from paretune.models.kv_cache import ROOM, growing_cache, position_bytes, rows_gathered
from paretune.models.language_model import LanguageModel, load
from paretune.runs.parse import load_config, parse_config
from paretune.runs.prepare import prepare_data
from paretune.scoring.scorer import build_scorer, score_texts
from paretune.training.lab import Lab
from support.adapters import TRAINING
from support.world import make_dataset

SAMPLING = Sampling(max_new_tokens=6, temperature=1.0, top_p=0.9, batch_size=3)


def test_a_killed_draw_goes_on_to_the_same_responses(
    lm: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Two prompts per batch, eight per part: the second part fails once, the first is not sampled again."""
    monkeypatch.setattr(resumable, "BATCHES_PER_PART", 2)
    prompts = make_dataset(7).select([])
    whole = sample_dataset(lm, prompts, 2, SAMPLING, 5, tmp_path / "whole")
    calls = 0

    def failing(*args: object, **options: object) -> list:
        nonlocal calls
        calls += 1
        if calls == 2:
            raise KeyboardInterrupt
        return generate(*args, **options)  # type: ignore[arg-type]

    monkeypatch.setattr(sample, "generate", failing)
    with pytest.raises(KeyboardInterrupt):
        sample_dataset(lm, prompts, 2, SAMPLING, 5, tmp_path / "parts")
    resumed = sample_dataset(lm, prompts, 2, SAMPLING, 5, tmp_path / "parts")
    assert calls == 4, "three parts: one before the kill, one killed, two after it"
    assert resumed.fingerprint == whole.fingerprint
    assert sample_dataset(lm, prompts, 2, SAMPLING, 6, tmp_path / "parts").fingerprint != whole.fingerprint


def test_a_batch_is_counted_by_its_share_of_steps(lm: LanguageModel) -> None:
    heard = Mock()
    sampling = replace(SAMPLING, max_new_tokens=40, batch_size=24)
    with listening(heard):
        found = generate(lm, [[5, 6, 7]] * 24, sampling, range(24))
    counts = [call.args[0] for call in heard.steps_done.call_args_list]
    steps = max(len(answer.tokens) for answer in found) - 1  # the first token comes with the prompt
    due = [24 * step // 40 for step in range(steps + 1)] + [24]
    assert counts == [count for count in np.diff(due).tolist() if count] and len(counts) > 5


def test_as_many_rows_decode_together_as_the_memory_holds_keys_of(
    lm: LanguageModel, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Room for 40 positions: rows of 10, 11 and 11 take 33, as the longest decides; a fourth would take 44; one has 56 alone."""
    bytes_each = float(position_bytes(lm.model.config, lm.model.dtype))
    prompts = [[5] * 4, [6] * 5, [7] * 5, [8] * 5, [9] * 50]
    whole = generate(lm, prompts, replace(SAMPLING, batch_size=8), range(5))
    rows = [Slot(prompt, SAMPLING, seed) for seed, prompt in enumerate(prompts)]
    monkeypatch.setattr(generate_module, "memory_of", lambda device: 40 * bytes_each / SHARE)
    assert list(map(len, together(lm, rows, 8))) == [3, 1, 1]
    assert list(map(len, together(lm, rows, 2))) == [2, 2, 1], "never more than was asked for"
    assert together(lm, [], 8) == []
    log = Mock()
    monkeypatch.setattr(generate_module, "logger", log)
    parted = generate(lm, prompts, replace(SAMPLING, batch_size=8), range(5))
    assert [each.tokens for each in parted] == [each.tokens for each in whole]
    said = log.info.call_args.args
    assert said[0] % said[1:] == (
        "keys and values of 5 answers at once would take more than 25 % of the memory here; at most 3 are sampled together"
    )
    mixed = [Slot(prompt, SAMPLING, 0, mixture=Mixture(torch.ones(1, 2))) for prompt in prompts]
    assert list(map(len, together(lm, mixed, 8))) == [1, 1, 1, 1, 1], "copies of a row count"


def test_a_damaged_part_is_named(lm: LanguageModel, tmp_path: Path) -> None:
    prompts = make_dataset(2).select([])
    sample_dataset(lm, prompts, 1, SAMPLING, 0, tmp_path)
    (part,) = tmp_path.glob("*.json")
    part.write_text("[[1]]")
    with pytest.raises(DataError, match=rf"{part.name}.*delete the file"):
        sample_dataset(lm, prompts, 1, SAMPLING, 0, tmp_path)


def test_the_parts_of_a_stopped_run_are_found(lm: LanguageModel, tmp_path: Path) -> None:
    """Names and content of parts are those of version 0.1, so that its stopped runs resume."""
    prompts = make_dataset(2).select([])
    ids = [lm.encode_prompt(row.prompt) for row in prompts.rows]
    name = fingerprint(
        lm.fingerprint, "torch.float32", ids, [3 * 1_000_003, 3 * 1_000_003 + 1], vars(SAMPLING)
    )
    (tmp_path / f"{name}.json").write_text('[["kept", false], ["cut", true]]')
    drawn = sample_dataset(lm, prompts, 1, SAMPLING, 3, tmp_path)
    assert [(row.responses, row.truncated) for row in drawn.rows] == [
        (("kept",), (False,)),
        (("cut",), (True,)),
    ]


def test_a_part_is_kept_when_it_is_whole(tmp_path: Path) -> None:
    drawn: list[range] = []

    def plan(numbers: range) -> tuple[str, Callable[[], list[resumable.Drawn]]]:
        def draw() -> list[resumable.Drawn]:
            drawn.append(numbers)
            if numbers.start == 4 and len(drawn) < 4:
                raise KeyboardInterrupt
            return [(f"response {number}", False) for number in numbers]

        return f"part-{numbers.start}", draw

    with pytest.raises(KeyboardInterrupt):
        resumable.draw_in_parts(tmp_path, 7, 2, plan)
    assert sorted(file.name for file in tmp_path.iterdir()) == ["part-0.json", "part-2.json"]
    responses = resumable.draw_in_parts(tmp_path, 7, 2, plan)
    assert responses == [(f"response {number}", False) for number in range(7)]
    assert drawn == [range(2), range(2, 4), range(4, 6), range(4, 6), range(6, 7)]

    part = resumable.Part.open(tmp_path / "late.json", range(10, 12), width=2)
    part.put(11, ("second", True))
    part.save()  # an error ended the draw: what arrived is on disk
    reopened = resumable.Part.open(part.file, part.numbers, width=2)
    assert reopened.missing == [10] and reopened.drawn == [("second", True)]


def test_a_wide_nucleus_is_drawn_in_full() -> None:
    """One row in three spreads over more tokens than are looked at first; its neighbours are drawn as without it."""
    generator = torch.Generator().manual_seed(0)
    logits = torch.randn(3, 2000, generator=generator)
    logits[::2] *= 8
    uniform = torch.tensor([0.3, 0.97, 0.6], dtype=torch.float64)
    probabilities = logits.softmax(-1)
    top, tokens = probabilities.sort(dim=-1, descending=True)
    before = top.cumsum(-1) - top
    assert [int((row < 0.95).sum()) > 512 for row in before] == [False, True, False]
    expected = []
    for row in range(3):
        kept = top[row].masked_fill(before[row] >= 0.95, 0.0).double().cumsum(-1)
        place = int((kept <= uniform[row] * kept[-1]).sum())
        expected.append(int(tokens[row, place]))
    assert draw(logits, uniform, 1.0, 0.95).tolist() == expected


def test_the_growing_cache_holds_what_transformers_holds(lm: LanguageModel) -> None:
    generator = torch.Generator().manual_seed(0)
    ours, theirs = growing_cache(lm.model.config), DynamicCache(config=lm.model.config)
    rows = torch.arange(5)
    # A prompt, then single positions beyond the room set aside, with rows leaving on the way.
    for step, length in enumerate([7, *[1] * (ROOM + 5)]):
        keys, values = (torch.randn(len(rows), 2, length, 4, generator=generator) for _ in range(2))
        for layer in range(2):
            for found, expected in zip(
                ours.update(keys, values, layer), theirs.update(keys, values, layer), strict=True
            ):
                assert torch.equal(found, expected)
        assert ours.get_seq_length() == theirs.get_seq_length() == 7 + step
        if step in (3, 40):
            kept = torch.arange(len(rows) - 1)
            ours = rows_gathered([ours], [(0, row) for row in kept.tolist()])
            theirs.batch_select_indices(kept)
            rows = rows[kept]


def test_implicit_reward_of_an_adapter(lm: LanguageModel, tmp_path: Path) -> None:
    """beta (log pi - log pi_ref), as the lab computes it for margins; the stored beta is used."""
    lab, data = Lab(lm, tmp_path / "run", TRAINING), make_dataset()
    adapter = lab.dpo("good", data, make_dataset(4, seed=9), beta=0.2)
    folder = str(tmp_path / "run/adapters/dpo-good/adapter")
    scorer = build_scorer({"objective": "good", "implicit": folder, "base": lm.name, "dtype": "float32"})
    table = lab.pair_table(pairs(data, "good"))
    ratios = lab.logps(table, adapter) - table.reference
    prompts = [pair.prompt for pair in table.pairs]
    chosen = score_texts(scorer, prompts, [pair.chosen for pair in table.pairs])
    np.testing.assert_allclose(chosen, 0.2 * ratios[:, 0].numpy(), atol=1e-4)
    halved = build_scorer(
        {"objective": "good", "implicit": folder, "base": lm.name, "beta": 0.1, "dtype": "float32"}
    )
    assert halved.fingerprint != scorer.fingerprint and not scorer.across_prompts
    with pytest.raises(ConfigError, match="beta: -1"):
        build_scorer({"objective": "good", "implicit": folder, "beta": -1})
    with pytest.raises(ModelError, match="no such file"):
        build_scorer({"objective": "good", "implicit": str(tmp_path)})
    other = replace(adapter, info={**adapter.info, "divergence": "forward-kl"})
    other.save(tmp_path / "forward")
    with pytest.raises(ConfigError, match="trained under the divergence forward-kl"):
        build_scorer({"objective": "good", "implicit": str(tmp_path / "forward")})


def test_trackers_receive_every_step(lm: LanguageModel, tmp_path: Path) -> None:
    event_accumulator = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    lab = Lab(lm, tmp_path, TRAINING, trackers=("tensorboard",))
    lab.dpo("good", make_dataset(), make_dataset(4, seed=9), beta=0.1)
    (folder,) = {
        file.parent for file in tmp_path.glob("logs/dpo-good/**/events*") if file.parent.name == "paretune"
    }
    events = event_accumulator.EventAccumulator(str(folder))
    events.Reload()
    losses = events.Scalars("loss")
    assert [event.step for event in losses] == list(range(1, TRAINING.steps + 1))


def test_a_tracker_that_is_not_installed_is_refused(
    lm: LanguageModel, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """accelerate would only warn, and nothing would be logged."""
    monkeypatch.setattr("accelerate.tracking.get_available_trackers", list)
    lab = Lab(lm, tmp_path, TRAINING, trackers=("tensorboard",))
    with pytest.raises(ConfigError, match="'tensorboard' is not installed"):
        lab.dpo("good", make_dataset(), make_dataset(4, seed=9), beta=0.1)
    with pytest.raises(ConfigError, match="trackers: Unsupported logging capability: tensorbord"):
        replace(lab, trackers=("tensorbord",)).dpo("good", make_dataset(), make_dataset(4, seed=9), beta=0.1)


def test_the_quickstart_ships_its_answers() -> None:
    data, written, held_out = (ScoredDataset.read(shipped_file(name)) for name in SHIPPED)
    assert len(data.rows) >= 150 and all(2 <= len(row.responses) <= 4 for row in data.rows)
    assert len(held_out.rows) >= 100 and not any(row.responses for row in held_out.rows)
    keys = [row.key for row in (*data.rows, *held_out.rows)]
    assert len(set(keys)) == len(keys) == 380
    assert not any("/" in row.source for row in data.rows), "no path of the machine that drew them"
    cut = [flag for row in data.rows for flag in row.truncated]
    assert sum(cut) / len(cut) < 0.5
    assert {row.key for row in written.rows} < {row.key for row in data.rows} and len(written.rows) == 100


def test_the_written_responses_are_what_the_quickstart_asks_for() -> None:
    """The first is concise and neutral, the second brief and warm, the third warm; by the quickstart's own rules."""
    rows = ScoredDataset.read(shipped_file("quickstart-written")).rows
    scorers = [build_scorer(spec) for spec in load_config("quickstart").score]
    scores = np.array(
        [[scorer([row.prompt] * 3, row.responses, [False] * 3) for scorer in scorers] for row in rows]
    )
    assert scores.shape == (100, 2, 3)
    (brief, both, long), (neutral, warm, warmest) = scores.mean(0)
    assert brief > both > long + 2 and warmest > warm > neutral + 0.5
    concise, friendly = scores[:, 0], scores[:, 1]
    assert (concise[:, :2].min(1) > concise[:, 2] + 1.5).all()  # the third costs every row
    assert (friendly[:, 1:].min(1) > friendly[:, 0]).mean() >= 0.95


def test_only_rows_without_responses_are_drawn(lm: LanguageModel, tmp_path: Path) -> None:
    rows = make_dataset(8).select([]).rows
    mixed = [replace(row, responses=(), truncated=()) if n % 2 else row for n, row in enumerate(rows)]
    ScoredDataset((), tuple(mixed)).write(tmp_path / "mixed.jsonl")
    scorer = {"rule": "length", "unit": "words", "direction": "lower"}
    values = {
        "data": {
            "source": str(tmp_path / "mixed.jsonl"),
            "sample": 2,
            "splits": {"train": 0.25, "validation": 0.25, "test": 0.5},
        },
        "score": [{"objective": "short", **scorer}, {"objective": "long", **scorer, "direction": "higher"}],
        "sampling": {"max_new_tokens": 6, "batch_size": 4},
    }
    splits, _ = prepare_data(parse_config(values), Lab(lm, tmp_path / "run", TRAINING))
    found = {row.key: (part, row) for part, rows in splits.items() for row in rows.rows}
    assert len(found) == 8 and {part for part, _ in found.values()} == {"train", "validation", "test"}
    drawn = 0
    for given in mixed:
        part, row = found[given.key]
        if given.responses or part == "test":  # a held-out prompt is answered by the policies
            assert row.responses == given.responses
        else:
            assert len(row.responses) >= 1
            drawn += 1
    assert drawn


@pytest.mark.model
@pytest.mark.skipif(embedded_gguf() is None, reason="the package of the embedded model is not installed")
@pytest.mark.slow
def test_the_embedded_model_answers_and_trains(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The main job in a small size: shipped answers, rules, two steps, and the soup at two preferences."""
    monkeypatch.delenv("PARETUNE_CACHE", raising=False)
    model = load(EMBEDDED, "auto", "cpu")
    data = ScoredDataset.read(shipped_file())
    few = replace(data, rows=data.rows[:6])
    scorer = build_scorer({"objective": "concise", "rule": "length", "unit": "words", "direction": "lower"})
    few = few.with_scores(
        "concise",
        [score_texts(scorer, [r.prompt] * len(r.responses), r.responses).tolist() for r in few.rows],
    )
    lab = Lab(model, tmp_path, replace(TRAINING, steps=2, rank=4, max_tokens=512))
    adapter = lab.dpo("concise", replace(few, rows=few.rows[:4]), replace(few, rows=few.rows[4:]), beta=0.1)
    assert any(bool(U.any()) for U, _ in adapter.factors.values()), "two steps move the update away from 0"
    prompt = model.encode_prompt(few.rows[0].prompt)
    (answer,) = generate(model, [prompt], Sampling(max_new_tokens=8, temperature=0.0), [0])
    assert len(answer.text.split()) > 2
