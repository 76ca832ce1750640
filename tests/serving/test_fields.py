"""Every field of OpenAI's API is used, ignored or refused by name, as the table in docs/serving.md says."""

from __future__ import annotations

import json
import re
from pathlib import Path

import pytest
from openai.types import completion_create_params as text_fields
from openai.types.chat import completion_create_params as chat_fields
from pydantic import ValidationError

from paretune.serving.bodies import ChatRequest, CompletionRequest
from paretune.serving.unsupported import REFUSED

PAGE = (Path(__file__).parents[2] / "docs/serving.md").read_text(encoding="utf-8")
TABLE = dict(re.findall(r"^\| `(\w+)` \| (used|ignored|refused|refused always) \|", PAGE, re.MULTILINE))
ROUTES = {
    ChatRequest: ({"messages": [{"role": "user", "content": "x"}]}, chat_fields),
    CompletionRequest: ({"prompt": "x"}, text_fields),
}
FIELDS = [
    (body, field)
    for body, (_, module) in ROUTES.items()
    for field in (*module.CompletionCreateParamsBase.__annotations__, "stream")
]


@pytest.mark.parametrize(("body", "field"), FIELDS)
def test_the_page_tells_what_happens_to_a_field(body: type, field: str) -> None:
    given, _ = ROUTES[body]
    if field in body.model_fields:
        assert TABLE[field] == "used"
        return
    asked = {**given, field: {"something": ["else"]}}
    if TABLE[field] == "refused always":
        with pytest.raises(
            ValidationError, match=rf"'{field}' is not supported by this server: .+; leave it out"
        ):
            body.model_validate(asked)
        return
    request = body.model_validate(asked)
    told = [str(setback.error) for setback in request.setbacks]
    if TABLE[field] == "ignored":
        assert request.ignored == [field] and not told
    else:
        (message,) = told
        assert (
            f"'{field}' is not supported by this server: {REFUSED[field].why}; leave it out, or start"
            in message
        )


def test_the_page_has_no_other_fields_and_tells_the_values_that_change_nothing() -> None:
    assert set(TABLE) == {field for _, field in FIELDS}
    for field in (field for field in REFUSED if TABLE[field] != "used"):
        (row,) = re.findall(rf"^\| `{field}` \|(.*)\|$", PAGE, re.MULTILINE)
        told = set(re.findall(r"`([^`]+)`", row))
        assert told == {json.dumps(value) for value in REFUSED[field].neutral}, row
        for body, (given, _) in ROUTES.items():
            for value in REFUSED[field].neutral:
                assert body.model_validate({**given, field: value}).setbacks == ()


def test_values_that_change_nothing_are_taken() -> None:
    request = ChatRequest.model_validate(
        {**ROUTES[ChatRequest][0], "user": "bob", "store": False, "service_tier": "auto"}
    )
    assert request.ignored == ["user"] and request.setbacks == ()
