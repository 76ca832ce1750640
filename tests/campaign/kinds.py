"""The kinds of trials by name; a new one is added here."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence

from campaign import kills
from campaign.trial import Trial

Kind = Callable[["int | None", random.Random], Sequence[Trial]]
"""Takes how many trials are wanted (None: all of the campaign) and random numbers, and returns the trials."""

KINDS: Mapping[str, Kind] = {
    kills.KIND: kills.trials,
}
