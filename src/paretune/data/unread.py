"""What the reading of a source leaves out: columns that no form reads, and records that make no pair.

A column that looks as if it held a response, a score, a label or a part of the prompt is an error: the rows would be less than
what was given. Any other is counted, and `data inspect`, the log and the report name it.
"""

from __future__ import annotations

import re
from collections import Counter
from collections.abc import Callable, Collection, Sequence
from numbers import Real

from paretune.core.errors import DataError
from paretune.data.columns import Fields, is_empty


def _words(text: str) -> frozenset[str]:
    return frozenset(text.split())


RESPONSE = _words(
    "chosen rejected response responses answer answers completion completions output outputs generation generations reply replies "
    "candidate candidates winner loser accepted messages"
)
LABEL = _words(
    "winner label labels tie ties preference preferred better safer judgment judgement verdict vote votes kto"
)
SCORE = _words(
    "score scores rating ratings reward rewards rank ranks ranking grade likert stars weight weights margin margins helpful "
    "helpfulness harmless harmlessness honest honesty truthful truthfulness correct correctness coherence complexity verbosity "
    "safe safety toxicity quality fluency relevance factuality concise conciseness following"
)
PROMPT = _words(
    "prompt question query instruction instructions input inputs passage document context history conversation conversations "
    "dialogue dialog turns thread system persona"
)
MEDIA = _words("tools functions images image videos video audios audio chat_template_kwargs")
ABOUT = _words(
    "model models id ids index idx source name type length len tokens token num count url time timestamp date lang language hash "
    "uid uuid category subset fingerprint labelling raw original rationale reasoning metadata meta annotator policy generator "
    "author version task domain topic split key title link file path format status reason reasons explanation comment"
)
"""Words of names that tell about a text rather than hold it: ``chosen_model``, ``prompt_id``."""


def looks_like(column: str, value: object) -> str:
    """Return what an unread column seems to hold, such as ``a score``; "" for anything else."""
    if column.strip().lower() in MEDIA:
        return "a part of the prompt that is not text"
    words = set(re.findall(r"[a-z]+", re.sub(r"(?<=[a-z])(?=[A-Z])", " ", column).lower()))
    texts = isinstance(value, str | list | dict)
    if words & LABEL and not (words & ABOUT and texts):
        return "a label"
    if words & ABOUT:
        return ""
    if texts and words & RESPONSE and not _numeric(value):
        return "a response"
    if words & SCORE and _numeric(value):
        return "a score"
    if texts and words & PROMPT and not _numeric(value):
        return "a part of the prompt"
    return ""


def _numeric(value: object) -> bool:
    if isinstance(value, Real):
        return True
    if isinstance(value, list | dict):
        items = list(value.values()) if isinstance(value, dict) else value
        return bool(items) and all(
            item is None or (not isinstance(item, list | dict) and _numeric(item)) for item in items
        )
    return isinstance(value, str) and re.fullmatch(r"\s*[-+]?(\d+\.?\d*|\.\d+)\s*", value) is not None


class Left:
    """Counts of what one source leaves out.

    Attributes:
        known: Names of the columns that the form could read, for a column that is spelt otherwise.
        ignored: Columns that the user leaves out knowingly.
    """

    def __init__(self, known: Sequence[str] = (), ignored: Collection[str] = ()) -> None:
        self.known, self.ignored = known, frozenset(ignored)
        self._unread: Counter[str] = Counter()
        self._facts: Counter[str] = Counter()
        self._first: dict[str, str] = {}

    def columns(self, fields: Fields, cure: Callable[[], str] | None) -> None:
        """Count the columns of a record that were not read.

        Without ``cure`` all of them may be left out, as by a column map, which names what is wanted.

        Raises:
            DataError: A column seems to hold what the rows need; ``cure`` ends the message.
        """
        for column, value in fields.record.items():
            if column in fields.read or is_empty(value):
                continue
            if column in fields.inside:
                self._inside(column, value, fields)
                continue
            what = looks_like(column, value) if cure and column not in self.ignored else ""
            if what and cure:
                likely = column.strip().lower()
                near = f"did you mean {likely!r}? " if likely != column and likely in self.known else ""
                raise DataError(
                    f"{fields.where}: column {column!r} is not read, and looks like {what}: {value!r:.40}; {near}{cure()}, or "
                    f"leave it out with ignore: [{column}]"
                )
            self._unread[column] += 1
            self._first.setdefault(column, fields.where)

    def _inside(self, column: str, value: object, fields: Fields) -> None:
        """Count the parts of a column that were not read, where others were."""
        for key, inner in value.items() if isinstance(value, dict) else ():
            place = f"{column}.{key}"
            read = any(f"{path}.".startswith(f"{place}.") for path in fields.inside[column])
            if not read and not is_empty(inner):
                self._unread[place] += 1
                self._first.setdefault(place, fields.where)

    def fact(self, what: str, where: str) -> None:
        """Count a record of which ``what`` is true, a clause."""
        self._facts[what] += 1
        self._first.setdefault(what, where)

    def notes(self) -> tuple[str, ...]:
        """Return a sentence for each thing that was counted."""
        unread = (
            f"column {column!r} is not read ({count} {_records(count)}, first at {self._first[column]})"
            for column, count in self._unread.items()
        )
        facts = (
            f"{count} {_records(count)}: {what} (first at {self._first[what]})"
            for what, count in self._facts.items()
        )
        return (*unread, *facts)


def _records(count: int) -> str:
    return "record" if count == 1 else "records"
