"""Principles in words, and the prompts that ask for them: how an untrained policy is told a preference.

With a provider's own wishes the text has the two fields of MetaAlign's meta-prompt (arXiv 2410.14184): what the provider asks for
at every preference, and what the user asks for.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from paretune.core.bounds import Positive, check_bounds
from paretune.core.errors import ConfigError, suggest
from paretune.core.preference import Preference
from paretune.data.rows import Message, Prompt
from paretune.generation.mixing import Nucleus
from paretune.policies.prompts import with_last_turn

PROVIDER, USER = "System Info:", "User Info:"
"""The headings of the two fields."""
SHARES = "Follow these principles. The number before each is its share of 100:"
"""The line before several principles."""
BREAK = "\n\n"
"""The text between what is written into a prompt and what was there."""


@dataclass(frozen=True)
class Principles:
    """How objectives are asked for in words.

    Attributes:
        principles: Objective -> the principle that the model is asked to follow for it, such as ``Be brief.``; an objective without
            one is asked for by its name, as ``Your answer should be NAME.``
        provider: What the provider of the model asks for at every preference; it stands before the principles, under a heading of
            its own.
        place: Where they stand: in the ``system`` message, or at the end of the last ``user`` turn, for a model whose chat template
            has no system message.
    """

    principles: Mapping[str, str] | None = None
    provider: str = ""
    place: Literal["system", "user"] = "system"

    def __post_init__(self) -> None:
        texts = {f"principles.{name}": text for name, text in self.stated.items()}
        for key, text in (texts | {"provider": self.provider}).items():
            if not isinstance(text, str) or (key != "provider" and not text.strip()):
                raise ConfigError(f"{key}: expected a sentence, such as 'Be brief.', got {text!r:.60}")
            if any(line.strip().startswith((PROVIDER, USER)) for line in text.splitlines()):
                raise ConfigError(
                    f"{key}: a line begins with {PROVIDER!r} or {USER!r}, the headings that keep the provider's words apart from "
                    "the user's; word it otherwise"
                )
        if self.provider.strip() and self.place == "user":
            raise ConfigError(
                "place: user puts all words into the user's turn, where the provider's would not be apart from the user's; leave "
                "provider out, or set place: system"
            )

    @property
    def stated(self) -> Mapping[str, str]:
        """The principles that are given."""
        return self.principles or {}

    def check(self, objectives: Sequence[str]) -> None:
        """Check that every principle is that of an objective.

        Raises:
            ConfigError: One is of another name.
        """
        for name in self.stated:
            if name not in objectives:
                raise ConfigError(f"principles: unknown objective {name!r}; {suggest(name, objectives)}")

    def principle(self, objective: str) -> str:
        """Return the sentence that asks for an objective."""
        return self.stated.get(objective, f"Your answer should be {objective.replace('_', ' ')}.")

    def unnamed(self, objectives: Sequence[str]) -> dict[str, str]:
        """Return objective -> the sentence made of its name, for objectives that have no principle."""
        return {name: self.principle(name) for name in objectives if name not in self.stated}

    def longest(self) -> str:
        """Return the longest of what is written into a prompt, as far as the settings tell: for plans."""
        return BREAK.join(filter(None, [self.provider, max(self.stated.values(), key=len, default="")]))

    def words(self, preference: Preference) -> str:
        """Return the principles of a preference: one as it is, several with their shares in whole hundredths.

        Objectives whose share rounds to 0 are left out.
        """
        shares = {name: round(100 * weight) for name, weight in preference.as_dict().items()}
        asked = {name: share for name, share in shares.items() if share > 0}
        if len(asked) == 1:
            return self.principle(*asked)
        return "\n".join([SHARES, *(f"- {share}: {self.principle(name)}" for name, share in asked.items())])

    def prompt(self, prompt: Prompt, words: str) -> Prompt:
        """Return a prompt that asks for ``words`` too; where they are empty, for what the provider asks for alone."""
        text = words
        if self.provider.strip():
            parts = [f"{PROVIDER}\n{self.provider.strip()}", *([f"{USER}\n{words}"] if words else [])]
            text = BREAK.join(parts)
        if not text:
            return prompt
        if self.place == "user":
            return with_last_turn(prompt, lambda turn: f"{turn}{BREAK}{text}")
        first = prompt[0]
        if first.role == "system":
            return (Message("system", f"{first.content}{BREAK}{text}"), *prompt[1:])
        return (Message("system", text), *prompt)


@dataclass(frozen=True)
class Guidance:
    """How far linear alignment goes beyond what the words alone do.

    Attributes:
        strength: k: ``(1 + k) l_with - k l_without``.
        nucleus: The tokens that are chosen among.
    """

    strength: Positive = 3.0
    nucleus: Nucleus = field(default_factory=Nucleus)

    def __post_init__(self) -> None:
        check_bounds(self)
