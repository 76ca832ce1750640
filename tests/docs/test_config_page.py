"""The reference of the config is made from the settings' own docstrings, and the committed page is that of the code."""

from __future__ import annotations

from pathlib import Path

from paretune.runs.keys import schema
from paretune.runs.reference import config_reference
from paretune.scoring.scorer import KINDS

PAGE = Path(__file__).parents[2] / "docs" / "config.md"


def test_the_page_is_that_of_the_settings() -> None:
    """After a change: ``paretune config schema > configs/schema.json; paretune config reference > docs/config.md``."""
    assert PAGE.read_text(encoding="utf-8") == config_reference()


def test_every_key_of_the_schema_is_on_the_page() -> None:
    text, whole = config_reference(), schema()
    parts = [whole, *whole["$defs"].values()]
    keys = {key for part in parts for key in part.get("properties", {})}
    kinds = {"rule", *KINDS, "score", "methods", "method", "objective"}
    assert {key for key in keys if f"| `{key}` |" not in text} <= kinds | set(whole["properties"]) | {"train"}
    assert all(f"## `{name}`" in text for name in ("data", "train", "sampling", "score", "methods"))
