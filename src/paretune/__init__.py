"""From preference data over several objectives to one language model that a person steers along its Pareto front.

The names below load on first use, so that ``import paretune`` does not load torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from paretune.core.preference import Preference
    from paretune.data.dataset import ScoredDataset
    from paretune.data.rows import Message, Row
    from paretune.fronts.front import Front
    from paretune.generation.generate import Sampling
    from paretune.policies.policy import Policy
    from paretune.policies.saving import load_policy

__version__ = "0.1.0"
__all__ = ["Front", "Message", "Policy", "Preference", "Row", "Sampling", "ScoredDataset", "load_policy"]

_HOMES = {
    "Front": "fronts.front",
    "Message": "data.rows",
    "Policy": "policies.policy",
    "Preference": "core.preference",
    "Row": "data.rows",
    "Sampling": "generation.draw",
    "ScoredDataset": "data.dataset",
    "load_policy": "policies.saving",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'paretune' has no attribute {name!r}")
    return getattr(importlib.import_module(f"paretune.{_HOMES[name]}"), name)
