"""How a chat template writes calls of functions: found by letting it write two, not by a list of models.

A template writes ``opening NAME middle ARGUMENTS``, further calls behind ``between``, and then ``closing``. From these follow the
grammar that a forced call obeys and, for transformers' parser of responses, the region in which an answer holds a call.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from itertools import takewhile
from typing import TYPE_CHECKING, Any

from paretune.core.errors import DataError, ModelError
from paretune.data.rows import Prompt

if TYPE_CHECKING:
    from paretune.models.chat_template import ChatTemplate

_NAMES, _KEY, _VALUE, _TEXT = (
    ("paretune_first", "paretune_second"),
    "paretune_key",
    "paretune value",
    "paretune",
)
_IDS = ("paretune1", "paretune2")
"""Nine letters and digits, as Mistral's templates demand."""
_ARGUMENTS = re.compile(rf'\{{\s*"{_KEY}"\s*:\s*"{_VALUE}"\s*\}}')
_ID = re.compile(rf',?\s*"(?:id|tool_call_id)"\s*:\s*"(?:{"|".join(_IDS)})"|\[CALL_ID\](?:{"|".join(_IDS)})')
_TOOLS = [
    {
        "type": "function",
        "function": {
            "name": name,
            "description": "Tells a text.",
            "parameters": {
                "type": "object",
                "properties": {_KEY: {"type": "string", "description": "The text."}},
                "required": [_KEY],
            },
        },
    }
    for name in _NAMES
]
_HALF = re.compile(r"(?:<[^<>\s]*|\[[^\[\]\s]*)\Z")
"""The beginning of a marker that two texts share, while its end differs."""
_FUNCTION = {"function": {"name": "{name}", "arguments": "{content}"}}
_OTHER: dict[str, dict[str, Any]] = {
    # Qwen3-Coder, Qwen3.5, Nemotron 3, Step 3.5, Seed-OSS
    r"<(?:\w+:)?tool_call>\s*<function=": {
        "open_pattern": r"\s*<(?:\w+:)?tool_call>\s*<function=(?P<name>[^>\n]+)>",
        "close_pattern": r"</function>\s*</(?:\w+:)?tool_call>",
        "repeats": True,
        "content": "xml-inline",
        "content_args": {"tag_pattern": r"<parameter=(?P<key>[^>\n]+)>\s*(?P<value>.*?)\s*</parameter>"},
        "transform": _FUNCTION,
    },
    # GLM 4
    r"<tool_call>[^<{]+<arg_key>": {
        "open_pattern": r"\s*<tool_call>\s*(?P<name>[^<{\s]+)",
        "close": "</tool_call>",
        "repeats": True,
        "content": "xml-inline",
        "content_args": {
            "tag_pattern": r"<arg_key>\s*(?P<key>.*?)\s*</arg_key>\s*<arg_value>(?P<value>.*?)</arg_value>"
        },
        "transform": _FUNCTION,
    },
    # Gemma 4
    r"<\|tool_call>call:": {
        "open_pattern": r"\s*<\|tool_call>call:(?P<name>\w+)",
        "close": "<tool_call|>",
        "repeats": True,
        "content": "json",
        "content_args": {"unquoted_keys": True, "string_delims": [['<|"|>', '<|"|>']]},
        "transform": _FUNCTION,
    },
}
"""What a call looks like -> its region in an answer, for notations other than JSON."""


@dataclass(frozen=True)
class CallForm:
    """How calls of functions stand in an answer.

    Attributes:
        region: The field ``tool_calls`` of a response template of transformers.
        opening: Text before the name of the first call.
        middle: Text between a name and its arguments, which are JSON.
        between: Text between the arguments of a call and the name of the next; None where an answer holds one call.
        closing: Text behind the arguments of the last call.
        is_json: Whether arguments are written as JSON; only then can a call be forced.
    """

    region: Mapping[str, Any]
    opening: str = ""
    middle: str = ""
    between: str | None = None
    closing: str = ""
    is_json: bool = True

    @property
    def example(self) -> str:
        """The text of one call."""
        return f'{self.opening}{_NAMES[0]}{self.middle}{{"{_KEY}": "{_VALUE}"}}{self.closing}'

    @property
    def response_template(self) -> dict[str, Any]:
        """The response template with which transformers parses an answer: its calls, and all else as content."""
        fields = {"tool_calls": dict(self.region), "content": {"content": "text"}}
        return {"start_anchor": "\0", "fields": fields}

    def markers(self, special: Mapping[str, int]) -> frozenset[int]:
        """Return those special tokens, text -> token, without which a call cannot be told from text."""
        told = json.dumps(dict(self.region), ensure_ascii=False).replace("\\", "")
        told += self.opening + self.middle + (self.between or "") + self.closing
        return frozenset(token for text, token in special.items() if text and text in told)


def as_turns(prompt: Prompt) -> list[dict[str, Any]]:
    """Return a conversation in the form that chat templates read; arguments of calls become objects."""
    names = {call.id: call.name for message in prompt for call in message.calls}
    turns = []
    for message in prompt:
        turn: dict[str, Any] = {"role": message.role, "content": message.content}
        if message.calls:
            turn["tool_calls"] = [
                _call(call.name, json.loads(call.arguments), _short(call.id)) for call in message.calls
            ]
        if message.call_id:
            turn["tool_call_id"] = _short(message.call_id)
            if message.call_id in names:
                turn["name"] = names[message.call_id]
        turns.append(turn)
    return turns


def _short(name: str) -> str:
    """Return an id of nine letters and digits, which every template takes."""
    if re.fullmatch(r"[A-Za-z0-9]{9}", name):
        return name
    return hashlib.sha256(name.encode("utf-8", "surrogatepass")).hexdigest()[:9]


def _call(name: str, arguments: Mapping[str, Any], number: str) -> dict[str, Any]:
    return {"id": number, "type": "function", "function": {"name": name, "arguments": dict(arguments)}}


def call_form(template: ChatTemplate, ends: Sequence[str]) -> CallForm:
    """Return how a template writes calls.

    Args:
        template: The chat template.
        ends: Texts of the tokens that end a turn.

    Raises:
        ModelError: The template does not read the functions that it is given, or its calls have a form that is not known.
    """
    question = [{"role": "user", "content": "x"}]
    reason = f"the chat template of {template.name} has tools, but writes their calls in a form that is not known here"
    try:
        shown = template.render(question, True, _TOOLS)
    except DataError:
        shown = ""
    if not all(name in shown for name in _NAMES):
        raise ModelError(f"the chat template of {template.name} has no tools; leave tools out")
    one = _written(template, ends, 1)
    if one is None:
        raise ModelError(f"{reason}; leave tools out")
    two = _written(template, ends, 2)
    form = _of_json(one, two)
    own = getattr(template.tokenizer, "response_template", None) or {}
    regions = [own.get("fields", {}).get("tool_calls"), form and form.region]
    regions += [region for seen, region in _OTHER.items() if re.search(seen, one)]
    for region in regions:
        if region and _is_read(template, region, one, 1):
            forced = form if form is not None and _is_read(template, region, form.example, 1) else None
            return CallForm(region, is_json=False) if forced is None else replace(forced, region=region)
    raise ModelError(f"{reason}; leave tools out")


def _is_read(template: ChatTemplate, region: Mapping[str, Any], text: str, count: int) -> bool:
    """Return whether the calls of a text that the template wrote are read back from it, and nothing else."""
    from paretune.models.call_reader import CallReader

    try:
        reader = CallReader(template.tokenizer, CallForm(region).response_template, _NAMES, _TOOLS)
    except ValueError:
        return False
    (text, calls), (more, last) = reader.push(text), reader.finish()
    found = [(call.name, json.loads(call.arguments)) for call in [*calls, *last]]
    return not (text + more).strip() and found == [(name, {_KEY: _VALUE}) for name in _NAMES[:count]]


def _written(template: ChatTemplate, ends: Sequence[str], count: int) -> str | None:
    """Return the text of an answer that calls functions; None where the template cannot write one."""
    question = {"role": "user", "content": "x"}
    calls = [_call(name, {_KEY: _VALUE}, number) for name, number in zip(_NAMES, _IDS, strict=True)][:count]
    results = [
        {"role": "tool", "content": "y", "tool_call_id": call["id"], "name": call["function"]["name"]}
        for call in calls
    ]
    try:
        plain = template.render([question, {"role": "assistant", "content": _TEXT}], False, _TOOLS)
    except DataError:
        return None
    for behind in ([], results):
        for content in ("", None):
            asked = {"role": "assistant", "content": content, "tool_calls": calls}
            try:
                text = template.render([question, asked, *behind], False, _TOOLS)
            except DataError:
                continue
            # What precedes an answer that is text precedes one that calls, too.
            same = _same(plain, text)
            text = text[len(_HALF.sub("", same)) :]
            stop = min((at for end in ends if (at := text.find(end)) > 0), default=len(text))
            text = text[:stop]
            if all(name in text for name in _NAMES[:count]):
                return text
    return None


def _of_json(one: str, two: str | None) -> CallForm | None:
    """Return the form of calls whose arguments are JSON, from the texts of one and of two; None where they are not."""
    single = _pieces(one)
    if single is None:
        return None
    (opening, middle), closing = single[0], single[1][0]
    between: str | None = None
    if two is not None:
        double = _pieces(two, 2)
        if double is not None and double[0] == (opening, middle) and double[1][1:] == (middle, closing):
            between = double[1][0]
    region = _region(opening, middle, between, closing)
    return None if region is None else CallForm(region, opening, middle, between, closing)


def _pieces(text: str, count: int = 1) -> tuple[tuple[str, str], tuple[str, ...]] | None:
    """Return the texts before the first name and before its arguments, then those behind; None if a call is not name and JSON."""
    parts = _ARGUMENTS.split(_ID.sub("", text))
    if len(parts) != count + 1:
        return None
    before, name, middle = parts[0].partition(_NAMES[0])
    if not name:
        return None
    if count == 1:
        return (before.lstrip("\n"), middle), (parts[1].rstrip(),)
    between, name, again = parts[1].partition(_NAMES[1])
    return ((before.lstrip("\n"), middle), (between, again, parts[2].rstrip())) if name else None


def _region(opening: str, middle: str, between: str | None, closing: str) -> dict[str, Any] | None:
    """Return the region of an answer that is a call, or all of them where they are one list."""
    if between is None:
        before, behind = opening, closing
    else:  # what each call has, without what stands around all of them
        before = _same(opening[::-1], between[::-1])[::-1]
        behind = _same(closing, between)
    first, last = opening.removesuffix(before), closing.removeprefix(behind)
    key = re.search(
        r'\{\s*(?:"type"\s*:\s*"function"\s*,\s*)?(?:"function"\s*:\s*\{\s*)?"name"\s*:\s*"$', opening
    )
    if key is None:
        return _named(first, before, middle, behind, last)
    mark, end = opening[: key.start()].strip(), closing.strip().lstrip("} \n")
    if mark.endswith("[") and end.startswith("]"):
        return _body(mark[:-1].strip(), end[1:].strip(), repeats=False)
    mark, end = before.rpartition("{")[0].strip(), behind.strip().lstrip("} \n")
    around = (first.strip(), last.strip())
    return _body(mark, end, repeats=True, around=around)


def _body(mark: str, end: str, repeats: bool, around: tuple[str, str] = ("", "")) -> dict[str, Any]:
    """Return a region of JSON behind a mark; without a mark an answer that begins with an object."""
    region: dict[str, Any] = {"content": "text", "repeats": repeats}
    if not mark:
        return {**region, "repeats": False, "open_pattern": r"\A\s*(?:<\|python_tag\|>\s*)?(?=[{\[])"}
    region["open_pattern"] = rf"\s*{_maybe(around[0])}{re.escape(mark)}"
    if end:
        region["close_pattern"] = re.escape(end) + _maybe(around[1])
    elif repeats:
        region["close_pattern"] = rf"(?=\s*{re.escape(mark)})"
    return region


def _named(first: str, before: str, middle: str, behind: str, last: str) -> dict[str, Any] | None:
    """Return the region of a call whose name stands outside of the JSON, between marks."""
    mark, sign, end = before.strip(), middle.strip(), behind.strip()
    if not mark.startswith(("<", "[")) or not sign:
        return None
    name = r"(?P<name>[\w.:-]+?)\s*(?:\[CALL_ID\]\w+)?"
    return {
        "open_pattern": rf"\s*{_maybe(first.strip())}{re.escape(mark)}\s*{name}{re.escape(sign)}",
        "close_pattern": re.escape(end) + _maybe(last.strip()) if end else rf"(?=\s*{re.escape(mark)})",
        "repeats": True,
        "content": "text",
        "transform": {"name": "{name}", "arguments": "{content}"},
    }


def _same(one: str, other: str) -> str:
    """Return what two texts begin with."""
    return "".join(a for a, _ in takewhile(lambda pair: pair[0] == pair[1], zip(one, other, strict=False)))


def _maybe(text: str) -> str:
    """Return the pattern of a text that may be there, with white space around it."""
    return rf"(?:\s*{re.escape(text)}\s*)?" if text else ""
