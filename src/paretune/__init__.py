"""From preference data over several objectives to one language model that a person steers along its Pareto front.

The names below load on first use, so that ``import paretune`` does not load torch.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from paretune.dataset import ScoredDataset
    from paretune.front import Front
    from paretune.generate import Sampling
    from paretune.policy import Policy, load_policy
    from paretune.preference import Preference
    from paretune.rows import Message, Row

__version__ = "0.1.0"
__all__ = ["Front", "Message", "Policy", "Preference", "Row", "Sampling", "ScoredDataset", "load_policy"]

_HOMES = {
    "Front": "front",
    "Message": "rows",
    "Policy": "policy",
    "Preference": "preference",
    "Row": "rows",
    "Sampling": "generate",
    "ScoredDataset": "dataset",
    "load_policy": "policy",
}


def __getattr__(name: str) -> object:
    if name not in _HOMES:
        raise AttributeError(f"module 'paretune' has no attribute {name!r}")
    return getattr(importlib.import_module(f"paretune.{_HOMES[name]}"), name)
