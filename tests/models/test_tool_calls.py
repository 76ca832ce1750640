"""How chat templates write calls of functions, and how calls are read out of answers that come in pieces."""

from __future__ import annotations

import json
import random
from dataclasses import replace

import pytest
from transformers import AutoTokenizer, PreTrainedTokenizerBase

from paretune.core.errors import ModelError
from paretune.data.rows import Message, ToolCall
from paretune.models.call_reader import CallReader
from paretune.models.chat_template import ChatTemplate
from paretune.models.tool_calls import CallForm, as_turns, call_form
from support.chat_models import BARE, CHATML, HERMES, IN_TAGS, LISTED, NAMED, TOOL_TEMPLATES, write_chat_model

NAMES = ("look", "add")
FUNCTIONS = [
    {
        "type": "function",
        "function": {
            "name": "add",
            "parameters": {"type": "object", "properties": {"a": {"type": "integer"}}},
        },
    }
]


@pytest.fixture(scope="module")
def tokenizer(tmp_path_factory: pytest.TempPathFactory) -> PreTrainedTokenizerBase:
    folder = tmp_path_factory.mktemp("tokens") / "model"
    return AutoTokenizer.from_pretrained(write_chat_model(folder, CHATML))


def form_of(tokenizer: PreTrainedTokenizerBase, template: str) -> CallForm:
    tokenizer.chat_template = template
    return call_form(ChatTemplate(tokenizer, "m"), ["<|im_end|>"])


def read(
    tokenizer: PreTrainedTokenizerBase, form: CallForm, parts: list[str]
) -> tuple[str, list[tuple[str, dict]]]:
    reader = CallReader(tokenizer, form.response_template, NAMES, FUNCTIONS)
    text, calls = "", []
    for more, found in (*map(reader.push, parts), reader.finish()):
        text, calls = text + more, calls + found
    assert reader.found == len(calls) and len({call.id for call in calls}) == len(calls)
    return text, [(call.name, json.loads(call.arguments)) for call in calls]


ONE = ("look", {"where": "Paris", "deep": {"n": [1, "}"]}})
TWO = ("add", {"a": 7})
WRITTEN = {
    "hermes": (
        '<tool_call>\n{"name": "look", "arguments": %s}\n</tool_call>\n'
        '<tool_call>{"arguments": {"a": 7}, "name": "add"}</tool_call>\n'
    ),
    "listed": '[TOOL_CALLS] [{"name": "look", "arguments": %s}, {"name": "add", "arguments": {"a": 7}}]',
    "named": '[TOOL_CALLS]look[ARGS]%s[TOOL_CALLS]add[CALL_ID]abcdefghi[ARGS]{"a": 7}',
    "bare": '{"name": "look", "parameters": %s}; {"name": "add", "parameters": "{\\"a\\": 7}"}',
}


@pytest.mark.parametrize("kind", WRITTEN)
def test_calls_are_read_however_the_text_is_cut(tokenizer: PreTrainedTokenizerBase, kind: str) -> None:
    form = form_of(tokenizer, TOOL_TEMPLATES[kind])
    answer = WRITTEN[kind] % json.dumps(ONE[1])
    before = "" if kind == "bare" else "I look {it} up: <b>\n"
    chance = random.Random(3)
    for size in (1, 2, 5, 1000):
        whole = before + answer
        cuts = sorted(chance.sample(range(len(whole)), min(len(whole) - 1, len(whole) // size)))
        parts = [whole[a:b] for a, b in zip([0, *cuts], [*cuts, len(whole)], strict=True)]
        text, calls = read(tokenizer, form, parts)
        assert calls == [ONE, TWO], (kind, size)
        assert text == before.rstrip() or text == before


def test_arguments_in_tags_get_the_types_of_the_schema(tokenizer: PreTrainedTokenizerBase) -> None:
    form = form_of(tokenizer, IN_TAGS)
    assert not form.is_json
    answer = "<tool_call>\n<function=add>\n<parameter=a>\n7\n</parameter>\n</function>\n</tool_call>"
    assert read(tokenizer, form, list(answer)) == ("", [TWO])


@pytest.mark.parametrize(
    "answer",
    [
        "just text, 1 < 2, and <tool",
        '<tool_call>\n{"name": "look", "arguments": {"where": "Pa',
        '<tool_call>\n{"name": "look", "arguments": {"where": Pa}}\n</tool_call> and on',
        '<tool_call>\n{"name": "delete_all", "arguments": {}}\n</tool_call>',
        '<tool_call>\n{"name": "look", "arguments": [1]}\n</tool_call>',
    ],
)
def test_what_is_no_whole_call_of_an_offered_function_stays_text(
    tokenizer: PreTrainedTokenizerBase, answer: str
) -> None:
    form = form_of(tokenizer, HERMES)
    for parts in ([answer], list(answer)):
        assert read(tokenizer, form, parts) == (answer, [])


def test_json_that_calls_nothing_stays_text_where_calls_are_bare(tokenizer: PreTrainedTokenizerBase) -> None:
    form = form_of(tokenizer, BARE)
    for answer in ('{"name": "Bob", "age": 3}', '{"name": "look"', "[1, 2]", 'text {"name": "look"}'):
        assert read(tokenizer, form, list(answer)) == (answer, [])


def test_a_template_tells_how_it_writes_calls(tokenizer: PreTrainedTokenizerBase) -> None:
    hermes = form_of(tokenizer, HERMES)
    assert (hermes.opening, hermes.middle) == ('<tool_call>\n{"name": "', '", "arguments": ')
    assert (
        hermes.between == '}\n</tool_call>\n<tool_call>\n{"name": "' and hermes.closing == "}\n</tool_call>"
    )
    listed = form_of(tokenizer, LISTED)
    assert (listed.opening, listed.between, listed.closing) == (
        '[TOOL_CALLS][{"name": "',
        '}, {"name": "',
        "}]",
    )
    named = form_of(tokenizer, NAMED)
    assert (named.opening, named.middle, named.between) == ("[TOOL_CALLS]", "[ARGS]", "[TOOL_CALLS]")
    bare = form_of(tokenizer, BARE)
    assert (bare.opening, bare.between, bare.closing) == ('{"name": "', None, "}")
    assert named.markers({"[TOOL_CALLS]": 7, "<s>": 1, "[ARGS]": 8}) == {7, 8}


def test_templates_without_tools_or_with_other_calls_are_refused_by_name(
    tokenizer: PreTrainedTokenizerBase,
) -> None:
    with pytest.raises(ModelError, match=r"the chat template of m has no tools"):
        form_of(tokenizer, CHATML)
    other = HERMES.replace("['arguments'] | tojson", "['arguments'].keys() | list")
    with pytest.raises(ModelError, match=r"writes their calls in a form that is not known"):
        form_of(tokenizer, other)


def test_a_region_that_the_tokenizer_brings_is_used(tokenizer: PreTrainedTokenizerBase) -> None:
    region = {**form_of(tokenizer, HERMES).region, "close": "</tool_call>", "content": "json"}
    region.pop("close_pattern")
    tokenizer.response_template = {"start_anchor": "x", "fields": {"tool_calls": region}}
    try:
        assert form_of(tokenizer, HERMES).region == region
    finally:
        del tokenizer.response_template


def test_a_conversation_with_calls_in_the_form_of_templates() -> None:
    call = ToolCall("call_of_another_server", "add", '{"a": 7}')
    turns = as_turns((Message("assistant", "", (call,)), Message("tool", "7", call_id=call.id)))
    made = turns[0]["tool_calls"][0]
    assert made["function"] == {"name": "add", "arguments": {"a": 7}}
    assert made["id"] == turns[1]["tool_call_id"] and len(made["id"]) == 9 and made["id"].isalnum()
    assert turns[1]["name"] == "add"
    assert (
        as_turns((Message("assistant", "", (replace(call, id="abcdefghi"),)),))[0]["tool_calls"][0]["id"]
        == "abcdefghi"
    )
