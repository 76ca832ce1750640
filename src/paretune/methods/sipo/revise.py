"""Prompts that ask a chat model to review an answer and to rewrite it, and what is read from a review.

The texts are data (``prompts.yaml``, or a file of the user's); they follow the two steps of SIPO (arXiv 2502.14354),
whose released prompts name two objectives in fixed words.
"""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from importlib.resources import files
from pathlib import Path

from paretune.core.errors import ConfigError, suggest
from paretune.core.files import expanded
from paretune.core.yaml_text import read_yaml
from paretune.data.rows import Message, Prompt

FIELDS = {
    "review": ("question", "answer", "objectives", "count"),
    "rewrite": ("question", "answer", "review", "objectives"),
}
"""The templates, and the fields each must have."""

_FIELD = re.compile(r"\{([A-Za-z_]+)\}")
_SUGGESTION = re.compile(r"^\s*(?:\d{1,2}[.):]|[-*•])\s+(\S.*?)\s*$", re.MULTILINE)


@dataclass(frozen=True)
class Templates:
    """Texts of the user turns that ask for a review and for a rewrite, with fields in braces (see `FIELDS`).

    Raises:
        ConfigError: a template without one of its fields, or with another one; the message names template and field.
    """

    review: str
    rewrite: str

    def __post_init__(self) -> None:
        for name, fields in FIELDS.items():
            used = _FIELD.findall(getattr(self, name))
            for field in fields:
                if field not in used:
                    raise ConfigError(
                        f"the template {name!r} has no field {{{field}}}; write it where it is to stand"
                    )
            for field in used:
                if field not in fields:
                    raise ConfigError(
                        f"the template {name!r} has an unknown field {{{field}}}; {suggest(field, fields)}"
                    )

    @classmethod
    def load(cls, file: str | Path | None = None) -> Templates:
        """Read a YAML file with the keys ``review`` and ``rewrite``; by default the one that comes with the package.

        Raises:
            ConfigError: it cannot be read, is not such a mapping, or lacks a template or a field.
        """
        shipped = Path(str(files("paretune.methods.sipo") / "prompts.yaml"))
        values = read_yaml(expanded(file, "the templates") if file else shipped, "the templates")
        texts = values if isinstance(values, Mapping) else {}
        if set(texts) != set(FIELDS) or not all(isinstance(text, str) for text in texts.values()):
            raise ConfigError(
                f"{file}: expected the texts 'review' and 'rewrite', got {sorted(map(str, texts)) or type(values).__name__}"
            )
        try:
            return cls(**texts)
        except ConfigError as error:
            raise ConfigError(f"{file or 'templates'}: {error}") from error

    def ask_review(self, prompt: Prompt, answer: str, objectives: Sequence[str], count: int) -> Prompt:
        """Return the user turn that asks for ``count`` suggestions how ``answer`` does better on the objectives."""
        values = {"question": question(prompt), "answer": answer, "count": str(count)}
        return _turn(self.review, values | {"objectives": listed(objectives)})

    def ask_rewrite(
        self, prompt: Prompt, answer: str, suggestions: Sequence[str], objectives: Sequence[str]
    ) -> Prompt:
        """Return the user turn that asks to rewrite ``answer`` by the suggestions."""
        review = "\n".join(f"{number}. {text}" for number, text in enumerate(suggestions, 1))
        values = {"question": question(prompt), "answer": answer, "review": review}
        return _turn(self.rewrite, values | {"objectives": listed(objectives)})


def question(prompt: Prompt) -> str:
    """Return a conversation as one text: a single message as it stands, several with the role before each."""
    if len(prompt) == 1:
        return prompt[0].content
    return "\n\n".join(f"{message.role.capitalize()}: {message.content}" for message in prompt)


def listed(names: Sequence[str]) -> str:
    """Return names as a person lists them.

    >>> listed(["warm", "concise", "correct"])
    'warm, concise and correct'
    """
    return " and ".join([", ".join(names[:-1]), names[-1]] if len(names) > 1 else names)


def suggestions(review: str, count: int) -> list[str]:
    """Return the first ``count`` items of a numbered or dashed list; empty when the text holds no such list.

    >>> suggestions("Sure!\\n1. Be brief.\\n2) Name a source.\\n", 3)
    ['Be brief.', 'Name a source.']
    """
    return _SUGGESTION.findall(review)[:count]


def _turn(template: str, values: Mapping[str, str]) -> Prompt:
    """Fill in all fields at once, so that braces in an answer are left as they are."""
    return (Message("user", _FIELD.sub(lambda field: values[field[1]], template).strip()),)
