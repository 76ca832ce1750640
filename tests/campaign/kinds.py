"""The kinds of trials by name; a new one is added here."""

from __future__ import annotations

import random
from collections.abc import Callable, Mapping, Sequence

from campaign import bad_commands, bad_configs, case_files, corruption, full_disk, kills, requests, user_files
from campaign.trial import Trial

Kind = Callable[["int | None", random.Random], Sequence[Trial]]
"""Takes how many trials are wanted (None: all of the campaign) and random numbers, and returns the trials."""

KINDS: Mapping[str, Kind] = {
    kills.KIND: kills.trials,
    corruption.KIND: corruption.trials,
    full_disk.KIND: full_disk.trials,
    user_files.KIND: user_files.trials,
    bad_configs.KIND: bad_configs.trials,
    bad_commands.KIND: bad_commands.trials,
    requests.KIND: requests.trials,
    case_files.KIND: case_files.trials,
}
