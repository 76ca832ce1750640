"""What the gradients of the objectives of a run had to do with each other, from the records of its steps."""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

from paretune.core.preference import Preference
from paretune.training.loop import Record

PREFIX = "cosine/"


def conflicts(history: Sequence[Record], preference: Preference | None = None) -> dict[str, Any]:
    """Return the facts that are stored with an adapter under ``conflicts``; none where no gradients were kept apart.

    For each pair of objectives: the mean cosine of their gradients over the steps that measured it, the share of these steps at
    which it was negative, and their number.

    Args:
        history: The records of all steps.
        preference: The preference of the run, where it had one.
    """
    found: dict[str, list[float]] = {}
    for record in history:
        for name, value in record.items():
            if name.startswith(PREFIX):
                found.setdefault(name.removeprefix(PREFIX), []).append(value)
    at = str(preference) if preference is not None else ""
    rows = [
        {
            "objectives": pair.split(","),
            "preference": at,
            "cosine": sum(values) / len(values),
            "opposed": sum(value < 0 for value in values) / len(values),
            "steps": len(values),
        }
        for pair, values in sorted(found.items())
    ]
    return {"conflicts": rows} if rows else {}
