"""What tests share: the speed that plans are told, the embedded model, converted once, and the pictures of runs."""

from __future__ import annotations

import sys
from pathlib import Path
from typing import Any

import pytest

from paretune.core.errors import ParetuneError
from paretune.core.files import cache_folder, write_bytes
from paretune.fronts.record import FrontRecord
from paretune.models import loading
from paretune.models.embedded import embedded_gguf
from paretune.planning import calibrate
from paretune.reports.wording import any_faint, has_base
from support import measuring

really_measured = calibrate.measure
"""The product's own measurement, which takes seconds."""
_convert = loading._converted


def share() -> None:
    """Tell all plans of this process one speed, convert the embedded model in the user's own cache alone, and draw the fronts
    of runs once for each form of a record; tests of pictures draw their own."""
    measuring.tell()
    if (measure := sys.modules.get("paretune.runs.measure")) is not None:
        draw_once_for_each_form(measure)
    try:
        kept = cache_folder()
    except ParetuneError:
        return  # this user has no home

    def converted(gguf: Path) -> Path:
        with pytest.MonkeyPatch.context() as patch:
            if gguf == embedded_gguf():
                patch.setenv("PARETUNE_CACHE", str(kept))
            return _convert(gguf)

    vars(loading)["_converted"] = converted


def draw_once_for_each_form(measure: Any) -> None:
    """Let a run take the picture of an earlier run whose record has as many objectives, policies and points of every kind."""
    draw, drawn = measure.write_picture, dict[object, bytes]()

    def write_picture(record: FrontRecord, file: Path) -> None:
        policies = tuple((len(each.points), len(each.extrapolations)) for each in record.policies)
        form = (
            len(record.objectives),
            policies,
            has_base(record),
            len(record.mixture.points),
            any_faint(record),
        )
        if form in drawn:
            write_bytes(file, drawn[form])
        else:
            draw(record, file)
            drawn[form] = file.read_bytes()

    vars(measure)["write_picture"] = write_picture
