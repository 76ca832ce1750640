"""What of the data a run trains on: held-out prompts are left out, and what is left out is counted."""

from __future__ import annotations

import json
import warnings
from pathlib import Path
from typing import Any

import pytest

from paretune.core.errors import DataError, DataWarning
from paretune.data.dataset import concatenate
from paretune.runs.config import RunConfig
from paretune.runs.fitted_heads import check_fit, fit_seed
from paretune.runs.prepare import load_splits, read_sources
from paretune.scoring.bradley_terry import parts_of


def source(path: Path, prompts: range) -> str:
    rows = [{"prompt": f"p{n}", "responses": ["a", "b"], "scores": {"warm": [1, 2]}} for n in prompts]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def splits(**data: Any) -> Any:
    return load_splits(RunConfig.model_validate({"data": data, "methods": {"dpo-soup": {}}}))


def test_rows_of_held_out_prompts_are_not_trained_on(tmp_path: Path) -> None:
    train, test = source(tmp_path / "a.jsonl", range(40)), source(tmp_path / "b.jsonl", range(30, 50))
    parts = splits(source=train, test=test, splits={"train": 0.8, "validation": 0.2})
    keys = {name: {row.key for row in part.rows} for name, part in parts.items()}
    assert len(keys["test"]) == 20 and len(keys["train"] | keys["validation"]) == 30
    assert not keys["test"] & (keys["train"] | keys["validation"])
    assert "10 of 40 rows of data.source are of held-out prompts (data.test) and are not trained on" in (
        parts["train"].notes
    )


def test_no_share_is_held_out_of_the_source_by_default_where_the_test_prompts_have_their_own(
    tmp_path: Path,
) -> None:
    train, test = source(tmp_path / "a.jsonl", range(100)), source(tmp_path / "b.jsonl", range(200, 210))
    parts = splits(source=train, test=test)
    assert len(parts["train"].rows) + len(parts["validation"].rows) == 100 and not parts["train"].notes
    assert 5 <= len(parts["validation"].rows) <= 20 and len(parts["test"].rows) == 10
    alone = {name: len(part.rows) for name, part in splits(source=train).items()}
    assert sum(alone.values()) == 100 and alone["test"] > 5, (
        "without a test source a fifth of the source is held out"
    )
    stated = splits(source=train, test=test, splits={"train": 0.7, "validation": 0.1, "test": 0.2})
    assert len(stated["train"].rows) == alone["train"], "shares that are stated hold"
    assert "rows are in no part" in stated["train"].notes[0]


def test_a_run_says_what_was_left_out_of_a_known_set_once(tmp_path: Path) -> None:
    """The notes are said where the data are prepared, so reading warns of nothing that they hold."""
    folder = tmp_path / "helpful-base"
    folder.mkdir()
    records = [
        {"chosen": f"\n\nHuman: {n}?\n\nAssistant: good", "rejected": f"\n\nHuman: {n}?\n\nAssistant: bad"}
        for n in range(60)
    ]
    records[7]["rejected"] = "\n\nHuman: another?\n\nAssistant: bad"
    (folder / "train.jsonl").write_text("".join(json.dumps(record) + "\n" for record in records))
    score = [{"objective": name, "rule": "length"} for name in ("helpful", "harmless")]
    data = {"source": "hh-rlhf", "path": str(folder)}
    config = RunConfig.model_validate({"data": data, "score": score, "methods": {"dpo-soup": {}}})
    with warnings.catch_warnings(record=True) as heard:
        warnings.simplefilter("always")
        parts = read_sources(config).splits
    (note,) = [note for note in parts["train"].notes if "left out" in note]
    assert "unusable records left out: 1" in note and note not in [str(one.message) for one in heard]
    with pytest.warns(DataWarning, match="unusable records left out: 1"):
        load_splits(config)


def test_a_source_that_is_wholly_held_out_is_refused(tmp_path: Path) -> None:
    file = source(tmp_path / "a.jsonl", range(10))
    with pytest.raises(
        DataError, match=r"all 10 rows of data\.source are of held-out prompts, so none is left"
    ):
        splits(source=file, test=file)


def test_rows_in_no_part_and_beyond_the_limit_are_counted(tmp_path: Path) -> None:
    file = source(tmp_path / "a.jsonl", range(100))
    parts = splits(source=file, limit=50, splits={"train": 0.4, "validation": 0.2, "test": 0.2})
    first, second = parts["train"].notes
    used = sum(len(part.rows) for part in parts.values())
    assert first == "data.limit: the first 50 of 100 rows are used"
    assert (
        second
        == f"{50 - used} of 50 rows are in no part: data.splits gives train 0.4, validation 0.2, test 0.2"
    )


def test_a_head_is_fitted_under_the_default_splits_and_seed(tmp_path: Path) -> None:
    rows = [
        {"prompt": f"p{n}", "responses": ["a", "b"], "labels": {"warm": [[0, 1, 1.0]]}} for n in range(571)
    ]
    file = tmp_path / "a.jsonl"
    file.write_text("".join(json.dumps(row) + "\n" for row in rows))
    score = [{"objective": "warm", "head": "fit"}, {"objective": "concise", "rule": "length"}]
    config = RunConfig.model_validate({"data": {"source": str(file)}, "score": score})
    parts = load_splits(config)
    check_fit(config, parts)
    labelled = concatenate([parts["train"], parts["validation"]])
    sizes = {name: len(pairs) for name, pairs in parts_of(labelled, "warm", None, fit_seed(config)).items()}
    assert min(sizes[name] for name in ("train", "validation", "test")) > 5, sizes
