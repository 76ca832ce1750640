"""Sets that are not on this machine: texts of their typical lengths stand for them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from paretune.data.known import KNOWN
from paretune.data.typical import FACTORS, SIZES, is_here, stand_in


def test_factors_keep_the_mean() -> None:
    assert sum(FACTORS) == pytest.approx(len(FACTORS))


@pytest.mark.parametrize("name", sorted(SIZES))
def test_the_texts_have_the_sizes_and_the_objectives_of_the_set(name: str) -> None:
    sizes, dataset = SIZES[name], stand_in(name, 60)
    assert dataset.objectives == tuple(KNOWN[name].objectives) and len(dataset.rows) == 60
    prompts = [len(row.prompt[0].content) for row in dataset.rows]
    responses = [len(text) for row in dataset.rows for text in row.responses]
    assert np.mean(prompts) == pytest.approx(sizes.prompt, rel=0.05)
    assert np.mean(responses) == pytest.approx(sizes.response, rel=0.05)
    assert {len(row.responses) for row in dataset.rows} == {sizes.responses}
    assert len({row.key for row in dataset.rows}) == 60  # each prompt is another, so that splits divide them
    for row in dataset.rows:
        for objective in dataset.objectives:
            assert len(set(row.scores[objective])) > 1


def test_a_set_is_here_where_its_library_keeps_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HF_DATASETS_CACHE", str(tmp_path / "datasets"))
    assert not is_here("ultrafeedback")
    (tmp_path / "datasets/openbmb___ultra_feedback").mkdir(parents=True)
    assert is_here("ultrafeedback") and not is_here("helpsteer2")
    monkeypatch.delenv("HF_DATASETS_CACHE")
    monkeypatch.setattr("huggingface_hub.constants.HF_HOME", str(tmp_path))
    assert is_here("ultrafeedback")
