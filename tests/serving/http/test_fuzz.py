"""The server's OpenAPI schema, fuzzed: whatever fits it, and whatever does not, never ends in a 5xx, and is answered as it says."""

from __future__ import annotations

from collections.abc import Iterator

import httpx
import pytest
import schemathesis
from hypothesis import HealthCheck, settings
from schemathesis.checks import not_a_server_error
from schemathesis.specs.openapi.checks import (
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
)

from paretune.serving.http.app import make_app
from paretune.serving.service import Service
from support.serve_world import CHAT, FakeBackend, fake_service, live

schema = schemathesis.openapi.from_dict(make_app(Service(FakeBackend(), None)).openapi())
CHECKS = [
    not_a_server_error,
    content_type_conformance,
    response_schema_conformance,
    status_code_conformance,
]


@pytest.fixture(scope="module")
def address(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    with live(fake_service(tmp_path_factory.mktemp("store"))) as found:
        yield found


@schema.parametrize()
@settings(max_examples=25, deadline=None, derandomize=True, suppress_health_check=list(HealthCheck))
@pytest.mark.slow
def test_every_answer_is_as_the_schema_says_and_no_server_error(
    case: schemathesis.Case, address: str
) -> None:
    response = case.call(base_url=address, timeout=20)
    case.validate_response(response, checks=CHECKS)
    if response.status_code >= 400:
        assert set(response.json()["error"]) == {"message", "type", "param", "code"}


def kind_of(response: httpx.Response) -> str:
    return response.headers["content-type"].partition(";")[0]


def test_each_form_of_a_right_answer_is_in_the_schema(address: str) -> None:
    """Random requests seldom get this far: a stream, figures, and a conversation as a file."""
    number = httpx.post(f"{address}/api/conversations", json={}).json()["id"]
    export = f"{address}/api/conversations/{number}/export"
    completions = {"model": "soup", "prompt": "red sun"}
    answers = {
        ("/v1/chat/completions", "post"): [
            httpx.post(f"{address}/v1/chat/completions", json={**CHAT, "stream": stream})
            for stream in (False, True)
        ],
        ("/v1/completions", "post"): [
            httpx.post(f"{address}/v1/completions", json={**completions, "stream": stream})
            for stream in (False, True)
        ],
        ("/metrics", "get"): [httpx.get(f"{address}/metrics")],
        ("/health", "get"): [httpx.get(f"{address}/health")],
        ("/api/conversations/{number}/export", "get"): [
            httpx.get(export, params={"format": name}) for name in ("json", "markdown")
        ],
    }
    for (path, method), found in answers.items():
        declared = schema.raw_schema["paths"][path][method]["responses"]["200"]["content"]
        assert [response.status_code for response in found] == [200] * len(found)
        assert {kind_of(response) for response in found} == set(declared), path


def test_errors_are_declared_on_every_route() -> None:
    failure = {"$ref": "#/components/schemas/Failure"}
    for path, methods in schema.raw_schema["paths"].items():
        for method, about in methods.items():
            for status in ("4XX", "5XX"):
                assert about["responses"][status]["content"] == {"application/json": {"schema": failure}}, (
                    f"{method} {path}"
                )


def test_a_server_that_is_not_ready_says_so_as_declared() -> None:
    declared = schema.raw_schema["paths"]["/health"]["get"]["responses"]["503"]["content"]
    assert declared == {"application/json": {"schema": {"$ref": "#/components/schemas/Health"}}}
