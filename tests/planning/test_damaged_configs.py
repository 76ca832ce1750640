"""A plan of a model whose config is damaged ends in words; the forecast of a run leaves it to the loading to say what is wrong."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from paretune.core.errors import ModelError
from paretune.planning.lengths import counter
from paretune.planning.shapes import shape_of
from support.world import write_model

DAMAGE: dict[str, object] = {
    "no heads": {"num_attention_heads": 0},
    "heads that do not divide": {"hidden_size": 7},
    "a size that is text": {"hidden_size": "64"},
    "a list": [],
}


@pytest.mark.parametrize("damage", DAMAGE)
def test_a_damaged_config_is_told_and_stops_no_forecast(damage: str, tmp_path: Path) -> None:
    folder = write_model(tmp_path / "model")
    file, change = folder / "config.json", DAMAGE[damage]
    file.write_text(json.dumps(json.loads(file.read_text()) | change if isinstance(change, dict) else change))
    with pytest.raises(ModelError, match=r"unknown model .*Expected one of|states no|its configuration"):
        shape_of(str(folder))
    assert "characters per token" in counter(str(folder)).note
