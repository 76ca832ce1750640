"""The speed of this machine, measured once for all tests and not for each with a cache of its own: plans of runs begin with it."""

from __future__ import annotations

import json
import os
import sys
from dataclasses import asdict
from pathlib import Path

FOLDER = "PARETUNE_TESTS_RATES"
"""The variable of the environment that names the folder of what was measured."""


def keep() -> None:
    """Have this process measure only what no process of the tests has measured, if it loaded what measures."""
    calibrate, folder = sys.modules.get("paretune.planning.calibrate"), os.environ.get(FOLDER)
    if calibrate is None or not folder or calibrate.measure.__name__ == "kept":
        return
    measure, rates = calibrate.measure, calibrate.Rates

    def kept(device: object, kind: object) -> object:
        file = Path(folder) / f"{device}-{kind}.json"
        if not file.is_file():
            made = file.with_suffix(f".{os.getpid()}")
            made.write_text(json.dumps(asdict(measure(device, kind))))
            made.replace(file)
        return rates(**json.loads(file.read_text()))

    vars(calibrate)["measure"] = kept
