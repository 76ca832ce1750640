"""Answers that fit a JSON schema, and log-probabilities of tokens: over HTTP, on a model whose tokens are bytes."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Literal

import httpx
import openai
import pytest
import torch
from pydantic import BaseModel, ConfigDict, Field

from paretune.core.errors import ConfigError
from paretune.core.preference import Preference
from paretune.core.sampling import Sampling
from paretune.data.rows import Message
from paretune.generation.structure import form_of
from paretune.models.language_model import LanguageModel, load
from paretune.policies.policy import Policy
from paretune.serving.config import ServeConfig
from paretune.serving.events import Job
from paretune.serving.upstream import Upstream
from support.chat_models import CHATML, write_chat_model
from support.serve_world import live
from support.served_run import client_of, service_of
from support.studio_world import write_run

pytest.importorskip("llguidance")

MARKS = ("<|im_start|>", "<|im_end|>")
CHAT: dict[str, Any] = {"messages": [{"role": "user", "content": "red"}], "max_tokens": 60}


class Verdict(BaseModel):
    """What the answers of these tests say."""

    model_config = ConfigDict(extra="forbid")
    colour: Literal["red", "blue"]
    count: int = Field(ge=0, le=99)
    sure: bool


FORM = {
    "type": "json_schema",
    "json_schema": {"name": "verdict", "schema": Verdict.model_json_schema(), "strict": True},
}


@pytest.fixture(scope="module")
def bytewise(tmp_path_factory: pytest.TempPathFactory) -> LanguageModel:
    folder = tmp_path_factory.mktemp("bytes") / "model"
    write_chat_model(folder, CHATML, eos=MARKS[1], added=MARKS, special=True, max_position_embeddings=512)
    return load(str(folder), "float32", "cpu")


@pytest.fixture(scope="module")
def run(bytewise: LanguageModel, tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_run(tmp_path_factory.mktemp("run"), bytewise, 2)


@pytest.fixture(scope="module")
def address(run: Path, tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with live(service_of(run, tmp_path_factory.mktemp("store"), max_prompt_tokens=200)) as found:
        yield found


def chat(address: str, **body: object) -> httpx.Response:
    return httpx.post(f"{address}/v1/chat/completions", json={**CHAT, **body}, timeout=60)


def test_a_form_admits_what_the_schema_allows_and_then_the_end_alone(bytewise: LanguageModel) -> None:
    schema = {
        "type": "object",
        "properties": {"a": {"type": "integer"}},
        "required": ["a"],
        "additionalProperties": False,
    }
    form, size = form_of(json.dumps(schema), bytewise), len(bytewise.tokenizer)

    def admitted() -> set[str]:
        return {bytewise.tokenizer.decode([token]) for token in form.admitted(size).nonzero()[:, 0].tolist()}

    assert admitted() == {"{"}
    for letter in '{"a": ':
        (token,) = bytewise.tokenizer.encode(letter, add_special_tokens=False)
        form.take(token)
    assert admitted() >= set("-0123456789") and not admitted() & set('"{}[abc')
    for letter in "7}":
        form.take(bytewise.tokenizer.encode(letter, add_special_tokens=False)[0])
    assert set(form.admitted(size).nonzero()[:, 0].tolist()) == bytewise.stops


@pytest.mark.parametrize("model", ["soup", "anchors", "mod"])
@pytest.mark.parametrize("stream", [False, True])
@pytest.mark.slow
def test_every_answer_fits_the_schema_at_its_preference(address: str, model: str, stream: bool) -> None:
    client = client_of(address)
    found = []
    for seed in range(4):
        asked: dict[str, Any] = {
            **CHAT,
            "model": f"{model}@concise=0.{seed + 2},warm=0.{8 - seed}",
            "seed": seed,
        }
        asked |= {"temperature": 1.0, "response_format": FORM}
        if stream:
            chunks = client.chat.completions.create(**asked, stream=True)
            text = "".join(chunk.choices[0].delta.content or "" for chunk in chunks if chunk.choices)
        else:
            answer = client.chat.completions.create(**asked)
            assert answer.choices[0].finish_reason == "stop"
            text = answer.choices[0].message.content or ""
        found.append(Verdict.model_validate_json(text))
    assert len({verdict.count for verdict in found}) > 1, "the answers are drawn, not fixed"


def test_the_official_client_parses_answers(address: str) -> None:
    parsed = client_of(address).chat.completions.parse(**CHAT, model="soup", response_format=Verdict, seed=3)
    assert isinstance(parsed.choices[0].message.parsed, Verdict)


@pytest.mark.slow
def test_rows_without_a_form_are_not_touched_by_those_with_one(address: str) -> None:
    plain = chat(address, model="soup", seed=5).json()["choices"][0]["message"]["content"]
    both = [
        chat(address, model="soup", seed=5, n=2).json()["choices"][0]["message"]["content"],
        json.loads(
            chat(address, model="soup", seed=5, response_format=FORM).json()["choices"][0]["message"][
                "content"
            ]
        ),
    ]
    assert both[0] == plain and set(both[1]) == {"colour", "count", "sure"}
    assert (
        chat(address, model="soup", seed=5, response_format={"type": "text"}).json()["choices"][0]["message"][
            "content"
        ]
        == plain
    )


def test_an_object_of_any_content(address: str) -> None:
    for seed in range(3):
        answer = chat(
            address, model="soup", response_format={"type": "json_object"}, max_tokens=40, seed=seed
        )
        assert answer.status_code == 200, answer.text
        (choice,) = answer.json()["choices"]
        assert choice["message"]["content"].startswith("{")
        if choice["finish_reason"] == "stop":
            assert isinstance(json.loads(choice["message"]["content"]), dict)


@pytest.mark.parametrize(
    ("form", "told"),
    [
        ({"type": "json_schema"}, "needs json_schema"),
        ({"type": "text", "json_schema": FORM["json_schema"]}, "no other type has one"),
        ({"type": "xml"}, "json_schema"),
        (
            {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "wat"}}},
            "Invalid type: wat",
        ),
        (
            {"type": "json_schema", "json_schema": {"name": "x", "schema": {"$ref": "http://127.0.0.1:1/x"}}},
            "cannot be followed",
        ),
        (
            {
                "type": "json_schema",
                "json_schema": {"name": "x", "schema": {"type": "string", "pattern": "("}},
            },
            "unclosed group",
        ),
    ],
)
def test_a_form_that_cannot_be_followed_is_refused_by_name(address: str, form: dict, told: str) -> None:
    answer = chat(address, model="soup", response_format=form)
    assert answer.status_code in (400, 422) and told in answer.text, answer.text


def test_a_tokenizer_without_bytes_is_one_message(lm: LanguageModel) -> None:
    with pytest.raises(ConfigError, match=r"tokenizer of .* cannot write answers in a stated form"):
        form_of('{"type": "object"}', lm)


def test_log_probabilities_are_those_of_the_policy(address: str, run: Path, bytewise: LanguageModel) -> None:
    preference = Preference.parse("concise=0.3,warm=0.7")
    body = {
        "model": f"soup@{preference}",
        "logprobs": True,
        "top_logprobs": 5,
        "seed": 2,
        "temperature": 0.7,
        "max_tokens": 12,
    }
    choice = chat(address, **body).json()["choices"][0]
    entries = choice["logprobs"]["content"]
    policy = Policy.load(run / "policies/soup", bytewise)
    prompt = bytewise.encode_prompt((Message("user", "red"),))
    (response,) = policy.generate([(Message("user", "red"),)], [preference], Sampling(12, 0.7, 1.0), [2])
    tokens = [token for token in response.tokens if token not in bytewise.stops]
    distribution = policy.distribution(prompt, list(response.tokens), preference)
    assert [entry["token"] for entry in entries] == [bytewise.text([token]) for token in tokens]
    for entry, token, row in zip(entries, tokens, distribution, strict=False):
        assert entry["logprob"] == pytest.approx(float(row[token]), abs=1e-4)
        likely = [each["logprob"] for each in entry["top_logprobs"]]
        assert likely == pytest.approx(row.topk(5).values.tolist(), abs=1e-4) and likely == sorted(
            likely, reverse=True
        )
        assert entry["bytes"] is None or bytes(entry["bytes"]).decode() == entry["token"]


def test_a_stream_tells_the_same_log_probabilities(address: str) -> None:
    client = client_of(address)
    asked: dict[str, Any] = {
        **CHAT,
        "model": "soup",
        "logprobs": True,
        "top_logprobs": 2,
        "seed": 4,
        "max_tokens": 20,
    }
    whole = client.chat.completions.create(**asked).choices[0].logprobs
    parts = [
        entry
        for chunk in client.chat.completions.create(**asked, stream=True)
        for choice in chunk.choices
        for entry in (choice.logprobs.content or [] if choice.logprobs else [])
    ]
    assert whole is not None and whole.content is not None
    assert [entry.token for entry in parts] == [entry.token for entry in whole.content]
    assert [entry.logprob for entry in parts] == pytest.approx(
        [entry.logprob for entry in whole.content], abs=1e-5
    )


def test_text_completions_tell_them_in_their_own_form(address: str) -> None:
    answer = client_of(address).completions.create(
        model="soup", prompt="red", max_tokens=8, logprobs=2, seed=1
    )
    told = answer.choices[0].logprobs
    assert told is not None and told.tokens and told.text_offset and told.token_logprobs and told.top_logprobs
    assert len(told.tokens) == len(told.token_logprobs) == len(told.text_offset) == len(told.top_logprobs)
    assert told.text_offset == [sum(map(len, told.tokens[:n])) for n in range(len(told.tokens))]


def test_without_asking_there_are_none(address: str) -> None:
    assert chat(address, model="soup").json()["choices"][0]["logprobs"] is None
    with pytest.raises(openai.BadRequestError, match="needs logprobs"):
        client_of(address).chat.completions.create(**CHAT, model="soup", top_logprobs=3)
    assert chat(address, model="soup", logprobs=True, top_logprobs=21).status_code == 422


def test_an_upstream_server_is_asked_for_the_same(run: Path, bytewise: LanguageModel, tmp_path: Path) -> None:
    from paretune.core.preference import preference_grid
    from paretune.policies.export import export_grid

    export_grid(
        Policy.load(run / "policies/soup", bytewise),
        preference_grid(("concise", "warm"), 1),
        tmp_path / "loras",
    )
    upstream = Upstream.of("http://127.0.0.1:1/v1", tmp_path / "loras/manifest.json", "vllm", ServeConfig())
    preference = Preference.parse("concise=1,warm=0")
    job = Job("soup", (Message("user", "red"),), preference, schema='{"type": "object"}', logprobs=3)
    _, body = upstream.request(job)
    assert body["response_format"]["json_schema"]["schema"] == {"type": "object"}
    assert body["logprobs"] is True and body["top_logprobs"] == 3
    _, plain = upstream.request(Job("soup", (Message("user", "red"),), preference))
    assert not {"response_format", "logprobs", "top_logprobs"} & set(plain)


def test_nothing_is_drawn_outside_the_form_even_where_the_model_wants_it(bytewise: LanguageModel) -> None:
    form = form_of('{"type": "boolean"}', bytewise)
    logits = torch.full((len(bytewise.tokenizer),), 0.0)
    logits[bytewise.tokenizer.encode("x", add_special_tokens=False)[0]] = 1e4
    allowed = form.admitted(len(logits))
    token = int(logits.masked_fill(~allowed, -torch.inf).argmax())
    assert bytewise.tokenizer.decode([token]) in ("t", "f")
