"""The prompt of a record: from one column or several, with what stands before it, or as the common beginning of two dialogues."""

from __future__ import annotations

from paretune.core.errors import DataError
from paretune.data.columns import Fields, messages_of, parse_dialogue, parsed_cell, text_of, texts_or_messages
from paretune.data.rows import Message, Prompt

ASKED = ("prompt", "instruction", "question", "query", "input")
"""Columns that may hold the last thing the user said, or all messages up to it."""
TALKS = ("messages", "conversations", "conversation", "context_messages")
"""Columns that hold messages."""
SYSTEMS = ("system", "system_prompt")


def prompt_of(fields: Fields, talks: tuple[Prompt, ...] = ()) -> Prompt | None:
    """Return the prompt that the columns of a record hold, with its system message and earlier turns; None where none does.

    ``talks`` are dialogues that are read already: a column that repeats one of them is not a prompt.
    """
    prompt: Prompt | None = None
    column = next((name for name in ASKED if fields.get(name) is not None), None)
    if column is not None:
        said = texts_or_messages(fields.take(column), column, fields.where)
        prompt = (Message("user", said),) if isinstance(said, str) else said
        more = fields.optional_text("input") if column == "instruction" else ""
        if more:
            prompt = (Message("user", f"{prompt[-1].content}\n{more}"),)
    else:
        for name in TALKS:
            if fields.record.get(name) and name not in fields.read:
                talk = messages_of(fields.record[name], name, fields.where)
                if talk not in talks:
                    fields.read.add(name)
                    prompt = talk
                break
    if prompt is None:
        if "prompt" in fields.record and not talks:
            raise DataError(f"{fields.where}: column 'prompt': empty prompt; expected text or messages")
        return None
    return with_earlier(fields, prompt)


def with_earlier(
    fields: Fields, prompt: Prompt, history: str = "history", systems: tuple[str, ...] = SYSTEMS
) -> Prompt:
    """Return the prompt after the turns of the column ``history`` and the system message of one of ``systems``."""
    return _with_system(fields, _with_history(fields, prompt, history), systems)


def _with_history(fields: Fields, prompt: Prompt, column: str) -> Prompt:
    """Put the turns of a column, a list of [question, answer] or of messages, before the prompt."""
    value = parsed_cell(fields.get(column), fields.where) if column else None
    if value is None:
        return prompt
    expected = f"{fields.where}: column {column!r}: expected a list of [question, answer], got {value!r:.60}"
    if not isinstance(value, list):
        raise DataError(expected)
    if isinstance(value[0], dict):
        return (*messages_of(value, column, fields.where), *prompt)
    turns: list[Message] = []
    for number, turn in enumerate(value):
        if not isinstance(turn, list) or len(turn) != 2:
            raise DataError(expected)
        texts = [text_of({f"{column}[{number}]": text}, f"{column}[{number}]", fields.where) for text in turn]
        turns += [Message("user", texts[0]), Message("assistant", texts[1])]
    return (*turns, *prompt)


def _with_system(fields: Fields, prompt: Prompt, columns: tuple[str, ...]) -> Prompt:
    for name in columns:
        text = fields.optional_text(name) if name else ""
        if not text:
            continue
        if not prompt or prompt[0].role != "system":
            prompt = (Message("system", text), *prompt)
        elif prompt[0].content != text:
            raise DataError(
                f"{fields.where}: column {name!r}: the prompt has another system message; keep one of them"
            )
    return prompt


def as_dialogue(text: str) -> Prompt:
    """Return the turns of a text that is a dialogue and ends with the assistant, else ()."""
    turns = parse_dialogue(text)
    return turns if len(turns) > 1 and turns[-1].role == "assistant" else ()


def ends_with_answer(fields: Fields, column: str) -> tuple[Prompt, str]:
    """Return the prompt and the answer of a column with a dialogue."""
    messages = messages_of(fields.take(column), column, fields.where)
    if len(messages) < 2 or messages[-1].role != "assistant":
        raise DataError(
            f"{fields.where}: column {column!r}: expected a prompt and the assistant's answer last"
        )
    before = messages[:-1]
    given = prompt_of(fields, (messages,))
    if given is not None:
        return same_beginning(given, before, column, fields.where), messages[-1].content
    return with_earlier(fields, before), messages[-1].content


def parted(
    chosen: Prompt, rejected: Prompt, columns: tuple[str, str], where: str
) -> tuple[Prompt, tuple[str, str]]:
    """Return the common beginning of two dialogues, and the answer that ends each."""
    first, second = columns
    for talk, column in ((chosen, first), (rejected, second)):
        if talk[-1].role != "assistant":
            raise DataError(
                f"{where}: column {column!r}: expected text or one assistant message, or a dialogue that ends with one; the last "
                f"message is of the role {talk[-1].role!r}"
            )
    if chosen[:-1] != rejected[:-1]:
        raise DataError(
            f"{where}: columns {first!r} and {second!r}: the dialogues part before the last answer; only the last one may differ"
        )
    return chosen[:-1], (chosen[-1].content, rejected[-1].content)


def same_beginning(given: Prompt | None, before: Prompt, column: str, where: str) -> Prompt:
    """Return the prompt of a record that has dialogues too, which begin with it.

    ``given`` is the whole prompt, or one message of the user that is in it, with or without the system message.
    """
    if given is None:
        return before
    if before[0].role == "assistant":
        return (*given, *before)  # the responses go on after a first answer that both have
    system = given[:1] if given[0].role == "system" else ()
    asked = given[len(system) :]
    if system and before[0].role != "system":
        before = (*system, *before)
    if system and before[0] != system[0]:
        raise DataError(
            f"{where}: the prompt has another system message than column {column!r}; keep one of them"
        )
    talk = before[1:] if before[0].role == "system" else before
    folded = [" ".join(message.content.split()) for message in asked]
    said = [" ".join(message.content.split()) for message in talk]
    if folded in (said, said[:1], said[-1:]):
        return before
    raise DataError(
        f"{where}: column 'prompt' is not the beginning of the dialogue in column {column!r}, which has "
        f"{before[-1].content!r:.40}; remove one of the two, or make them agree"
    )
