"""Figures of an engine: totals since the start, and a snapshot of one moment."""

from __future__ import annotations

from collections import deque
from collections.abc import Mapping
from dataclasses import dataclass, field

from paretune.serving.events import Reason

RECENT = 128
"""Iterations over which the recent speed is measured."""
FIRST_GUESS = 2.0
"""Seconds that an answer is assumed to take before one has ended."""
SMOOTHING = 1 / 16
"""Share of the newest answer in the running mean of seconds per answer."""


@dataclass(frozen=True)
class EngineStats:
    """Figures of one moment, and totals since the start.

    Attributes:
        running: Jobs whose tokens are being generated or whose prompts are being read.
        waiting: Jobs in the queue.
        rows: Rows of the next forward; a mixed policy takes several per job.
        cached_tokens: Positions in the KV cache, padding included.
        tokens: Tokens sampled in total.
        prompt_tokens: Tokens of prompts in total.
        reused_tokens: Those of them that were taken over from texts read before.
        tokens_per_second: Recent sampling speed while there was work.
        first_tokens: Number of answers that have their first token.
        first_token_seconds: Sum of their times from submission to the first token.
        ended: Number of answers per reason of their end.
    """

    running: int
    waiting: int
    rows: int
    cached_tokens: int
    tokens: int
    prompt_tokens: int
    reused_tokens: int
    tokens_per_second: float
    first_tokens: int
    first_token_seconds: float
    ended: Mapping[Reason, int]


@dataclass(eq=False)
class Totals:
    """Totals since the start, written by the engine's thread alone.

    Attributes:
        tokens: Tokens sampled.
        prompt_tokens: Tokens of prompts.
        reused_tokens: Those of them that were not read again.
        first_tokens: Answers that have their first token.
        first_token_seconds: Sum of their times from submission to it.
        service_seconds: Running mean of the seconds from the start of an answer to its end.
        ended: Number of answers per reason.
        recent: Seconds and tokens of the latest iterations.
    """

    tokens: int = 0
    prompt_tokens: int = 0
    reused_tokens: int = 0
    first_tokens: int = 0
    first_token_seconds: float = 0.0
    service_seconds: float = FIRST_GUESS
    ended: dict[Reason, int] = field(default_factory=dict)
    recent: deque[tuple[float, int]] = field(default_factory=lambda: deque(maxlen=RECENT))

    def count_first_token(self, seconds: float) -> None:
        """Count an answer that got its first token ``seconds`` after it was submitted."""
        self.first_tokens += 1
        self.first_token_seconds += seconds

    def count_end(self, reason: Reason, seconds: float | None) -> None:
        """Count an answer that ended, ``seconds`` after the engine began it; None where it never began."""
        self.ended[reason] = self.ended.get(reason, 0) + 1
        if seconds is not None:
            self.service_seconds += (seconds - self.service_seconds) * SMOOTHING

    @property
    def tokens_per_second(self) -> float:
        """Recent sampling speed; 0 before the first iteration."""
        recent = list(self.recent)
        seconds = sum(second for second, _ in recent)
        return sum(tokens for _, tokens in recent) / seconds if seconds else 0.0
