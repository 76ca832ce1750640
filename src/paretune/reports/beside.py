"""What stands beside a record in the folder of its run and belongs on the page: all measured answers, and how training went."""

from __future__ import annotations

import gzip
import json
import re
import zlib
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from paretune.core.errors import ParetuneError
from paretune.core.files import REMAKE, read_json
from paretune.fronts.record import FrontRecord, Point

FOLDER = "data"
ANSWERS_FILE = "answers.jsonl.gz"
"""The folder of a run with its data, and the file there with all measured answers, a line of JSON each."""
HISTORY = "history.json"
"""The file in the folder of a stage of training with one record for each step."""
_SAFE = re.compile(r"[\w=,+-][\w=,+.-]*(/[\w=,+-][\w=,+.-]*)*")
"""The names of stages that are folders below the run's."""


@dataclass(frozen=True)
class Told:
    """What a policy answered at a preference.

    Attributes:
        texts: An answer to each prompt.
        scores: ``[M]`` scores of each answer; None where they were not kept.
    """

    texts: tuple[str, ...]
    scores: tuple[tuple[float, ...], ...] | None


@dataclass(frozen=True)
class Answers:
    """The answers of a record.

    Attributes:
        prompts: The texts of the held-out prompts that were answered.
        base: What the base model answered.
        points: (number of the policy, number of its point) -> what it answered there.
    """

    prompts: tuple[str, ...]
    base: Told
    points: Mapping[tuple[int, int], Told]

    @property
    def bytes(self) -> int:
        """The size of all texts; one that several points share counts once."""
        every = {text for told in (self.base, *self.points.values()) for text in told.texts} | set(
            self.prompts
        )
        return sum(len(text.encode()) for text in every)

    def first(self, count: int) -> Answers:
        """Return those to the first prompts alone."""

        def cut(told: Told) -> Told:
            return Told(told.texts[:count], told.scores and told.scores[:count])

        return Answers(
            self.prompts[:count], cut(self.base), {key: cut(told) for key, told in self.points.items()}
        )


@dataclass(frozen=True)
class Beside:
    """What was found beside a record.

    Attributes:
        answers: All answers of the run, or those of the record.
        histories: Stage of training -> its records, one for each step.
    """

    answers: Answers
    histories: Mapping[str, list[dict[str, float]]] = field(default_factory=dict)


def read_beside(record: FrontRecord, folder: Path) -> Beside:
    """Return what a run's folder has beside its record; of a folder with a record alone, the record's own answers.

    Raises:
        ParetuneError: A file is damaged; it is named.
    """
    stages = [name for name in dict.fromkeys(s.name for s in record.stages) if _SAFE.fullmatch(name)]
    histories = {
        stage: read_json(folder / stage / HISTORY, list[dict[str, Any]])
        for stage in stages
        if (folder / stage / HISTORY).is_file()
    }
    file = folder / FOLDER / ANSWERS_FILE
    found = _read(record, file) if file.is_file() else None
    return Beside(found or _of_record(record), histories)


def _of_record(record: FrontRecord) -> Answers:
    def told(point: Point) -> Told:
        count = len(record.prompts)
        texts = (*point.responses, *[""] * count)[:count]
        return Told(texts, point.response_scores[:count] if len(point.response_scores) >= count else None)

    points = {
        (i, n): told(point)
        for i, policy in enumerate(record.policies)
        for n, point in enumerate(policy.points)
    }
    return Answers(record.prompts, told(record.base), points)


Key = tuple[str, tuple[float, ...], str]
"""A policy, the weights of a preference, and a prompt."""


def _read(record: FrontRecord, file: Path) -> Answers | None:
    """Return the answers of a run's file; None where they are not those of the record, such as after another front."""
    found: dict[Key, tuple[str, tuple[float, ...]]] = {}
    texts: dict[str, str] = {}
    try:
        with gzip.open(file, "rt", encoding="utf-8") as lines:
            for line in _first_samples(map(json.loads, lines)):
                texts.setdefault(line["prompt_id"], line["prompt"][-1]["content"])
                key = (line["policy"], _key(record, line["preference"]), line["prompt_id"])
                scores = tuple(float(line["scores"][objective]) for objective in record.objectives)
                found[key] = (line["answer"], scores)
    except (
        OSError,
        EOFError,
        zlib.error,
        ValueError,
        KeyError,
        TypeError,
        IndexError,
        AttributeError,
    ) as error:
        raise ParetuneError(f"{file}: not as expected ({error}); {REMAKE}") from error

    def told(name: str, point: Point) -> Told:
        lines = [found[name, _key(record, point.preference), prompt] for prompt in texts]
        return Told(tuple(text for text, _ in lines), tuple(scores for _, scores in lines))

    try:
        points = {
            (i, n): told(policy.name, point)
            for i, policy in enumerate(record.policies)
            for n, point in enumerate(policy.points)
        }
        return Answers(tuple(texts.values()), told("base", record.base), points)
    except KeyError:
        return None


def _first_samples(lines: Iterable[Mapping[str, Any]]) -> Iterable[Mapping[str, Any]]:
    return (line for line in lines if line["sample"] == 0)


def _key(record: FrontRecord, preference: Mapping[str, float]) -> tuple[float, ...]:
    return tuple(round(float(preference[objective]), 9) for objective in record.objectives)
