"""Prompts with the preference that somebody wants for each: labels of weights."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from paretune.core.errors import DataError, PreferenceError
from paretune.core.preference import Preference
from paretune.data.columns import take
from paretune.data.readers import Record, read_records
from paretune.data.rows import Prompt, prompt_from


@dataclass(frozen=True)
class PreferenceLabel:
    """A prompt with the preference that is wanted for it; ``where`` is its origin, for messages."""

    prompt: Prompt
    preference: Preference
    where: str = ""


def read_preference_labels(file: str | Path, objectives: Sequence[str]) -> list[PreferenceLabel]:
    """Read the labels of a data file, a record each, in any format of data.

    A record has ``prompt`` (text or messages) and ``preference``: weights by objective, of which those left out are 0, or the text
    ``concise=0.7,warm=0.3``.

    Raises:
        DataError: A record is no label, or has another objective than ``objectives``; the message names its line.
    """
    labels = [_label(record, where, objectives) for where, record in read_records(file)]
    if not labels:
        raise DataError(f"{file}: no label in the file; expected a prompt and a preference in each record")
    return labels


def _label(record: Record, where: str, objectives: Sequence[str]) -> PreferenceLabel:
    prompt = prompt_from(take(record, "prompt", where), "prompt", where)
    given = take(record, "preference", where)
    try:
        if isinstance(given, str):
            preference = Preference.parse(given, objectives)
        elif isinstance(given, Mapping):
            # A table has every column in every row; an empty cell is an objective left out.
            stated = {str(name): weight for name, weight in given.items() if weight is not None}
            preference = Preference.of(stated, objectives)
        else:
            raise PreferenceError(
                f"preference {given!r:.60}: expected weights by objective, such as {{{objectives[0]!r}: 1}}"
            )
    except PreferenceError as error:
        raise DataError(f"{where}: {error}") from error
    return PreferenceLabel(prompt, preference, where)
