"""A whole run whose judge is fitted by it (``head: fit``), from a config that names no split and no seed."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from paretune.core.files import read_json
from paretune.runs.parse import load_config
from paretune.runs.run import run
from support.world import write_model

CONFIG = """
name: mine
model: {model}
dtype: float32
device: cpu
data: {{source: pairs.jsonl}}
score:
  - {{objective: kind, head: fit}}
  - {{objective: brief, rule: length, unit: words, direction: lower}}
methods:
  dpo-soup: {{}}
preferences: 2
train: {{steps: 1, batch_pairs: 2, rank: 2}}
sampling: {{max_new_tokens: 4}}
evaluate: {{prompts: 4, resamples: 20}}
"""


@pytest.mark.slow
def test_a_judge_is_fitted_measured_and_used_under_the_default_splits_and_seed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("PARETUNE_CACHE", str(tmp_path / "cache"))
    monkeypatch.chdir(tmp_path)
    rows = [
        {
            "prompt": f"moon number {n}",
            "responses": [f"kind good sun {n}", f"bad stone {n} river red"],
            "labels": {"kind": [[0, 1, 1.0]], "brief": [[0, 1, 1.0]]},
        }
        for n in range(140)
    ]
    Path("pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in rows))
    Path("mine.yaml").write_text(CONFIG.format(model=write_model(tmp_path / "model")))
    config = load_config("mine.yaml")
    assert not {"splits", "seed"} & (config.model_fields_set | config.data.model_fields_set), "the defaults"
    page = run(config).read_text(encoding="utf-8")
    record = read_json(tmp_path / "runs/mine/front.json")
    judge = record["scorers"]["kind"]
    assert judge["seen"] == 0 and judge["pairs"] >= 10 and judge["accuracy"]["value"] > 0.9
    assert "accuracy" not in record["scorers"]["brief"]
    assert 'id="judge"' in page and f"0 of {record['num_prompts']}" in page
