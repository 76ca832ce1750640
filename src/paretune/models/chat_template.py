"""The chat template of a model: from conversations to the text that the model reads, with nothing lost or written twice."""

from __future__ import annotations

import inspect
import json
import logging
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from functools import cached_property
from typing import Any

from jinja2 import TemplateError
from jinja2.meta import find_undeclared_variables
from jinja2.sandbox import ImmutableSandboxedEnvironment
from transformers import PreTrainedTokenizerBase

from paretune.core.errors import DataError, ModelError, suggest
from paretune.core.thought import MARKERS, has_thought, without_thought

PLAIN_TEMPLATE = (
    "{% for m in messages %}{{ m['role'] | capitalize }}: {{ m['content'] }}\n\n{% endfor %}"
    "{% if add_generation_prompt %}Assistant:{% endif %}"
)
"""Chat template for base models that come without one. It ends without a space: the space belongs to an answer's first token."""

logger = logging.getLogger(__name__)

_ANSWER = "paretune"
_QUESTION = [{"role": "user", "content": "x"}]
_MARKER = r"<\S+>|\[\S+\]"
_NOW = re.compile(r"\bstrftime_now\b")
_DIRECTIVES = [f"%{letter}" for letter in "aAbBcCdDeFgGhHIjklmMpPrRsSTuUVwWxXyYzZ"] + [
    f"%-{letter}" for letter in "deHIjklmMSUVWy"
]


@dataclass(frozen=True)
class ChatTemplate:
    """A tokenizer's chat template.

    Attributes:
        tokenizer: The tokenizer.
        name: Name of the model, for messages.
        date: The time that a template writes as today's; None for the present.
        options: Arguments of the template, such as ``{"enable_thinking": False}``; every text is written with them.
    """

    tokenizer: PreTrainedTokenizerBase
    name: str
    date: datetime | None = None
    options: Mapping[str, Any] = field(default_factory=dict)

    def check_options(self) -> None:
        """Check that the template knows its arguments.

        Raises:
            ModelError: One of them is no variable of the template, so that it would do nothing, or is set by this library itself.
        """
        known = _variables(str(self.tokenizer.get_chat_template())) if self.options else set()
        free = known - _own_arguments(self.tokenizer)
        for key in self.options:
            if key not in free:
                have = suggest(key, sorted(free)) if free else "it has no arguments"
                raise ModelError(
                    f"chat_template: {key!r} is no argument of the chat template of {self.name}; {have}; leave it out, or rename it"
                )

    @property
    def is_dated(self) -> bool:
        """Whether the template writes the present time into prompts."""
        return _NOW.search(str(self.tokenizer.get_chat_template())) is not None

    def prompt(self, messages: Sequence[Mapping[str, Any]], tools: Sequence[Mapping[str, Any]] = ()) -> str:
        """Return a conversation as text that is ready for the assistant's answer, with the functions that it may call.

        Raises:
            DataError: The template refuses the conversation, or drops, changes or repeats one of its texts.
        """
        try:
            text = self.render(messages, True, tools)
        except DataError as error:
            self._refuse_role(messages, error)
            raise
        counts = self._written(tuple(message["role"] for message in messages))
        flat = _flat(text)
        for message, count in zip(messages, counts, strict=True):
            content = _flat(message["content"])
            forms = [content, json.dumps(content, ensure_ascii=False)[1:-1]]
            # Templates leave the thought of earlier answers out on purpose.
            if message["role"] == "assistant" and has_thought(content):
                forms.append(_flat(without_thought(content)))
            lost = count == 0 or not any(form in flat for form in forms)
            if content and (lost or count > 1):
                what = "does not write" if lost else f"writes {count} times"
                raise DataError(
                    f"the chat template of {self.name} {what} the text of the role {message['role']}, {content[:60]!r}; give the "
                    "model a template that writes every text once (chat_template in its tokenizer_config.json), or put the text "
                    "into another turn"
                )
        return text

    def _refuse_role(self, messages: Sequence[Mapping[str, Any]], error: DataError) -> None:
        """Raise a DataError that names the role for which a template has no place, where it is the role that it refuses."""
        for role in ("system", "tool"):
            if any(message["role"] == role for message in messages):
                turns = [{"role": "user", "content": "x"}]
                place = 0 if role == "system" else 1
                turns.insert(place, {"role": role, "content": "x"})
                try:
                    self.render(turns, True)
                except DataError:
                    content = next(message["content"] for message in messages if message["role"] == role)
                    raise DataError(
                        f"the chat template of {self.name} has no place for the role {role}, which says {content[:60]!r} "
                        f"({error.__cause__}); put the text into a user turn, leave it out, or give the model a template with this "
                        "role (chat_template in its tokenizer_config.json)"
                    ) from error

    @cached_property
    def begun(self) -> str:
        """The thought that a prompt begins, such as ``<think>`` and a line break; empty where it begins none."""
        prompt = self.render(_QUESTION, True)
        for begin, _ in MARKERS:
            at = prompt.rfind(begin)
            if at >= 0 and not prompt[at + len(begin) :].strip():
                return prompt[at:]
        return ""

    @cached_property
    def header(self) -> str:
        """What stands between a prompt and an answer without thought; empty where the answer follows at once.

        It is a thought without content, the end of the one that the prompt began, or the name of a channel.
        """
        prompt, before = self.render(_QUESTION, True), self._answered().rpartition(_ANSWER)[0]
        if before.startswith(prompt):
            between = before[len(prompt) :]
            return between if between.strip() else ""
        end = next((end for begin, end in MARKERS if self.begun.startswith(begin)), "")
        return f"{end}\n\n" if self.begun else ""

    def answer(self, text: str) -> str:
        """Return what a model wrote as a text of its own: without the header, and with the thought that the prompt began."""
        header = self.header.strip()
        if header and text.startswith(header):
            return text[len(header) :].lstrip()
        return self.begun + text

    def written(self, answer: str) -> str:
        """Return the text behind a prompt that is this answer: :meth:`answer` read backwards."""
        begun = self.begun.strip()
        if begun and answer.startswith(begun):
            return answer[len(begun) :].removeprefix("\n")
        return answer if has_thought(answer) else self.header + answer

    @cached_property
    def kept(self) -> frozenset[int]:
        """The special tokens of which the markers of thought are made; a text keeps them."""
        tokens = {
            token.content: number
            for number, token in self.tokenizer.added_tokens_decoder.items()
            if token.special
        }
        ids: set[int] = set()
        for begin, end in MARKERS:
            parts = [text for text in tokens if text in begin + end]
            if any(begin.startswith(part) for part in parts):
                ids.update(tokens[part] for part in parts)
        return frozenset(ids)

    @cached_property
    def lacks_bos(self) -> bool:
        """Whether the tokenizer, and not the template, writes the token of the beginning."""
        text = self.render([{"role": "user", "content": "x"}], False)
        return not text.lstrip().startswith(str(self.tokenizer.bos_token or "").strip())

    @cached_property
    def turn_end(self) -> int:
        """Token that ends an assistant's turn: the first that the template writes behind the answer, or EOS if it writes none.

        Raises:
            ModelError: There is neither, or the template cannot write an answer.
        """
        text = self._answered()
        behind = text.rpartition(_ANSWER)[2].strip()
        ids = self.tokenizer(behind, add_special_tokens=False).input_ids
        if ids and self._is_marker(int(ids[0]), behind):
            return int(ids[0])
        if re.match(_MARKER, behind):
            logger.warning(
                "%s: the chat template ends an answer with %r, which is no single token of the tokenizer; answers end with its EOS "
                "token %r instead",
                self.name,
                behind.split()[0],
                self.tokenizer.eos_token,
            )
        if self.tokenizer.eos_token_id is None:
            raise ModelError(
                f"{self.name}: the tokenizer has neither an end-of-turn token in its template nor an EOS token"
            )
        return int(self.tokenizer.eos_token_id)

    @cached_property
    def opening(self) -> tuple[str, str]:
        """What stands before an answer: the end of the prompt where it is plain text, and the white space that follows it.

        An answer is read behind both, as word pieces depend on what is before them. The first is empty where the prompt ends
        with a token of its own, behind which a text begins anew.
        """
        prompt, text = self.render(_QUESTION, True), self._answered()
        between = text[len(prompt) : text.rfind(_ANSWER)] if text.startswith(prompt) else ""
        space = "" if between.strip() else between
        end = prompt
        for marker in sorted(self._markers, key=len, reverse=True):
            end = end.rpartition(marker)[2]
        end = re.split(r"\n(?=.)", end)[-1]
        return (end if end.strip() or space else ""), space

    @cached_property
    def _at_date(self) -> str:
        """The template behind a macro that writes its date in place of the present: transformers hands no function to a template.

        The environment takes away the line break behind the macro, so that the template begins as it did.
        """
        date = self.date or datetime.now()
        parts = {directive: date.strftime(directive) for directive in _DIRECTIVES}
        written = "".join(f" | replace({a!r}, {b!r})" for a, b in [("%%", "\0"), *parts.items(), ("\0", "%")])
        macro = f"{{% macro strftime_now(format) %}}{{{{ format{written} }}}}{{% endmacro %}}\n"
        return macro + str(self.tokenizer.get_chat_template())

    @cached_property
    def trims(self) -> bool:
        """Whether the template takes away the white space around an answer."""
        return f"\n {_ANSWER}" not in self._answered(f"\n {_ANSWER}")

    def _answered(self, answer: str = _ANSWER) -> str:
        messages = [*_QUESTION, {"role": "assistant", "content": answer}]
        try:
            text = self.render(messages, False)
        except DataError as error:
            raise ModelError(str(error)) from error
        if _ANSWER not in text:
            raise ModelError(
                f"the chat template of {self.name} does not write the text of an answer; give the model a template that writes "
                "contents that are text (chat_template in its tokenizer_config.json)"
            )
        return text

    @cached_property
    def _markers(self) -> frozenset[str]:
        """The texts that the tokenizer reads as one token each wherever they stand."""
        return frozenset(token.content for token in self.tokenizer.added_tokens_decoder.values())

    def _is_marker(self, token: int, behind: str) -> bool:
        """Return whether ``token`` is one for itself, and no word with which the template continues."""
        if token in self.tokenizer.added_tokens_decoder or token in self.tokenizer.all_special_ids:
            return True
        word = behind.split()[0]
        whole = self.tokenizer(word, add_special_tokens=False).input_ids
        return len(whole) == 1 and re.fullmatch(_MARKER, word) is not None

    def _written(self, roles: tuple[str, ...]) -> list[int]:
        """Return how often the template writes each text of a conversation between ``roles``."""
        if roles not in self._probed:
            marks = [f"text{number:04d}paretune" for number in range(len(roles))]
            messages = [{"role": role, "content": mark} for role, mark in zip(roles, marks, strict=True)]
            try:
                text = self.render(messages, True)
            except DataError:  # it looks into the texts: those of the user are all that can be judged
                text = " ".join(marks)
            self._probed[roles] = [text.count(mark) for mark in marks]
        return self._probed[roles]

    @cached_property
    def _probed(self) -> dict[tuple[str, ...], list[int]]:
        """Roles of a conversation -> what :meth:`_written` found."""
        return {}

    def render(
        self, messages: Sequence[Mapping[str, Any]], answering: bool, tools: Sequence[Mapping[str, Any]] = ()
    ) -> str:
        """Return the text of a conversation as the template writes it, unchecked.

        Args:
            messages: The turns.
            answering: Whether the assistant's answer is to follow.
            tools: Functions that it may call, in the form of OpenAI's API.

        Raises:
            DataError: The template refuses the conversation.
        """
        options = {**self.options, **({} if self.date is None else {"chat_template": self._at_date})}
        if tools:
            options["tools"] = list(tools)
        try:
            return str(
                self.tokenizer.apply_chat_template(
                    list(messages), add_generation_prompt=answering, tokenize=False, **options
                )
            )
        except Exception as error:
            raise DataError(
                f"the chat template of {self.name} refuses the prompt {list(messages)!r:.200} ({error}); leave such prompts out, "
                "or give the model a template that writes them (chat_template in its tokenizer_config.json)"
            ) from error


def _variables(template: str) -> set[str]:
    """Return the names that a template takes from outside."""
    environment = ImmutableSandboxedEnvironment(extensions=["jinja2.ext.loopcontrols"])
    text = re.sub(
        r"{%-?\s*(end)?generation\s*-?%}", "", template
    )  # the blocks of transformers, for masks of answers
    try:
        return find_undeclared_variables(environment.parse(text))
    except TemplateError:
        return set()


def _own_arguments(tokenizer: PreTrainedTokenizerBase) -> set[str]:
    """Return the names that transformers or this library gives to a template itself."""
    return {
        "messages", "documents", "tools", "add_generation_prompt", "raise_exception", "strftime_now", "range", "namespace",
        *tokenizer.special_tokens_map, *inspect.signature(tokenizer.apply_chat_template).parameters,
    }  # fmt: skip


def _flat(text: str) -> str:
    """Return ``text`` with one space for all white space: templates may trim texts."""
    return " ".join(text.split())
