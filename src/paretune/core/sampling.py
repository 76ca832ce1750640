"""How text is sampled: length, temperature, top-p, batch size."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Annotated

from annotated_types import Ge, Gt, Le

from paretune.core.bounds import Count, check_bounds


@dataclass(frozen=True)
class Sampling:
    """How responses are drawn.

    Attributes:
        max_new_tokens: Length limit; a response that reaches it without an end of turn is cut (``truncated``).
        temperature: 0 is greedy.
        top_p: Probability that the smallest set of tokens kept must reach; 1 keeps all.
        batch_size: Largest number of rows decoded together; fewer where their keys and values would take too much memory.
    """

    max_new_tokens: Count = 128
    temperature: Annotated[float, Ge(0), Le(100)] = 1.0
    top_p: Annotated[float, Gt(0), Le(1)] = 1.0
    batch_size: Count = 64

    def __post_init__(self) -> None:
        check_bounds(self)

    def identity(self) -> dict[str, float]:
        """Return what decides a response: everything but the number of rows that are decoded together."""
        return {name: value for name, value in vars(self).items() if name != "batch_size"}
