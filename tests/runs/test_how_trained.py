"""What training found is in the record and on the page: conflicts of gradients, and floors."""

from __future__ import annotations

from pathlib import Path

import pytest

from paretune.fronts.record import FrontRecord
from paretune.runs import run as runs
from paretune.runs.parse import parse_config
from support.world import make_dataset, write_model

RULES = [{"objective": name, "rule": "regex", "pattern": name, "how": "count"} for name in ("good", "kind")]


@pytest.mark.slow
def test_a_run_reports_conflicts_and_floors(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PARETUNE_CACHE", str(tmp_path / "cache"))
    make_dataset(30).select([]).write(tmp_path / "data.jsonl")
    floors = {"responses": 2, "floors": {"kind": 99.0}}
    config = parse_config(
        {
            "folder": str(tmp_path / "run"),
            "model": str(write_model(tmp_path / "model")),
            "dtype": "float32",
            "device": "cpu",
            "data": {"source": str(tmp_path / "data.jsonl")},
            "score": RULES,
            "methods": {"dpo-lw": {"gradients": "raco"}, "held": {"method": "morlhf", **floors}},
            "preferences": 3,
            "train": {"steps": 2, "batch_pairs": 2, "rank": 2},
            "sampling": {"max_new_tokens": 4},
            "evaluate": {"resamples": 50, "prompts": 4},
        }
    )
    page = runs.run(config).read_text()
    record = FrontRecord.read(tmp_path / "run" / "front.json")
    by_name = {policy.name: policy for policy in record.policies}
    (conflict,) = by_name["dpo-lw"].conflicts
    assert conflict.objectives == ("good", "kind") and 1 <= conflict.steps <= 2 and -1 <= conflict.cosine <= 1
    assert conflict.preference == "good=0.5,kind=0.5" and not by_name["held"].conflicts
    assert [row.preference for row in by_name["held"].floors] == [
        "good=1.0,kind=0.0",
        "good=0.5,kind=0.5",
        "good=0.0,kind=1.0",
    ]
    assert all(row.floor == 99 and row.multiplier > 0 > row.reached - 99 for row in by_name["held"].floors)
    assert "Conflict in training" in page and "good and kind" in page
    assert "Floors in training" in page and "not reached" in page
    costs = {name: policy.cost for name, policy in by_name.items() if policy.cost}
    assert (
        costs["dpo-lw"].tokens and costs["dpo-lw"].sampled == 0 < costs["held"].sampled < costs["held"].tokens
    )
