"""What a store keeps, as values: profiles, presets, votes and uses of preferences; checked when they are made."""

from __future__ import annotations

import math
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Literal, get_args

from paretune.core.errors import StoreError, suggest
from paretune.core.preference import Preference
from paretune.data.rows import Prompt, Row

Winner = Literal["first", "second", "tie"]

LONGEST_NAME = 64
LONGEST_POLICY = 200


@dataclass(frozen=True)
class Profile:
    """A person, or whoever votes under one name; ``created`` is UTC."""

    name: str
    created: datetime


@dataclass(frozen=True)
class Preset:
    """A preference that a person keeps under a name; unique by profile and name."""

    profile: str
    name: str
    policy: str
    preference: Preference
    updated: datetime


@dataclass(frozen=True)
class VotedAnswer:
    """One of the two answers of a vote.

    Attributes:
        text: of the answer; may be empty, as models do answer nothing.
        preference: at which the policy gave it.
        scores: objective -> finite score, higher is better, as far as it was scored.
        truncated: it was cut by a token limit, so that its end is not its author's.
    """

    text: str
    preference: Preference
    scores: Mapping[str, float] | None = None
    truncated: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.text, str):
            raise StoreError(f"vote: the answer {self.text!r:.60} is not text")
        for name, score in (self.scores or {}).items():
            if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
                raise StoreError(f"vote: score {score!r} of objective {name!r} is not a finite number")
        if self.scores is not None:
            scores = {name: float(score) for name, score in self.scores.items()}
            object.__setattr__(self, "scores", scores)


@dataclass(frozen=True)
class Vote:
    """Which of two answers to a prompt a person likes better.

    ``objective`` names what was asked about; None is the person's preference as a whole. The store sets ``id`` (rising),
    ``profile`` and ``created`` (UTC); what it gets there is not looked at.

    Raises:
        StoreError: an unknown winner, a policy without name, preferences over different objectives.
        DataError: a prompt or an answer that preference data could not hold.
        PreferenceError: an objective that cannot be a name.
    """

    policy: str
    prompt: Prompt
    first: VotedAnswer
    second: VotedAnswer
    winner: Winner
    objective: str | None = None
    profile: str = ""
    id: int = 0
    created: datetime | None = None

    def __post_init__(self) -> None:
        if self.winner not in get_args(Winner):
            raise StoreError(
                f"vote: unknown winner {self.winner!r}; {suggest(str(self.winner), get_args(Winner))}"
            )
        check_policy(self.policy)
        if self.objective is not None:
            Preference.uniform([self.objective])
        names = [answer.preference.objectives for answer in (self.first, self.second)]
        if set(names[0]) != set(names[1]):
            raise StoreError(
                f"vote: preferences over {', '.join(names[0])} and over {', '.join(names[1])}; expected one set of objectives"
            )
        texts = tuple(answer.text for answer in (self.first, self.second) if answer.text.strip())
        object.__setattr__(self, "prompt", Row(self.prompt, texts, source="vote").prompt)


@dataclass(frozen=True)
class AuditRecord:
    """A preference that a request was served with.

    Attributes:
        policy: that answered.
        used: the preference in force, after snapping and bounds.
        asked: what the request said; None: it said nothing.
        model: as the request named it, such as ``mine@cautious``.
        client: who asked, as the server knows it; never an API key.
        request_id: of the request.
        id, created: rising, and UTC; set by the store.
    """

    policy: str
    used: Preference
    asked: Preference | None = None
    model: str = ""
    client: str = ""
    request_id: str = ""
    id: int = 0
    created: datetime | None = None


def checked_name(name: object, what: str) -> str:
    """Return the name of a profile or preset in Unicode's composed form.

    Raises:
        StoreError: no text, longer than 64 characters, or of other characters than letters, digits, spaces, ``_``, ``-`` and ``.``.
    """
    text = unicodedata.normalize("NFC", name) if isinstance(name, str) else ""
    if len(text) > LONGEST_NAME:
        raise StoreError(f"{what}: a name of {len(text)} characters; expected at most {LONGEST_NAME}")
    if not re.fullmatch(r"\w([\w .-]*[\w.-])?", text):
        raise StoreError(
            f"{what} {name!r:.80}: expected a name of letters, digits, spaces, '_', '-' and '.' that starts with a letter or digit"
        )
    return text


def check_policy(policy: object) -> None:
    """Refuse what cannot be the name of a policy."""
    if not isinstance(policy, str) or not policy.isprintable() or not 0 < len(policy) <= LONGEST_POLICY:
        raise StoreError(
            f"policy {policy!r:.80}: expected a printable name of at most {LONGEST_POLICY} characters"
        )
