"""Calls of functions over HTTP, on tiny random models whose chat templates have tools."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal

import httpx
import openai
import pytest
from pydantic import BaseModel, Field

from paretune.core.preference import Preference, preference_grid
from paretune.core.sampling import Sampling
from paretune.core.tools import Tools
from paretune.data.rows import Message, ToolCall
from paretune.generation.structure import form_of
from paretune.models.language_model import LanguageModel, load
from paretune.policies.export import export_grid
from paretune.policies.policy import Policy
from paretune.serving.config import ServeConfig
from paretune.serving.engine.engine import Engine
from paretune.serving.events import End, Job, Piece
from paretune.serving.upstream import Upstream
from support.adapters import random_adapter
from support.chat_models import TOOL_TEMPLATES, write_chat_model
from support.serve_world import live
from support.served_run import client_of, service_of
from support.studio_world import write_run

pytest.importorskip("llguidance")

MARKS = ("<|im_start|>", "<|im_end|>", "[TOOL_CALLS]", "[ARGS]")
TOOLS: list[dict[str, Any]] = [
    {
        "type": "function",
        "function": {
            "name": "paint",
            "description": "Paint a thing.",
            "parameters": {
                "$defs": {"Colour": {"enum": ["red", "blue"]}},
                "type": "object",
                "properties": {
                    "colour": {"$ref": "#/$defs/Colour"},
                    "coats": {"type": "integer", "minimum": 0, "maximum": 9},
                },
                "required": ["colour", "coats"],
                "additionalProperties": False,
            },
        },
    },
    {"type": "function", "function": {"name": "wait"}},
]
CHAT: dict[str, Any] = {
    "model": "soup",
    "messages": [{"role": "user", "content": "red"}],
    "max_tokens": 90,
    "temperature": 1.0,
}
NAMED = {"type": "function", "function": {"name": "paint"}}


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Callable[[str], LanguageModel]:
    """Return the tiny model of a form of calls."""

    def model(kind: str) -> LanguageModel:
        folder = tmp_path_factory.mktemp(kind) / "model"
        write_chat_model(
            folder,
            TOOL_TEMPLATES[kind],
            eos=MARKS[1],
            added=MARKS,
            special=True,
            max_position_embeddings=1200,
        )
        return load(str(folder), "float32", "cpu")

    return model


@pytest.fixture(scope="module")
def run(made: Callable[[str], LanguageModel], tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("run"), made("hermes"), 2)


@pytest.fixture(scope="module")
def address(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with live(service_of(run, tmp_path_factory.mktemp("store"), max_prompt_tokens=1000)) as found:
        yield found


def chat(address: str, **body: object) -> httpx.Response:
    return httpx.post(f"{address}/v1/chat/completions", json={**CHAT, **body}, timeout=60)


def check(arguments: str) -> None:
    found = json.loads(arguments)
    assert (
        set(found) == {"colour", "coats"} and found["colour"] in ("red", "blue") and 0 <= found["coats"] <= 9
    )


@pytest.mark.slow
def test_a_named_function_is_called_with_arguments_that_fit(address: str) -> None:
    answer = client_of(address).chat.completions.create(**CHAT, tools=TOOLS, tool_choice=NAMED, n=2, seed=1)
    for choice in answer.choices:
        assert choice.finish_reason == "tool_calls" and choice.message.content is None
        (call,) = choice.message.tool_calls
        assert call.type == "function" and call.function.name == "paint" and call.id
        for each in choice.message.tool_calls:
            check(each.function.arguments)
    assert answer.usage is not None and answer.usage.completion_tokens > 20
    assert answer.usage.prompt_tokens > 100, "the functions are in the prompt"


def test_a_stream_says_the_same_as_a_whole_answer(address: str) -> None:
    asked = {**CHAT, "tools": TOOLS, "tool_choice": "required", "seed": 3, "parallel_tool_calls": False}
    client = client_of(address)
    whole = client.chat.completions.create(**asked)
    (wanted,) = whole.choices[0].message.tool_calls or ()
    calls: dict[int, list[Any]] = {}
    reasons = []
    stream = client.chat.completions.create(**asked, stream=True, stream_options={"include_usage": True})
    for chunk in stream:
        for choice in chunk.choices:
            reasons += [choice.finish_reason] if choice.finish_reason else []
            for delta in choice.delta.tool_calls or ():
                calls.setdefault(delta.index, []).append(delta)
        usage = chunk.usage
    assert reasons == ["tool_calls"] and list(calls) == [0]
    first = calls[0][0]
    assert first.id and first.type == "function" and first.function.name == wanted.function.name
    assert "".join(delta.function.arguments or "" for delta in calls[0]) == wanted.function.arguments
    assert (
        usage is not None
        and whole.usage is not None
        and usage.completion_tokens == whole.usage.completion_tokens
    )


def test_results_go_back_and_the_answer_may_be_text(address: str) -> None:
    client = client_of(address)
    message = (
        client.chat.completions.create(**CHAT, tools=TOOLS, tool_choice=NAMED, seed=1).choices[0].message
    )
    assert message.tool_calls
    result = [
        {"role": "tool", "tool_call_id": call.id, "content": '{"done": true}'} for call in message.tool_calls
    ]
    again = client.chat.completions.create(
        **{**CHAT, "messages": [*CHAT["messages"], message, *result], "max_tokens": 5}, tools=TOOLS, seed=1
    )
    assert (
        again.choices[0].finish_reason in ("length", "stop") and again.choices[0].message.tool_calls is None
    )


@pytest.mark.slow
def test_none_shows_no_functions_and_changes_nothing(address: str) -> None:
    plain, none = (
        chat(address, seed=4, **more).json() for more in ({}, {"tools": TOOLS, "tool_choice": "none"})
    )
    assert plain["choices"] == none["choices"]
    cached = [answer["usage"].pop("prompt_tokens_details")["cached_tokens"] for answer in (plain, none)]
    assert plain["usage"] == none["usage"]
    assert cached == [0, plain["usage"]["prompt_tokens"] - 1], (
        "the same prompt is not read again, but for its last token"
    )


@pytest.mark.parametrize("kind", [kind for kind in TOOL_TEMPLATES if kind not in ("hermes", "tags")])
def test_calls_in_every_form_are_forced_and_read(made: Callable[[str], LanguageModel], kind: str) -> None:
    lm = made(kind)
    policy = Policy.soup("soup", lm, ("a", "b"), [random_adapter(lm, seed) for seed in range(2)])
    tools = Tools(tuple(TOOLS), ("paint",), must=True, parallel=False)
    job = Job(
        "soup", (Message("user", "red"),), Preference.uniform(("a", "b")), Sampling(160), seed=5, tools=tools
    )
    with Engine({"soup": policy}) as engine:
        events = list(engine.submit(job))
    calls = [call for event in events if isinstance(event, Piece) for call in event.calls]
    assert calls and not "".join(event.text for event in events if isinstance(event, Piece)).strip()
    for number, call in enumerate(calls):
        assert call["index"] == number and call["function"]["name"] == "paint"
        check(call["function"]["arguments"])
    assert isinstance(events[-1], End) and events[-1].reason == "tool_calls"


def test_one_call_is_the_last_where_there_may_be_one(made: Callable[[str], LanguageModel]) -> None:
    lm = made("named")
    for parallel in (False, True):
        tools = Tools(tuple(TOOLS), ("paint",), must=True, parallel=parallel)
        form, size = form_of(None, lm, tools), lm.model.config.vocab_size
        text = '[TOOL_CALLS]paint[ARGS]{"colour": "red", "coats": 2}'
        for token in lm.tokenizer(text, add_special_tokens=False).input_ids:
            assert form.admitted(size)[token], lm.tokenizer.decode([token])
            form.take(token)
        allowed = set(form.admitted(size).nonzero()[:, 0].tolist())
        assert lm.turn_end in allowed
        assert (lm.tokenizer.convert_tokens_to_ids("[TOOL_CALLS]") in allowed) == parallel


@pytest.mark.parametrize("kind", ["hermes", "named", "bare"])
def test_strict_functions_bind_a_call_but_no_text(made: Callable[[str], LanguageModel], kind: str) -> None:
    lm = made(kind)
    tools = Tools(tuple(TOOLS), ("paint",), strict=True)
    size = lm.model.config.vocab_size

    def admitted(text: str) -> set[str]:
        form = form_of(None, lm, tools)
        for token in lm.tokenizer(text, add_special_tokens=False).input_ids:
            assert form.admitted(size)[token], text
            form.take(token)
        return {lm.tokenizer.decode([token]) for token in form.admitted(size).nonzero()[:, 0].tolist()}

    assert {"a", MARKS[1]} <= admitted("red, ") and {"a", MARKS[1]} <= admitted("1 < 2")
    call = lm.call_form.opening + "paint" + lm.call_form.middle
    assert admitted(call) == {"{"} and admitted(call + '{"colour": "') == {"r", "b", "re", "red"}


@pytest.mark.slow
def test_a_schema_and_calls_may_stand_side_by_side(address: str) -> None:
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"enum": [True]}}}
    found = set()
    for seed in range(8):
        (choice,) = chat(address, tools=TOOLS, response_format=form, seed=seed).json()["choices"]
        found.add(choice["finish_reason"])
        if choice["finish_reason"] == "stop":
            assert choice["message"]["content"] == "true" and "tool_calls" not in choice["message"]
    assert found <= {"stop", "tool_calls", "length"} and found & {"tool_calls", "length"} and "stop" in found


def offering(**function: object) -> dict[str, Any]:
    return {"tools": [{"type": "function", "function": function}]}


def calling(arguments: str) -> dict[str, Any]:
    """A turn of the assistant that calls a function."""
    return {
        "role": "assistant",
        "tool_calls": [{"id": "x", "function": {"name": "f", "arguments": arguments}}],
    }


@pytest.mark.parametrize(
    ("body", "field", "told"),
    [
        ({"tools": TOOLS, "tool_choice": {"type": "function", "function": {"name": "pain"}}}, "tool_choice", "mean 'paint'"),
        ({"tool_choice": "required"}, "tool_choice", "needs tools"),
        ({"tool_choice": NAMED}, "tool_choice", "there are no tools"),
        ({"tools": [TOOLS[1], TOOLS[1]]}, "tools", "two functions are named 'wait'"),
        ({"tools": [{"type": "custom", "custom": {"name": "x"}}]}, "tools.0", "a tool of the type 'custom'"),
        (offering(name="a b"), "tools.0.function.name", "expected a name"),
        ({"functions": [{"name": "f"}]}, "functions", "not supported"),
        ({"messages": [calling("[1]")]}, "messages.0.tool_calls.0.function.arguments", "the text of a JSON object"),
        ({**offering(name="f", parameters={"type": "wat"}), "tool_choice": "required"}, None, "wat"),
    ],
)  # fmt: skip
def test_what_does_not_fit_is_refused_by_name(address: str, body: dict, field: str | None, told: str) -> None:
    answer = chat(address, **body)
    assert answer.status_code in (400, 422) and answer.json()["error"]["param"] == field, answer.text
    assert told in answer.json()["error"]["message"]


def test_only_the_allowed_functions_are_called(address: str) -> None:
    allowed = {"mode": "required", "tools": [{"type": "function", "function": {"name": "wait"}}]}
    answer = chat(
        address,
        tools=TOOLS,
        tool_choice={"type": "allowed_tools", "allowed_tools": allowed},
        seed=2,
        max_tokens=120,
    )
    (choice,) = answer.json()["choices"]
    assert {call["function"]["name"] for call in choice["message"].get("tool_calls", ())} <= {"wait"}
    assert choice["finish_reason"] in ("tool_calls", "length")


def test_a_template_without_tools_says_so(lm: LanguageModel, tmp_path: Path) -> None:
    with live(service_of(write_run(tmp_path, lm, 2), tmp_path)) as address:
        answer = chat(address, tools=TOOLS, max_tokens=4)
    error = answer.json()["error"]
    assert (answer.status_code, error["param"]) == (400, "tools") and "has no tools" in error["message"]


def test_votes_and_scores_are_about_text(address: str) -> None:
    turns = [*CHAT["messages"], calling("{}"), {"role": "tool", "tool_call_id": "x", "content": "y"}]
    body = {"messages": turns, "answers": [{"text": "x"}]}
    answer = httpx.post(f"{address}/api/score", json=body, timeout=20)
    assert answer.status_code == 422 and answer.json()["error"]["param"] == "messages.1"


def test_an_upstream_server_gets_the_functions(
    run: Path, tmp_path: Path, made: Callable[[str], LanguageModel]
) -> None:
    grid = preference_grid(("concise", "warm"), 1)
    policy = Policy.load(run / "policies/soup", made("hermes"))
    export_grid(policy, grid, tmp_path / "loras")
    upstream = Upstream.of("http://127.0.0.1:1/v1", tmp_path / "loras/manifest.json", "vllm", ServeConfig())
    turns = (
        Message("user", "red"),
        Message("assistant", "", (ToolCall("x", "paint", "{}"),)),
        Message("tool", "y", call_id="x"),
    )
    job = Job(
        "soup", turns, grid[0], tools=Tools(tuple(TOOLS), ("paint",), must=True, parallel=False, strict=True)
    )
    _, body = upstream.request(job)
    assert [tool["function"]["name"] for tool in body["tools"]] == ["paint"] and body["tools"][0]["function"][
        "strict"
    ]
    assert body["tool_choice"] == NAMED and body["parallel_tool_calls"] is False
    assert body["messages"][1]["tool_calls"][0]["function"] == {"name": "paint", "arguments": "{}"}
    assert body["messages"][2] == {"role": "tool", "content": "y", "tool_call_id": "x"}
    assert "tools" not in upstream.request(Job("soup", turns, grid[0]))[1]


def test_the_client_of_openai_parses_calls(address: str) -> None:
    class Paint(BaseModel):
        colour: Literal["red", "blue"]
        coats: int = Field(ge=0, le=9)

    tool = openai.pydantic_function_tool(Paint)
    choice = {"type": "function", "function": {"name": "Paint"}}
    parsed = client_of(address).chat.completions.parse(
        **{**CHAT, "max_tokens": 160}, tools=[tool], tool_choice=choice, seed=9
    )
    calls = parsed.choices[0].message.tool_calls or ()
    assert calls and all(isinstance(call.function.parsed_arguments, Paint) for call in calls)
