"""The values that a store keeps: profiles, presets, votes, audit records and conversations, checked when they are created."""

from __future__ import annotations

import json
import math
import re
import unicodedata
from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, Literal, get_args

from paretune.core.errors import StoreError, suggest
from paretune.core.preference import Preference
from paretune.data.rows import Prompt, Row

Winner = Literal["first", "second", "tie"]
Role = Literal["user", "assistant"]
Side = Literal["a", "b", "base"]

LONGEST_NAME = 64
LONGEST_POLICY = 200
LONGEST_TITLE = 200
LONGEST_TEXT = 1_000_000
"""Characters of one turn, and of a system prompt."""
LARGEST_ABOUT = 20_000
"""Characters of what a turn holds beside its text, as JSON."""
DEEPEST_ABOUT = 20
"""Levels of objects and lists in it."""


@dataclass(frozen=True)
class Profile:
    """A person, or several who vote under one name; ``created`` is in UTC.

    Attributes:
        name: Name of the profile.
        created: Time of the first use of the name.
        owner: Name of the API key that made it; None is nobody's, and so everybody's.
        votes: Number of votes, where the profiles are listed.
    """

    name: str
    created: datetime
    owner: str | None = None
    votes: int = 0


@dataclass(frozen=True)
class Preset:
    """A preference that a person keeps under a name, unique per profile and name; ``updated`` is in UTC.

    ``owner`` is the name of the API key that saved it; None is nobody's.
    """

    profile: str
    name: str
    policy: str
    preference: Preference
    updated: datetime
    owner: str | None = None


@dataclass(frozen=True)
class VotedAnswer:
    """One of the two answers of a vote.

    Attributes:
        text: Text of the answer; may be empty, as models sometimes answer nothing.
        preference: Preference at which the policy generated it.
        scores: Objective -> finite score, higher is better; None where it was not scored.
        truncated: Whether it was cut by a token limit.
    """

    text: str
    preference: Preference
    scores: Mapping[str, float] | None = None
    truncated: bool = False

    def __post_init__(self) -> None:
        if not isinstance(self.text, str):
            raise StoreError(f"vote: the answer {self.text!r:.60} is not text; expected a string")
        for name, score in (self.scores or {}).items():
            if isinstance(score, bool) or not isinstance(score, int | float) or not math.isfinite(score):
                raise StoreError(f"vote: score {score!r} of objective {name!r} is not a finite number")
        if self.scores is not None:
            scores = {name: float(score) for name, score in self.scores.items()}
            object.__setattr__(self, "scores", scores)


@dataclass(frozen=True)
class Vote:
    """A person's choice between two answers to a prompt.

    Attributes:
        policy: Name of the policy that answered.
        prompt: The conversation.
        first: One answer.
        second: The other answer.
        winner: The better answer, or ``tie``.
        objective: Objective that was asked about; None is the person's preference as a whole.
        profile: Name of the person; set by the store.
        id: Rising number; set by the store.
        created: Time in UTC; set by the store.
        owner: Name of the API key that cast it; None is nobody's.

    Raises:
        StoreError: The winner is unknown, the policy has no name, or the preferences are over different objectives.
        DataError: Preference data cannot hold the prompt or an answer.
        PreferenceError: The objective is not a valid name.
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
    owner: str | None = None

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
        policy: Name of the policy that answered.
        used: Preference that was served, after snapping to an anchor.
        asked: Preference in the request; None if it gave none.
        model: Model name in the request, such as ``mine@cautious``.
        client: Name of the API key's owner; never the key.
        request_id: Identity of the request.
        strength: How far the answer was steered; 1 is what was trained.
        chosen_by: ``auto`` where a head chose the preference; empty where the request or the server stated it.
        id: Rising number; set by the store.
        created: Time in UTC; set by the store.
    """

    policy: str
    used: Preference
    asked: Preference | None = None
    model: str = ""
    client: str = ""
    request_id: str = ""
    id: int = 0
    created: datetime | None = None
    strength: float = 1.0
    chosen_by: str = ""


@dataclass(frozen=True)
class Turn:
    """One turn of a conversation. A turn with several replies makes the conversation branch.

    Attributes:
        role: Who speaks.
        content: What is said; may be empty.
        parent: Id of the turn that it replies to; None for a first one.
        side: Place of an answer where several were given to one turn.
        policy: Name of the policy that answered.
        preference: Weights by objective at which it answered.
        about: Anything else that a client keeps with it, as JSON.
        id: Rising number; set by the store.
        created: Time in UTC; set by the store.

    Raises:
        StoreError: A value is not one of those expected, or is too long.
    """

    role: Role
    content: str
    parent: int | None = None
    side: Side | None = None
    policy: str | None = None
    preference: Mapping[str, float] | None = None
    about: Mapping[str, Any] = field(default_factory=dict)
    id: int = 0
    created: datetime | None = None

    def __post_init__(self) -> None:
        for name, value, known in (("role", self.role, get_args(Role)), ("side", self.side, get_args(Side))):
            if value not in known and not (name == "side" and value is None):
                raise StoreError(f"turn: unknown {name} {value!r:.60}; {suggest(str(value), known)}")
        if not isinstance(self.content, str) or len(self.content) > LONGEST_TEXT:
            raise StoreError(f"turn: expected a text of at most {LONGEST_TEXT} characters")
        if self.policy is not None:
            check_policy(self.policy)
        check_about(self.about)


@dataclass(frozen=True)
class Conversation:
    """A conversation of a person.

    Attributes:
        id: Rising number.
        title: What it is listed under; that of its first user's turn until it is named.
        profile: Name of the person.
        created: Time in UTC.
        updated: Time of the last change, in UTC.
        system: System prompt; empty where there is none.
        head: Id of the last turn of the branch that is shown; None before the first turn.
        count: Number of turns.
        turns: The turns by their ids; empty where conversations are listed.
        owner: Name of the API key that made it; None is nobody's.
    """

    id: int
    title: str
    profile: str
    created: datetime
    updated: datetime
    system: str = ""
    head: int | None = None
    count: int = 0
    turns: tuple[Turn, ...] = ()
    owner: str | None = None

    @property
    def branch(self) -> tuple[Turn, ...]:
        """The turns from the first to the head."""
        known = {turn.id: turn for turn in self.turns}
        found: list[Turn] = []
        turn = None if self.head is None else known.get(self.head)
        while turn is not None:
            found.append(turn)
            # A reply is younger than what it replies to; in a damaged store this would never end.
            turn = known.get(turn.parent) if turn.parent is not None and turn.parent < turn.id else None
        return tuple(reversed(found))


def check_about(about: object) -> None:
    """Raise a StoreError unless ``about`` can be kept with a turn, and be sent as JSON."""
    if not isinstance(about, Mapping):
        raise StoreError(f"about: expected an object with fields, got {type(about).__name__}")
    level: list[Any] = [about]
    for _ in range(DEEPEST_ABOUT):
        inner = [list(one.values()) if isinstance(one, Mapping) else one for one in level]
        level = [part for parts in inner for part in parts if isinstance(part, Mapping | list)]
        if not level:
            break
    else:
        raise StoreError(f"about: nested too deeply; expected at most {DEEPEST_ABOUT} levels")
    try:
        text = json.dumps(about, allow_nan=False, ensure_ascii=False, separators=(",", ":"))
        text.encode()
    except (ValueError, TypeError) as error:
        raise StoreError("about: expected JSON with finite numbers and whole unicode characters") from error
    if len(text) > LARGEST_ABOUT:
        raise StoreError(f"about: {len(text)} characters of JSON; expected at most {LARGEST_ABOUT}")


def checked_name(name: object, what: str) -> str:
    """Return the name of a profile or preset in Unicode's composed form.

    Raises:
        StoreError: The name is not text, is longer than 64 characters, or has other characters than letters, digits, spaces,
            ``_``, ``-`` and ``.``.
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
    """Raise a StoreError unless ``policy`` is a valid name of a policy."""
    if not isinstance(policy, str) or not policy.isprintable() or not 0 < len(policy) <= LONGEST_POLICY:
        raise StoreError(
            f"policy {policy!r:.80}: expected a printable name of at most {LONGEST_POLICY} characters"
        )
