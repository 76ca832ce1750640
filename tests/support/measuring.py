"""The speed of the machine that plans of runs are told in tests: to measure it takes seconds, and no test depends on it."""

from __future__ import annotations

import sys

from paretune.planning.devices import Rates

RATES = Rates(1e11, 1e10, 1e10, 1e10, 1e-5, 1e10)


def tell() -> None:
    """Tell all plans of this process :data:`RATES`, if it loaded what measures."""
    if (calibrate := sys.modules.get("paretune.planning.calibrate")) is not None:
        vars(calibrate)["measure"] = lambda *_: RATES
