"""How much one API key may have at once and per minute, so that no key takes the server from the others."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable

from paretune.serving.api_errors import ApiError
from paretune.serving.callers import Caller

MINUTE = 60.0


class CallerLimits:
    """Running answers and recent requests of each caller. Where no key is needed, all callers are one.

    Attributes:
        rate: Requests a minute of a key: a minute's at once, then one whenever there is room again; None for any.
        share: Largest number of answers of a key that run or wait.
    """

    def __init__(
        self, rate: float | None, share: int | None, places: int, clock: Callable[[], float] = time.monotonic
    ) -> None:
        """Keep the limits; without ``share``, each of several keys has half of the ``places``."""
        self.rate, self.share = rate, share
        self._half = max(1, places // 2)
        self._clock = clock
        self._answers: Counter[str] = Counter()
        self._spent: dict[
            str, tuple[float, float]
        ] = {}  # requests that count still, and when they were counted

    def check(self, caller: Caller, answers: int) -> None:
        """Check that a request for a number of answers has room, and count nothing.

        Raises:
            ApiError: 429; the rate or the share is used up.
        """
        share = self.share or (self._half if caller.has_peers else None)
        held = self._answers[caller.name]
        if share is not None and held and held + answers > share:
            raise ApiError(
                429,
                f"{held} answers of this API key are running or waiting, and it may have {share} at once; wait for some to end",
                "share_used_up",
                retry_after=2,
            )
        self._spending(caller)

    def take(self, caller: Caller, answers: int) -> None:
        """Count a request for a number of answers.

        Raises:
            ApiError: 429; the rate or the share is used up. Nothing was counted.
        """
        self.check(caller, answers)
        self.take_rate(caller)
        self._answers[caller.name] += answers

    def take_rate(self, caller: Caller) -> None:
        """Count a request.

        Raises:
            ApiError: 429; the rate is used up.
        """
        if self.rate is not None:
            self._spent[caller.name] = self._spending(caller)

    def _spending(self, caller: Caller) -> tuple[float, float]:
        """Return the requests that count with one more, and the time now.

        Raises:
            ApiError: 429; the rate is used up.
        """
        now = self._clock()
        if self.rate is None:
            return 0.0, now
        spent, then = self._spent.get(caller.name, (0.0, now))
        spent = max(0.0, spent - (now - then) * self.rate / MINUTE)
        if spent + 1 > max(1.0, self.rate):
            wait = (spent + 1 - max(1.0, self.rate)) * MINUTE / self.rate
            raise ApiError(
                429,
                f"this API key may send {self.rate:g} requests a minute; send the next in {wait:.0f} s",
                "rate_used_up",
                retry_after=wait,
            )
        return spent + 1, now

    def release(self, caller: Caller, answers: int) -> None:
        """Count answers as over."""
        self._answers[caller.name] -= answers
        if not self._answers[caller.name]:
            del self._answers[caller.name]
