"""The dial for strength at the ends of a policy: the base model at 0, the front's answers at 1."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from benchmarks.fronts import strengths
from paretune.data.score_files import read_scores
from paretune.policies.saving import load_policy
from support.runs_world import small_run, tiny_model


@pytest.mark.slow
def test_at_0_the_base_model_answers_and_at_1_the_policy_as_it_was_measured(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PARETUNE_CACHE", str(tmp_path / "cache"))
    run = small_run(tmp_path / "run", tiny_model(tmp_path / "model"))
    rows = strengths.measured(
        load_policy(run / "policies" / "dpo-soup"), strengths.held_out_of(run, 100), [0.0, 1.0]
    )
    assert [(row.objective, row.strength) for row in rows] == [
        ("short", 0.0), ("short", 1.0), ("good", 0.0), ("good", 1.0)
    ]  # fmt: skip
    scores = read_scores(run).policies()
    soup, base = scores["dpo-soup"], scores["base"]
    for row in rows:
        m = soup.objectives.index(row.objective)
        (end,) = (n for n, w in enumerate(soup.preferences) if w.over(soup.objectives).weights[m] == 1)
        known = base.scores[0] if row.strength == 0 else soup.scores[end]
        assert row.score.value == pytest.approx(known[..., m].mean())
        assert 0 <= row.collapsed <= 1 and row.words > 0
    assert np.ptp([row.score.value for row in rows if row.objective == "short"]) > 0, (
        "something is told apart"
    )

    words = ["strengths", str(run), "dpo-soup", "--strengths", "1", "--prompts", "3"]
    monkeypatch.setattr("sys.argv", words)
    strengths.main()
    told = capsys.readouterr().out
    assert "| dpo-soup | short | 1.00 |" in told and "| dpo-soup | good | 1.00 |" in told
