"""How text is sampled: length, temperature, top-p, batch size."""

from __future__ import annotations

from dataclasses import dataclass

from paretune.core.errors import ConfigError


@dataclass(frozen=True)
class Sampling:
    """How responses are drawn.

    Attributes:
        max_new_tokens: Length limit; a response that reaches it without an end of turn is cut (``truncated``).
        temperature: 0 is greedy.
        top_p: Probability that the smallest set of tokens kept must reach; 1 keeps all.
        batch_size: Number of rows decoded together.
    """

    max_new_tokens: int = 128
    temperature: float = 1.0
    top_p: float = 1.0
    batch_size: int = 64

    def __post_init__(self) -> None:
        if self.max_new_tokens < 1 or self.batch_size < 1:
            raise ConfigError(
                f"max_new_tokens and batch_size must be at least 1, got {self.max_new_tokens} and {self.batch_size}"
            )
        if not 0 <= self.temperature < float("inf") or not 0 < self.top_p <= 1:
            raise ConfigError(
                f"expected temperature >= 0, not infinite, and 0 < top_p <= 1, got {self.temperature} and {self.top_p}"
            )

    def identity(self) -> dict[str, float]:
        """Return what decides a response: everything but the number of rows that are decoded together."""
        return {name: value for name, value in vars(self).items() if name != "batch_size"}
