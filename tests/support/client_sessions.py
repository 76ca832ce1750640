"""What well-known clients do with a server, each in the words of its own documentation.

``python client_sessions.py NAME ADDRESS`` runs one session in an interpreter that has the client's packages, and prints their
versions as JSON. It imports nothing of paretune. `support.record_sessions` records what it sends.
"""

from __future__ import annotations

import asyncio
import importlib.metadata
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any, Literal

TOKENS = 120
WEATHER = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tell the weather of a town.",
        "parameters": {
            "type": "object",
            "properties": {
                "town": {"enum": ["Rome", "Oslo"]},
                "days": {"type": "integer", "minimum": 1, "maximum": 7},
            },
            "required": ["town", "days"],
            "additionalProperties": False,
        },
    },
}


def _weather() -> Any:
    from pydantic import BaseModel, Field

    class Weather(BaseModel):
        """Tell the weather of a town."""

        town: Literal["Rome", "Oslo"]
        days: int = Field(ge=1, le=7)

    return Weather


def with_openai(url: str) -> list[str]:
    """The official client, in both of its forms."""
    from openai import AsyncOpenAI, OpenAI, pydantic_function_tool

    client = OpenAI(base_url=url, api_key="none", max_retries=0)
    assert [model.id for model in client.models.list()]
    asked: dict[str, Any] = {
        "model": "soup",
        "messages": [{"role": "user", "content": "red"}],
        "max_tokens": TOKENS,
    }
    tool = pydantic_function_tool(_weather())
    named = {"type": "function", "function": {"name": "Weather"}}
    message = (
        client.chat.completions.create(**asked, tools=[tool], tool_choice=named, seed=1).choices[0].message
    )
    assert message.tool_calls
    results = [{"role": "tool", "tool_call_id": call.id, "content": "sunny"} for call in message.tool_calls]
    client.chat.completions.create(
        **{**asked, "messages": [*asked["messages"], message, *results], "max_tokens": 4}, tools=[tool]
    )
    with client.chat.completions.stream(**asked, tools=[tool], tool_choice="required", seed=1) as stream:
        kinds = {event.type for event in stream}
    assert "tool_calls.function.arguments.done" in kinds
    parsed = (
        client.chat.completions.parse(**asked, response_format=_weather(), seed=1).choices[0].message.parsed
    )
    assert parsed is not None and parsed.days

    async def streamed() -> str:
        chunks = await AsyncOpenAI(base_url=url, api_key="none").chat.completions.create(
            **{**asked, "max_tokens": 4}, stream=True, stream_options={"include_usage": True}
        )
        return "".join([chunk.choices[0].delta.content or "" async for chunk in chunks if chunk.choices])

    assert asyncio.run(streamed())
    return ["openai"]


def with_langchain(url: str) -> list[str]:
    """ChatOpenAI: whole, streamed, asynchronous, in a batch, with tools and with structured output."""
    from langchain_core.messages import HumanMessage, ToolMessage
    from langchain_openai import ChatOpenAI

    model = ChatOpenAI(
        model="soup", base_url=url, api_key="none", max_retries=0, max_tokens=TOKENS, temperature=1.0, seed=1
    )
    short = model.bind(max_tokens=4)
    assert short.invoke("red").usage_metadata["output_tokens"] <= 4
    assert "".join(str(chunk.content) for chunk in short.stream("red"))
    assert len(short.batch(["red", "blue"])) == 2

    async def streamed() -> list[Any]:
        return [chunk async for chunk in short.astream("red")]

    assert asyncio.run(streamed())
    tool = _weather()
    answer = model.bind_tools([tool], tool_choice="any").invoke("red")
    assert answer.tool_calls[0]["name"] == "Weather" and answer.tool_calls[0]["args"]["days"]
    turns = [
        HumanMessage("red"),
        answer,
        *[ToolMessage("sunny", tool_call_id=call["id"]) for call in answer.tool_calls],
    ]
    short.bind(tools=[WEATHER]).invoke(turns)
    called = model.bind_tools([tool], tool_choice="Weather", parallel_tool_calls=False)
    first, *chunks = called.stream("red")
    assert sum(chunks, first).tool_calls[0]["args"]["town"]
    for method in ("json_schema", "function_calling"):
        assert model.with_structured_output(tool, method=method).invoke("red").days, method
    return ["langchain-openai", "langchain-core", "openai"]


def with_litellm(url: str) -> list[str]:
    """LiteLLM's ``openai/`` provider: whole, streamed, asynchronous, with tools and a schema."""
    import litellm

    asked: dict[str, Any] = {
        "model": "openai/soup",
        "api_base": url,
        "api_key": "none",
        "max_tokens": TOKENS,
        "seed": 1,
    }
    asked["messages"] = [{"role": "user", "content": "red"}]
    assert litellm.completion(**{**asked, "max_tokens": 4}).usage.completion_tokens <= 4
    assert list(litellm.completion(**{**asked, "max_tokens": 4}, stream=True))
    assert asyncio.run(litellm.acompletion(**{**asked, "max_tokens": 4})).choices
    named = {"type": "function", "function": {"name": "weather"}}
    made = litellm.completion(**asked, tools=[WEATHER], tool_choice=named).choices[0]
    assert (
        made.finish_reason == "tool_calls"
        and json.loads(made.message.tool_calls[0].function.arguments)["days"]
    )
    form = litellm.completion(**asked, response_format=_weather()).choices[0].message.content
    assert json.loads(form)["town"]
    return ["litellm", "openai"]


def with_llm(url: str) -> list[str]:
    """The command ``llm``, with a preference in the name of its model: streamed, whole, continued, and with a schema."""
    with tempfile.TemporaryDirectory() as folder:
        model = {"model_id": "steered", "model_name": "soup@concise=0.7,warm=0.3", "api_base": url}
        models = json.dumps([{**model, "supports_schema": True}])  # JSON is YAML too
        (Path(folder) / "extra-openai-models.yaml").write_text(models, encoding="utf-8")

        def llm(*given: str) -> str:
            done = subprocess.run(
                [sys.executable, "-m", "llm", *given],
                env={**os.environ, "LLM_USER_PATH": folder},
                stdin=subprocess.DEVNULL,
                capture_output=True,
                text=True,
                check=False,
            )
            assert done.returncode == 0, done.stderr
            return done.stdout.strip()

        llm("-m", "steered", "red sun")
        short = ["-o", "max_tokens", "4", "-o", "seed", "1"]
        assert llm("-m", "steered", "--no-stream", "-s", "Be brief.", *short, "red sun")
        assert llm("-c", *short, "and the blue one?")
        schema = json.dumps(WEATHER["function"]["parameters"])
        form = llm(
            "-m", "steered", "--schema", schema, "-o", "max_tokens", str(TOKENS), "-o", "seed", "1", "red"
        )
        assert json.loads(form)["days"]
    return ["llm", "openai"]


SESSIONS = {
    "openai": with_openai,
    "langchain": with_langchain,
    "litellm": with_litellm,
    "llm": with_llm,
}

if __name__ == "__main__":
    packages = SESSIONS[sys.argv[1]](f"{sys.argv[2]}/v1")
    print(json.dumps({package: importlib.metadata.version(package) for package in packages}))
