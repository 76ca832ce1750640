"""How many prompts would show what these could not."""

from __future__ import annotations

import math

from paretune.fronts.front import Interval
from paretune.fronts.inference import MOST_PROMPTS
from paretune.reports.wording import number


def prompts_needed(prompts: int, figure: Interval) -> str | None:
    """Return how many prompts would make an interval over ``prompts`` of them exclude 0, if its value is the true one.

    The width of an interval falls with the square root of their number. None is returned for too many to say.
    """
    half, size = (figure.high - figure.low) / 2, abs(figure.value)
    count = prompts * (half / size) ** 2 if size else math.inf
    return rounded(count) if count <= MOST_PROMPTS else None


def rounded(count: float) -> str:
    """Return a number of prompts to two digits, which is as exact as it is.

    >>> rounded(412), rounded(12_345)
    ('410', '12,000')
    """
    return number(float(f"{count:.2g}"), 0)
